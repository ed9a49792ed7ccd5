"""UPerNet as mmsegmentation builds it, batch norm in the pooled branches too: its decode heads load into this one.

`upernet`, the project's own, has group norm there, so that a batch of one trains by its own statistics.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fgmae_bench.models.heads.layers import ConvNorm, resized
from fgmae_bench.models.heads.necks import pyramid
from fgmae_bench.models.heads.psp import PSP


class UPer(PSP):
    """Pyramid pooling on the coarsest map, lateral and top-down fusion (Xiao et al. 2018, arXiv 1807.10221)."""

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 512, norm: str = "batch"
    ):
        """`dims` and `strides` of four maps, finest first."""
        neck, dims = pyramid("UPerNet", dims, strides, norm)
        super().__init__(dims, strides, num_classes, fpn_dim=fpn_dim, norm=norm)
        self.neck = neck
        self.lateral_convs = nn.ModuleList([ConvNorm(dim, fpn_dim, norm=norm) for dim in dims[:-1]])
        self.fpn_convs = nn.ModuleList([ConvNorm(fpn_dim, fpn_dim, 3, norm=norm) for _ in dims[:-1]])
        self.fpn_bottleneck = ConvNorm(len(dims) * fpn_dim, fpn_dim, 3, norm=norm)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps, finest first, to (B, fpn_dim, h_0, w_0)."""
        paths = [lateral(level) for lateral, level in zip(self.lateral_convs, maps[:-1], strict=True)]
        paths.append(super().features(maps))
        for i in reversed(range(len(paths) - 1)):
            paths[i] = paths[i] + resized(paths[i + 1], paths[i].shape[-2:])
        fine = [conv(path) for conv, path in zip(self.fpn_convs, paths[:-1], strict=True)] + [paths[-1]]
        size = fine[0].shape[-2:]
        out: Tensor = self.fpn_bottleneck(torch.cat([fine[0], *(resized(level, size) for level in fine[1:])], dim=1))
        return out
