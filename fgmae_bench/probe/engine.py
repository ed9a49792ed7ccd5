"""The probe engine: frozen features once, all heads of a grid fitted on them, each recorded and resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fgmae_bench.config.cards import Card
from fgmae_bench.config.recipes import protocol_of
from fgmae_bench.config.run import Run
from fgmae_bench.errors import BenchError
from fgmae_bench.features.extract import Spent
from fgmae_bench.probe.checkpoint import HeadState, load_state, save_state
from fgmae_bench.probe.closed import fit_closed
from fgmae_bench.probe.recording import record_run, shared_by
from fgmae_bench.probe.resolve import Materials, Probe, gather_materials, resolve
from fgmae_bench.probe.train import GridFit, logits_of
from fgmae_bench.records import Record
from fgmae_bench.runs.folder import RunFolder
from fgmae_bench.runs.grid import Share, require_same_run, resume_path, use_threads
from fgmae_bench.runs.tasks import TASKS, Outcome, Scale, legacy_of
from fgmae_bench.runs.tensors import LAST
from fgmae_bench.runs.trackers import tracking_of
from fgmae_bench.system.device import gpu_id
from fgmae_bench.system.distributed import World
from fgmae_bench.system.environment import MemoryPeak
from fgmae_bench.system.files import require_writable
from fgmae_bench.system.progress import Progress

log = logging.getLogger("fgmae_bench")


def shares(
    runs: list[Run],
    card: Card,
    notes: list[dict[str, str]],
    world: World,
    device: torch.device,
    module: nn.Module | None = None,
) -> Iterator[Share]:
    """Yield the grid as one share: its heads are fitted on one pass of the backbone, or of `module` in its place."""
    start = time.perf_counter()
    kind = runs[0].recipe.probe
    if runs[0].execution.eval and kind != "sgd":
        raise BenchError(f"--eval with --probe {kind}", "score checkpoints of --probe sgd")
    probe = resolve(runs, card, notes, world, device, module)
    yield Share(
        runs=probe.runs,
        card=card,
        protocol=protocol_of("linear", runs[0].recipe),
        compute=lambda ids: _compute(dataclasses.replace(probe, runs={id: probe.runs[id] for id in ids}), start),
        score=lambda: _score(probe),
    )


def find_states(probe: Probe) -> dict[str, HeadState]:
    """Checkpoints to go on from, by run id. With `--resume`, one of another run is refused; else it is left."""
    states: dict[str, HeadState] = {}
    for id, run in probe.runs.items():
        if run.recipe.probe != "sgd":
            continue
        path, wanted = resume_path(run, probe.places[id][0] / LAST), run.execution.resume
        if wanted in (None, "auto") and not path.exists():
            continue
        try:
            state = load_state(path)
        except BenchError as error:
            if wanted is not None:
                raise
            log.warning("%s; it is passed over", error.what)
            continue
        if wanted is not None:
            require_same_run(state.run_id, id, path)
        if state.run_id == id:
            log.info("%s goes on after epoch %d of %d", id, state.epochs, run.recipe.epochs)
            states[id] = state
    return states


def scale_of(probe: Probe) -> Scale:
    """How the targets of a regression are standardised, by those of the training split."""
    dataset = probe.dataset
    return Scale.of(dataset.card.task, dataset.index.labels[dataset.parts.train])


def _score(probe: Probe) -> dict[str, Any]:
    """Scores of the checkpoint that `--resume` names over the test split (`test`, `legacy`)."""
    (id, run), (folder, _) = next(iter(probe.runs.items())), next(iter(probe.places.values()))
    path, task = resume_path(run, folder / LAST), TASKS[probe.dataset.card.task]
    state = probe.extractor.world.raise_together(lambda: load_state(path))
    require_same_run(state.run_id, id, path)
    materials = gather_materials(probe, run, Spent(), MemoryPeak(), parts=("test",))
    bank, rows = materials.evaluation["test"]
    logits = scale_of(probe).up(logits_of(state.best_head or state.head, bank, rows))
    targets = materials.labels[rows]
    outcome = Outcome(logits=logits, legacy_curve=state.legacy, best=state.best)
    return {
        "run_id": id,
        "which": f"best on val, epoch {state.best['epoch'] + 1}" if state.best else f"after epoch {state.epochs}",
        "test": task.evaluate(logits, targets),
        "legacy": legacy_of(outcome, targets, run.recipe.batch_size, task),
    }


def _folder(probe: Probe, id: str) -> RunFolder:
    place = probe.places[id]
    return RunFolder(*place, tracking_of(probe.runs[id], id, place[0]))


def _compute(probe: Probe, start: float) -> dict[str, Record]:
    """Fit and record the runs of a probe, which began at `start`; their records by id, on every process."""
    world, memory, spent = probe.extractor.world, MemoryPeak(gpu_id(probe.extractor.device)), Spent()
    first = next(iter(probe.runs.values()))
    folders = {id: _folder(probe, id) for id in probe.runs} if world.rank == 0 else {}
    world.raise_together(lambda: _require_places(probe) if world.rank == 0 else None)
    states = world.broadcast(world.raise_together(lambda: find_states(probe)))
    for state in states.values():
        use_threads(state.threads)
    # Features first, then all heads on them; rank 0 alone writes, and the others get the records at the end.
    with _taking_back(folders):
        featuring = time.perf_counter()
        materials = gather_materials(probe, first, spent, memory)
        fitting = time.perf_counter()
        outcomes = _fit(probe, materials, folders, states, memory)
        fitted = time.perf_counter()
        records: dict[str, Record] | None = None
        if world.rank == 0:
            memory.look()
            if states:  # what was used before the interruption is not known
                memory.energy.forget()
            seconds = {"total": fitted - start, "features": fitting - featuring, "fitting": fitted - fitting}
            shared = shared_by(probe, spent, memory, seconds)
            records = {
                id: record_run(probe, id, outcomes[id], folders[id], materials.of(probe.datasets[id]), shared)
                for id in probe.runs
            }
    return world.broadcast(records)


def _require_places(probe: Probe) -> None:
    """Raise BenchError for a folder that cannot be written, before any work is done."""
    results = [Path(run.execution.results_dir) for run in probe.runs.values()]
    for place in (*results, probe.cache, *(place for id in probe.runs for place in probe.places[id])):
        require_writable(place)


@contextlib.contextmanager
def _taking_back(folders: dict[str, RunFolder]) -> Iterator[None]:
    """Leave nothing of a run that fails, unless it left a checkpoint to go on from."""
    try:
        yield
    except BaseException:
        for folder in folders.values():
            if not folder.trained:
                folder.abandon()
        raise


def _fit(
    probe: Probe,
    materials: Materials,
    folders: dict[str, RunFolder],
    states: dict[str, HeadState],
    memory: MemoryPeak,
) -> dict[str, Outcome]:
    """Outcomes by run id: runs that see the same labels are fitted together, on features that all share."""
    outcomes: dict[str, Outcome] = {}
    classes, task = probe.dataset.card.outputs, TASKS[probe.dataset.card.task]
    for ids in probe.fits():
        own = materials.of(probe.datasets[ids[0]])
        if probe.runs[ids[0]].recipe.probe == "sgd":
            outcomes |= _train(probe, ids, own, folders, states, memory)
            continue
        for id in ids:
            outcomes[id] = fit_closed(probe.runs[id], own, probe.datasets[id].index.groups, len(classes), task)
            if folders:
                folders[id].epoch(outcomes[id].history[0])
    return outcomes


def _train(
    probe: Probe,
    ids: list[str],
    materials: Materials,
    folders: dict[str, RunFolder],
    states: dict[str, HeadState],
    memory: MemoryPeak,
) -> dict[str, Outcome]:
    """Outcomes of runs that see the same labels, trained by epochs from where their checkpoints left them."""
    classes, task, first = probe.dataset.card.outputs, TASKS[probe.dataset.card.task], probe.runs[ids[0]]
    recipes, dim = {id: probe.runs[id].recipe for id in ids}, probe.extractor.backbone.feature_dim
    fit = GridFit(materials, recipes, probe.effective_batch, len(classes), dim, task, scale_of(probe))
    fit.resume({id: states[id] for id in ids if id in states})
    for id in ids:
        if id in folders and id in states:
            folders[id].go_on(states[id].history)
    left = sum(first.recipe.epochs - done for done in fit.done)
    saved = time.monotonic()
    with Progress("training", left, "epochs", show=probe.extractor.world.rank == 0) as progress:

        def on_epoch(g: int, entry: dict[str, Any]) -> None:
            progress.step()
            if folders:
                folders[fit.ids[g]].epoch(entry)

        def after_epoch(epochs: int) -> None:
            nonlocal saved
            memory.look()
            if folders and (
                epochs == first.recipe.epochs or time.monotonic() - saved >= first.execution.checkpoint_seconds
            ):
                for g, id in enumerate(fit.ids):
                    save_state(folders[id], fit.state(g), classes)
                saved = time.monotonic()

        return dict(zip(ids, fit.run(on_epoch, after_epoch), strict=True))
