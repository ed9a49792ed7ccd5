"""From an outcome to a record: every field of the schema, filled in one place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from fgmae_bench.config.contract import feed, parse_bands
from fgmae_bench.config.run import Run
from fgmae_bench.config.run_ids import to_plain
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.errors import note
from fgmae_bench.metrics.intervals import interval_notes, intervals
from fgmae_bench.metrics.regression import details
from fgmae_bench.models.build import Backbone
from fgmae_bench.records import SCHEMA_VERSION, Record, seal
from fgmae_bench.runs.tasks import TASKS, Outcome, Task
from fgmae_bench.system.distributed import World
from fgmae_bench.system.environment import MemoryPeak


@dataclass(frozen=True)
class Params:
    """Numbers of parameters: of the whole model, and of what is trained."""

    total: int
    trainable: int


def assemble(
    run: Run,
    run_id: str,
    dataset: Dataset,
    backbone: Backbone,
    *,
    protocol: str,
    params: Params,
    metrics: dict[str, Any],
    counts: dict[str, int],
    history: list[dict[str, Any]],
    predictions: dict[str, str] | None,
    environment: dict[str, Any],
    timing: dict[str, Any],
    created: str,
    notes: list[dict[str, str]],
    diverged: bool = False,
    schemes: tuple[str, str] | None = None,
    selection: dict[str, Any] | None = None,
    cost: dict[str, Any] | None = None,
) -> Record:
    """The sealed record of one run: `counts` are the samples used in each part, `schemes` train and eval labels'."""
    card = dataset.card
    train_scheme, eval_scheme = schemes or (card.label_scheme, card.label_scheme)
    return seal(
        {
            "schema": SCHEMA_VERSION,
            "run_id": run_id,
            "created": created,
            "protocol": protocol,
            "recipe": run.recipe.recipe,
            "status": "diverged" if diverged else "done",
            "dataset": {
                "name": card.name,
                "card_version": card.version,
                "card_sha256": dataset.facts["card_sha256"],
                "split": run.data.split,
                "split_seed": run.data.split_seed,
                "eval_split": "val" if counts["val"] else "test",
                **{f"n_{part}": counts[part] for part in ("train", "val", "test")},
                "sample_ids_sha256": dataset.facts["samples_sha256"],
                "content_sha256": dataset.facts["content_sha256"],
                **({"source_content_sha256": dataset.source} if dataset.source else {}),
                "groups": dataset.group_counts(),
                "label_scheme": {"train": train_scheme, "eval": eval_scheme},
                "band_order": list((run.data.band_order or "").split(",")),
                "units": card.signal.units,
                "calibration": card.signal.calibration,
                "synthetic": dataset.synthetic,
                **_contract_inputs(run, backbone),
            },
            "model": {
                "name": run.model.model,
                "weights": _weights(backbone),
                "params_total": params.total,
                "params_trainable": params.trainable,
                "feature_dim": backbone.feature_dim,
                "contract": dataclasses.asdict(backbone.contract),
            },
            "config": {
                **to_plain(run),
                "facts": dataset.facts,
                **({"departs": list(backbone.departs)} if backbone.departs else {}),
            },
            "metrics": metrics,
            "predictions": predictions,
            "history": history,
            "environment": environment,
            "timing": timing,
            "notes": [*dataset.notes, *notes, *interval_notes(metrics["intervals"], dataset.index.group_kind)],
            **({} if selection is None else {"selection": selection}),
            **({} if cost is None else {"cost": cost}),
        }
    )


def sample_metrics(outcome: Outcome, dataset: Dataset, groups: list[str] | None) -> dict[str, Any]:
    """The record's `metrics` of a classification or regression run: `outcome` and `groups` are of the test split."""
    card, index = dataset.card, dataset.index
    found = classification_metrics(outcome, TASKS[card.task], card.classes, groups)
    if outcome.retrieval is not None:
        found["retrieval"] = outcome.retrieval
    if card.target is None or outcome.logits is None or outcome.targets is None:
        return found
    trained = index.labels[dataset.parts.train]
    return found | {"regression": details(outcome.logits, outcome.targets, trained, card.target)}


def _contract_inputs(run: Run, backbone: Backbone) -> dict[str, Any]:
    """What the backbone was fed besides pixels, and each band of the contract where it is not the band of that name."""
    held, contract = parse_bands(run.data.band_order or ",".join(backbone.contract.bands)), backbone.contract
    fed = feed(held, contract, run.data.missing_band, run.data.bands_as)
    if not fed.words:
        return {"contract_inputs": backbone.inputs} if backbone.inputs else {}
    sources = {
        band: {"band": held[place] if place >= 0 else None, "shift_db": shift}
        for band, place, shift in zip(contract.bands, fed.order, fed.shift, strict=True)
    }
    return {"contract_inputs": {**backbone.inputs, **sources, "rule": "; ".join(fed.words)}}


def _weights(backbone: Backbone) -> dict[str, Any]:
    """What the record says of the weights; `choice` only where there was one."""
    said = dataclasses.asdict(backbone.weights)
    return said if said["choice"] is not None else {key: value for key, value in said.items() if key != "choice"}


def classification_metrics(
    outcome: Outcome, task: Task, classes: tuple[str, ...], groups: list[str] | None
) -> dict[str, Any]:
    """The record's `metrics` of a run with one prediction an image."""
    assert outcome.logits is not None
    assert outcome.targets is not None
    confusion = task.confusion(outcome.logits, outcome.targets)
    return {
        "final": outcome.final,
        "best": outcome.best,
        "test": outcome.test,
        "per_class": task.per_class(outcome.logits, outcome.targets, classes),
        **({} if confusion is None else {"confusion": confusion.tolist()}),
        "classes_scored": task.classes_scored(outcome.targets, classes),
        "legacy": outcome.legacy,
        "intervals": intervals(task.units(outcome.logits, outcome.targets, groups), classes=classes)
        if np.isfinite(outcome.logits).all()
        else None,
    }


def with_energy(cost: dict[str, Any] | None, memory: MemoryPeak, world: World) -> dict[str, Any] | None:
    """The record's `cost` with the joules of the run, where the machine counted them and one process did it all."""
    joules = _joules(memory, world)
    if joules is None:
        return cost
    return {**(cost or {"params": None, "gflops": None}), "energy_joules": joules}


def energy_notes(memory: MemoryPeak, world: World) -> list[dict[str, str]]:
    """What a recorded energy is of."""
    if _joules(memory, world) is None:
        return []
    text = f"energy is of the {memory.energy.what}, with everything else that ran there"
    return [note("energy", text)]


def _joules(memory: MemoryPeak, world: World) -> float | None:
    """None of several processes too: they share packages, and each sees its own GPU alone."""
    return memory.energy.joules if world.size == 1 else None
