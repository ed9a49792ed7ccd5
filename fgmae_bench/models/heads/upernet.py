"""UPerNet (Xiao et al. 2018, arXiv 1807.10221) on four maps of a plain ViT or of a pyramid; every layer is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fgmae_bench.errors import BenchError
from fgmae_bench.models.norms import LEAST, group_norm, make_norm

BINS = (1, 2, 3, 6)


def conv(inside: int, outside: int, kernel: int, norm: nn.Module) -> nn.Sequential:
    """Convolution without bias, norm, ReLU; the size stays."""
    return nn.Sequential(nn.Conv2d(inside, outside, kernel, padding=kernel // 2, bias=False), norm, nn.ReLU())


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear to the height and width of `like`."""
    return interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def pooled(x: Tensor, bins: int) -> Tensor:
    """Adaptive average pooling to (B, D, bins, bins) as two products, whose gradient is deterministic on CUDA too."""
    rows, columns = (_places(length, bins, x) for length in x.shape[-2:])  # (bins, h), (bins, w)
    down = (rows @ x) / rows.sum(1, keepdim=True)  # zeros and ones, so that half precision does not round the weights
    return (down @ columns.T) / columns.sum(1)


def _places(length: int, bins: int, like: Tensor) -> Tensor:
    """(bins, length): 1 where bin i, from floor(i length / bins) to ceil((i + 1) length / bins), holds a place."""
    places = torch.zeros(bins, length)
    for i in range(bins):
        places[i, i * length // bins : -(-(i + 1) * length // bins)] = 1
    return places.to(like)


class HalfScale(nn.Module):
    """Maximum of 2x2 places; an odd grid keeps its last row and column. Its gradient is deterministic on CUDA too."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) to (B, D, ceil(h/2), ceil(w/2))."""
        if x.shape[-2] % 2:
            x = torch.cat([x, x[..., -1:, :]], dim=-2)
        if x.shape[-1] % 2:
            x = torch.cat([x, x[..., -1:]], dim=-1)
        return x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).amax((-3, -1))


class ScaleNeck(nn.Module):
    """Four maps of one stride to the scales x4, x2, x1, x1/2 of the patch grid, as BEiT does (arXiv 2106.08254)."""

    def __init__(self, dims: Sequence[int], norm: str):
        super().__init__()
        finest, fine, _, _ = dims
        self.scales = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(finest, finest, 2, 2),
                    make_norm(norm, finest),
                    nn.GELU(),
                    nn.ConvTranspose2d(finest, finest, 2, 2),
                ),
                nn.ConvTranspose2d(fine, fine, 2, 2),
                nn.Identity(),
                HalfScale(),
            ]
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """(B, D, h, w) each to (B, D, 4h, 4w), (B, D, 2h, 2w), (B, D, h, w), (B, D, h/2, w/2)."""
        return [scale(level) for scale, level in zip(self.scales, maps, strict=True)]


class PyramidPooling(nn.Module):
    """The coarsest map with its averages over 1, 2, 3 and 6 bins a side, fused by a 3x3 convolution.

    The pooled branches have group norm whatever the rest has: at 1x1, batch norm would see one value an image.
    """

    def __init__(self, dim: int, fpn_dim: int, norm: str):
        super().__init__()
        self.branches = nn.ModuleList([conv(dim, fpn_dim, 1, group_norm(fpn_dim)) for _ in BINS])
        self.fuse = conv(dim + len(BINS) * fpn_dim, fpn_dim, 3, make_norm(norm, fpn_dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) to (B, fpn_dim, h, w)."""
        context = [resized(branch(pooled(x, bins)), x) for branch, bins in zip(self.branches, BINS, strict=True)]
        return self.fuse(torch.cat([x, *context], dim=1))


class UPerNet(nn.Module):
    """Pyramid pooling on the coarsest of four scales, lateral and top-down fusion, a classifier of each pixel.

    Maps of one stride go through `ScaleNeck` first; maps that already are a pyramid do not.
    """

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 256, norm: str = "batch"
    ):
        """`dims` and `strides` (pixels) of four maps, finest first. Raises BenchError on other numbers."""
        super().__init__()
        if len(dims) != 4 or len(strides) != 4:
            raise BenchError(f"UPerNet on {len(dims)} maps", "name four blocks")
        if fpn_dim < LEAST:
            raise BenchError(f"--fpn_dim {fpn_dim} is too narrow to normalise", f"give {LEAST} or more")
        self.neck = ScaleNeck(dims, norm) if len(set(strides)) == 1 else nn.Identity()
        self.pooling = PyramidPooling(dims[-1], fpn_dim, norm)
        self.laterals = nn.ModuleList([conv(dim, fpn_dim, 1, make_norm(norm, fpn_dim)) for dim in dims[:-1]])
        self.smooth = nn.ModuleList([conv(fpn_dim, fpn_dim, 3, make_norm(norm, fpn_dim)) for _ in dims[:-1]])
        self.fuse = conv(len(dims) * fpn_dim, fpn_dim, 3, make_norm(norm, fpn_dim))
        self.classify = nn.Conv2d(fpn_dim, num_classes, 1)
        nn.init.trunc_normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Four maps, finest first, to logits (B, K, *size)."""
        levels = self.neck(maps)
        top = self.pooling(levels[-1])
        paths = [lateral(level) for lateral, level in zip(self.laterals, levels[:-1], strict=True)] + [top]
        for i in reversed(range(len(paths) - 1)):  # top-down: each level takes in all coarser ones
            paths[i] = paths[i] + resized(paths[i + 1], paths[i])
        fine = [smooth(path) for smooth, path in zip(self.smooth, paths[:-1], strict=True)] + [top]
        fused = self.fuse(
            torch.cat([fine[0], *(resized(level, fine[0]) for level in fine[1:])], dim=1)
        )  # (B, fpn_dim, 4h, 4w)
        return interpolate(self.classify(fused), size=size, mode="bilinear", align_corners=False)
