"""FCN (Long et al. 2015, arXiv 1411.4038) as mmsegmentation builds it, and the auxiliary head of one convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fgmae_bench.models.heads.layers import ConvNorm, Decoder

AUXILIARY_DIM, AUXILIARY_WEIGHT = 256, 0.4


class FCN(Decoder):
    """Two 3x3 convolutions of the last map, a third of them and the map, a classifier."""

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 512, norm: str = "batch"
    ):
        """`dims` are the channels of the maps, of which the last is used; strides are not."""
        super().__init__(num_classes, fpn_dim)
        dim = dims[-1]
        self.convs = nn.Sequential(ConvNorm(dim, fpn_dim, 3, norm=norm), ConvNorm(fpn_dim, fpn_dim, 3, norm=norm))
        self.conv_cat = ConvNorm(dim + fpn_dim, fpn_dim, 3, norm=norm)

    def between(self, x: Tensor) -> Tensor:
        """What happens between both convolutions: the context modules have their place here."""
        return x

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, of which the last is used, to (B, fpn_dim, h, w)."""
        x = maps[-1]
        out: Tensor = self.conv_cat(torch.cat([x, self.convs[1](self.between(self.convs[0](x)))], dim=1))
        return out


class Auxiliary(Decoder):
    """One 3x3 convolution of the third of four maps and a classifier: a second loss in training, nothing otherwise."""

    def __init__(self, dims: Sequence[int], num_classes: int, norm: str, width: int = AUXILIARY_DIM):
        super().__init__(num_classes, width)
        self.place = max(0, len(dims) - 2)
        self.convs = nn.Sequential(ConvNorm(dims[self.place], width, 3, norm=norm))

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, width, h, w) of the third map."""
        out: Tensor = self.convs(maps[self.place])
        return out
