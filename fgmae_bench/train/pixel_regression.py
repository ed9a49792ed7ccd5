"""Regression of pixels as a job of the training loop: maps of targets in, sums of each image's residuals out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor, nn

from fgmae_bench.config.cards import Target
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.index import Rows
from fgmae_bench.metrics.intervals import intervals, pixel_units
from fgmae_bench.metrics.regression import LEVELS, PixelSums, pixel_regression, target_bins
from fgmae_bench.metrics.table import REGRESSION, selection
from fgmae_bench.models.heads.outputs import Learnt
from fgmae_bench.runs.folder import ordered
from fgmae_bench.runs.tasks import Outcome, Scale
from fgmae_bench.system.files import write_bytes
from fgmae_bench.train.details import Details
from fgmae_bench.train.job import Scored
from fgmae_bench.train.segmentation import Labels, SegmentationJob


@dataclass(frozen=True, kw_only=True)
class Targets:
    """How the targets of training are standardised, and how residuals are summed."""

    scale: Scale
    sums: PixelSums


def targets_of(dataset: Dataset, facts: dict[str, NDArray[Any]], target: Target) -> Targets:
    """Scale, levels and bins from the targets of the training images, each pixel of the same weight."""
    train = dataset.parts.train
    count, mean, square = facts["target_sums"][train].T
    shift = float((count * mean).sum() / count.sum())
    spread = float(np.sqrt(max((count * square).sum() / count.sum() - shift**2, 0.0)))
    quantiles = facts["target_quantiles"][train].ravel()
    levels = sorted(set(np.quantile(quantiles, np.linspace(0, 1, LEVELS + 1)[1:-1]).tolist()))
    sums = PixelSums(origin=shift, levels=tuple(levels), bins=tuple(target_bins(quantiles, target.bins)))
    return Targets(scale=Scale(shift, spread or 1.0, plain=False), sums=sums)


@dataclass(kw_only=True)
class PixelRegressionJob(SegmentationJob):
    """A segmentation job of one output whose masks are targets; see `fgmae_bench.train.job.Job`."""

    targets: Targets
    selection: str = selection(REGRESSION)

    def read(self, rows: NDArray[np.int64], epoch: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Random views (B, 2, S, S), or rows of maps (B, F), and standardised targets (B, S, S), NaN where none is."""
        images, masks = super().read(rows, epoch)
        return images, self.targets.scale.down(masks)

    def loss(self, outputs: Tensor | Learnt, targets: Tensor) -> Tensor:
        """Mean squared error of the pixels that have a target, each of the same weight on whatever process it is."""
        assert isinstance(outputs, Tensor)  # heads of classes are refused
        values = outputs if outputs.dtype == torch.float64 else outputs.float()
        if values.shape[-2:] != targets.shape[-2:]:
            values = nn.functional.interpolate(values, size=targets.shape[-2:], mode="bilinear", align_corners=False)
        kept = torch.isfinite(targets)
        wanted = torch.where(kept, targets, 0).to(values.dtype)
        total = ((values[:, 0] - wanted).square() * kept).sum()
        count = kept.sum().to(total.dtype)
        if self.world.size > 1:
            dist.all_reduce(count)
        return total * self.world.size / count.clamp(min=1)

    def evaluate(self, part: str, between: Callable[[], None] = lambda: None) -> Scored:
        """A row of sums an image (N, W), gathered over the processes, and the scores of all."""
        table = self._table(part, between)
        metrics = pixel_regression(self.targets.sums, table)
        return Scored(metrics=metrics, outputs=table, finite=bool(np.isfinite(table).all()))

    def _mask(self, row: int, labels: Labels) -> NDArray[Any]:
        return self.dataset.index.targets(int(row), labels.source)

    def _count(
        self, inputs: list[NDArray[Any]], masks: list[NDArray[Any]], rows: Rows, details: Details | None = None
    ) -> NDArray[np.float64]:
        table = np.zeros((len(masks), self.targets.sums.width))
        for row, mask, outputs in zip(table, masks, self._logits(inputs, masks), strict=True):
            row[:] = self.targets.sums.row(self.targets.scale.up(outputs[0].numpy()), mask)
        return table


def pixel_metrics(
    outcome: Outcome, test: Scored, job: PixelRegressionJob, target: Target, groups: list[str] | None
) -> dict[str, Any]:
    """The record's `metrics` of a regression of pixels; `groups` are the tiles or scenes of the test split."""
    sums = job.targets.sums
    return {
        "final": outcome.final,
        "best": outcome.best,
        "test": outcome.test,
        "per_class": {},
        "classes_scored": [],
        "legacy": None,
        "intervals": intervals(pixel_units(sums, test.outputs, groups)),
        "regression": sums.details(test.outputs, target),
    }


def write_sums(path: Path, test: Scored, dataset: Dataset, job: PixelRegressionJob, target: Target) -> None:
    """`sums` (N, W) float64, one row an image, with ids, groups and what its columns are, as safetensors by rename."""
    sums, groups = job.targets.sums, dataset.groups("test")
    made = {"origin": sums.origin, "levels": sums.levels, "bins": sums.bins}
    metadata = {
        "ids": json.dumps(dataset.ids("test")),
        "classes": json.dumps([target.name]),
        "sums": json.dumps(made),
        **({} if groups is None else {"groups": json.dumps(groups)}),
    }
    write_bytes(path, ordered(save({"sums": np.ascontiguousarray(test.outputs)}, metadata)))
