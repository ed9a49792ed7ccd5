"""What a run leaves in its output folder while it goes on and at its end; taken back when the run fails."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from fgmae_bench.errors import os_error
from fgmae_bench.files import missing_folders, remove_empty, replacing, write_bytes, write_text
from fgmae_bench.probe.checkpoint import BEST, LAST, HeadState, save_state, save_tensors

SECONDS_BETWEEN_LOGS = 1.0


class RunFolder:
    """`log.jsonl`, `config.toml`, `checkpoint-last.pth`, TensorBoard events, predictions and the record of one run."""

    def __init__(self, folder: Path, log_dir: Path):
        self.folder, self.log_dir = folder, log_dir
        self.lines: list[str] = []
        self.made: list[Path] = []
        self.new_folders = {place: missing_folders(place) for place in (folder, log_dir)}
        self.earlier_events = self._own_events()
        self.last_written = -SECONDS_BETWEEN_LOGS
        self.events: Any = None
        self.resumed_at = 0

    def epoch(self, entry: dict[str, Any]) -> None:
        """Log one epoch: a JSON line with all keys, and TensorBoard scalars."""
        flat = flatten(entry)
        self.lines.append(json.dumps(flat, allow_nan=False))
        try:
            if self.events is None:
                from torch.utils.tensorboard.writer import SummaryWriter

                self.events = SummaryWriter(str(self.log_dir), purge_step=self.resumed_at or None)
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

    def go_on(self, history: list[dict[str, Any]]) -> None:
        """Take up the log of an interrupted run where its checkpoint left it."""
        self.lines = [json.dumps(flatten(entry), allow_nan=False) for entry in history]
        self.resumed_at = len(history)

    def save_state(self, state: HeadState, classes: tuple[str, ...]) -> None:
        """Keep where the head stands, and the best head where a val split selects."""
        self.made += [self.folder / LAST, self.folder / BEST]
        save_state(self.folder / LAST, state, classes)
        if state.best_head:
            content = {"format": 1, "run_id": state.run_id, "epoch": (state.best or {})["epoch"], "head": state.best_head}
            save_tensors(self.folder / BEST, content | {"classes": list(classes)})

    def save_fitted(self, run_id: str, parameters: dict[str, NDArray[np.float64]], classes: tuple[str, ...]) -> None:
        """Keep the parameters of a probe that was fitted without epochs."""
        self.made.append(self.folder / LAST)
        head = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in parameters.items()}
        save_tensors(self.folder / LAST, {"format": 1, "run_id": run_id, "head": head, "classes": list(classes)})

    def finish(self, config: dict[str, Any]) -> None:
        """Write log and config and close the events."""
        self.write_log()
        sections = {part: {k: v for k, v in values.items() if v is not None} for part, values in config.items() if part != "facts"}
        self._text("config.toml", "# Runs this run again: --config FILE\n" + tomli_w.dumps(sections))
        try:
            if self.events is not None:
                self.events.close()
        except OSError as error:
            raise os_error(error, self.log_dir) from error

    def copy_in(self, source: Path, name: str) -> None:
        """Put a copy of a result file into the folder: a link where the file system allows it."""
        path = self.folder / name
        self.made.append(path)
        if path.exists() and path.samefile(source):
            return
        with replacing(path) as temporary:
            temporary.unlink()
            try:
                temporary.hardlink_to(source)
            except OSError:
                shutil.copyfile(source, temporary)

    def abandon(self) -> None:
        """Take back what this run wrote: its files, and the folders that were not there before."""
        if self.events is not None:
            try:
                self.events.close()
            except OSError:
                self.events = None  # its disk is full; the file goes below
        for path in [*self.made, *(self._own_events() - self.earlier_events)]:
            path.unlink(missing_ok=True)
        for place, new in self.new_folders.items():
            if new:
                shutil.rmtree(place, ignore_errors=True)
        for new in self.new_folders.values():
            remove_empty(new)

    def _own_events(self) -> set[Path]:
        """TensorBoard files in `log_dir` that this process wrote."""
        return set(self.log_dir.glob(f"events.out.tfevents.*.{os.getpid()}.*"))

    def _text(self, name: str, text: str) -> None:
        self.made.append(self.folder / name)
        write_text(self.folder / name, text)


def flatten(entry: dict[str, Any]) -> dict[str, Any]:
    """A history entry as one flat line: the evaluation split's metrics with the prefix `val_`."""
    return {key: value for key, value in entry.items() if key != "val"} | {f"val_{key}": value for key, value in entry["val"].items()}


def write_predictions(
    path: Path, logits: NDArray[np.float32], targets: NDArray[np.int64], ids: list[str], classes: tuple[str, ...]
) -> None:
    """`logits` (N, C) float32 and `targets` (N,) int64 with the sample ids, as safetensors under its final name by rename."""
    tensors: dict[str, NDArray[Any]] = {"logits": np.ascontiguousarray(logits, np.float32), "targets": np.ascontiguousarray(targets)}
    write_bytes(path, _ordered(save(tensors, {"ids": json.dumps(ids), "classes": json.dumps(classes)})))


def _ordered(content: bytes) -> bytes:
    """A safetensors file with its header's keys sorted: the library writes metadata in random order, equal runs shall give equal bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # data stays aligned
    return len(header).to_bytes(8, "little") + header + content[end:]
