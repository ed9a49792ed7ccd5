"""From a fitted head to its files and its record, which comes last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fgmae_bench.config.recipes import protocol_of
from fgmae_bench.errors import note
from fgmae_bench.features.extract import Spent, cost_of_features
from fgmae_bench.models.cost import with_linear_head
from fgmae_bench.probe.checkpoint import save_fitted
from fgmae_bench.probe.resolve import Materials, Probe
from fgmae_bench.records import Record
from fgmae_bench.runs.assemble import Params, assemble, energy_notes, sample_metrics, with_energy
from fgmae_bench.runs.curve_notes import head_not_trained, rate_notes
from fgmae_bench.runs.folder import RunFolder, store_run, write_predictions
from fgmae_bench.runs.tasks import Outcome
from fgmae_bench.system.device import device_name
from fgmae_bench.system.environment import MemoryPeak, describe, now


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What the records of one pass have in common."""

    environment: dict[str, Any]
    timing: dict[str, Any]
    notes: list[dict[str, str]]
    cost: dict[str, Any] | None  # of the backbone


def shared_by(probe: Probe, spent: Spent, memory: MemoryPeak, seconds: dict[str, float]) -> Shared:
    """What the records of a pass share; `seconds` are those of everything (`total`), of `features` and of `fitting`."""
    device, world = probe.extractor.device, probe.extractor.world
    return Shared(
        environment=describe(device.type, device_name(device), probe.extractor.world.size),
        timing=_timing(spent, memory, seconds),
        notes=probe.notes + _pass_notes(probe) + energy_notes(memory, world),
        cost=with_energy(cost_of_features(probe.extractor, int(probe.dataset.parts.test[0])), memory, world),
    )


def record_run(
    probe: Probe,
    id: str,
    outcome: Outcome,
    folder: RunFolder,
    materials: Materials,
    shared: Shared,
) -> Record:
    """Write everything of one run; its record comes last."""
    dataset, backbone, run = probe.datasets[id], probe.extractor.backbone, probe.runs[id]
    classes, protocol = dataset.card.outputs, protocol_of("linear", run.recipe)
    rows = materials.evaluation["test"][1]
    groups = None if dataset.index.groups is None else [dataset.index.groups[row] for row in rows]
    counts = {
        part: len(materials.evaluation[part][1]) if part in materials.evaluation else 0 for part in ("val", "test")
    }
    trainable = (
        0 if run.recipe.probe in ("knn", "inference", "zero_shot") else (backbone.feature_dim + 1) * len(classes)
    )
    rates = []
    if run.recipe.probe == "sgd":
        rates = rate_notes("linear", run, dataset.card, probe.effective_batch)
        rates += head_not_trained(outcome.history, dataset.card.task, len(classes))
    logits, held = outcome.logits, materials.evaluation.get("val")
    assert logits is not None
    val = None if outcome.val_logits is None or held is None else (outcome.val_logits, materials.labels[held[1]])

    def assembled(predictions: dict[str, str] | None) -> Record:
        return assemble(
            run,
            id,
            dataset,
            backbone,
            protocol=protocol,
            params=Params(backbone.params + trainable, trainable),
            metrics=sample_metrics(outcome, dataset, groups),
            counts={"train": len(materials.train), **counts},
            history=outcome.history,
            predictions=predictions,
            environment=shared.environment,
            timing=shared.timing,
            created=now(),
            notes=[*outcome.notes, *rates, *shared.notes],
            diverged=outcome.diverged,
            selection=outcome.selection,
            cost=with_linear_head(shared.cost, backbone.feature_dim, len(classes))
            if trainable and shared.cost is not None
            else shared.cost,
        )

    return store_run(
        Path(run.execution.results_dir),
        (dataset.card.name, protocol, id),
        folder,
        assembled=assembled,
        write=lambda path: write_predictions(
            path, logits, materials.labels[rows], [dataset.index.ids[r] for r in rows], classes, groups, val
        ),
        leave=lambda: save_fitted(folder, id, outcome.fitted, classes) if outcome.fitted else None,
    )


def _timing(spent: Spent, memory: MemoryPeak, seconds: dict[str, float]) -> dict[str, Any]:
    waited = spent.forward_seconds + spent.wait_seconds
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return {
        "total_seconds": seconds["total"],
        "train_seconds": seconds["fitting"],
        "eval_seconds": seconds["features"],
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
