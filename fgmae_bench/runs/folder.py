"""What a run leaves in its output folder while it goes on and at its end; taken back when the run fails."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray
from safetensors.numpy import save

from fgmae_bench.config.run import PARTS
from fgmae_bench.errors import BenchError, os_error
from fgmae_bench.hub.checksums import sha256_of
from fgmae_bench.records import Record, read_record, record_path, store
from fgmae_bench.runs.tensors import save_tensors
from fgmae_bench.system.files import (
    lock_and_clean_up,
    missing_folders,
    remove_empty,
    replacing,
    write_bytes,
    write_text,
)

_numbers = itertools.count()


class EventFile:
    """One new `events.out.tfevents.*` in `folder`. `first_step` above 0 makes readers forget later steps of earlier
    files.

    Every method raises OSError where the folder cannot be written or is full.
    """

    def __init__(self, folder: Path, first_step: int = 0):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}.{next(_numbers)}"
        self.path = folder / name
        self.stream = open(self.path, "wb")  # noqa: SIM115 (open as long as the run)
        self.records = RecordWriter(self.stream)
        try:
            self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
            if first_step:
                self._write(
                    Event(wall_time=time.time(), step=first_step, session_log=SessionLog(status=SessionLog.START))
                )
        except OSError:
            self.discard()
            raise

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Add one value for each tag at `step`; readers see them at once."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Nothing more will be written."""
        self.stream.close()

    def discard(self) -> None:
        """Take the file away."""
        with contextlib.suppress(OSError):  # what a full disk did not take cannot be written now either
            self.stream.close()
        self.path.unlink(missing_ok=True)

    def _write(self, event: Any) -> None:
        self.records.write(event.SerializeToString())
        self.records.flush()


log = logging.getLogger("fgmae_bench")
SECONDS_BETWEEN_LOGS = 1.0


class RunFolder:
    """`log.jsonl`, `config.toml`, `checkpoint-last.pth`, TensorBoard events, predictions and the record of one run."""

    def __init__(self, folder: Path, log_dir: Path):
        self.folder, self.log_dir = folder, log_dir
        self.lines: list[str] = []
        self.replaced: dict[Path, bytes | None] = {}  # what stood under the name of each file that this run writes
        self.new_folders = {place: missing_folders(place) for place in (folder, log_dir)}
        self.last_written = -SECONDS_BETWEEN_LOGS
        self.events: EventFile | None = None
        self.resumed_at = 0
        self.trained = False  # True once there is a checkpoint of this run to go on from

    def warn_if_replacing(self, run_id: str) -> None:
        """Say that the folder held the files of another finished run, which this one replaces."""
        try:
            held = json.loads((self.folder / "record.json").read_text(encoding="utf-8"))["run_id"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return
        if held != run_id:
            log.info(
                "%s held the run %s: its files there are replaced, its record stays in the results", self.folder, held
            )

    def epoch(self, entry: dict[str, Any]) -> None:
        """Log one epoch: a JSON line with all keys, and TensorBoard scalars."""
        flat = flatten(entry)
        self.lines.append(json.dumps(flat, allow_nan=False))
        try:
            if self.events is None:
                self.events = EventFile(self.log_dir, first_step=self.resumed_at)
            self.events.scalars(
                {_tag(key): value for key, value in flat.items() if key not in ("epoch", "step") and value is not None},
                entry.get("step", entry["epoch"]),
            )
        except OSError as error:
            raise os_error(error, self.log_dir) from error
        if time.monotonic() - self.last_written >= SECONDS_BETWEEN_LOGS:
            self.write_log()

    def write_log(self) -> None:
        """Bring `log.jsonl` up to date, by rename."""
        self._text("log.jsonl", "".join(line + "\n" for line in self.lines))
        self.last_written = time.monotonic()

    def go_on(self, history: list[dict[str, Any]]) -> None:
        """Take up the log of an interrupted run where its checkpoint left it."""
        self.lines = [json.dumps(flatten(entry), allow_nan=False) for entry in history]
        self.resumed_at, self.trained = len(history), True

    def save(self, name: str, content: dict[str, Any], *, resumable: bool = True, large: bool = False) -> None:
        """Keep a checkpoint file; from then on, where it is `resumable`, a failed run leaves it to go on from.

        What stood under the name of a `large` file that is not resumable does not return when the run fails.
        """
        if large:
            self.replaced.setdefault(self.folder / name, None)
        elif not resumable:
            self._remember(name)
        save_tensors(self.folder / name, content)
        self.trained = self.trained or resumable

    def alias(self, name: str, other: str) -> None:
        """Let `other` name the same file as `name`: by a link, or a copy where the file system has none."""
        self._place(self.folder / name, self.folder / other)

    def finish(self, config: dict[str, Any]) -> None:
        """Write log and config and close the events."""
        self.write_log()
        sections = {
            part: {k: v for k, v in values.items() if v is not None} for part, values in config.items() if part in PARTS
        }
        self._text("config.toml", "# Runs this run again: --config FILE\nresolved = true\n\n" + tomli_w.dumps(sections))
        if self.events is not None:
            self.events.close()

    def copy_in(self, source: Path, name: str) -> None:
        """Put a copy of a result file into the folder: a link where the file system allows it."""
        path = self.folder / name
        self._remember(name)
        if path.exists() and path.samefile(source):
            return
        self._place(source, path)

    @staticmethod
    def _place(source: Path, path: Path) -> None:
        with replacing(path) as temporary:
            temporary.unlink()
            try:
                temporary.hardlink_to(source)
            except OSError:
                shutil.copyfile(source, temporary)

    def abandon(self) -> None:
        """Take back what this run wrote: its files, for which an earlier run's return, and the folders that were not
        there before.
        """
        if self.events is not None:
            self.events.discard()
        for path, earlier in self.replaced.items():
            if earlier is None:
                path.unlink(missing_ok=True)
            elif path.read_bytes() != earlier:
                with contextlib.suppress(BenchError):  # the disk is full; what failed first is reported
                    write_bytes(path, earlier)
        for new in self.new_folders.values():
            remove_empty(new)

    def _remember(self, *names: str) -> None:
        for path in (self.folder / name for name in names):
            if path not in self.replaced:
                self.replaced[path] = path.read_bytes() if path.is_file() else None

    def _text(self, name: str, text: str) -> None:
        self._remember(name)
        write_text(self.folder / name, text)


def repeatable(config: dict[str, Any], place: tuple[Path, Path]) -> dict[str, Any]:
    """A run's configuration with its own folders: a run of a grid repeats into its sub-folder, not into the grid's."""
    execution = config["execution"] | {"output_dir": str(place[0]), "log_dir": str(place[1])}
    return config | {"execution": execution}


def flatten(entry: dict[str, Any]) -> dict[str, Any]:
    """A history entry as one flat line: the evaluation split's metrics with the prefix `val_`."""
    return {key: value for key, value in entry.items() if key != "val"} | {
        f"val_{key}": value for key, value in entry["val"].items()
    }


def _tag(key: str) -> str:
    """`val_f1_macro` as TensorBoard groups it: `val/f1_macro`."""
    return key.replace("_", "/", 1) if key.startswith(("val_", "train_")) else key


def write_predictions(
    path: Path,
    logits: NDArray[np.float32],
    targets: NDArray[np.int64],
    ids: list[str],
    classes: tuple[str, ...],
    groups: list[str] | None = None,
    val: tuple[NDArray[Any], NDArray[Any]] | None = None,
) -> None:
    """`logits` (N, C) float32 and `targets` (N,) int64 with the sample ids, as safetensors under its final name by
    rename.

    `groups` names the tile or scene of each sample, where it is known; `val` are logits and targets of the val split.
    """
    tensors: dict[str, NDArray[Any]] = {"logits": logits.astype(np.float32, copy=False), "targets": targets}
    if val is not None:
        tensors |= {"val_logits": val[0].astype(np.float32, copy=False), "val_targets": val[1]}
    write_scored(path, tensors, ids, classes, groups)


def write_scored(
    path: Path,
    tensors: dict[str, NDArray[Any]],
    ids: list[str],
    classes: tuple[str, ...],
    groups: list[str] | None = None,
) -> None:
    """What a run says of the samples `ids` as safetensors by rename, with three lists in its metadata."""
    lists = {"ids": ids, "classes": classes, **({} if groups is None else {"groups": groups})}
    whole = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    write_bytes(path, ordered(save(whole, {name: json.dumps(values) for name, values in lists.items()})))


def ordered(content: bytes) -> bytes:
    """A safetensors file with its header's keys sorted: the library writes metadata in random order, equal runs shall
    give equal bytes.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # data stays aligned
    return len(header).to_bytes(8, "little") + header + content[end:]


def store_run(
    results: Path,
    parts: tuple[str, str, str],
    folder: RunFolder,
    *,
    write: Callable[[Path], None] | None,
    assembled: Callable[[dict[str, str] | None], Record],
    leave: Callable[[], None] = lambda: None,
) -> Record:
    """Write what a run leaves and return its record, as it was read back. `parts` are its dataset, protocol and run id.

    `write` puts the predictions under the path it is given (None for a run without), `assembled` makes the record from
    their description, `leave` adds what else belongs into the folder. Where another process has recorded the same run
    meanwhile, its record and predictions stay and are returned. A failure takes the predictions back, so that none stay
    without a record.
    """
    run_id, path = parts[2], record_path(results, parts)
    predictions = results / "predictions" / f"{run_id}.safetensors"
    with lock_and_clean_up(predictions.with_name(f".{run_id}.storing")):
        found = path.exists()
        if found:
            log.info("%s was recorded by another process meanwhile (%s)", run_id, path)
        try:
            if write is not None and not found:
                write(predictions)
            record = read_record(path) if found else assembled(None if write is None else _described(predictions))
            folder.warn_if_replacing(run_id)
            folder.finish(repeatable(record["config"], (folder.folder, folder.log_dir)))
            leave()
            if predictions.exists():
                folder.copy_in(predictions, "predictions-test.safetensors")
            stored = store(record, results)
        except BaseException:  # whatever happens after the rename, a record keeps its predictions
            if not path.exists():
                predictions.unlink(missing_ok=True)
            raise
        folder.copy_in(stored, "record.json")
        return read_record(stored)


def _described(predictions: Path) -> dict[str, str]:
    """The record's `predictions`: their hash, and their place below the results folder."""
    return {"sha256": sha256_of(predictions), "file": f"predictions/{predictions.name}"}
