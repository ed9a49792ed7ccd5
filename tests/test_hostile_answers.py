"""What strangers hand over ends in a refusal or a named omission: the cases that the fuzz script found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from make_records import make_record
from preloaded import HANG
from safetensors.numpy import save

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.strict import load_toml
from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.intervals import intervals
from fgmae_bench.records import all_records, body_sha256, read_record, record_path, store
from fgmae_bench.report.predictions import read_predictions

REPOSITORY = Path(__file__).resolve().parents[1]
ROBUSTNESS = REPOSITORY / "experiments" / "robustness"


def script(name, *arguments):
    """How a script of the robustness experiments ends: (exit code, what it printed)."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, ROBUSTNESS / name, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG)
    return done.returncode, done.stdout + done.stderr


def test_reports_at_once_and_runs_that_store_meanwhile():
    code, said = script("reports_at_once.py", "--records", 30, "--reports", 6, "--rounds", 2, "--writers", 3)
    assert code == 0, said


# --- records


def put(record, path):
    record["sha256"] = body_sha256(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def deep(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("place", "value", "saying"),
    [
        (("config", "data", "train_frac"), "x", "config/data/train_frac: 'x' is not of type 'number'"),
        (("config", "data", "train_frac"), 1.5, "greater than the maximum of 1"),
        (("config", "recipe", "lr"), [0.1], "config/recipe/lr: [0.1] is not of type"),
        (("config", "recipe", "batch_size"), {}, "config/recipe/batch_size"),
        (("config", "recipe", "seed"), [1], "config/recipe/seed"),
        (("config", "facts"), {"a": deep(900)}, "nested more than 32 levels deep"),
        (("config", "recipe", "seed"), 10**400, "is too large a number"),
        (("config", "recipe", "new"), 10**19, "is too large a number"),
        (("metrics", "test", "loss"), 1e300, "is too large a number"),
        (("metrics", "confusion"), [[1, 2], [3]], "metrics/confusion"),
        (("metrics", "legacy"), {"oa": "x"}, "metrics/legacy/oa"),
        (("metrics", "intervals"), {"test": {"oa": [1]}}, "metrics/intervals/test/oa"),
        (("dataset", "split"), "x" * 30_000, "a text of more than 20000 letters"),
        (("model", "name"), "\ud800", "the body cannot be hashed"),
    ],
)
def test_a_hostile_record_is_named_and_left_out(tmp_path, place, value, saying):
    good, bad = make_record(), make_record(seed=7)
    bad["metrics"]["per_class"] = {"a": {}, "b": {}}
    store(good, tmp_path)
    *path, last = place
    part = bad
    for key in path:
        part = part[key]
    part[last] = value
    try:
        put(bad, record_path(tmp_path, bad))
    except (RecursionError, UnicodeEncodeError):
        record_path(tmp_path, bad).write_text(json.dumps(bad))
    found, lines = all_records(tmp_path)
    assert [record["run_id"] for _, record in found] == [good["run_id"]]
    assert len(lines) == 1
    assert saying in lines[0]


def test_hidden_files_and_copies_of_synchronisers_change_nothing(tmp_path, caplog):
    record = make_record()
    path = store(record, tmp_path)
    (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    for name in ("{}.sync-conflict-20250101-000000-ABCDEF", "{} (1)", "{} (conflicted copy 2025-01-01)"):
        (path.parent / f"{name.format(path.stem)}.json").write_bytes(path.read_bytes())
    found, bad = all_records(tmp_path)
    assert ([each for each, _ in found], bad) == ([path], [])
    assert caplog.text.count(f"is a copy of {path.name}") == 3


def test_a_renamed_record_is_still_said(tmp_path):
    path = store(make_record(), tmp_path)
    path.rename(path.with_name("other.json"))
    assert "name or folder does not match" in all_records(tmp_path)[1][0]


@pytest.mark.parametrize("kind", ["fifo", "large", "folder"])
def test_what_is_not_a_file_of_a_record_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "x.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "large":
        with open(path, "wb") as stream:
            stream.truncate(33 << 20)
    else:
        path.mkdir()
    with pytest.raises(BenchError, match="not a readable record"):
        read_record(path)


# --- predictions


def written(tmp_path, arrays, **lists):
    n = len(next(iter(arrays.values())))
    lists = {"ids": [f"s{i}" for i in range(n)], "classes": ["a", "b"], **lists}
    path = tmp_path / "p.safetensors"
    path.write_bytes(save(arrays, {name: json.dumps(value) for name, value in lists.items()}))
    record = make_record()
    record["predictions"] = {"sha256": None, "file": "x"}
    record["dataset"]["sample_ids_sha256"]["test"] = None
    return read_predictions(record, path)


LOGITS = np.zeros((4, 2), np.float32)


@pytest.mark.parametrize(
    ("arrays", "lists"),
    [
        ({"logits": LOGITS, "targets": np.array([0, 1, 2, 0])}, {}),
        ({"logits": LOGITS, "targets": np.array([0, 1, 2**40, 0])}, {}),
        ({"logits": LOGITS, "targets": np.array([0, 1, -1, 0])}, {}),
        ({"logits": LOGITS, "targets": np.array([0.0, 1, 1, 0])}, {}),
        ({"logits": LOGITS, "targets": np.full((4, 2), 2)}, {}),
        ({"logits": LOGITS, "targets": np.zeros((4, 3), np.int64)}, {}),
        ({"logits": LOGITS, "targets": np.zeros((4, 1, 1), np.int64)}, {}),
        ({"logits": np.zeros((4, 2), bool), "targets": np.zeros(4, np.int64)}, {}),
        ({"confusion": np.full((4, 2, 2), -1)}, {}),
        ({"confusion": np.zeros((4, 2, 2), np.float32)}, {}),
        ({"confusion": np.zeros((0, 2, 2), np.int64)}, {}),
        ({"logits": LOGITS, "targets": np.zeros(4, np.int64)}, {"ids": deep(500)}),
        ({"logits": LOGITS, "targets": np.zeros(4, np.int64)}, {"ids": [["a"], "b", "c", "d"]}),
        ({"logits": LOGITS, "targets": np.zeros(4, np.int64)}, {"groups": [1, 2, 3, 4]}),
        ({"logits": LOGITS, "targets": np.zeros(4, np.int64)}, {"classes": {"a": 1, "b": 2}}),
        (
            {"logits": np.zeros((4, 20_000), np.float32), "targets": np.zeros(4, np.int64)},
            {"classes": list(map(str, range(20_000)))},
        ),
    ],
)
def test_predictions_that_would_be_taken_for_places_in_memory_are_refused(tmp_path, arrays, lists):
    with pytest.raises(BenchError, match="no predictions that can be read"):
        written(tmp_path, arrays, **lists)


def test_predictions_in_range_are_read(tmp_path):
    found = written(tmp_path, {"logits": LOGITS, "targets": np.array([0, 1, 1, 0])})
    assert intervals(found.units())["units"] == 4


# --- settings


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("a = " + "[" * 50_000, "nested too deeply"),
        (".".join("a" * 60_000) + " = 1", "a dotted key of more than 64 parts"),
        ("[" + ".".join(["a"] * 200) + "]", "a dotted key of more than 64 parts"),
        ("a = " + "[" * 80 + "]" * 80, "nested more than 64 levels deep"),
        ("a = " + "9" * 5000, "not valid TOML"),
        ("a = '" + "x" * (4 << 20) + "'", "too large for settings"),
        ("a = \x01", "not valid TOML"),
    ],
)
def test_settings_that_no_one_writes_are_one_line(tmp_path, text, saying):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(BenchError, match=saying) as caught:
        load_toml(tmp_path / "x.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "a/../../b"])
def test_a_card_names_no_file_outside_its_data(tmp_path, name):
    text = (REPOSITORY / "datasets" / "bigearthnet" / "card.toml").read_text()
    assert 'train = "' in text
    at = text.index('train = "') + len('train = "')
    (tmp_path / "card.toml").write_text(text[:at] + name + text[text.index('"', at) :])
    with pytest.raises(BenchError, match="name a file of the data's, without a leading /"):
        load_card(str(tmp_path / "card.toml"))
