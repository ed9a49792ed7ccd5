"""Classification as a job of the training loop: random views and labels in, logits out, scores of the whole split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fgmae_bench.data.dataset import Dataset
from fgmae_bench.device import Precision, autocast
from fgmae_bench.distributed import World
from fgmae_bench.loader import Rows, ahead, read_view
from fgmae_bench.recipes import FinetuneRecipe
from fgmae_bench.runs.tasks import TASKS
from fgmae_bench.train.job import Scored
from fgmae_bench.train.mixing import Mixing
from fgmae_bench.views import Augmentation, View


@dataclass(kw_only=True)
class ClassificationJob:
    """See `fgmae_bench.train.job.Job`."""

    model: nn.Module
    dataset: Dataset
    view: View
    recipe: FinetuneRecipe
    world: World
    device: torch.device
    amp: Precision
    workers: int
    batch_size: int  # of evaluation
    unused_parameters: bool = False

    def __post_init__(self) -> None:
        self.train, self.kept = self.dataset.parts.train, self.model
        self.task = TASKS[self.dataset.card.task]
        self.selection = self.task.selection
        mixes = self.recipe.mixup or self.recipe.cutmix
        self.mixing = Mixing(self.recipe.mixup, self.recipe.cutmix, self.recipe.seed) if mixes else None

    def read(self, rows: Rows, epoch: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Random views (B, 2, S, S), and class numbers (B,) or multi-hot labels (B, C)."""
        recipe = self.recipe
        augmentation = Augmentation(seed=recipe.seed, epoch=epoch, crop_scale=recipe.crop_scale, vflip=recipe.vflip)
        images, _ = read_view(self.dataset, self.view, rows, augmentation)
        return images, self.dataset.index.labels[rows]

    def mix(self, images: Tensor, targets: Tensor, place: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Mixup or cutmix where the recipe has them; targets become shares (B, C)."""
        if self.mixing is None:
            return images, targets
        soft = targets if targets.ndim == 2 else nn.functional.one_hot(targets, len(self.dataset.card.classes))
        return self.mixing(images, soft.to(images.dtype), *place)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy or binary cross-entropy with logits, smoothed as the recipe says."""
        logits = outputs if outputs.dtype == torch.float64 else outputs.float()
        smoothing = self.recipe.smoothing
        if self.dataset.card.task == "single_label":
            soft = targets.to(logits.dtype) if targets.ndim == 2 else targets
            return nn.functional.cross_entropy(logits, soft, label_smoothing=smoothing)
        return nn.functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype) * (1 - smoothing) + 0.5 * smoothing)

    def evaluate(self, part: str, between: Callable[[], None] = lambda: None) -> Scored:
        """Logits of the whole part, every sample once, gathered over the processes, and their scores."""
        rows = getattr(self.dataset.parts, part)
        step = self.batch_size * self.world.size
        chunks = [rows[i : i + step] for i in range(0, len(rows), step)]
        mine = [chunk[self.world.rank :: self.world.size] for chunk in chunks]
        batches = ahead(lambda some: read_view(self.dataset, self.view, some, None)[0], mine, self.workers)
        parts = []
        for chunk, batch in zip(chunks, batches, strict=True):
            parts.append(self.world.interleaved(self._forward(batch), len(chunk)))
            between()
        logits, targets = np.concatenate(parts), self.dataset.index.labels[rows]
        metrics = self.task.evaluate(logits, targets)
        return Scored(metrics=metrics, outputs=logits, targets=targets, finite=metrics["loss"] is not None)

    def _forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        if not len(batch):
            return np.zeros((0, len(self.dataset.card.classes)), np.float32)
        with torch.inference_mode(), autocast(self.amp, self.device):
            images = as_input(torch.from_numpy(batch), self.device, torch.float32)
            return self.model(images).float().cpu().numpy()


def as_input(images: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Prepared images on the device in the model's type; uint8 input is brought to [0, 1]."""
    moved = images.to(device, non_blocking=True)
    return moved.to(dtype).div_(255) if images.dtype == torch.uint8 else moved.to(dtype)
