"""Decode heads: feature maps of a backbone to logits of each pixel. A new head is one class and its line in HEADS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.models.heads.linear import PixelLinear
from fgmae_bench.models.heads.upernet import UPerNet
from fgmae_bench.models.norms import Norm


def _upernet(dims: Sequence[int], strides: Sequence[int], num_classes: int, fpn_dim: int, norm: Norm) -> nn.Module:
    return UPerNet(dims, strides, num_classes, fpn_dim=fpn_dim, norm=norm)


def _linear(dims: Sequence[int], strides: Sequence[int], num_classes: int, fpn_dim: int, norm: Norm) -> nn.Module:
    return PixelLinear(dims, strides, num_classes)


# Each takes (dims, strides, classes, fpn_dim, norm) and makes a module that maps (maps, size) to logits (B, K, *size).
HEADS: dict[str, Callable[[Sequence[int], Sequence[int], int, int, Norm], nn.Module]] = {
    "upernet": _upernet,
    "linear": _linear,
}


def make_head(
    name: str,
    dims: Sequence[int],
    strides: Sequence[int],
    num_classes: int,
    *,
    fpn_dim: int = 256,
    norm: Norm = "batch",
) -> nn.Module:
    """The head of that name on maps of `dims` channels at `strides` pixels. Raises BenchError on an unknown name or no
    classes.

    Weights are drawn from torch's generator: seed it first.
    """
    if name not in HEADS:
        raise unknown("head", name, HEADS)
    if num_classes < 1:
        raise BenchError(f"a head of {num_classes} classes", "take a label scheme with classes")
    return HEADS[name](dims, strides, num_classes, fpn_dim, norm)


class Segmenter(nn.Module):
    """A backbone's taps and a head: images (B, 2, S, S) to logits (B, K, S, S), or of another `size`."""

    def __init__(self, taps: nn.Module, head: nn.Module):
        super().__init__()
        self.taps, self.head = taps, head

    def forward(self, images: Any, size: tuple[int, int] | None = None) -> Any:
        """Logits (B, K, *size); `size` (height, width) is the images' own by default."""
        return self.head(self.taps(images), size or tuple(images.shape[-2:]))
