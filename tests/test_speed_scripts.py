"""Scripts of `experiments/speed` that a machine without a GPU and without measurements can be held to."""

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

import gpu  # noqa: E402
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


def test_lines_of_gpus_stand_where_one_has_run():
    held = [
        {"machine": "A, 2 cores", "measured": {"view_invalid": {"value": 1.25}}},
        {"machine": "H200", "measured": {"gpu_share_large": {"value": 0.612}, "gpu_stream": {"value": 1.08}}},
    ]
    assert not any("gpu.py" in line for line in table.table(0, held[:1]).splitlines())
    lines = [line for line in table.table(0, held).splitlines() if "gpu.py" in line]
    assert [[cell.strip() for cell in line.split("|")[2:4]] for line in lines] == [["–", "61.2%"], ["–", "1.08 ×"]]


@pytest.mark.parametrize(
    ("free", "batch"),
    [(200.0, 16), (199.0, 8), (120.0, 8), (110.0, 4), (52.5, 1), (49.0, 0), (10.0, 0)],
)
def test_the_batch_of_a_card_with_too_little_memory_is_a_power_of_two_that_fits(free, batch):
    # 32 bytes of weights and optimiser, 8 an image, of four fifths of what is free
    assert gpu.batch_that_fits(32.0, 8.0, free, 16) == batch


def test_what_a_step_keeps_grows_with_its_batch():
    import torch

    weight = torch.zeros(6, 4, requires_grad=True)
    kept = [gpu.saved_bytes(lambda batch: (torch.ones(batch, 6) @ weight).exp(), batch) for batch in (2, 4)]
    assert kept[1] - kept[0] == 2 * (6 + 4) * 4  # float32 inputs of the product, outputs of the exponential


def test_a_model_that_does_not_fit_is_named_with_the_batch_that_does(capsys, tmp_path):
    import torch
    from gpu_checks import Bench

    bench = Bench(torch.device("cpu"), True, float("inf"), tmp_path)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 * 8 * 8, 4), torch.nn.ReLU())
    assert gpu.fitting(bench, "small", module, 8, None) == 8
    assert gpu.fitting(bench, "small", module, 8, 14_000 / 2**30) in (1, 2, 4)
    assert "so the batch is" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="small does not fit"):
        gpu.fitting(bench, "small", module, 8, 1 / 2**30)


def test_a_part_that_fails_is_noted_and_the_next_goes_on(tmp_path):
    import torch
    from gpu_checks import Bench

    bench = Bench(torch.device("cpu"), True, float("inf"), tmp_path)
    bench.attempt("first", lambda: {}["absent"])
    bench.attempt("second", lambda: bench.row("second", 1.0, "s"))
    assert bench.failed == ["first: KeyError: 'absent'"]
    assert [row["what"] for row in bench.rows] == ["second"]


def test_a_document_without_the_marks_is_refused():
    with pytest.raises(SystemExit, match=r"the marks .* are missing"):
        table.with_table("no marks", "made")
    text = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    assert table.with_table(text, "new") == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"


@pytest.mark.slow
def test_the_script_for_gpus_runs_dry_on_a_cpu(tmp_path):
    words = [SPEED / "gpu.py", "--dry_run", "--minutes", "60", "--out", str(tmp_path / "gpu.json")]
    done = preloaded.run(words, cwd=REPOSITORY)
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
