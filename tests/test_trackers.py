"""Trackers behind one hook: what TensorBoard is given arrives in each, offline; a missing package or key is one line; a
fault of a tracker costs no run.
"""

import json
import os
import subprocess
import sys

import preloaded
import pytest
from commands import FOLDERS, REPOSITORY, STATISTICS, linear, metrics, only_record, said, shared_world

from fgmae_bench.config.names import TRACKERS
from fgmae_bench.runs import trackers
from fgmae_bench.runs.trackers import KINDS, Kind


class Fake:
    """A tracker of the tests: keeps what it is given."""

    def __init__(self, run_id, config, folder):
        self.run_id, self.config, self.values, self.end = run_id, config, [], None
        FAKES.append(self)

    def log(self, values, step):
        self.values.append((step, values))

    def close(self, scores, failed):
        self.end = (scores, failed)


class Fault(Exception):
    pass


class Breaking(Fake):
    raised: type[BaseException] = Fault

    def log(self, values, step):
        super().log(values, step)
        raise self.raised("no\nanswer")


FAKES = []


@pytest.fixture
def fake(monkeypatch):
    """Puts a class in the place of wandb's."""

    def put(sink, ready=lambda: None):
        FAKES.clear()
        monkeypatch.setattr(trackers, "find_spec", lambda name: True)
        monkeypatch.setattr(trackers, "import_module", lambda name: None)
        monkeypatch.setitem(KINDS, "wandb", Kind(start=sink, ready=ready))
        return FAKES

    return put


def test_each_name_of_the_flag_is_a_tracker():
    assert list(TRACKERS) == list(KINDS)


def test_a_tracker_gets_what_tensorboard_gets_and_the_record_is_the_same(fake, tmp_path):
    fakes, (plain, tracked) = fake(Fake), (tmp_path / "plain", tmp_path / "tracked")
    for folder, flags in ((plain, ()), (tracked, ("--tracker", "wandb"))):
        folder.mkdir()
        done = linear(shared_world(5), "--lr", 0.1, 0.3, "--partial", *flags, cwd=folder)
        assert done.code == 0, done.err
    paths = [sorted((folder / "results" / "records").rglob("*.json")) for folder in (plain, tracked)]
    records = [[json.loads(path.read_text()) for path in found] for found in paths]
    assert [path.name for path in paths[0]] == [path.name for path in paths[1]]
    assert [metrics(record) for record in records[0]] == [metrics(record) for record in records[1]]
    assert [record["config"]["execution"]["tracker"] for record in records[0] + records[1]] == [None] * 2 + [
        "wandb"
    ] * 2
    held = {each.run_id: each for each in fakes}
    assert sorted(held) == sorted(path.stem for path in paths[0])
    for record in records[1]:
        each = held[record["run_id"]]
        assert each.config["recipe"]["lr"] == record["config"]["recipe"]["lr"]
        assert "execution" not in each.config
        assert [step for step, _ in each.values] == [entry["epoch"] for entry in record["history"]]
        assert [v["train/loss"] for _, v in each.values] == [entry["train_loss"] for entry in record["history"]]
        assert [v["val/oa"] for _, v in each.values] == [entry["val"]["oa"] for entry in record["history"]]
        scores, failed = each.end
        assert (scores["test/oa"], failed) == (record["metrics"]["test"]["oa"], False)


@pytest.mark.parametrize("raised", [Fault, AttributeError, SystemExit])
def test_a_tracker_that_fails_costs_no_run(raised, fake, tmp_path, monkeypatch):
    monkeypatch.setattr(Breaking, "raised", raised)
    fakes = fake(Breaking)
    done = linear(shared_world(5), "--partial", "--tracker", "wandb", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.err.count(f"wandb does not answer ({raised.__name__}: no answer, ") == 1
    assert done.err.count("the run goes on without it") == 1
    assert (len(fakes), len(fakes[0].values), fakes[0].end) == (1, 1, None)
    assert only_record(tmp_path / "results")["status"] == "done"


def test_one_that_cannot_begin_costs_no_run_either(fake, tmp_path):
    def refuse(*given):
        raise Fault("disk full")

    fake(refuse)
    done = linear(shared_world(5), "--partial", "--probe", "knn", "--tracker", "wandb", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "disk full" in done.err


def test_a_tracker_that_is_not_installed_or_has_no_key_is_one_line(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    line = said(linear(shared_world(5), "--partial", "--tracker", "trackio", cwd=tmp_path))
    assert "--tracker trackio: its package is not installed; docs/records.md says how" in line
    assert "mlflow" in said(linear(shared_world(5), "--partial", "--tracker", "mflow", cwd=tmp_path))
    fake(Fake, ready=lambda: "no key: wandb login, or WANDB_MODE=offline")
    line = said(linear(shared_world(5), "--partial", "--tracker", "wandb", cwd=tmp_path))
    assert "--tracker wandb: no key: wandb login, or WANDB_MODE=offline" in line
    assert not (tmp_path / "out").exists()

    def broken():
        raise AttributeError("module has no attribute 'login'")

    fake(Fake, ready=broken)
    line = said(linear(shared_world(5), "--partial", "--tracker", "wandb", cwd=tmp_path))
    assert "--tracker wandb: its package failed (AttributeError: module has no attribute 'login'" in line


def test_a_package_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "mlflow.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    line = said(linear(shared_world(5), "--partial", "--tracker", "mlflow", cwd=tmp_path))
    assert "cannot be imported (ModuleNotFoundError: No module named 'a_package_that_nobody_has', mlflow.py:1)" in line
    assert "fgmae-bench[mlflow]" in line


@pytest.mark.slow
def test_no_tracker_is_imported_where_none_is_asked_for(tmp_path):
    code = (
        "import sys\nimport fgmae_bench.probe.engine, fgmae_bench.train.finetune, fgmae_bench.train.segment\n"
        "print(sorted({'wandb', 'mlflow', 'trackio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]", done.stderr


def tracked(name, folder, **variables):
    """A run in a process of its own, since trackers start threads and services; its record."""
    words = ["-m", "fgmae_bench.linear", "--dataset", "eurosat", "--data_path", shared_world(5), *STATISTICS, *FOLDERS]
    environment = {**os.environ, "HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    return preloaded.run([*words, "--partial", "--tracker", name], cwd=folder, env=environment)


@pytest.mark.slow
def test_wandb_offline(tmp_path):
    pytest.importorskip("wandb")
    done = tracked("wandb", tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").rglob("run-*.wandb")
    record, content = only_record(tmp_path / "results"), path.read_bytes()
    assert record["run_id"] in str(path)
    for text in (b"val/oa", b"train/loss", b"test/oa", repr(record["metrics"]["test"]["oa"]).encode()):
        assert text in content


@pytest.mark.slow
def test_wandb_without_a_key(tmp_path):
    pytest.importorskip("wandb")
    done = tracked("wandb", tmp_path, WANDB_MODE="online", WANDB_API_KEY="")
    assert done.returncode == 2
    assert "error: --tracker wandb: no key: wandb login, or WANDB_MODE=offline" in done.stderr


@pytest.mark.slow
def test_mlflow_in_a_folder(tmp_path):
    pytest.importorskip("mlflow")
    uri = (tmp_path / "mlruns").as_uri()
    done = tracked("mlflow", tmp_path, MLFLOW_TRACKING_URI=uri, MLFLOW_ALLOW_FILE_STORE="true")
    assert done.returncode == 0, done.stderr
    record = only_record(tmp_path / "results")
    (values,) = (tmp_path / "mlruns").glob("*/*/metrics/val/oa")
    assert [float(line.split()[1]) for line in values.read_text().splitlines()] == [
        entry["val"]["oa"] for entry in record["history"]
    ]
    (score,) = (tmp_path / "mlruns").glob("*/*/metrics/test/oa")
    assert float(score.read_text().split()[1]) == record["metrics"]["test"]["oa"]
    (rate,) = (tmp_path / "mlruns").glob("*/*/params/recipe.lr")
    assert float(rate.read_text()) == record["config"]["recipe"]["lr"]


@pytest.mark.slow
def test_a_server_that_is_away_costs_an_mlflow_run_no_minutes(tmp_path):
    pytest.importorskip("mlflow")
    done = tracked("mlflow", tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "mlflow does not answer" in done.stderr
    assert only_record(tmp_path / "results")["status"] == "done"


@pytest.mark.slow
def test_trackio_in_a_folder(tmp_path):
    pytest.importorskip("trackio")
    import sqlite3

    done = tracked("trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    record = only_record(tmp_path / "results")
    (path,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(path) as store:
        rows = store.execute("SELECT run_name, metrics FROM metrics ORDER BY id").fetchall()
    assert {name for name, _ in rows} == {record["run_id"]}
    held = [json.loads(text) for _, text in rows]
    assert [each["val/oa"] for each in held if "val/oa" in each] == [e["val"]["oa"] for e in record["history"]]
    assert held[-1]["test/oa"] == record["metrics"]["test"]["oa"]
