"""Going on from checkpoints, and scoring one without going on."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from fgmae_bench.cards import Card
from fgmae_bench.config import Run
from fgmae_bench.device import resolve_device
from fgmae_bench.distributed import join_world, leave_world
from fgmae_bench.environment import MemoryPeak
from fgmae_bench.errors import BenchError
from fgmae_bench.features import Spent
from fgmae_bench.probe.checkpoint import HeadState, load_state
from fgmae_bench.probe.materials import gather_materials
from fgmae_bench.probe.resolve import Probe, resolve
from fgmae_bench.probe.train import logits_of
from fgmae_bench.runs.outcome import Outcome
from fgmae_bench.runs.selection import legacy_of
from fgmae_bench.runs.tasks import TASKS
from fgmae_bench.runs.tensors import LAST

log = logging.getLogger("fgmae_bench")


def find_states(probe: Probe) -> dict[str, HeadState]:
    """Checkpoints to go on from, by run id. A checkpoint of another run is refused when `--resume` was given, else passed over."""
    states: dict[str, HeadState] = {}
    for id, run in probe.runs.items():
        folder, named = probe.places[id][0], run.execution.resume
        if run.recipe.probe != "sgd":
            continue
        path = folder / LAST if named in (None, "auto") else Path(str(named))
        if named in (None, "auto") and not path.exists():
            continue
        try:
            state = load_state(path)
        except BenchError as error:
            if named is not None:
                raise
            log.warning("%s; it is passed over", error.what)
            continue
        if named is not None:
            _require_same_run(state, id, path)
        if state.run_id == id:
            log.info("%s goes on after epoch %d of %d", id, state.epochs, run.recipe.epochs)
            states[id] = state
    return states


def _require_same_run(state: HeadState, id: str, path: Path) -> None:
    if state.run_id != id:
        what = f"{path} belongs to {state.run_id}, this is {id}: model, data, batch or recipe differ"
        raise BenchError(what, "repeat the flags of that run, or choose another --output_dir")


def evaluate_checkpoint(runs: list[Run], card: Card) -> dict[str, Any]:
    """Scores of the checkpoint that `--resume` names over the test split (`test`, `legacy`); nothing is recorded."""
    if runs[0].recipe.probe != "sgd":
        raise BenchError(f"--eval with --probe {runs[0].recipe.probe}", "score checkpoints of --probe sgd")
    if len(runs) != 1:
        raise BenchError("--eval scores one checkpoint", "give one --lr and one --weight_decay")
    world, device = join_world(resolve_device(runs[0].execution.device))
    try:
        probe = resolve(runs, card, [], world, device, None)
        (id, run), (folder, _) = next(iter(probe.runs.items())), next(iter(probe.places.values()))
        named = run.execution.resume
        state = world.together(lambda: load_state(folder / LAST if named in (None, "auto") else Path(str(named))))
        _require_same_run(state, id, folder)
        materials = gather_materials(dataclasses.replace(probe, runs={id: run}), run, Spent(), MemoryPeak(), parts=("test",))
        bank, rows = materials.evaluation["test"]
        outcome = Outcome(logits=logits_of(state.best_head or state.head, bank, rows), legacy_curve=state.legacy, best=state.best)
        assert outcome.logits is not None
        task, targets = TASKS[card.task], materials.labels[rows]
        test = task.evaluate(outcome.logits, targets)
        return {
            "run_id": id,
            "which": f"best on val, epoch {state.best['epoch'] + 1}" if state.best else f"after epoch {state.epochs}",
            "test": test,
            "legacy": legacy_of(outcome, targets, run.recipe.batch_size, task),
        }
    finally:
        leave_world()
