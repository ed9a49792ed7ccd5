"""Classification as a job of the training loop: random views and labels in, logits out, scores of the whole split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import Mixup
from torch import Tensor, nn

from fgmae_bench.config.names import CLASS_HEADS, imported
from fgmae_bench.config.plugins import Guard, unguarded
from fgmae_bench.config.recipes import FinetuneRecipe
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.index import Rows
from fgmae_bench.errors import BenchError
from fgmae_bench.features.loader import ahead, blank_view, read_view
from fgmae_bench.models.build import Backbone
from fgmae_bench.models.pooling import TokenPool
from fgmae_bench.runs.tasks import TASKS, Scale
from fgmae_bench.system.device import Precision, as_input, autocast
from fgmae_bench.system.distributed import World
from fgmae_bench.system.randomness import key
from fgmae_bench.train.job import Scored
from fgmae_bench.views.classification import Augmentation, View


class Mixing:
    """timm's mixup and cutmix, for targets of any kind; keyed, so that it needs no state."""

    def __init__(self, mixup: float, cutmix: float, seed: int):
        self.mixup, self.cutmix, self.seed = mixup, cutmix, seed

    def __call__(self, images: Tensor, targets: Tensor, *place: int) -> tuple[Tensor, Tensor]:
        """Mixed images (B, C, H, W) and targets (B, K) of soft targets (B, K); B is even. `place` keys the draw.

        timm mixes image i with image B - 1 - i. Asked for the labels 0..B-1 it answers with the matrix M (B, B) of
        shares whose rows add up to 1; M @ targets then holds for class shares and for several labels an image alike.
        """
        count = len(images)
        mix = Mixup(mixup_alpha=self.mixup, cutmix_alpha=self.cutmix, label_smoothing=0.0, num_classes=count)
        state = np.random.get_state()  # noqa: NPY002 (timm draws from numpy's global generator)
        np.random.seed(key(self.seed, "mix", *place) % 2**32)  # noqa: NPY002
        try:
            mixed, shares = mix(images.clone(), torch.arange(count, device=images.device))
        finally:
            np.random.set_state(state)  # noqa: NPY002
        return mixed, shares.to(targets.dtype) @ targets


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
    guard: Guard = unguarded  # of a module of the user

    def __post_init__(self) -> None:
        self.train, self.kept = self.dataset.parts.train, self.model
        self.task = TASKS[self.dataset.card.task]
        self.selection = self.task.selection
        self.scale = Scale.of(self.dataset.card.task, self.dataset.index.labels[self.train])
        mixes = self.recipe.mixup or self.recipe.cutmix
        self.mixing = Mixing(self.recipe.mixup, self.recipe.cutmix, self.recipe.seed) if mixes else None

    def read(self, rows: Rows, epoch: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Random views (B, 2, S, S), and class numbers (B,), multi-hot labels (B, C) or standardised targets (B, 1)."""
        recipe = self.recipe
        augmentation = Augmentation(seed=recipe.seed, epoch=epoch, crop_scale=recipe.crop_scale, vflip=recipe.vflip)
        images, _ = read_view(self.dataset, self.view, rows, augmentation)
        return images, self.scale.down(self.dataset.index.labels[rows])

    def mix(self, images: Tensor, targets: Tensor, place: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Mixup or cutmix where the recipe has them; targets become shares (B, C)."""
        if self.mixing is None:
            return images, targets
        soft = targets if targets.ndim == 2 else nn.functional.one_hot(targets, len(self.dataset.card.classes))
        return self.mixing(images, soft.to(images.dtype), *place)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy or binary cross-entropy with logits, smoothed as the recipe says; squared error of targets."""
        logits = outputs if outputs.dtype == torch.float64 else outputs.float()
        if not self.scale.plain:
            return nn.functional.mse_loss(logits, targets.to(logits.dtype))
        smoothing = self.recipe.smoothing
        if self.dataset.card.task == "single_label":
            soft = targets.to(logits.dtype) if targets.ndim == 2 else targets
            return nn.functional.cross_entropy(logits, soft, label_smoothing=smoothing)
        return nn.functional.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype) * (1 - smoothing) + 0.5 * smoothing
        )

    def evaluate(self, part: str, between: Callable[[], None] = lambda: None) -> Scored:
        """Logits of the whole part, every sample once, gathered over the processes, and their scores."""
        rows = getattr(self.dataset.parts, part)
        step = self.batch_size * self.world.size
        chunks = [rows[i : i + step] for i in range(0, len(rows), step)]
        mine = [chunk[self.world.rank :: self.world.size] for chunk in chunks]
        batches = ahead(lambda some: read_view(self.dataset, self.view, some, None)[0], mine, self.workers)
        parts = []
        # Chunk by chunk each process scores every size-th image; gathered, they are in the order of the split.
        for number, (chunk, batch) in enumerate(zip(chunks, batches, strict=True), 1):
            with self.guard(f"batch {number} of {len(chunks)} of {part}"):
                outputs = self._forward(batch)
            parts.append(self.world.interleaved(outputs, len(chunk)))
            between()
        logits, targets = self.scale.up(np.concatenate(parts)), self.dataset.index.labels[rows]
        metrics = self.task.evaluate(logits, targets)
        return Scored(metrics=metrics, outputs=logits, targets=targets, finite=metrics["loss"] is not None)

    def image(self) -> Tensor:
        """An image of the data's size as the model is given it (1, C, S, S)."""
        batch = blank_view(self.dataset, self.view, int(self.dataset.parts.test[0]))
        return as_input(torch.from_numpy(batch), self.device, torch.float32)

    def _forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        if not len(batch):
            return np.zeros((0, len(self.dataset.card.outputs)), np.float32)
        with torch.inference_mode(), autocast(self.amp, self.device):
            images = as_input(torch.from_numpy(batch), self.device, torch.float32)
            return self.model(images).float().cpu().numpy()


HEAD_STD = 0.01  # truncated normal, as for the reference's heads


class Classifier(nn.Module):
    """(B, 2, S, S) in [0, 1] to logits (B, C). `chunk` images pass the backbone at a time, 0 for all: the same sums."""

    def __init__(self, backbone: nn.Module, feature_dim: int, classes: int, recipe: FinetuneRecipe, chunk: int = 0):
        super().__init__()
        self.backbone, self.chunk = backbone, chunk
        self.norm: nn.Module = imported(CLASS_HEADS[recipe.head].norm)(feature_dim)
        self.head = nn.Linear(feature_dim, classes)
        nn.init.trunc_normal_(
            self.head.weight, std=HEAD_STD, generator=torch.Generator().manual_seed(key(recipe.seed, "head") % 2**63)
        )
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C)."""
        parts = images.split(self.chunk) if self.chunk else (images,)
        return self.head(self.norm(torch.cat([self.backbone(part) for part in parts])))


def trainable(backbone: Backbone) -> Backbone:
    """The backbone with its parameters to be trained; averaged tokens get a norm of their own in place of the last
    block's.

    As in MAE's fine-tuning: `norm` is dropped and `fc_norm` follows the mean of the patch tokens.
    Raises BenchError for a backbone without parameters.
    """
    module, weights = backbone.module, backbone.weights
    if not list(module.parameters()):
        raise BenchError(f"{backbone.name} has no parameters to fine-tune", "probe it with fgmae_bench.linear")
    if isinstance(module, TokenPool) and backbone.pool == "mean" and not isinstance(module.vit.norm, nn.Identity):
        dropped = len(list(module.vit.norm.parameters()))
        module.vit.norm = nn.Identity()
        module.vit.fc_norm = nn.LayerNorm(backbone.feature_dim, eps=1e-6)
        if weights.used:
            weights = dataclasses.replace(
                weights,
                used=weights.used - dropped,
                dropped=weights.dropped + dropped,
                missing=weights.missing + dropped,
            )
    if isinstance(module, TokenPool):
        module.vit.attn_pool = None
        module.vit.head = nn.Identity()  # the feature passes through neither
    module.requires_grad_(True)
    return dataclasses.replace(backbone, weights=weights)
