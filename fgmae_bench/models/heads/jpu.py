"""FastFCN's joint pyramid upsampling (Wu et al. 2019, arXiv 1903.11816) before PSP, DeepLabV3 or EncNet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fgmae_bench.models.heads.aspp import DeepLabV3
from fgmae_bench.models.heads.enc import Enc
from fgmae_bench.models.heads.layers import ConvNorm, Decoder, Separable, resized
from fgmae_bench.models.heads.necks import pyramid
from fgmae_bench.models.heads.outputs import Learnt
from fgmae_bench.models.heads.psp import PSP

DILATIONS = (1, 2, 4, 8)


class JPU(nn.Module):
    """Maps of strides 8, 16 and 32 side by side at the finest's size, through separable convolutions of 4 dilations."""

    def __init__(self, dims: Sequence[int], width: int, norm: str):
        super().__init__()
        self.conv_layers = nn.ModuleList([nn.Sequential(ConvNorm(dim, width, 3, norm=norm)) for dim in dims])
        self.dilation_layers = nn.ModuleList(
            [
                nn.Sequential(Separable(len(dims) * width, width, norm=norm, dilation=rate, act=False))
                for rate in DILATIONS
            ]
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, finest first, to (B, 4 width, h_0, w_0)."""
        levels = [conv(level) for conv, level in zip(self.conv_layers, maps, strict=True)]
        joined = torch.cat([levels[0], *(resized(level, levels[0].shape[-2:]) for level in levels[1:])], dim=1)
        return torch.cat([layer(joined) for layer in self.dilation_layers], dim=1)


class FastFCN(nn.Module):
    """Joint pyramid upsampling and a head on what it gives."""

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        fpn_dim: int = 512,
        norm: str = "batch",
        head: type[Decoder],
    ):
        """`dims` and `strides` of four maps, finest first; the three coarser are used."""
        super().__init__()
        self.scales, dims = pyramid("JPU", dims, strides, norm, used=(1, 2, 3))
        self.neck = JPU(dims[1:], fpn_dim, norm)
        joint = len(DILATIONS) * fpn_dim
        self.head = head((joint,), (8,), num_classes, fpn_dim=fpn_dim, norm=norm)  # type: ignore[call-arg,arg-type]

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor | Learnt:
        """As the head's."""
        out: Tensor | Learnt = self.head([self.neck(self.scales(maps)[1:])], size)
        return out


jpu_psp = partial(FastFCN, head=PSP)
jpu_deeplabv3 = partial(FastFCN, head=DeepLabV3)
jpu_enc = partial(FastFCN, head=Enc)
