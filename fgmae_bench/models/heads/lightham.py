"""LightHam (Geng et al. 2021, arXiv 2109.04553; of SegNeXt, arXiv 2209.08575): context by matrix decomposition.

The reference draws its bases anew in each forward pass. Here they are drawn once and stored, so that a prediction can
be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fgmae_bench.models.heads.layers import ConvNorm, Decoder, resized
from fgmae_bench.models.heads.necks import pyramid
from fgmae_bench.models.norms import group_norm

RANK, STEPS, STEPS_EVALUATION, EPSILON = 16, 6, 7, 1e-6


class NMF(nn.Module):
    """Non-negative matrix factorisation by multiplicative updates: the map as bases times coefficients."""

    bases: Tensor

    def __init__(self, dim: int, rank: int):
        super().__init__()
        self.register_buffer("bases", normalize(torch.rand(1, dim, rank), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w), none negative, to its approximation."""
        flat = x.flatten(2)  # (B, C, N)
        bases = self.bases.to(flat.dtype).expand(len(x), -1, -1)
        coefficients = (flat.transpose(1, 2) @ bases).softmax(-1)  # (B, N, R)
        for _ in range(STEPS if self.training else STEPS_EVALUATION):
            coefficients = _updated(coefficients, flat.transpose(1, 2), bases)
            bases = _updated(bases, flat, coefficients)
        coefficients = _updated(coefficients, flat.transpose(1, 2), bases)
        return (bases @ coefficients.transpose(1, 2)).view_as(x)


def _updated(left: Tensor, product: Tensor, right: Tensor) -> Tensor:
    """The factor `left` (B, M, R) of `product` (B, M, N) after a multiplicative update; `right` is (B, N, R)."""
    return left * (product @ right) / (left @ (right.transpose(1, 2) @ right) + EPSILON)


class Hamburger(nn.Module):
    """A factorisation between two 1x1 convolutions, added to the map."""

    def __init__(self, dim: int, rank: int, groups: int | None):
        super().__init__()
        self.ham_in = ConvNorm(dim, dim, norm=None)
        self.ham = NMF(dim, rank)
        self.ham_out = ConvNorm(dim, dim, norm=_norm(dim, groups), act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        return torch.relu(x + self.ham_out(self.ham(self.ham_in(x))))


class LightHam(Decoder):
    """The three coarser maps of a pyramid side by side, squeezed, decomposed and classified."""

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        fpn_dim: int = 256,
        norm: str = "batch",
        rank: int = RANK,
        groups: int | None = None,
    ):
        """`dims` and `strides` of four maps, finest first; the norm is group norm whatever `norm` says."""
        super().__init__(num_classes, fpn_dim)
        self.neck, dims = pyramid("LightHam", dims, strides, norm, used=(1, 2, 3))
        self.squeeze = ConvNorm(sum(dims[1:]), fpn_dim, norm=_norm(fpn_dim, groups))
        self.hamburger = Hamburger(fpn_dim, rank, groups)
        self.align = ConvNorm(fpn_dim, fpn_dim, norm=_norm(fpn_dim, groups))

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps, finest first, to (B, fpn_dim, h_1, w_1)."""
        levels = [resized(level, maps[1].shape[-2:]) for level in maps[1:]]
        out: Tensor = self.align(self.hamburger(self.squeeze(torch.cat(levels, dim=1))))
        return out


def _norm(dim: int, groups: int | None) -> nn.Module:
    return group_norm(dim) if groups is None else nn.GroupNorm(groups, dim)
