"""Where a head stands, as a file that `torch.load(weights_only=True)` reads: saved by rename, found again on resume."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fgmae_bench.errors import BenchError
from fgmae_bench.runs.folder import RunFolder
from fgmae_bench.runs.tensors import BEST, LAST, load_tensors, unreadable

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class HeadState:
    """One head after `epochs` epochs: `head` and `velocity` by name, the best head on val so far, the curve."""

    run_id: str
    epochs: int
    head: dict[str, Tensor]
    velocity: dict[str, Tensor]
    best_head: dict[str, Tensor]
    best: dict[str, Any] | None
    history: list[dict[str, Any]]
    legacy: list[dict[str, Any]]
    threads: int  # the number of threads changes the last bits


def save_state(folder: RunFolder, state: HeadState, classes: tuple[str, ...]) -> None:
    """Keep where the head stands, and the best head where a val split selects, each by rename."""
    content = {
        "format": FORMAT,
        "run_id": state.run_id,
        "epochs": state.epochs,
        "head": state.head,
        "velocity": state.velocity,
        "best_head": state.best_head,
        "classes": list(classes),
        "threads": state.threads,
        "curve": json.dumps({"best": state.best, "history": state.history, "legacy": state.legacy}),
    }
    folder.save(LAST, content)
    if state.best_head:
        best = {"format": FORMAT, "run_id": state.run_id, "epoch": (state.best or {})["epoch"], "head": state.best_head}
        folder.save(BEST, best | {"classes": list(classes)})


def save_fitted(
    folder: RunFolder, run_id: str, parameters: dict[str, NDArray[np.float64]], classes: tuple[str, ...]
) -> None:
    """Keep the parameters of a probe that was fitted without epochs."""
    head = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in parameters.items()}
    folder.save(LAST, {"format": FORMAT, "run_id": run_id, "head": head, "classes": list(classes)}, resumable=False)


def load_state(path: Path) -> HeadState:
    """Read a checkpoint of a probe; raises BenchError when it is not there, damaged, or something else."""
    content = load_tensors(path)
    try:
        if "curve" not in content and "head" in content:
            raise BenchError(
                f"{path} is of a probe that was fitted at once", "leave out --resume: there is nothing to go on with"
            )
        if content["format"] != FORMAT:
            raise BenchError(
                f"{path} is of checkpoint format {content['format']}", f"this version reads format {FORMAT}"
            )
        curve = json.loads(content["curve"])  # as text: `weights_only` loads tensors and plain values only
        return HeadState(
            run_id=content["run_id"],
            epochs=content["epochs"],
            head=content["head"],
            velocity=content["velocity"],
            best_head=content["best_head"],
            best=curve["best"],
            history=curve["history"],
            legacy=curve["legacy"],
            threads=content["threads"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise unreadable(path, error) from error
