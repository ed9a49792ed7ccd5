"""DMNet (He et al. 2019, ICCV): depth-wise filters of several sizes that each image generates for itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from fgmae_bench.models.heads.layers import ConvNorm, Decoder
from fgmae_bench.models.heads.upernet import pooled
from fgmae_bench.models.norms import make_norm

SIZES = (1, 3, 5, 7)


class DynamicFilter(nn.Module):
    """A filter of `size` x `size` for each channel of each image, from the averages over as many bins."""

    def __init__(self, size: int, dim: int, width: int, norm: str):
        super().__init__()
        self.size = size
        self.filter_gen_conv = nn.Conv2d(dim, width, 1)
        self.input_redu_conv = ConvNorm(dim, width, norm=norm)
        self.norm = make_norm(norm, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, D, h, w)."""
        filters = self.filter_gen_conv(pooled(x, self.size)).flatten(0, 1).unsqueeze(1)  # (B D, 1, size, size)
        reduced = self.input_redu_conv(x)
        flat = conv2d(reduced.flatten(0, 1).unsqueeze(0), filters, padding=self.size // 2, groups=len(filters))
        return torch.relu(self.norm(flat.view_as(reduced)))


class DM(Decoder):
    """Dynamic filters of 1, 3, 5 and 7 places, concatenated to the last map, fused by a 3x3 convolution."""

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 512, norm: str = "batch"
    ):
        """`dims` are the channels of the maps, of which the last is used; strides are not."""
        super().__init__(num_classes, fpn_dim)
        dim = dims[-1]
        self.dcm_modules = nn.ModuleList([DynamicFilter(size, dim, fpn_dim, norm) for size in SIZES])
        self.bottleneck = ConvNorm(dim + len(SIZES) * fpn_dim, fpn_dim, 3, norm=norm)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, of which the last is used, to (B, fpn_dim, h, w)."""
        x = maps[-1]
        out: Tensor = self.bottleneck(torch.cat([x, *(module(x) for module in self.dcm_modules)], dim=1))
        return out
