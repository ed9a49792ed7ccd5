"""The end of a run: the record comes last, of two processes one writes, and a failure leaves no predictions without a
record.
"""

import json
import threading

import numpy as np
import pytest
from commands import listing
from make_records import make_record

from fgmae_bench.hub.checksums import sha256_of
from fgmae_bench.records import body_sha256, read_record, record_path, seal
from fgmae_bench.runs.folder import RunFolder, store_run, write_predictions

RECORD = make_record()
PARTS = (RECORD["dataset"]["name"], RECORD["protocol"], RECORD["run_id"])


def write(path):
    write_predictions(path, np.zeros((2, 10), np.float32), np.zeros(2, np.int64), ["a", "b"], ("c",))


def assembled(predictions, created="2026-01-01T00:00:00+00:00"):
    return seal({**json.loads(json.dumps(RECORD)), "predictions": predictions, "created": created})


def stored(tmp_path, name, **changed):
    folder = RunFolder(tmp_path / name, tmp_path / name)
    return store_run(tmp_path / "results", PARTS, folder, **{"write": write, "assembled": assembled, **changed})


def test_predictions_are_there_before_the_record_and_both_are_linked_into_the_folder(tmp_path):
    predictions = tmp_path / "results" / "predictions" / f"{PARTS[2]}.safetensors"

    def looked(described):
        assert described == {"sha256": sha256_of(predictions), "file": f"predictions/{PARTS[2]}.safetensors"}
        return assembled(described)

    record = stored(tmp_path, "out", assembled=looked, leave=lambda: (tmp_path / "out" / "panels.png").write_bytes(b""))
    assert record == read_record(record_path(tmp_path / "results", PARTS))
    assert record["sha256"] == body_sha256(record)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.toml",
        "log.jsonl",
        "panels.png",
        "predictions-test.safetensors",
        "record.json",
    ]
    assert sorted(path.name for path in (tmp_path / "results" / "predictions").iterdir()) == [predictions.name]


def test_a_record_made_meanwhile_stays_with_its_predictions(tmp_path):
    first = stored(tmp_path, "out")
    before = listing(tmp_path / "results")
    second = stored(
        tmp_path, "other", write=lambda path: pytest.fail("the predictions of a recorded run were written over")
    )
    assert second == first
    assert listing(tmp_path / "results") == before
    assert (tmp_path / "other" / "record.json").read_bytes() == (tmp_path / "out" / "record.json").read_bytes()

    def full():
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        stored(tmp_path, "third", leave=full)
    assert listing(tmp_path / "results") == before, "the failure of one process took the files of another"


@pytest.mark.parametrize("failing", ["write", "assembled", "leave"])
def test_a_failure_leaves_nothing_in_the_results(tmp_path, failing):
    def fail(*_):
        if failing == "write":
            write(*_)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, "out", **{failing: fail})
    assert not (tmp_path / "results" / "predictions").exists()
    assert not list((tmp_path / "results").rglob("*.json"))


def test_of_many_at_once_one_writes_and_all_return_its_record(tmp_path):
    begun, wrote, found = threading.Barrier(6), [], []

    def one(number):
        begun.wait()
        name = f"2026-01-01T00:00:0{number}+00:00"
        found.append(
            stored(
                tmp_path,
                f"out{number}",
                write=lambda path: (wrote.append(number), write(path)),
                assembled=lambda described: assembled(described, created=name),
            )
        )

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrote) == 1
    assert [record["created"] for record in found] == [f"2026-01-01T00:00:0{wrote[0]}+00:00"] * 6


def test_a_run_without_predictions_leaves_no_folder_for_them(tmp_path):
    record = stored(tmp_path, "out", write=None)
    assert record["predictions"] is None
    assert not (tmp_path / "results" / "predictions").exists()


@pytest.mark.parametrize("moment", ["record", "copy"])
def test_an_interruption_after_the_record_leaves_it_with_its_predictions(tmp_path, monkeypatch, moment):
    from fgmae_bench.runs import folder

    def interrupted(*arguments):
        genuine(*arguments)
        raise KeyboardInterrupt

    if moment == "record":
        genuine = folder.store
        monkeypatch.setattr(folder, "store", interrupted)
    else:
        genuine = RunFolder.copy_in
        monkeypatch.setattr(
            RunFolder, "copy_in", lambda self, source, name: name == "record.json" and interrupted(self, source, name)
        )
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, "out")
    record = read_record(record_path(tmp_path / "results", PARTS))
    assert sha256_of(tmp_path / "results" / record["predictions"]["file"]) == record["predictions"]["sha256"]


def test_a_folder_that_held_another_run_says_so_and_one_that_held_the_same_does_not(tmp_path, caplog):
    caplog.set_level("INFO", logger="fgmae_bench")
    stored(tmp_path, "out")
    assert "held the run" not in caplog.text
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    (tmp_path / "out" / "record.json").unlink()
    (tmp_path / "out" / "record.json").write_text(json.dumps(record | {"run_id": "another-run"}))
    stored(tmp_path, "out")
    assert "out held the run another-run: its files there are replaced, its record stays in the results" in caplog.text
