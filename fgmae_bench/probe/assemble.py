"""From an outcome to a record: every field of the schema, filled in one place."""

from __future__ import annotations

import dataclasses
from typing import Any

from fgmae_bench.backbones import Backbone
from fgmae_bench.config import Run, to_plain
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.probe.outcome import Outcome
from fgmae_bench.probe.tasks import TASKS
from fgmae_bench.records import SCHEMA_VERSION, Record, seal

PROTOCOLS = {"sgd": "linear_probe", "lbfgs": "logistic_regression", "knn": "knn"}


def assemble(
    run: Run, run_id: str, dataset: Dataset, backbone: Backbone, outcome: Outcome, *,
    counts: dict[str, int], predictions: dict[str, str], environment: dict[str, Any], timing: dict[str, Any], created: str,
    notes: list[dict[str, str]],
) -> Record:  # fmt: skip
    """The sealed record of one run. `counts` are the samples really used in each part."""
    card, classes = dataset.card, dataset.card.classes
    assert outcome.logits is not None
    assert outcome.targets is not None
    task = TASKS[card.task]
    confusion = task.confusion(outcome.logits, outcome.targets)
    scheme = card.label_scheme
    trainable = 0 if run.recipe.probe == "knn" else (backbone.feature_dim + 1) * len(classes)
    return seal({
        "schema": SCHEMA_VERSION, "run_id": run_id, "created": created, "protocol": PROTOCOLS[run.recipe.probe],
        "recipe": run.recipe.recipe,
        "status": "diverged" if outcome.diverged else "done",
        "dataset": {
            "name": card.name, "card_version": card.version, "split": run.data.split, "split_seed": run.data.split_seed,
            "eval_split": "val" if counts["val"] else "test", **{f"n_{part}": counts[part] for part in ("train", "val", "test")},
            "sample_ids_sha256": dataset.facts["samples_sha256"], "label_scheme": {"train": scheme, "eval": scheme},
            "band_order": list((run.data.band_order or "").split(",")), "units": card.signal.units,
            "calibration": card.signal.calibration, "synthetic": dataset.synthetic,
        },
        "model": {
            "name": run.model.model, "weights": dataclasses.asdict(backbone.weights), "params_total": backbone.params + trainable,
            "params_trainable": trainable, "feature_dim": backbone.feature_dim, "contract": dataclasses.asdict(backbone.contract),
        },
        "config": {**to_plain(run), "facts": dataset.facts},
        "metrics": {
            "final": outcome.final, "best": outcome.best, "test": outcome.test,
            "per_class": task.per_class(outcome.logits, outcome.targets, classes),
            **({} if confusion is None else {"confusion": confusion.tolist()}),
            "classes_scored": task.classes_scored(outcome.targets, classes), "legacy": outcome.legacy, "intervals": None,
        },
        "predictions": predictions, "history": outcome.history, "environment": environment, "timing": timing,
        "notes": [*dataset.notes, *outcome.notes, *notes],
    })  # fmt: skip
