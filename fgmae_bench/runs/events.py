"""TensorBoard scalars, written where the run itself notices a full disk: the library's own writer fails in a thread of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import time
from pathlib import Path
from typing import Any

_numbers = itertools.count()


class EventFile:
    """One new `events.out.tfevents.*` in `folder`. `first_step` above 0 tells readers to forget later steps of earlier files.

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
                self._write(Event(wall_time=time.time(), step=first_step, session_log=SessionLog(status=SessionLog.START)))
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
