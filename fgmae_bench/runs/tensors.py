"""Checkpoint files: tensors and plain values that `torch.load(weights_only=True)` reads, written by rename."""

from __future__ import annotations

import io
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import replacing

LAST, BEST = "checkpoint-last.pth", "checkpoint-best.pth"


class _Stream(io.FileIO):
    """A file that remembers what the system refused: torch's writer reports only that it failed."""

    refused: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, or remember why not."""
        try:
            view, done = memoryview(data).cast("B"), 0
            while done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self.refused = error
            raise
        return done


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """torch.save by rename; raises BenchError when the disk is full or the folder cannot be written."""
    with replacing(path) as temporary, _Stream(temporary, "w") as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:
            if stream.refused is None:
                raise
            raise stream.refused from error


def load_tensors(path: Path) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU; raises BenchError when it is not there or damaged."""
    if not path.is_file():
        raise BenchError(
            f"no checkpoint at {path}",
            "give the path of a checkpoint-last.pth with --resume, or leave out --resume and --eval",
        )
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, AttributeError, UnpicklingError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> BenchError:
    """The error for a file that is not a checkpoint of ours."""
    message = (
        str(error).strip().splitlines()[0][:120]
        if isinstance(error, OSError | RuntimeError) and str(error).strip()
        else ""
    )
    reason = f" ({message})" if message else ""
    return BenchError(
        f"{path} is not a readable checkpoint of a run{reason}",
        "give one that a run left; a damaged one may be removed",
    )
