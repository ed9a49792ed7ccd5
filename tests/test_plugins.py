"""The example packages, installed as anybody would into a folder of their own, and used by the commands."""

import json
import os
import shutil
import subprocess
import sys

import preloaded
import pytest
from commands import EUROSAT_CARD, FOLDERS, REPOSITORY, only_record, shared_world
from segment_world import FROZEN

from fgmae_bench.data.synthetic import MARKER
from fgmae_bench.worlds.dfc import write_dfc

PLUGINS = REPOSITORY / "experiments" / "plugins"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that pip put the three packages into; built in a copy, so that the repository stays as it is."""
    place = tmp_path_factory.mktemp("plugins")
    copies = [shutil.copytree(PLUGINS / kind, place / kind) for kind in ("reader", "encoder", "head")]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", place / "site", *copies], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place / "site"


def run(installed, *words, cwd):
    """`python -m fgmae_bench…` where the packages are installed."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(REPOSITORY)])}
    done = preloaded.run(["-m", *words], cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_list_names_what_is_installed(installed, tmp_path):
    said = run(installed, "fgmae_bench", cwd=tmp_path)
    for line in (
        "flat_names           fgmae-bench-example-reader 0.1, example_flat_names:flat_names",
        "example-patches      fgmae-bench-example-encoder 0.1, example_patches:ENCODER",
        "example_two_layers   fgmae-bench-example-head 0.1, example_two_layers:TwoLayers",
    ):
        assert line in said


@pytest.mark.slow
def test_an_installed_reader_and_encoder_are_used_by_a_probe(installed, tmp_path):
    (tmp_path / "data").mkdir()
    paths = sorted(shared_world(5).rglob("*.tif"))
    for path in paths:
        shutil.copy(path, tmp_path / "data" / f"{path.parent.name}__{path.name}")
    shutil.copy(shared_world(5) / MARKER, tmp_path / "data")
    text = EUROSAT_CARD.read_text().replace('"eurosat"', '"mine"', 1).replace('"class_folders"', '"flat_names"', 1)
    (tmp_path / "card.toml").write_text(text)
    data = ("--dataset", "card.toml", "--data_path", "data", "--partial", "--trust_data")
    model = ("--model", "example-patches", "--input_size", 64, "--probe", "knn", "--features", "cached")
    run(installed, "fgmae_bench.linear", *data, *model, *FOLDERS, cwd=tmp_path)
    record = only_record(tmp_path / "results")
    assert record["dataset"]["n_train"] + record["dataset"]["n_test"] == len(paths)
    assert record["model"]["params_total"] >= 32 * (2 * 8 * 8 + 1)
    assert record["model"]["feature_dim"] == 32
    assert record["dataset"]["synthetic"] is True


@pytest.mark.slow
def test_an_installed_head_is_trained_and_names_its_protocol(installed, tmp_path):
    write_dfc(tmp_path / "tiles", tiles=24, size=32)
    short = ("--max_steps", 1, "--eval_every", 1, "--panels", 0, "--device", "cpu", "--num_workers", 1)
    tiles = ("--dataset", "dfc2020", "--data_path", "tiles", "--head", "example_two_layers")
    run(installed, "fgmae_bench.segment", *tiles, *FROZEN, *FOLDERS, *short, cwd=tmp_path)
    (path,) = (tmp_path / "results" / "records").rglob("*.json")
    record = json.loads(path.read_text())
    assert record["protocol"] == path.parent.name == "frozen_example_two_layers"
    assert record["status"] == "done"
