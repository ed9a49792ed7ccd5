"""The segmentation model: taps of a backbone, frozen, trained or already computed, and a decode head on their maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fgmae_bench.checkpoints.reader import read_state
from fgmae_bench.config.recipes import SegmentRecipe
from fgmae_bench.errors import note
from fgmae_bench.models.backbone import Backbone
from fgmae_bench.models.heads import make_head, require_usable
from fgmae_bench.models.heads.loading import load_head
from fgmae_bench.models.pooling import device_of
from fgmae_bench.models.sliding import Windows
from fgmae_bench.models.taps import LEVELS, OneMap, Taps, make_taps
from fgmae_bench.models.two_dates import TwoDates, joined, joined_dims
from fgmae_bench.system.randomness import key


class FrozenTaps(nn.Module):
    """Taps whose backbone stays as it is: evaluation mode, no gradients, whatever the model around it is doing."""

    def __init__(self, taps: nn.Module):
        super().__init__()
        self.taps = taps.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenTaps:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (B, D, h, w)."""
        with torch.no_grad():
            maps: list[Tensor] = self.taps(images)
        return maps


class FlatMaps(nn.Module):
    """All maps of an image as one row, as the feature bank keeps them: (B, 2, S, S) to (B, sum of D h w).

    With `windows` those of each window of a scene, one window after the other. One map at four levels is kept once.
    """

    def __init__(self, taps: nn.Module, windows: Windows | None = None):
        super().__init__()
        self.taps, self.windows = taps, windows

    def extra_repr(self) -> str:
        """The blocks that are tapped: a bank is known by this text and by the tensors, and they show in no tensor."""
        more = f", {self.windows}" if self.windows else ""
        return f"blocks={getattr(self.taps, 'blocks', None)}{', once' if isinstance(self.taps, OneMap) else ''}{more}"

    def forward(self, images: Tensor) -> Tensor:
        """(B, F)."""
        pieces = [images] if self.windows is None else self.windows.cut(images)
        levels = [level for piece in pieces for level in kept_of(self.taps, self.taps(piece))]
        return torch.cat([level.float().flatten(1) for level in levels], dim=1)


class Unflattened(nn.Module):
    """Rows of the bank back to maps of `shapes` (D, h, w); the taps that made them stay a part of the model, unused."""

    def __init__(self, shapes: Sequence[tuple[int, int, int]], made_by: FrozenTaps):
        super().__init__()
        self.shapes, self.made_by = tuple(shapes), made_by
        self.repeated = LEVELS if isinstance(made_by.taps, OneMap) else 1

    @property
    def width(self) -> int:
        """Numbers of one image, or of one window."""
        return sum(d * h * w for d, h, w in self.shapes)

    def forward(self, rows: Tensor) -> list[Tensor]:
        """(B, F) to maps (B, D, h, w)."""
        sizes = [d * h * w for d, h, w in self.shapes]
        parts = rows.split(sizes, dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)] * self.repeated


class SegmentationModel(nn.Module):
    """Taps and head: images (B, 2, S, S), or rows of the bank, to logits (B, K, *size)."""

    def __init__(self, taps: nn.Module, head: nn.Module, size: tuple[int, int]):
        super().__init__()
        self.taps, self.head, self.size = taps, head, size
        self.notes: list[dict[str, str]] = []  # for the record

    def forward(self, inputs: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Logits at `size` (height, width), by default the input's."""
        logits: Tensor = self.head(self.taps(inputs), size or self.size)  # in training it may be `Learnt`
        return logits


def taps_of_images(taps: nn.Module) -> nn.Module:
    """A model's taps as they see images, whether it takes these or rows of the bank."""
    if isinstance(taps, TwoDates):
        return TwoDates(taps_of_images(taps.taps), taps.dates)
    return taps.made_by if isinstance(taps, Unflattened) else taps


def build_segmenter(backbone: Backbone, recipe: SegmentRecipe, classes: int) -> tuple[SegmentationModel, Taps]:
    """(a model on the backbone with a head of `classes` outputs, drawn from the recipe's seed; its taps)."""
    size = backbone.contract.size
    taps = make_taps(backbone.module, size, recipe.blocks or None)
    dims = joined_dims(taps.dims, recipe.dates)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(key(recipe.seed, "decoder") % 2**63)
        head = make_head(
            recipe.head,
            dims,
            taps.strides,
            classes,
            fpn_dim=recipe.fpn_dim,
            norm=recipe.norm,
            neck=recipe.neck,
            auxiliary=recipe.auxiliary,
            dropout=recipe.head_dropout,
        )
        require_usable(recipe.head, head, dims, taps.strides, classes, (size, size))
    seen: nn.Module = FrozenTaps(taps) if recipe.freeze_backbone else taps.requires_grad_(True)
    model = SegmentationModel(joined(seen, recipe.dates), head, (size, size))
    if recipe.head_weights is not None:
        model.notes.append(note("head_weights", load_head(head, read_state(Path(recipe.head_weights)))))
    return model, taps


def map_shapes(taps: nn.Module, size: int) -> list[tuple[int, int, int]]:
    """Shapes (D, h, w) of the maps of one image that the bank keeps."""
    with torch.inference_mode():
        parameter = next(taps.parameters(), torch.zeros(0))
        maps = taps(torch.zeros(1, 2, size, size, device=device_of(taps), dtype=parameter.dtype))
    return [(int(m.shape[1]), int(m.shape[2]), int(m.shape[3])) for m in kept_of(taps, maps)]


def kept_of(taps: nn.Module, maps: list[Tensor]) -> list[Tensor]:
    """The maps that are not the same as another."""
    return maps[:1] if isinstance(taps, OneMap) else maps
