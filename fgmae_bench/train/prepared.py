"""A run made definite: everything that the training loop and the record need, and what only its task knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fgmae_bench.backbones import Backbone
from fgmae_bench.config import Run
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.device import Precision
from fgmae_bench.distributed import World
from fgmae_bench.runs.outcome import Outcome
from fgmae_bench.train.job import Job, Scored
from fgmae_bench.train.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """`legacy` gives what per-batch averages would say of an evaluation; `metrics` turns outcome and test scores into the record's
    section; `write_predictions` writes the file of one run; `finish` is for pictures and the like.
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
    finish: Callable[[Path], None] = lambda folder: None  # what else belongs into the output folder
