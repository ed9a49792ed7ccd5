"""From an outcome to a record: every field of the schema, filled in one place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from fgmae_bench.config.run import Run, to_plain
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.metrics.intervals import intervals
from fgmae_bench.models.build import Backbone
from fgmae_bench.records import SCHEMA_VERSION, Record, seal
from fgmae_bench.runs.tasks import Outcome, Task


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
                "label_scheme": {"train": train_scheme, "eval": eval_scheme},
                "band_order": list((run.data.band_order or "").split(",")),
                "units": card.signal.units,
                "calibration": card.signal.calibration,
                "synthetic": dataset.synthetic,
                **({"contract_inputs": backbone.inputs} if backbone.inputs else {}),
            },
            "model": {
                "name": run.model.model,
                "weights": _weights(backbone),
                "params_total": params.total,
                "params_trainable": params.trainable,
                "feature_dim": backbone.feature_dim,
                "contract": dataclasses.asdict(backbone.contract),
            },
            "config": {**to_plain(run), "facts": dataset.facts},
            "metrics": metrics,
            "predictions": predictions,
            "history": history,
            "environment": environment,
            "timing": timing,
            "notes": [*dataset.notes, *notes],
        }
    )


def _weights(backbone: Backbone) -> dict[str, Any]:
    """What the record says of the weights; `choice` only where there was one."""
    said = dataclasses.asdict(backbone.weights)
    return said if said["choice"] is not None else {key: value for key, value in said.items() if key != "choice"}


def classification_metrics(
    outcome: Outcome, task: Task, classes: tuple[str, ...], groups: list[str] | None
) -> dict[str, Any]:
    """The record's `metrics` of a classification run: `outcome` and `groups` (tiles, scenes) are of the test split."""
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
        "intervals": intervals(task.units(outcome.logits, outcome.targets, groups))
        if np.isfinite(outcome.logits).all()
        else None,
    }
