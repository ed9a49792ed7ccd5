"""From a finished or diverged training run to its files and its record, which comes last."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fgmae_bench.records import Record
from fgmae_bench.runs.assemble import Params, assemble, energy_notes, with_energy
from fgmae_bench.runs.curve_notes import head_not_trained, still_improving
from fgmae_bench.runs.folder import RunFolder, store_run
from fgmae_bench.runs.tasks import Outcome
from fgmae_bench.system.device import device_name
from fgmae_bench.system.environment import MemoryPeak, describe, now
from fgmae_bench.train.job import Job, Prepared, Scored


@dataclass
class SpentTime:
    """Seconds of a run without interruptions: of steps, of waiting for data in them, of evaluation, of all."""

    trained: float = 0.0
    waited: float = 0.0
    evaluated: float = 0.0
    total: float = 0.0


def record_run(
    prepared: Prepared,
    outcome: Outcome,
    test: Scored | None,
    folder: RunFolder,
    results: Path,
    spent: SpentTime,
    memory: MemoryPeak,
) -> Record:
    """Write predictions, log, configuration, pictures and the record; `test` is None for a run that diverged."""
    dataset, job = prepared.dataset, prepared.job
    outcome.final = dict(outcome.history[-1]["val"]) if outcome.history else {}
    outcome.test = dict(test.metrics) if test is not None else {}

    def assembled(predictions: dict[str, str] | None) -> Record:
        return assemble(
            prepared.run,
            prepared.id,
            dataset,
            prepared.backbone,
            protocol=prepared.protocol,
            params=_params(job),
            metrics=prepared.metrics(outcome, test) if test is not None else _no_metrics(outcome),
            counts={part: len(getattr(dataset.parts, part)) for part in ("train", "val", "test")},
            history=outcome.history,
            predictions=predictions,
            environment=describe(prepared.device.type, device_name(prepared.device), prepared.world.size),
            timing=_timing(prepared, outcome, spent, memory),
            created=now(),
            notes=[
                *outcome.notes,
                *still_improving(outcome.history, job.selection),
                *head_not_trained(outcome.history, dataset.card.task, len(prepared.classes)),
                *prepared.notes,
                *energy_notes(memory, prepared.world),
            ],
            diverged=outcome.diverged,
            schemes=prepared.schemes,
            cost=with_energy(prepared.cost(), memory, prepared.world),
        )

    return store_run(
        results,
        (dataset.card.name, prepared.protocol, prepared.id),
        folder,
        assembled=assembled,
        write=None if test is None else lambda path: prepared.write_predictions(path, test),
        leave=lambda: prepared.finish(folder.folder) if test is not None else None,
    )


def _timing(prepared: Prepared, outcome: Outcome, spent: SpentTime, memory: MemoryPeak) -> dict[str, Any]:
    rates = [(entry["images_per_second"], entry["seconds"]) for entry in outcome.history]
    seconds = sum(duration for _, duration in rates)
    on_gpu = prepared.device.type == "cuda"
    return {
        "total_seconds": spent.total,
        "train_seconds": spent.trained,
        "eval_seconds": spent.evaluated,
        "data_wait_fraction": min(1.0, spent.waited / spent.trained) if spent.trained else None,
        "images_per_second": sum(rate * duration for rate, duration in rates) / seconds if seconds else None,
        "peak_anonymous_memory_bytes": memory.bytes,
        "peak_device_memory_bytes": torch.cuda.max_memory_allocated(prepared.device) if on_gpu else None,
    }


def _params(job: Job) -> Params:
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in job.model.parameters()]
    return Params(sum(n for n, _ in counts), sum(n for n, wanted in counts if wanted))


def _no_metrics(outcome: Outcome) -> dict[str, Any]:
    """The record's `metrics` of a run that was never tested."""
    return {
        "final": outcome.final,
        "best": outcome.best,
        "test": {},
        "per_class": {},
        "classes_scored": [],
        "legacy": None,
        "intervals": None,
    }


def as_plain(spent: SpentTime) -> dict[str, float]:
    """The seconds as a checkpoint keeps them."""
    return asdict(spent)
