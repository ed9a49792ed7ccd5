"""The probe engine: frozen features once, all heads of a grid fitted on them, each run recorded, interrupted ones
resumed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fgmae_bench.config.cards import Card
from fgmae_bench.config.recipes import PROTOCOLS
from fgmae_bench.config.run import Run
from fgmae_bench.errors import BenchError, Diverged, note
from fgmae_bench.features.extract import Spent
from fgmae_bench.probe.checkpoint import HeadState, load_state, save_fitted, save_state
from fgmae_bench.probe.closed import fit_knn, fit_logistic
from fgmae_bench.probe.resolve import Materials, Probe, gather_materials, resolve
from fgmae_bench.probe.train import GridFit, logits_of
from fgmae_bench.records import Record, read_record, record_path
from fgmae_bench.runs.assemble import Params, assemble, classification_metrics
from fgmae_bench.runs.curve_notes import rate_notes
from fgmae_bench.runs.folder import RunFolder, store_run, write_predictions
from fgmae_bench.runs.tasks import TASKS, Outcome, Task, legacy_of
from fgmae_bench.runs.tensors import LAST
from fgmae_bench.system.device import device_name, resolve_device
from fgmae_bench.system.distributed import join_world, leave_world
from fgmae_bench.system.environment import MemoryPeak, describe, now
from fgmae_bench.system.files import require_writable
from fgmae_bench.system.progress import Progress

log = logging.getLogger("fgmae_bench")


def find_states(probe: Probe) -> dict[str, HeadState]:
    """Checkpoints to go on from, by run id. A checkpoint of another run is refused when `--resume` was given, else
    passed over.
    """
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
        state = world.raise_together(lambda: load_state(folder / LAST if named in (None, "auto") else Path(str(named))))
        _require_same_run(state, id, folder)
        materials = gather_materials(
            dataclasses.replace(probe, runs={id: run}), run, Spent(), MemoryPeak(), parts=("test",)
        )
        bank, rows = materials.evaluation["test"]
        outcome = Outcome(
            logits=logits_of(state.best_head or state.head, bank, rows), legacy_curve=state.legacy, best=state.best
        )
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


PROBES = {means["probe"]: protocol for protocol, (module, means) in PROTOCOLS.items() if module == "linear"}


def run_probe(
    runs: list[Run], card: Card, notes: list[dict[str, str]], module: nn.Module | None = None
) -> list[Record]:
    """Run a grid and return its records in order; runs whose record exists are read, not repeated. Raises Diverged once
    all are recorded.

    `module` stands in for the backbone that the runs name (see `fgmae_bench.evaluate`). Under torchrun every rank calls
    this; rank 0 writes.
    """
    start = time.perf_counter()
    world, device = join_world(resolve_device(runs[0].execution.device))
    try:
        probe = resolve(runs, card, notes, world, device, module)
        results = Path(runs[0].execution.results_dir)
        paths = {id: record_path(results, (card.name, PROBES[run.recipe.probe], id)) for id, run in probe.runs.items()}
        done = world.raise_together(lambda: {id: read_record(path) for id, path in paths.items() if path.exists()})
        done = world.broadcast(done)
        for id in done:
            how = " as diverged" if done[id]["status"] == "diverged" else ""
            log.info("%s is recorded already%s: nothing to do (%s)", id, how, paths[id])
        pending = {id: run for id, run in probe.runs.items() if id not in done}
        if pending:
            done |= _run_pending(dataclasses.replace(probe, runs=pending), results, start)
        records = [done[id] for id in probe.runs]
        diverged = [id for id in pending if done[id]["status"] == "diverged"]
        if diverged:
            lost = next(found["text"] for found in done[diverged[0]]["notes"] if found["code"] == "diverged")
            raise Diverged(f"{diverged[0]}: {lost}", records)
        return records
    finally:
        leave_world()


def _run_pending(probe: Probe, results: Path, start: float) -> dict[str, Record]:
    """Fit and record the runs that have no record yet."""
    world, memory, spent = probe.extractor.world, MemoryPeak(), Spent()
    first = next(iter(probe.runs.values()))
    folders = {id: RunFolder(*probe.places[id]) for id in probe.runs} if world.rank == 0 else {}
    places = [results, probe.cache, *(place for id in probe.runs for place in probe.places[id])]
    for place in places if world.rank == 0 else [Path.cwd()] * len(places):
        world.raise_together(lambda place=place: require_writable(place))  # type: ignore[misc]
    states = world.broadcast(world.raise_together(lambda: find_states(probe)))
    for state in states.values():
        if state.threads != torch.get_num_threads():
            log.info("using %d threads, as before the interruption, so that the result stays the same", state.threads)
            torch.set_num_threads(state.threads)
    with _taking_back(folders):
        featuring = time.perf_counter()
        materials = gather_materials(probe, first, spent, memory)
        fitting = time.perf_counter()
        outcomes = _fit(probe, first, materials, folders, states, memory)
        fitted = time.perf_counter()
        records: dict[str, Record] | None = None
        if world.rank == 0:
            environment = describe(probe.extractor.device.type, device_name(probe.extractor.device), world.size)
            timing = _timing(
                spent, memory, total=fitted - start, features=fitting - featuring, fitting=fitted - fitting
            )
            notes = probe.notes + _pass_notes(probe)
            records = {
                id: _record(probe, id, outcome, folders[id], results, environment, timing, notes, materials)
                for id, outcome in zip(probe.runs, outcomes, strict=True)
            }
    return world.broadcast(records)


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
    first: Run,
    materials: Materials,
    folders: dict[str, RunFolder],
    states: dict[str, HeadState],
    memory: MemoryPeak,
) -> list[Outcome]:
    classes = probe.dataset.card.classes
    if first.recipe.probe != "sgd":
        outcome = _fit_closed(first, materials, len(classes), TASKS[probe.dataset.card.task])
        for folder in folders.values():
            folder.epoch(outcome.history[0])
        return [outcome]
    recipes = {id: run.recipe for id, run in probe.runs.items()}
    fit = GridFit(
        materials,
        recipes,
        probe.effective_batch,
        len(classes),
        probe.extractor.backbone.feature_dim,
        TASKS[probe.dataset.card.task],
    )
    fit.resume(states)
    for id, folder in folders.items():
        if id in states:
            folder.go_on(states[id].history)
    left = sum(first.recipe.epochs - done for done in fit.done)
    saved = time.monotonic()
    with Progress("training", left, "epochs", show=probe.extractor.world.rank == 0) as progress:

        def on_epoch(g: int, entry: dict[str, Any]) -> None:
            progress.step()
            memory.look()
            if folders:
                folders[fit.ids[g]].epoch(entry)

        def after_epoch(epochs: int) -> None:
            nonlocal saved
            if folders and (
                epochs == first.recipe.epochs or time.monotonic() - saved >= first.execution.checkpoint_seconds
            ):
                for g, id in enumerate(fit.ids):
                    save_state(folders[id], fit.state(g), classes)
                saved = time.monotonic()

        return fit.run(on_epoch, after_epoch)


def _fit_closed(run: Run, materials: Materials, classes: int, task: Task) -> Outcome:
    """Logistic regression or nearest neighbours on the bank."""
    start = time.perf_counter()
    bank = materials.train_banks[0]
    train = (np.asarray(bank.features[materials.train]), materials.labels[materials.train])
    parts = {
        part: (np.asarray(held.features[rows]), materials.labels[rows])
        for part, (held, rows) in materials.evaluation.items()
    }
    if run.recipe.probe == "lbfgs":
        fitted = fit_logistic(train, parts, classes, run.recipe.penalties, run.recipe.seed)
    else:
        fitted = fit_knn(train, parts, classes, run.recipe.knn_k)
    outcome = Outcome(logits=fitted.logits["test"], notes=list(fitted.notes), fitted=fitted.parameters)
    outcome.targets = parts["test"][1]
    outcome.test = task.evaluate(fitted.logits["test"], outcome.targets)
    watched = "val" if "val" in parts else "test"
    outcome.final = task.evaluate(fitted.logits[watched], parts[watched][1])
    seconds = time.perf_counter() - start
    outcome.history.append(
        {
            "epoch": 0,
            "lr": None,
            "train_loss": None,
            "val": dict(outcome.final),
            "seconds": seconds,
            "images_per_second": len(train[1]) / seconds,
        }
    )
    return outcome


def _record(
    probe: Probe,
    id: str,
    outcome: Outcome,
    folder: RunFolder,
    results: Path,
    environment: dict[str, Any],
    timing: dict[str, Any],
    notes: list[dict[str, str]],
    materials: Materials,
) -> Record:
    """Write everything of one run; its record comes last."""
    dataset, backbone, run = probe.dataset, probe.extractor.backbone, probe.runs[id]
    classes, protocol = dataset.card.classes, PROBES[run.recipe.probe]
    rows = materials.evaluation["test"][1]
    groups = None if dataset.index.groups is None else [dataset.index.groups[row] for row in rows]
    counts = {
        part: len(materials.evaluation[part][1]) if part in materials.evaluation else 0 for part in ("val", "test")
    }
    trainable = 0 if run.recipe.probe == "knn" else (backbone.feature_dim + 1) * len(classes)
    rates = rate_notes("linear", run, dataset.card, probe.effective_batch) if run.recipe.probe == "sgd" else []
    logits = outcome.logits
    assert logits is not None

    def assembled(predictions: dict[str, str] | None) -> Record:
        return assemble(
            run,
            id,
            dataset,
            backbone,
            protocol=protocol,
            params=Params(backbone.params + trainable, trainable),
            metrics=classification_metrics(outcome, TASKS[dataset.card.task], classes, groups),
            counts={"train": len(materials.train), **counts},
            history=outcome.history,
            predictions=predictions,
            environment=environment,
            timing=timing,
            created=now(),
            notes=[*outcome.notes, *rates, *notes],
            diverged=outcome.diverged,
        )

    return store_run(
        results,
        (dataset.card.name, protocol, id),
        folder,
        assembled=assembled,
        write=lambda path: write_predictions(
            path, logits, materials.labels[rows], [dataset.index.ids[r] for r in rows], classes, groups
        ),
        leave=lambda: save_fitted(folder, id, outcome.fitted, classes) if outcome.fitted else None,
    )


def _timing(spent: Spent, memory: MemoryPeak, *, total: float, features: float, fitting: float) -> dict[str, Any]:
    waited = spent.forward_seconds + spent.wait_seconds
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return {
        "total_seconds": total,
        "train_seconds": fitting,
        "eval_seconds": features,
        "data_wait_fraction": spent.wait_seconds / waited if waited else None,
        "images_per_second": spent.images / waited if waited else None,
        "peak_anonymous_memory_bytes": memory.bytes,
        "peak_device_memory_bytes": device,
    }


def _pass_notes(probe: Probe) -> list[dict[str, str]]:
    """Notes on how the runs were computed."""
    notes = []
    if len(probe.runs) > 1:
        notes.append(
            note("shared_pass", f"{len(probe.runs)} runs were fitted in one pass; its time stands in each record")
        )
    if next(iter(probe.runs.values())).execution.compile:
        notes.append(
            note(
                "compiled",
                "the backbone was compiled: features differ from eager ones in their last bits, in bf16 visibly",
            )
        )
    return notes
