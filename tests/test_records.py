"""Records: sealed by the hash of their body, held against the schema, whole or absent, and never written
over.
"""

import hashlib
import json

import pytest
from commands import listing
from jsonschema import Draft202012Validator
from make_records import make_record

from fgmae_bench.errors import BenchError
from fgmae_bench.records import (
    _parsed,
    all_records,
    body_sha256,
    problem_of,
    read_record,
    record_path,
    schema,
    seal,
    store,
)
from fgmae_bench.runs.folder import RunFolder, write_predictions


@pytest.fixture
def record():
    return json.loads(json.dumps(make_record()))


# --- the body and its hash


def test_hash_is_of_the_canonical_body_without_itself(record):
    body = {key: value for key, value in record.items() if key != "sha256"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert record["sha256"] == hashlib.sha256(text.encode("utf-8")).hexdigest()
    assert body_sha256(dict(reversed(list(record.items())))) == record["sha256"]
    assert seal(record) == record


def test_schema_is_itself_valid_and_closed():
    Draft202012Validator.check_schema(schema())
    assert schema()["additionalProperties"] is False
    assert set(schema()["properties"]) - set(schema()["required"]) == {"cost", "selection", "stress"}  # of schema 2


def changed(record, path, value):
    """A copy with one field replaced, or removed when the value is None, under the hash of its new body."""
    copied = json.loads(json.dumps(record))
    place = copied
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    if value is None:
        del place[path[-1]]
    return copied | {"sha256": body_sha256(copied)}


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("schema",), 0, "schema: 0 is less than the minimum of 1"),
        (("run_id",), "vit small", "run_id: "),
        (("created",), "yesterday", "created: "),
        (("status",), "finished", "status: 'finished' is not one of ['done', 'diverged']"),
        (("dataset", "n_test"), -1, "dataset/n_test: -1 is less than the minimum of 0"),
        (("dataset", "n_test"), 5400.5, "dataset/n_test: "),
        (("dataset", "synthetic"), "no", "dataset/synthetic: "),
        (("dataset", "split"), None, "dataset: 'split' is a required property"),
        (("dataset", "colour"), "grey", "dataset: Additional properties are not allowed ('colour' was unexpected)"),
        (("metrics", "test", "oa"), 80.5, "metrics/test/oa: 80.5 is greater than the maximum of 1"),
        (("metrics", "test", "oa"), -0.1, "metrics/test/oa: -0.1 is less than the minimum of 0"),
        (("metrics", "test", "kappa"), -2, "metrics/test/kappa: "),
        (("metrics", "confusion"), [[1.5]], "metrics/confusion/0/0: "),
        (("model", "weights", "sha256"), "abc", "model/weights/sha256: "),
        (("notes", 0), {"code": "Two Words", "text": ""}, "notes/0/code: "),
        (("history", 0, "val"), None, "history/0: 'val' is a required property"),
        (("timing", "data_wait_fraction"), 1.5, "timing/data_wait_fraction: "),
        (("environment",), None, "record: 'environment' is a required property"),
    ],
    ids=lambda value: "/".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_does_not_fit_the_schema_is_named_with_its_place(path, value, fault):
    record = make_record(notes=(("test_is_val", "no val split"),))
    assert problem_of(record) is None
    assert (problem_of(changed(record, path, value)) or "").startswith(fault)


@pytest.mark.parametrize("value", [[], "text", None, 3])
def test_other_json_is_no_record(value):
    assert problem_of(value).startswith("record: ")


def test_undefined_is_null_and_negative_kappa_is_possible(record):
    for name, value in (("oa", None), ("kappa", -0.2), ("loss", 12.5)):
        record["metrics"]["test"][name] = value
    assert problem_of(seal(record)) is None


def test_an_edit_is_noticed(record):
    record["metrics"]["test"]["oa"] += 1e-9
    assert problem_of(record) == "sha256 does not match the body: the file was edited"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_no_number_of_a_record(record, tmp_path, value):
    record["metrics"]["test"]["loss"] = value
    assert "cannot be hashed" in problem_of(record)
    with pytest.raises(ValueError, match="not JSON compliant"):
        seal(record)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(record))
    with pytest.raises(
        BenchError, match=r"r\.json: not a readable record .* is not a JSON number.*; remove it and run again"
    ):
        read_record(path)


def test_sealing_what_does_not_fit_is_an_error_of_ours(record):
    del record["timing"]
    with pytest.raises(ValueError, match="'timing' is a required property"):
        seal(record)


# --- their place


def test_a_record_is_read_as_it_was_stored(record, tmp_path):
    path = store(record, tmp_path)
    assert path == tmp_path / "records" / "eurosat" / "linear_probe" / f"{record['run_id']}.json"
    assert path == record_path(tmp_path, record) == record_path(tmp_path, ("eurosat", "linear_probe", record["run_id"]))
    assert read_record(path) == record
    assert all_records(tmp_path) == ([(path, record)], [])


def test_a_record_is_never_written_over(record, tmp_path):
    path = store(record, tmp_path)
    before = path.read_bytes()
    later = seal(record | {"created": "2030-01-01T00:00:00Z"})
    assert later["sha256"] != record["sha256"]
    assert store(later, tmp_path) == path
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_broken_and_misplaced_records_are_named_beside_the_good_ones(record, tmp_path):
    good = store(record, tmp_path)
    cut, elsewhere = good.with_name("cut.json"), tmp_path / "records" / "dfc2020" / good.name
    cut.write_text(good.read_text()[:100])
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(good.read_bytes())
    (good.parent / "notes.txt").write_text("no record")
    found, bad = all_records(tmp_path)
    assert found == [(good, record)]
    assert len(bad) == 2
    assert bad[0].startswith(f"{elsewhere}: name or folder does not match the run inside")
    assert bad[1].startswith(f"{cut}: not a readable record")
    assert all_records(tmp_path / "nowhere") == ([], [])


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_whatever_lies_there_is_one_line(tmp_path, content):
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=r"r\.json: .*; remove it and run again"):
        read_record(path)


# --- the folder of a run


EPOCH = {
    "epoch": 0,
    "lr": 0.1,
    "train_loss": None,
    "val": {"loss": 1.0, "oa": 0.5},
    "seconds": 1.0,
    "images_per_second": 2.0,
}


def test_an_abandoned_run_takes_back_its_own_files_only(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "events.out.tfevents.1.other.1.0").write_bytes(b"of another run")
    (tmp_path / "empty").mkdir()
    before = listing(tmp_path)
    for folder, log in (("out", "log"), ("empty/a/b", "log"), ("out/a", "out/a/log"), ("empty", "empty/log")):
        run = RunFolder(tmp_path / folder, tmp_path / log)
        run.epoch(EPOCH)
        run.finish({"data": {"split": "reference", "band_order": None}})
        assert len(listing(tmp_path)) > len(before) + 2
        run.abandon()
        assert listing(tmp_path) == before


def test_an_abandoned_run_leaves_an_earlier_run_in_the_same_folder_as_it_was(tmp_path):
    result = tmp_path / "result"
    for lr in (0.1, 0.2):
        run = RunFolder(tmp_path / "out", tmp_path / "out")
        result.unlink(missing_ok=True)
        result.write_text(f"of {lr}")
        if lr == 0.2:
            before = listing(tmp_path / "out")
        run.epoch(EPOCH | {"lr": lr})
        run.finish({"recipe": {"lr": lr}})
        run.copy_in(result, "record.json")
    assert listing(tmp_path / "out") != before
    run.abandon()
    assert listing(tmp_path / "out") == before
    assert (tmp_path / "out" / "record.json").read_text() == "of 0.1"


def test_what_is_undefined_is_null_in_the_log_and_absent_from_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunFolder(tmp_path, tmp_path)
    run.epoch(EPOCH)
    run.finish({})
    assert json.loads((tmp_path / "log.jsonl").read_text())["train_loss"] is None
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"lr", "val/loss", "val/oa", "seconds", "images_per_second"}


def test_equal_predictions_are_equal_bytes(tmp_path):
    """safetensors orders metadata at random; a file's hash in two equal records would differ."""
    import numpy as np
    from safetensors import safe_open

    logits, targets = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([0, 1, 1])
    contents = set()
    for number in range(10):
        write_predictions(tmp_path / f"{number}", logits, targets, ["a", "ä", "c"], ("x", "y"))
        contents.add((tmp_path / f"{number}").read_bytes())
    assert len(contents) == 1
    with safe_open(tmp_path / "0", "np") as stored:
        assert json.loads(stored.metadata()["ids"]) == ["a", "ä", "c"]
        assert json.loads(stored.metadata()["classes"]) == ["x", "y"]
        assert stored.get_tensor("logits").tolist() == logits.tolist()
        assert stored.get_tensor("targets").tolist() == [0, 1, 1]


def test_a_result_is_linked_into_the_folder_and_replaces_an_earlier_one(tmp_path):
    source, run = tmp_path / "result", RunFolder(tmp_path / "out", tmp_path / "out")
    for text in ("first", "second"):
        source.unlink(missing_ok=True)
        source.write_text(text)
        run.copy_in(source, "record.json")
        run.copy_in(source, "record.json")
        assert (tmp_path / "out" / "record.json").read_text() == text
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["record.json"]


# --- large numbers


@pytest.mark.parametrize(
    "text",
    [
        "1e300",
        "1E300",
        "-1e+300",
        "1e0300",
        "9" * 19 + ".5e99",
        "1e100",
        "1e999",
        "9" * 120 + ".0",
        "9223372036854775808",
        "-1" + "0" * 20,
    ],
)
@pytest.mark.parametrize(
    "around",
    [
        "[{}]",
        '{{"a":{}}}',
        '{{"a": {} , "b": 1}}',
        '{{"a":[1,{}\n]}}',
        "{}",
        "[1e2,{},2]",
        "[0.00012345678901234567,{}]",  # more digits than a large number has, of a fraction
    ],
)
def test_no_way_of_writing_a_large_number_goes_unseen(text, around):
    content = around.format(text).encode()
    with pytest.raises(ValueError, match="too large a number"):
        _parsed(content)
    with pytest.raises(ValueError, match="too large a number"):
        _parsed(b"\xff\xfe" + content.decode().encode("utf-16-le"))


@pytest.mark.parametrize(
    "text",
    [
        "1e9",
        "1e-300",
        "999999999999999999",
        "0.1234567890123456789",
        '"1e300 x"',
        "1e16",
        "1e99",
        "12.12345678901234567890e9",
    ],
)
def test_numbers_within_the_bounds_are_what_json_reads(text):
    assert _parsed(f'{{"a":[{text}]}}'.encode()) == {"a": [json.loads(text)]}
