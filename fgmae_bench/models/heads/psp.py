"""PSPNet (Zhao et al. 2017, arXiv 1612.01105): averages over 1, 2, 3 and 6 bins a side, stacked on the last map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fgmae_bench.models.heads.layers import ConvNorm, Decoder, resized
from fgmae_bench.models.heads.upernet import BINS, pooled


class PSP(Decoder):
    """Pyramid pooling and a 3x3 convolution."""

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 512, norm: str = "batch"
    ):
        """`dims` are the channels of the maps, of which the last is used; strides are not."""
        super().__init__(num_classes, fpn_dim)
        dim = dims[-1]
        self.psp_modules = nn.ModuleList(
            [nn.Sequential(nn.Identity(), ConvNorm(dim, fpn_dim, norm=norm, pooled=bins == 1)) for bins in BINS]
        )
        self.bottleneck = ConvNorm(dim + len(BINS) * fpn_dim, fpn_dim, 3, norm=norm)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, of which the last is used, to (B, fpn_dim, h, w)."""
        x = maps[-1]
        context = [
            resized(branch(pooled(x, bins)), x.shape[-2:]) for branch, bins in zip(self.psp_modules, BINS, strict=True)
        ]
        out: Tensor = self.bottleneck(torch.cat([x, *context], dim=1))
        return out
