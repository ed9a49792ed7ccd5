"""Heads of self-attention between regions: interlaced sparse self-attention (ISA) and object context (OCR)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fgmae_bench.models.heads.layers import ConvNorm, Decoder, classifier, resized
from fgmae_bench.models.heads.outputs import PIXELS, Extra, Learnt

CELL = 8  # places a side over which ISA attends at once
COARSE_WEIGHT = 0.4  # of the loss of OCR's first guess


class RegionAttention(nn.Module):
    """Places (queries) attend over places or regions (keys and values), scaled by the root of the key's width."""

    def __init__(self, dim: int, inner: int, norm: str):
        super().__init__()
        self.key_project = nn.Sequential(ConvNorm(dim, inner, norm=norm), ConvNorm(inner, inner, norm=norm))
        self.query_project = nn.Sequential(ConvNorm(dim, inner, norm=norm), ConvNorm(inner, inner, norm=norm))
        self.value_project: nn.Module = nn.Identity()

    def attend(self, places: Tensor, regions: Tensor) -> Tensor:
        """(B, C, h, w) and (B, C, ...) to (B, D, h, w)."""
        query = self.query_project(places).flatten(2).transpose(1, 2)  # (B, N, d)
        key, value = self.key_project(regions).flatten(2), self.value_project(regions).flatten(2)  # (B, d, M)
        weights = (query @ key * query.shape[-1] ** -0.5).softmax(-1)
        return (weights @ value.transpose(1, 2)).transpose(1, 2).unflatten(2, places.shape[-2:])


class SelfAttention(RegionAttention):
    """Of ISA: values of full width, an output convolution."""

    def __init__(self, dim: int, inner: int, norm: str):
        super().__init__(dim, inner, norm)
        self.value_project = nn.Conv2d(dim, dim, 1)
        self.output_project = ConvNorm(dim, dim, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        out: Tensor = self.output_project(self.attend(x, x))
        return out


class ISA(Decoder):
    """Attention between cells of 8x8 places, then within them (Huang et al. 2019, arXiv 1907.12273)."""

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        fpn_dim: int = 512,
        norm: str = "batch",
        cell: int = CELL,
    ):
        """`dims` are the channels of the maps, of which the last is used; strides are not."""
        super().__init__(num_classes, fpn_dim)
        self.cell = cell
        self.in_conv = ConvNorm(dims[-1], fpn_dim, 3, norm=norm)
        self.global_relation = SelfAttention(fpn_dim, fpn_dim // 2, norm)
        self.local_relation = SelfAttention(fpn_dim, fpn_dim // 2, norm)
        self.out_conv = ConvNorm(2 * fpn_dim, fpn_dim, norm=norm)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, of which the last is used, to (B, fpn_dim, h, w)."""
        entering = self.in_conv(maps[-1])
        height, width = entering.shape[-2:]
        rows, columns = (-(-side // self.cell) for side in (height, width))
        over = rows * self.cell - height, columns * self.cell - width  # padded around, as in the reference
        top, left = over[0] // 2, over[1] // 2
        x = pad(entering, (left, over[1] - left, top, over[0] - top))
        x = x.unflatten(3, (columns, self.cell)).unflatten(2, (rows, self.cell))  # (B, C, rows, cell, columns, cell)
        count = len(x)
        x = self.global_relation(x.permute(0, 3, 5, 1, 2, 4).flatten(0, 2))
        x = x.unflatten(0, (count, self.cell, self.cell)).permute(0, 4, 5, 3, 1, 2)  # (B, rows, columns, C, cell, cell)
        x = self.local_relation(x.flatten(0, 2)).unflatten(0, (count, rows, columns))
        x = x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        x = x[..., top : top + height, left : left + width]
        out: Tensor = self.out_conv(torch.cat([x, entering], dim=1))
        return out


class ObjectContext(RegionAttention):
    """Of OCR: each place attends over the classes' mean features."""

    def __init__(self, dim: int, inner: int, norm: str):
        super().__init__(dim, inner, norm)
        # maps of K classes, one place each: a single class of a single image has no statistics
        self.key_project = nn.Sequential(
            ConvNorm(dim, inner, norm=norm, pooled=True), ConvNorm(inner, inner, norm=norm, pooled=True)
        )
        self.value_project = ConvNorm(dim, inner, norm=norm, pooled=True)
        self.out_project = ConvNorm(inner, dim, norm=norm)
        self.bottleneck = ConvNorm(2 * dim, dim, norm=norm)

    def forward(self, places: Tensor, regions: Tensor) -> Tensor:
        """(B, C, h, w) and (B, C, K, 1) to (B, C, h, w)."""
        context = self.out_project(self.attend(places, regions))
        out: Tensor = self.bottleneck(torch.cat([context, places], dim=1))
        return out


class OCR(Decoder):
    """Object-contextual representations (Yuan et al. 2020, arXiv 1909.11065): a coarse guess of 1x1 convolutions, the
    mean feature of each class by it, and what each place takes of these.
    """

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        fpn_dim: int = 512,
        norm: str = "batch",
    ):
        """`dims` are the channels of the maps, of which the last is used; strides are not."""
        super().__init__(num_classes, fpn_dim)
        dim = dims[-1]
        self.coarse = nn.Sequential(ConvNorm(dim, dim, norm=norm), classifier(dim, num_classes))
        self.bottleneck = ConvNorm(dim, fpn_dim, 3, norm=norm)
        self.object_context_block = ObjectContext(fpn_dim, fpn_dim // 2, norm)

    def refined(self, x: Tensor, coarse: Tensor) -> Tensor:
        """The last map (B, C, h, w) and coarse logits (B, K, h, w) to logits (B, K, h, w)."""
        features = self.bottleneck(x)
        shares = coarse.flatten(2).softmax(-1)  # (B, K, N), over the places of each class
        regions = (shares @ features.flatten(2).transpose(1, 2)).transpose(1, 2).unsqueeze(-1)  # (B, C, K, 1)
        return self.classify(self.object_context_block(features, regions))

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor | Learnt:
        """Logits (B, K, *size), and in training also the coarse ones."""
        coarse = self.coarse(maps[-1])
        logits = resized(self.refined(maps[-1], coarse), size)
        return Learnt(logits, (Extra(PIXELS, COARSE_WEIGHT, (coarse,)),)) if self.training else logits
