"""PSANet (Zhao et al. 2018): point-wise spatial attention in both directions, by its definition.

No outside oracle: mmsegmentation's needs a compiled operator. The parameter count and a written-out loop are tested.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fgmae_bench.errors import BenchError
from fgmae_bench.models.heads.layers import ConvNorm, Decoder, resized

SIDE = 97  # of the over-complete map of offsets: 48 places to each side


class PSA(Decoder):
    """Each place collects from all others and distributes to them, by weights that it predicts for every offset."""

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        fpn_dim: int = 512,
        norm: str = "batch",
        side: int = SIDE,
    ):
        """`dims` are the channels of the maps, of which the last is used; strides are not."""
        super().__init__(num_classes, fpn_dim)
        dim, self.side = dims[-1], side
        self.reduce = ConvNorm(dim, fpn_dim, norm=norm)
        self.attention = nn.Sequential(
            ConvNorm(fpn_dim, fpn_dim, norm=norm), nn.Conv2d(fpn_dim, side * side, 1, bias=False)
        )
        self.reduce_p = ConvNorm(dim, fpn_dim, norm=norm)
        self.attention_p = nn.Sequential(
            ConvNorm(fpn_dim, fpn_dim, norm=norm), nn.Conv2d(fpn_dim, side * side, 1, bias=False)
        )
        self.proj = ConvNorm(2 * fpn_dim, dim, norm=norm, padding=1)  # 1x1 with a border of zeros, as in the reference
        self.bottleneck = ConvNorm(2 * dim, fpn_dim, 3, norm=norm)

    def require_grid(self, grid: Sequence[int]) -> None:
        """Raise BenchError on a last map of more places to a side than the attention reaches."""
        if max(-(-side // 2) for side in grid) > (self.side + 1) // 2:
            raise BenchError(
                f"PSA on a map of {grid[0]}x{grid[1]} places",
                f"its attention reaches {self.side} at most; take a smaller --input_size",
            )

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, of which the last is used, to (B, fpn_dim, h, w). Raises BenchError on maps of more than 97 places."""
        x = maps[-1]
        self.require_grid(x.shape[-2:])
        half = tuple(-(-side // 2) for side in x.shape[-2:])
        collected, distributed = (resized(reduce(x), half) for reduce in (self.reduce, self.reduce_p))
        offsets = offsets_of(half[0], half[1], self.side, x.device)
        # (B, from, to): what each place takes in, and what each place gives away
        taken = by_offset(self.attention(collected), offsets)
        given = by_offset(self.attention_p(distributed), offsets).transpose(1, 2)
        both = [
            (source.flatten(2) @ weights.softmax(1)).unflatten(2, half)
            for source, weights in ((collected, taken), (distributed, given))
        ]
        context = resized(self.proj(torch.cat(both, dim=1)), x.shape[-2:])
        out: Tensor = self.bottleneck(torch.cat([x, context], dim=1))
        return out


def offsets_of(height: int, width: int, side: int, device: torch.device) -> Tensor:
    """(N, N): the number of the offset to place t (first axis) as place p (second) counts them on a map of `side`."""
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    middle = side // 2
    down, right = (place[:, None] - place[None, :] + middle for place in (rows, columns))
    return down * side + right


def by_offset(weights: Tensor, offsets: Tensor) -> Tensor:
    """(B, side * side, h, w) of each place's offsets to (B, t, p): the weight that place p gives to place t."""
    return weights.flatten(2).gather(1, offsets.expand(len(weights), -1, -1))
