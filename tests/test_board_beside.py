"""What stands beside the records of a store: explanations, configurations of older formats, folders that are no pull's."""

import json
import stat

import numpy as np
import pytest
from make_records import make_record, resealed
from safetensors.numpy import save
from stores import board, clean_record, commit, ids_in, new_store, put, with_predictions

from fgmae_bench.board.clean import stripped
from fgmae_bench.errors import BenchError
from fgmae_bench.report.predictions import predictions_of


@pytest.fixture
def store(tmp_path):
    """A store with a record whose note asks for a sentence, and one beside it."""
    folder = new_store(tmp_path / "store")
    put(clean_record(seed=1), folder)
    put(clean_record(seed=2, notes=(("contract_assumed", "z-scores"),)), folder)
    (folder / "explanations").mkdir()
    return folder


def explanation(store):
    return store / "explanations" / f"{clean_record(seed=2)['run_id']}.toml"


@pytest.mark.parametrize("what", ["no text", "no toml", "a link", "too large"])
def test_an_explanation_that_cannot_be_read_costs_no_other_record(what, store, tmp_path):
    path = explanation(store)
    if what == "a link":
        path.symlink_to("/etc/hostname")
    else:
        path.write_bytes({"no text": b"\xff\xfe", "no toml": b"= broken [", "too large": b"#" * (2**20 + 1)}[what])
    commit(store)
    done = board("check", str(store), cwd=tmp_path)
    assert done.code == 1
    assert f"remark: explanations/{path.name}" in done.err
    assert "contract_assumed is not explained" in done.err
    done = board("pull", str(store), "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert len(ids_in(tmp_path / "out")) == 2


def test_a_pull_takes_no_folder_of_other_files(store, tmp_path):
    commit(store)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("my own")
    done = board("pull", str(store), "--out", "mine", cwd=tmp_path)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "mine holds files that no pull put there; give a new folder with --out" in done.err
    assert mine.stat().st_mode & stat.S_IWUSR
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
    done = board("pull", str(store), "--out", "mine/notes.txt", cwd=tmp_path)
    assert (done.code, done.err.count("\n")) == (2, 1)
    (tmp_path / "empty").mkdir()
    assert board("pull", str(store), "--out", "empty", cwd=tmp_path).code == 0


@pytest.mark.parametrize("lacking", ["facts", "recipe", "data", "model"])
def test_a_record_without_what_its_run_id_is_made_of_is_one_line(lacking):
    config = {name: value for name, value in make_record()["config"].items() if name != lacking}
    record = {**make_record(), "config": config if lacking == "facts" else {**config, lacking: {}}}
    with pytest.raises(BenchError, match="its configuration is not whole"):
        stripped(record, [])


def test_numbers_beyond_all_floats_are_no_predictions():
    record = resealed(make_record(), "predictions", {"sha256": None, "file": "x"})
    made = {"ids": ["a"], "classes": ["height"], "sums": {"origin": 10**400, "levels": [1], "bins": [1]}}
    content = save({"sums": np.zeros((1, 8))}, {name: json.dumps(value) for name, value in made.items()})
    with pytest.raises(BenchError, match="no predictions that can be read"):
        predictions_of(record, content, "x")


def test_a_damaged_pull_is_made_whole_by_the_next(tmp_path):
    logits, targets = np.array([[2, 1], [0, 3], [1, 2]], np.float32), np.array([0, 0, 1])
    store = new_store(tmp_path / "store")
    put(with_predictions(clean_record(seed=1), store, logits, targets, ("a", "b")), store)
    commit(store)
    assert board("pull", str(store), "--out", "out", cwd=tmp_path).code == 0
    files = {
        path: path.read_bytes()
        for room in ("records", "predictions")
        for path in (tmp_path / "out" / room).rglob("*.*")
    }
    assert len(files) == 2
    for path, content in files.items():
        path.chmod(0o644)
        path.write_bytes(content[:-40])
    done = board("pull", str(store), "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert {path: path.read_bytes() for path in files} == files
