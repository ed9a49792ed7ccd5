"""Semantic FPN (Kirillov et al. 2019, arXiv 1901.02446): a pyramid brought to one size step by step and summed.

The lab's "SeMask" is this head, and PoolFormer's and Twins' segmentation is.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fgmae_bench.models.heads.layers import ConvNorm, Decoder, resized
from fgmae_bench.models.heads.necks import FPN, pyramid
from fgmae_bench.models.heads.setr import up


class FPNHead(Decoder):
    """Levels of a pyramid of one width: 1, 1, 2, 3 times a 3x3 convolution, each but the finest's doubling the size."""

    def __init__(self, dim: int, num_classes: int, width: int, norm: str, levels: int = 4):
        super().__init__(num_classes, width)
        self.scale_heads = nn.ModuleList()
        for level in range(levels):
            steps: list[nn.Module] = []
            for step in range(max(1, level)):
                steps += [ConvNorm(width if step else dim, width, 3, norm=norm), *([up(2)] if level else [])]
            self.scale_heads.append(nn.Sequential(*steps))

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Levels (B, dim, h_i, w_i), finest first, to (B, width, h_0, w_0)."""
        total: Tensor = self.scale_heads[0](maps[0])
        for head, level in zip(list(self.scale_heads)[1:], maps[1:], strict=True):
            total = total + resized(head(level), total.shape[-2:])
        return total


class SemanticFPN(FPNHead):
    """The head behind a feature pyramid of `fpn_dim` channels; it has half of them itself."""

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 256, norm: str = "batch"
    ):
        """`dims` and `strides` of four maps, finest first."""
        super().__init__(fpn_dim, num_classes, fpn_dim // 2, norm)
        scales, dims = pyramid("Semantic FPN", dims, strides, norm)
        self.neck = nn.Sequential(scales, FPN(dims, fpn_dim))
