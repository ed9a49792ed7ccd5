"""Necks: maps of one stride to a pyramid (`ScaleNeck` of upernet.py, `MultiLevelNeck`), a pyramid to another (FPN)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate

from fgmae_bench.errors import BenchError
from fgmae_bench.models.heads.layers import ConvNorm, resized
from fgmae_bench.models.heads.upernet import ScaleNeck

SCALES = (4.0, 2.0, 1.0, 0.5)  # of the patch grid


def pyramid(
    name: str, dims: Sequence[int], strides: Sequence[int], norm: str, used: Sequence[int] = (0, 1, 2, 3)
) -> tuple[nn.Module, tuple[int, ...]]:
    """(neck that makes a pyramid of maps of one stride, or nothing where they are one; channels of its four maps).

    Maps that are not `used` stay as they are: no layer of the neck goes without a gradient. Raises BenchError, naming
    the head, on other numbers of maps.
    """
    if len(dims) != 4 or len(strides) != 4:
        raise BenchError(f"{name} on {len(dims)} maps", "name four blocks")
    if len(set(strides)) > 1:
        return nn.Identity(), tuple(dims)
    neck = ScaleNeck(dims, norm)
    for level in set(range(4)) - set(used):
        neck.scales[level] = nn.Identity()
    return neck, tuple(dims)


class MultiLevelNeck(nn.Module):
    """1x1 convolution, bilinear to the scales x4, x2, x1, x1/2, 3x3 convolution of each map (of SETR and DeiT)."""

    def __init__(self, dims: Sequence[int], width: int):
        super().__init__()
        self.lateral_convs = nn.ModuleList([ConvNorm(dim, width, norm=None, act=False) for dim in dims])
        self.convs = nn.ModuleList([ConvNorm(width, width, 3, norm=None, act=False) for _ in dims])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, D, h, w) of one stride to (B, width, s h, s w)."""
        found = []
        for level, scale, lateral, conv in zip(maps, SCALES, self.lateral_convs, self.convs, strict=True):
            height, width = (max(1, int(side * scale)) for side in level.shape[-2:])
            found.append(conv(resized(lateral(level), (height, width))))
        return found


class Necked(nn.Module):
    """A head behind a neck of its own."""

    def __init__(self, neck: nn.Module, head: nn.Module):
        super().__init__()
        self.neck, self.head = neck, head

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """As the head's."""
        out: Tensor = self.head(self.neck(maps), size)
        return out


class FPN(nn.Module):
    """Feature pyramid network (Lin et al. 2017, arXiv 1612.03144): laterals, top-down sums, 3x3 convolutions."""

    def __init__(self, dims: Sequence[int], width: int):
        super().__init__()
        self.lateral_convs = nn.ModuleList([ConvNorm(dim, width, norm=None, act=False) for dim in dims])
        self.fpn_convs = nn.ModuleList([ConvNorm(width, width, 3, norm=None, act=False) for _ in dims])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, D_i, h_i, w_i), finest first, to (B, width, h_i, w_i)."""
        paths = [lateral(level) for lateral, level in zip(self.lateral_convs, maps, strict=True)]
        for i in reversed(range(len(paths) - 1)):
            paths[i] = paths[i] + interpolate(paths[i + 1], size=paths[i].shape[-2:], mode="nearest")
        return [conv(path) for conv, path in zip(self.fpn_convs, paths, strict=True)]
