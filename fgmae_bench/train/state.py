"""Where a training run stands, as checkpoint files that `torch.load(weights_only=True)` reads, and how it is found."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgmae_bench.errors import BenchError
from fgmae_bench.runs.folder import RunFolder
from fgmae_bench.runs.grid import require_same_run
from fgmae_bench.runs.tensors import BEST, LAST, load_tensors, unreadable

FORMAT = 1
KEPT = 3  # resumable checkpoints that stay, the newest among them under the name LAST as well
STEPS = re.compile(r"checkpoint-([0-9a-f]{10})-(\d{8})\.pth")  # the hash of the run's id, completed steps


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """One run after `step` steps. `tensors` are the states of model, optimiser, scaler and the best model; the rest is
    plain.

    `period` holds what is summed since the last evaluation, `spent` seconds of the whole run; `threads` is kept because
    it changes the last bits.
    """

    run_id: str
    step: int
    tensors: dict[str, Any]
    best: dict[str, Any] | None
    history: list[dict[str, Any]]
    legacy: list[dict[str, Any]]
    period: dict[str, float]
    spent: dict[str, float]
    threads: int


def save_state(folder: RunFolder, state: TrainState) -> None:
    """Keep a state under its step's name and as the last one; older ones than the newest three go."""
    curve = {
        "best": state.best,
        "history": state.history,
        "legacy": state.legacy,
        "period": state.period,
        "spent": state.spent,
    }
    hash = state.run_id[-10:]
    name = f"checkpoint-{hash}-{state.step:08d}.pth"
    folder.save(
        name,
        {
            "format": FORMAT,
            "kind": "train",
            "run_id": state.run_id,
            "step": state.step,
            "threads": state.threads,
            "curve": json.dumps(curve),
            **state.tensors,
        },
    )
    folder.alias(name, LAST)
    for path in numbered(folder.folder, hash)[KEPT:]:
        path.unlink(missing_ok=True)


def save_best(folder: RunFolder, run_id: str, epoch: int, model: dict[str, Any], classes: tuple[str, ...]) -> None:
    """Keep the model of the best epoch on val."""
    content = {
        "format": FORMAT,
        "kind": "best",
        "run_id": run_id,
        "epoch": epoch,
        "classes": list(classes),
        "model": model,
    }
    folder.save(BEST, content, resumable=False, large=True)


def numbered(folder: Path, hash: str) -> list[Path]:
    """Checkpoints of one run by step, newest first."""
    found = ((match, path) for path in folder.glob("checkpoint-*.pth") if (match := STEPS.fullmatch(path.name)))
    return [path for match, path in sorted(found, key=lambda item: item[1].name, reverse=True) if match[1] == hash]


def load_state(path: Path) -> TrainState:
    """Read a checkpoint of a training run; raises BenchError when it is not there, damaged, or something else."""
    content = load_tensors(path)
    try:
        if content.get("kind") != "train":
            raise BenchError(
                f"{path} is not a checkpoint to go on training from",
                "give a checkpoint-last.pth of finetune or segment",
            )
        if content["format"] != FORMAT:
            raise BenchError(
                f"{path} is of checkpoint format {content['format']}", f"this version reads format {FORMAT}"
            )
        curve = json.loads(content["curve"])
        return TrainState(
            run_id=content["run_id"],
            step=content["step"],
            threads=content["threads"],
            tensors={name: content[name] for name in ("model", "optimizer", "scaler", "best_model")},
            best=curve["best"],
            history=curve["history"],
            legacy=curve["legacy"],
            period=curve["period"],
            spent=curve["spent"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise unreadable(path, error) from error


def find_state(run_id: str, folder: Path, named: str | None) -> TrainState | None:
    """The state that `--resume` means: the newest readable one of this run in its folder, or that of a path.

    Raises BenchError for a named file that cannot be read, and for another run's checkpoint where `--resume` was given.
    """
    log = logging.getLogger("fgmae_bench")
    if named not in (None, "auto"):
        state = load_state(Path(str(named)))
        require_same_run(state.run_id, run_id, Path(str(named)))
        return state
    # The last one first; where it is damaged, an older one of the same run does.
    candidates = [path for path in (folder / LAST, *numbered(folder, run_id[-10:])) if path.exists()]
    other: TrainState | None = None
    for path in candidates:
        try:
            state = load_state(path)
        except BenchError as error:
            log.warning("%s; it is passed over", error.what)
            continue
        if state.run_id == run_id:
            return state
        other = state
    if other is not None:
        if named == "auto":
            require_same_run(other.run_id, run_id, folder / LAST)
        log.warning("%s is of another run, %s; it is replaced", folder / LAST, other.run_id)
    elif candidates and named == "auto":
        raise BenchError(f"no checkpoint in {folder} can be read", "remove them to start again, or leave out --resume")
    return None
