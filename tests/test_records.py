"""Records and files: sealed by the hash of their body, held against the schema, whole or absent, and never written
over.
"""

import errno
import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path

import pytest
from commands import listing
from jsonschema import Draft202012Validator
from make_records import make_record

from fgmae_bench.errors import BenchError, RunFailed, closest, os_error, run_entry
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
from fgmae_bench.system.files import (
    lock_and_clean_up,
    replacing,
    require_writable,
    wait_for_lock,
    write_json,
    write_text,
)


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


# --- files that are whole or absent


def test_a_file_appears_by_rename_with_the_users_mode(tmp_path):
    path = tmp_path / "new" / "folder" / "f.txt"
    before = os.umask(0o027)
    try:
        with replacing(path) as temporary:
            temporary.write_text("whole")
            assert temporary.parent == path.parent
            assert not path.exists()
    finally:
        os.umask(before)
    assert path.read_text() == "whole"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["f.txt"]


def half_written(path, failure):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise failure


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), ValueError("of ours"), KeyboardInterrupt()]
)
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, failure):
    (tmp_path / "mine").mkdir()
    write_text(tmp_path / "f.txt", "before")
    before = listing(tmp_path)
    for path in (tmp_path / "f.txt", tmp_path / "mine" / "a" / "b" / "f.txt"):
        with pytest.raises(BenchError if isinstance(failure, OSError) else type(failure)):
            half_written(path, failure)
    assert listing(tmp_path) == before


def test_json_that_no_reader_could_read_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "f.json", {"loss": float("nan")})
    assert listing(tmp_path) == {}


def test_asking_whether_a_folder_can_be_written_leaves_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    require_writable(tmp_path / "mine")
    require_writable(tmp_path / "mine" / "new" / "folder")
    assert listing(tmp_path) == {"mine": None}
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        with pytest.raises(BenchError, match=f"{place}.*; choose another folder"):
            require_writable(tmp_path / place)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(BenchError, match="nowhere"):
        require_writable(tmp_path / "nowhere" / "below")


def test_asking_makes_no_folder_that_another_process_could_lose(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: pytest.fail("a folder was made"))
    require_writable(tmp_path / "new" / "folder")


def test_a_folder_that_is_taken_away_while_a_file_is_made_in_it_is_made_again(tmp_path, monkeypatch):
    """Another process that fails removes the empty folder it had made."""
    genuine, left = tempfile.mkstemp, [3]

    def mkstemp(**places):
        if left[0]:
            left[0] -= 1
            places["dir"].rmdir()
        return genuine(**places)

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    write_text(tmp_path / "new" / "f.txt", "whole")
    assert (tmp_path / "new" / "f.txt").read_text() == "whole"
    mkdir, failures = Path.mkdir, [2]

    def there_and_gone(path, **how):
        """As where the folder is taken away between the attempt to make it and the look at what is in the way."""
        if failures[0]:
            failures[0] -= 1
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        mkdir(path, **how)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", there_and_gone)
        write_text(tmp_path / "third" / "f.txt", "whole")
    assert (tmp_path / "third" / "f.txt").read_text() == "whole"
    left[0] = 1_000
    with pytest.raises(BenchError, match=r"other.*cannot be made"):
        write_text(tmp_path / "other" / "f.txt", "never")


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.ENOSPC, "no space left while writing place; free space there"),
        (errno.EDQUOT, "no space left while writing place; free space there"),
        (errno.EACCES, "place cannot be written (Permission denied); choose a folder you may write to"),
        (errno.EROFS, "place cannot be written (Read-only file system); choose"),
        (errno.ENOTDIR, "place: a file is where a folder is needed (Not a directory); choose another folder"),
        (errno.EIO, "place: Input/output error; check the path and the disk"),
    ],
)
def test_errors_of_the_operating_system_are_told_with_what_to_do(number, line):
    assert str(os_error(OSError(number, os.strerror(number)), "place")).startswith(line)


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


# --- how an entry ends


def interrupted():
    raise KeyboardInterrupt


def refused():
    raise BenchError("a is\n  wrong", "mend a")


def failed():
    raise RunFailed("the loss became non-finite")


@pytest.mark.parametrize(
    ("main", "code", "err"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (refused, 2, "error: a is wrong; mend a\n"),
        (failed, 1, "error: the loss became non-finite\n"),
        (interrupted, 130, "interrupted\n"),
    ],
)
def test_exit_codes_of_the_interface(capsys, main, code, err):
    with pytest.raises(SystemExit) as end:
        run_entry(main)
    assert end.value.code == code
    assert capsys.readouterr().err == err


def test_only_rank_0_says_the_line(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as end:
        run_entry(refused)
    assert end.value.code == 2
    assert capsys.readouterr().err == ""


def test_closest_match_ignores_case_and_stays_silent_where_nothing_is_near():
    assert closest("EUROSAT", ["dfc2020", "eurosat"]) == "did you mean 'eurosat'? choose from dfc2020, eurosat"
    assert closest("xyz", ["dfc2020", "eurosat"]) == "choose from dfc2020, eurosat"


@pytest.mark.parametrize("lock", [lock_and_clean_up, wait_for_lock])
def test_a_lock_that_cannot_be_made_is_told_in_one_line(tmp_path, lock):
    (tmp_path / "file").write_text("")
    for folder in ("x" * 300, "file"):
        with (
            pytest.raises(BenchError, match=r"; choose another folder|; check the path"),
            lock(tmp_path / folder / "name"),
        ):
            pass
    assert set(listing(tmp_path)) == {"file"}


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
