"""What the training loop needs of a task: how its batches are read, its loss, and its scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fgmae_bench.config.run import Run
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.index import Rows
from fgmae_bench.models.build import Backbone
from fgmae_bench.runs.tasks import Outcome
from fgmae_bench.system.device import Precision
from fgmae_bench.system.distributed import World
from fgmae_bench.train.plan import Plan

Metrics = dict[str, Any]


@dataclass(kw_only=True)
class Scored:
    """One evaluation of a part of the split: `metrics`, and what predictions and confusion are made from."""

    metrics: Metrics
    outputs: NDArray[Any]  # logits (N, C), or one confusion matrix an image (N, K, K)
    targets: NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.int64))
    val: tuple[NDArray[Any], NDArray[Any]] | None = None  # logits and targets of val, from the epoch that is scored
    confidence: NDArray[Any] | None = None  # of pixels, by image: see `fgmae_bench.metrics.calibration`
    details: dict[str, NDArray[Any]] = field(default_factory=dict)  # what else was counted of each test image
    finite: bool = True  # False where the loss is NaN or infinite; a loss that is None by design leaves it True


class Job(Protocol):
    """One task on one dataset and model. Only the process's share of rows is read; evaluation is collective."""

    train: Rows
    selection: str  # the metric that selects the best epoch
    unused_parameters: bool  # True where a forward pass may leave trainable parameters without a gradient

    @property
    def model(self) -> nn.Module:
        """The whole model."""
        ...

    @property
    def kept(self) -> nn.Module:
        """What checkpoints hold: the model, or its part that is trained."""
        ...

    def read(self, rows: Rows, epoch: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Training view of rows: images (B, 2, S, S) and targets. Called from threads."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a micro-batch."""
        ...

    def mix(self, images: Tensor, targets: Tensor, place: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Images and targets with what mixes samples of a batch, if anything; `place` keys its randomness."""
        ...

    def evaluate(self, part: str, between: Callable[[], None] = lambda: None) -> Scored:
        """Scores of `val` or `test`, the same on every process; `between` is called between batches."""
        ...


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """`legacy` gives what per-batch averages would say of an evaluation; `metrics` turns outcome and test scores into
    the record's section; `write_predictions` writes the file of one run; `finish` is for pictures and the like.
    """

    run: Run
    id: str
    protocol: str
    dataset: Dataset
    backbone: Backbone
    job: Job
    plan: Plan
    world: World
    device: torch.device
    amp: Precision
    place: tuple[Path, Path]  # output folder, TensorBoard folder
    classes: tuple[str, ...]
    schemes: tuple[str, str] | None
    notes: list[dict[str, str]]
    legacy: Callable[[Scored], dict[str, Any]]
    metrics: Callable[[Outcome, Scored], dict[str, Any]]
    write_predictions: Callable[[Path, Scored], None]
    cost: Callable[[], dict[str, Any] | None] = lambda: None  # parameters and operations of the model
    finish: Callable[[Path], None] = lambda folder: None  # what else belongs into the output folder
