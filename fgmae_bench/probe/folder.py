"""What a run leaves in its output folder while it goes on and at its end; taken back when the run fails."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from fgmae_bench.errors import os_error
from fgmae_bench.files import replacing, write_text

SECONDS_BETWEEN_LOGS = 1.0


class RunFolder:
    """`log.jsonl`, `config.toml`, `checkpoint-last.pth`, TensorBoard events, predictions and the record of one run."""

    def __init__(self, folder: Path, log_dir: Path):
        self.folder, self.log_dir = folder, log_dir
        self.lines: list[str] = []
        self.made: list[Path] = []
        self.new_folders = [place for place in (folder, log_dir) if not place.exists()]
        self.last_written = -SECONDS_BETWEEN_LOGS
        self.events: Any = None

    def epoch(self, entry: dict[str, Any]) -> None:
        """Log one epoch: a JSON line with all keys, and TensorBoard scalars."""
        flat = {key: value for key, value in entry.items() if key != "val"} | {f"val_{key}": value for key, value in entry["val"].items()}
        self.lines.append(json.dumps(flat, allow_nan=False))
        try:
            if self.events is None:
                from torch.utils.tensorboard.writer import SummaryWriter

                self.events = SummaryWriter(str(self.log_dir))
            for key, value in flat.items():
                if key != "epoch" and value is not None:
                    self.events.add_scalar(key.replace("_", "/", 1) if key.startswith(("val_", "train_")) else key, value, entry["epoch"])
        except OSError as error:
            raise os_error(error, self.log_dir) from error
        if time.monotonic() - self.last_written >= SECONDS_BETWEEN_LOGS:
            self.write_log()

    def write_log(self) -> None:
        """Bring `log.jsonl` up to date, by rename."""
        self._text("log.jsonl", "".join(line + "\n" for line in self.lines))
        self.last_written = time.monotonic()

    def finish(self, config: dict[str, Any], checkpoint: dict[str, Any]) -> None:
        """Write log, config and checkpoint (readable with `weights_only=True`) and close the events."""
        self.write_log()
        sections = {part: {k: v for k, v in values.items() if v is not None} for part, values in config.items() if part != "facts"}
        self._text("config.toml", "# Runs this run again: --config FILE\n" + tomli_w.dumps(sections))
        path = self.folder / "checkpoint-last.pth"
        self.made.append(path)
        with replacing(path) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError as error:  # torch's zip writer says so when the disk is full
                raise os_error(OSError(28, "No space left on device"), path) from error
        try:
            if self.events is not None:
                self.events.close()
        except OSError as error:
            raise os_error(error, self.log_dir) from error

    def copy_in(self, source: Path, name: str) -> None:
        """Put a copy of a result file into the folder: a link where the file system allows it."""
        path = self.folder / name
        self.made.append(path)
        path.unlink(missing_ok=True)
        try:
            path.hardlink_to(source)
        except OSError:
            with replacing(path) as temporary:
                shutil.copyfile(source, temporary)

    def abandon(self) -> None:
        """Take back what this run wrote: its files, and the folders that were not there before."""
        if self.events is not None:
            try:
                self.events.close()
            except OSError:
                self.events = None  # its disk is full; the file goes below
        for path in self.made:
            path.unlink(missing_ok=True)
        for place in self.new_folders:
            shutil.rmtree(place, ignore_errors=True)
        for place in {parent for folder in self.new_folders for parent in [folder.parent, folder.parent.parent]}:
            if place.is_dir() and not any(place.iterdir()) and place.resolve() != Path.cwd():
                place.rmdir()

    def _text(self, name: str, text: str) -> None:
        self.made.append(self.folder / name)
        write_text(self.folder / name, text)


def write_predictions(
    path: Path, logits: NDArray[np.float32], targets: NDArray[np.int64], ids: list[str], classes: tuple[str, ...]
) -> None:
    """`logits` (N, C) float32 and `targets` (N,) int64 with the sample ids, as safetensors under its final name by rename."""
    with replacing(path) as temporary:
        metadata = {"ids": json.dumps(ids), "classes": json.dumps(classes)}
        tensors: dict[str, NDArray[Any]] = {"logits": np.ascontiguousarray(logits, np.float32), "targets": np.ascontiguousarray(targets)}
        try:
            save_file(tensors, temporary, metadata)
        except Exception as error:
            if type(error).__name__ != "SafetensorError":
                raise
            raise os_error(OSError(28, "No space left on device"), path) from error
