"""Where a head stands, as a file that `torch.load(weights_only=True)` reads: saved by rename, found again on resume."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from fgmae_bench.errors import BenchError
from fgmae_bench.files import write_bytes

FORMAT = 1
LAST, BEST = "checkpoint-last.pth", "checkpoint-best.pth"


@dataclass(frozen=True, kw_only=True)
class HeadState:
    """One head after `epochs` completed epochs: `head` and `velocity` by name, the best head on val so far, the curve."""

    run_id: str
    epochs: int
    head: dict[str, Tensor]
    velocity: dict[str, Tensor]
    best_head: dict[str, Tensor]
    best: dict[str, Any] | None
    history: list[dict[str, Any]]
    legacy: list[dict[str, Any]]
    threads: int  # the number of threads changes the last bits


def save_state(path: Path, state: HeadState, classes: tuple[str, ...]) -> None:
    """Write a checkpoint by rename; raises BenchError when the disk is full."""
    content = {
        "format": FORMAT, "run_id": state.run_id, "epochs": state.epochs, "head": state.head, "velocity": state.velocity,
        "best_head": state.best_head, "classes": list(classes), "threads": state.threads,
        "curve": json.dumps({"best": state.best, "history": state.history, "legacy": state.legacy}),
    }  # fmt: skip
    save_tensors(path, content)


def save_tensors(path: Path, content: dict[str, Any]) -> None:
    """torch.save by rename; through memory, so that a full disk is an error of the operating system."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def load_state(path: Path) -> HeadState:
    """Read a checkpoint of a probe; raises BenchError when it is not there, damaged, or something else."""
    if not path.is_file():
        raise BenchError(f"no checkpoint at {path}", "give the path of a checkpoint-last.pth, or leave out --resume")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if "curve" not in content and "head" in content:
            raise BenchError(f"{path} is of a probe that was fitted at once", "leave out --resume: there is nothing to go on with")
        if content["format"] != FORMAT:
            raise BenchError(f"{path} is of checkpoint format {content['format']}", f"this version reads format {FORMAT}")
        curve = json.loads(content["curve"])
        return HeadState(
            run_id=content["run_id"], epochs=content["epochs"], head=content["head"], velocity=content["velocity"],
            best_head=content["best_head"], best=curve["best"], history=curve["history"], legacy=curve["legacy"],
            threads=content["threads"],
        )  # fmt: skip
    except BenchError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, AttributeError, UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise BenchError(f"{path} is no readable checkpoint of a probe ({reason})", "remove it, or give another") from error
