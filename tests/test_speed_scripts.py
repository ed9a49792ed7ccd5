"""Scripts of `experiments/speed` that a machine without a GPU and without measurements can be held to."""

import subprocess
import sys

import numpy as np
import preloaded
import pytest
import rasterio
from commands import REPOSITORY, shared_world

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.views.chip import Chip
from fgmae_bench.views.classification import make_view

SPEED = REPOSITORY / "experiments" / "speed"
sys.path.insert(0, str(SPEED))

import table  # noqa: E402


def test_without_a_gpu_one_line_says_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = preloaded.run([SPEED / "gpu.py"], cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (
        2,
        "error: no GPU is found; run it where there is one, or try it with --dry_run\n",
    )


def test_a_table_has_a_column_for_each_machine_and_a_dash_where_nothing_ran():
    held = [
        {"machine": "A, 2 cores", "measured": {"view_invalid": {"value": 1.25}}},
        {"machine": "B", "measured": {"stream_off": {"value": 1.5}, "stream_bf16": {"value": 4.19}}},
    ]
    lines = table.table(0, held).splitlines()
    assert lines[0] == "| comparison | A, 2 cores | B | command |"
    by_script = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:4]] for line in lines[2:]}
    assert by_script["the same with a tenth of the pixels invalid, against clean images"] == ["1.25 ×", "–"]
    assert by_script["streamed epoch against a naive loop, float32; bf16"] == ["–", "1.50 ×; 4.2 ×"]
    assert len(table.table(1, held).splitlines()) == len(lines)


def test_every_line_names_a_script_that_keeps_its_numbers():
    for line in table.LINES:
        text = (SPEED / line.script).read_text()
        assert "keep(" in text, line.script


def test_a_document_without_the_marks_is_refused():
    with pytest.raises(SystemExit, match=r"the marks .* are missing"):
        table.with_table("no marks", "made")
    text = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    assert table.with_table(text, "new") == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"


@pytest.mark.slow
def test_the_script_for_gpus_runs_dry_on_a_cpu(tmp_path):
    words = [sys.executable, SPEED / "gpu.py", "--dry_run", "--minutes", "4", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert (tmp_path / "gpu.json").is_file()


def test_the_script_by_hand_sees_the_view_that_runs_see():
    import peers

    card = load_card("eurosat")
    path = shared_world(5) / "Forest" / "Forest_1.tif"
    with rasterio.open(path) as source:
        chip = Chip(db=source.read().astype(np.float32), valid=None, synthetic=True)
    seen = make_view(card, FGMAE_CONTRACT, None).batch([chip], ["Forest/Forest_1"])[0]
    np.testing.assert_array_equal(peers.view(path) * 255, seen.astype(np.float32))
