"""A decode head: two layers a pixel on the last map. `segment --head example_two_layers` trains it, and with
`--freeze_backbone` its runs have the protocol `frozen_example_two_layers`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate


class TwoLayers(nn.Module):
    """Maps, finest first, to logits of each pixel."""

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 256, norm: str = "batch"
    ):
        """`dims` and `strides` are the channels and pixels a step of the maps; the hidden layer has `fpn_dim`."""
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(dims[-1], fpn_dim, 1), nn.GELU(), nn.Conv2d(fpn_dim, num_classes, 1))

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps of (B, D, h, w) to logits (B, K, *size)."""
        return interpolate(self.layers(maps[-1]), size=size, mode="bilinear", align_corners=False)
