"""The compiled schema says of every record what jsonschema says: a field's wrong type, a wrong place, a key too many."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator
from make_records import make_record, sha

from fgmae_bench import records
from fgmae_bench.metrics.table import METRICS
from fgmae_bench.records import body_sha256, fits, problem_of, schema

REFEREE = Draft202012Validator(schema())
WRONG = (None, True, False, 0, 1, 1.0, -1, 0.5, 1.5, 10**400, math.nan, math.inf, "", "a\n", [], [None], [[1.5]], {})
WRONG = (*WRONG, {"epoch": True}, {"oa": 2}, {"code": "A", "text": 1})


def full():
    """A record that fills every field."""
    record = copy.deepcopy(make_record(notes=(("test_is_val", "no val split"),), history_epochs=1, legacy={"oa": 0.5}))
    record["metrics"] |= {
        "best": dict(record["metrics"]["test"]),
        "confusion": [[3, 1], [0, 2]],
        "classes_scored": ["a"],
    }
    record["metrics"]["intervals"] = {"test": {"oa": [0.7, 0.9]}}
    record["predictions"] = {"file": "p.safetensors", "sha256": sha("p")}
    record["history"][0]["step"] = 1
    return record


def places(value, path=()):
    """The paths of all values of a record, what is free in form (config, legacy, contract) only at its top."""
    yield path
    if isinstance(value, dict) and path[-1:] not in {("config",), ("legacy",), ("contract",), ("intervals",)}:
        for name, inner in value.items():
            yield from places(inner, (*path, name))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from places(inner, (*path, i))


def at(record, path):
    for part in path:
        record = record[part]
    return record


PLACES = [path for path in places(full()) if path]


def changes(record, path):
    """The record with each wrong value at a path in turn, without it, and with a key too many there."""
    parent = at(record, path[:-1])
    kept = parent[path[-1]]
    for value in WRONG:
        parent[path[-1]] = value
        yield value
    parent[path[-1]] = kept
    if isinstance(kept, dict):
        kept["a key too many"] = 0.5
        yield "a key too many"
        del kept["a key too many"]
    if isinstance(parent, dict):
        del parent[path[-1]]
        yield "nothing"


@pytest.mark.parametrize("top", sorted({path[0] for path in PLACES}))
def test_the_compiled_schema_agrees_with_jsonschema_on_every_field(top):
    """Quick to accept, and never what jsonschema refuses; what it refuses alone (a line break at the end of a hash)
    jsonschema has the last word on."""
    accepted = refused = 0
    for path in (path for path in PLACES if path[0] == top):
        record = full()
        for value in changes(record, path):
            wanted = REFEREE.is_valid(record)
            if fits(record) != wanted:
                assert wanted, (path, value)
                assert str(value).endswith("\n"), (path, value)
            accepted, refused = accepted + wanted, refused + (not wanted)
    assert refused


def test_a_full_record_fits_and_other_values_do_not():
    assert fits(full())
    assert not any(map(fits, WRONG))
    assert not any(map(REFEREE.is_valid, WRONG))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), True),  # True == 1 in Python
        (("dataset", "n_test"), True),
        (("metrics", "test", "oa"), True),
        (("metrics", "confusion"), [[True]]),
        (("timing", "total_seconds"), False),
        (("environment", "world_size"), False),
    ],
)
def test_true_is_no_number(path, value):
    record = full()
    at(record, path[:-1])[path[-1]] = value
    record["sha256"] = body_sha256(record)
    assert problem_of(record)


def test_every_metric_is_bounded_by_its_line_in_the_table():
    record = full()
    for name, metric in METRICS.items():
        low, high = metric.bounds or (-1e9, 1e9)
        for value, good in ((low, True), (high, True), (None, True), ("0.5", False), (low - 0.1, not metric.bounds)):
            record["history"][0]["val"] = {name: value}
            assert fits(record) == REFEREE.is_valid(record) == good, (name, value)
    record["history"][0]["val"] = {"of another version": 55.0}
    assert not fits(record)


@pytest.mark.parametrize("entries", [1, 2, 3])
def test_histories_of_several_epochs_are_judged_as_jsonschema_does(entries):
    """They are looked at by column where all entries have the same names: a fault in any of them is seen."""
    judged = set()
    for path in [path for path in PLACES if path[0] == "history"]:
        record = full()
        record["history"] = [copy.deepcopy(record["history"][0]) for _ in range(entries)]
        for value in changes(record, ("history", entries - 1, *path[2:])):
            wanted = REFEREE.is_valid(record)
            assert fits(record) == wanted, (path, value)
            judged.add(wanted)
    assert judged == {True, False}


def test_a_history_that_holds_to_its_bounds_is_taken_by_column(monkeypatch):
    record = full()
    seen = []
    real = records._validator()
    monkeypatch.setattr(records, "_validator", lambda: lambda given: seen.append(given["history"]) or real(given))
    assert fits(record)
    record["history"][0]["val"] = {"oa": 1.5}
    assert not fits(record)
    record["history"][0]["val"] = {"oa": None, "loss": float("nan")}
    assert fits(record)
    assert [len(history) for history in seen] == [0, 1, 0]


def test_neither_help_nor_the_import_compiles_the_schema():
    """The compiler takes its time when the first record is read, and then once."""
    code = (
        "import sys, fgmae_bench.records as r, fgmae_bench.report.__main__ as m\n"
        "try: m.parser().parse(['--help'])\nexcept SystemExit: pass\n"
        "print(r._validator.cache_info().currsize, r.schema.cache_info().currsize, 'jsonschema' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 0 False"
