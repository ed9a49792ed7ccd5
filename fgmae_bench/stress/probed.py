"""Probes under stress: the head of a recorded probe, or one that is fitted on stressed images too, as a subject."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fgmae_bench.config.run import Run
from fgmae_bench.errors import BenchError, note
from fgmae_bench.features.extract import Spent, extract
from fgmae_bench.probe.checkpoint import load_state
from fgmae_bench.probe.closed import fit_closed, fit_knn, logistic_logits
from fgmae_bench.probe.engine import scale_of
from fgmae_bench.probe.fitted import Part
from fgmae_bench.probe.heads import head_logits
from fgmae_bench.probe.resolve import Materials, Probe, gather_materials
from fgmae_bench.probe.ridge import fit_knn_mean, predictions_of
from fgmae_bench.records import Record
from fgmae_bench.runs.assemble import sample_metrics
from fgmae_bench.runs.tasks import TASKS
from fgmae_bench.runs.tensors import LAST, load_tensors
from fgmae_bench.stress.reading import Subject, kept, of_samples
from fgmae_bench.system.environment import MemoryPeak
from fgmae_bench.views.classification import View

Logits = NDArray[np.float32]  # (N, C)
Predict = Callable[[NDArray[np.float32]], Logits]  # features (N, D) to logits
FITTED = ("lbfgs", "ridge", "knn")  # probes that are fitted at once, and so on stressed images as well


def probed(probe: Probe, record: Record, more: Sequence[View] = ()) -> Subject:
    """The subject of a recorded probe; with `more` views of the training split its head is fitted anew, on clean images
    and on each of these views of them.
    """
    ((id, run),) = probe.runs.items()
    (place,) = probe.places.values()
    dataset, kind = probe.dataset, run.recipe.probe
    parts = ("train", "val", "test") if more else ("train", "test") if kind == "knn" else ("test",)
    materials = gather_materials(probe, run, Spent(), MemoryPeak(), parts=parts)
    bank, rows = materials.evaluation["test"]
    groups = None if dataset.index.groups is None else [dataset.index.groups[row] for row in rows]
    if more:
        head, record, notes = _fitted_on_views(probe, materials, record, more, groups)
    else:
        head, notes = recorded_head(run, id, place[0], materials, dataset.card.outputs, probe), ()

    held = kept(probe.extractor.dataset)

    def outputs(view: View) -> Logits:
        stressed = dataclasses.replace(probe.extractor, view=view, dataset=held)
        batches = [head(features) for _, features, _ in extract(stressed, rows, None, Spent())]
        return np.concatenate(batches).astype(np.float32)

    clean = head(np.asarray(bank.features[rows]))
    return Subject(
        record=record,
        run=run,
        dataset=dataset,
        view=probe.extractor.view,
        world=probe.extractor.world,
        folder=place[0],
        outputs=outputs,
        reading=of_samples(dataset.card.task, clean, materials.labels[rows], groups),
        rows=rows,
        notes=notes,
    )


def recorded_head(
    run: Run, id: str, folder: Path, materials: Materials, outputs: tuple[str, ...], probe: Probe
) -> Predict:
    """The head of a recorded probe: by SGD, L-BFGS or ridge from its folder, of kNN the training features themselves.

    Raises BenchError where the folder no longer holds it, or holds another run's.
    """
    if run.recipe.probe == "knn":
        bank = materials.train_banks[0]
        return _neighbours(
            run, Part(np.asarray(bank.features[materials.train]), materials.labels[materials.train]), outputs
        )
    path = folder / LAST
    if not path.exists():
        raise BenchError(f"the head of {id} is not in {folder}", "name its --output_dir, or remove its record")
    if run.recipe.probe == "sgd":
        state = load_state(path)
        _require(state.run_id, id, path)
        head, scale = state.best_head or state.head, scale_of(probe)
        return lambda x: scale.up(head_logits(head, torch.from_numpy(x)).numpy())
    content = load_tensors(path)
    _require(content.get("run_id"), id, path)
    return _of_parameters(run, {name: value.numpy() for name, value in content["head"].items()})


def _of_parameters(run: Run, parameters: dict[str, Any]) -> Predict:
    if run.recipe.probe == "ridge":
        return lambda x: predictions_of(parameters, x)
    return lambda x: logistic_logits(parameters, x)


def _neighbours(run: Run, train: Part, outputs: tuple[str, ...]) -> Predict:
    unknown = np.zeros(0, train.labels.dtype)
    if train.labels.dtype.kind == "f":
        return lambda x: fit_knn_mean(train, {"test": Part(x, unknown)}, run.recipe).logits["test"]
    return lambda x: fit_knn(train, {"test": Part(x, unknown)}, len(outputs), run.recipe.knn_k).logits["test"]


def _fitted_on_views(
    probe: Probe, materials: Materials, record: Record, more: Sequence[View], groups: list[str] | None
) -> tuple[Predict, Record, tuple[dict[str, str], ...]]:
    """(head, record with its scores in place of the clean one's, notes): fitted on the training images and on each of
    their stressed views, which count as one group with the image itself where groups are not known.
    """
    ((_, run),) = probe.runs.items()
    dataset, held = probe.dataset, materials.train_banks[0]
    rows, known = materials.train, dataset.index.groups
    names = dataset.index.ids if known is None else known
    clean = np.asarray(held.features[rows])
    views = [_features(probe, view, rows) for view in more]
    copies = 1 + len(views)
    train = Part(
        np.concatenate([clean, *views]),
        np.concatenate([materials.labels[rows]] * copies),
        tuple(names[row] for row in rows) * copies,
    )
    task, outputs = TASKS[dataset.card.task], dataset.card.outputs
    outcome = fit_closed(run, materials, known, len(outputs), task, train=train)
    metrics = sample_metrics(outcome, dataset, groups)
    head = _neighbours(run, train, outputs) if run.recipe.probe == "knn" else _of_parameters(run, outcome.fitted)
    new = {**record, "metrics": metrics, "predictions": None, "history": outcome.history}
    new |= {"selection": outcome.selection} if outcome.selection else {}
    again = {found["code"] for found in outcome.notes}
    new["notes"] = [found for found in record["notes"] if found["code"] not in again]
    text = f"the head was fitted on {len(rows)} training images and on {len(views)} stressed views of each"
    return head, new, (*outcome.notes, note("train_stress", text))


def _features(probe: Probe, view: View, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    stressed = dataclasses.replace(probe.extractor, view=view)
    return np.concatenate([features for _, features, _ in extract(stressed, rows, None, Spent())])


def _require(found: object, id: str, path: Path) -> None:
    if found != id:
        raise BenchError(f"{path} belongs to {found}, not to {id}", "name the --output_dir of that run")
