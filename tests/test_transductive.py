"""A contract whose input of an image depends on the others of its batch: marked, another run, and out of ranks."""

import dataclasses

import pytest
import torch
from commands import FOLDERS, call, codes, records, shared_world
from make_records import make_record

from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.contracts import resolve_contract
from fgmae_bench.records import body_sha256
from fgmae_bench.report.row import out_of_ranks

MANIFEST = """
[contracts.batch]
source = "a README that takes minimum and maximum over a batch"
bands = ["VV", "VH"]
normalizer = "zscore"
mean = [-12.0, -20.0]
std = [5.0, 6.0]
size = 32
{mark}

[[weights]]
name = "batchwise"
model = "test_vit"
file = "{file}"
layout = "any"
contract = "batch"
licence = "none"
data = "none"
"""


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Writes a user's manifest whose one entry has such a contract, or the same without the mark."""
    vit = build_backbone(Model(model="test_vit", weights="random", input_size=32), 0).module.vit
    torch.save(vit.state_dict(), tmp_path / "w.pth")
    monkeypatch.setenv("FGMAE_BENCH_WEIGHTS", str(tmp_path / "mine.toml"))

    def write(mark):
        (tmp_path / "mine.toml").write_text(MANIFEST.format(mark=mark, file=tmp_path / "w.pth"))

    return write


def run(tmp_path, known):
    """(the one record that a run adds to those that are `known`, what it printed)."""
    flags = ("--dataset", "eurosat", "--features", "cached", "--epochs", "1", "--batch_size", "16", *FOLDERS)
    named = ("--data_path", shared_world(5), "--model", "test_vit", "--weights", "batchwise")
    done = call("linear", *flags, *named, cwd=tmp_path)
    assert done.code == 0, done.err
    (made,) = [record for record in records(tmp_path / "results") if record["run_id"] not in known]
    return made, done.err


def test_the_mark_goes_from_the_manifest_into_record_note_and_run_id(tmp_path, weights):
    weights("transductive = true")
    marked, err = run(tmp_path, [])
    assert err.count("the features of an image depend on the others in it, and the run is not ranked") == 1
    assert marked["model"]["contract"]["transductive"] is True
    assert "transductive" in codes(marked)
    weights("")
    plain, err = run(tmp_path, [marked["run_id"]])
    assert plain["model"]["contract"]["transductive"] is False
    assert "transductive" not in codes(plain)
    assert plain["run_id"] != marked["run_id"]
    assert out_of_ranks(plain) is None
    assert out_of_ranks(marked) == "its features of an image depend on the other images of the batch (transductive)"
    said = call("report", "compare", marked["run_id"], plain["run_id"], cwd=tmp_path).out
    assert f"{marked['run_id']} is not ranked: its features of an image depend on" in said
    assert f"{plain['run_id']} is not ranked" not in said


def test_another_normaliser_by_flag_takes_the_mark_away(weights):
    """The mark is of the normaliser that mixes a batch."""
    weights("transductive = true")
    named = Model(model="test_vit", weights="batchwise")
    marks = [
        resolve_contract(dataclasses.replace(named, normalizer=each)).transductive
        for each in (None, "zscore", "two_sigma")
    ]
    assert marks == [True, True, False]


def test_a_contract_is_not_transductive_unless_it_says_so():
    assert resolve_contract(Model(model="vit_small_patch16", weights="fgmae")).transductive is False


def test_runs_of_no_rank_are_said_by_reason():
    record = make_record()
    assert out_of_ranks(record) is None
    assumed = {**record, "model": {**record["model"], "contract": {"assumed": True}}}
    assert out_of_ranks(assumed) == "nobody stated the input that its weights were trained on"
    assert out_of_ranks(make_record(schema=1)) is None
    assert body_sha256(record) == record["sha256"]
