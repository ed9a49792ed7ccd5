"""Two dates before any decode head: the maps of both images by one backbone, joined or subtracted level by level."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fgmae_bench.config.names import AFTER

Join = Callable[[Tensor, Tensor], list[Tensor]]  # maps of the later and the earlier date (B, D, h, w) to what is joined
JOINS: dict[str, tuple[int, Join]] = {  # name -> (how many maps, them)
    "concat": (2, lambda later, earlier: [later, earlier]),
    "difference": (1, lambda later, earlier: [later - earlier]),
    "both": (3, lambda later, earlier: [later, earlier, later - earlier]),
}


class TwoDates(nn.Module):
    """Maps of two dates as one list. The input holds the later date first along its channels: images (B, 2C, S, S), or
    rows of the bank (B, 2F).
    """

    def __init__(self, taps: nn.Module, dates: str):
        """`taps` maps one date, (B, C, S, S) or (B, F), to maps (B, D, h, w)."""
        super().__init__()
        self.taps, self.dates = taps, dates

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Maps (B, k D, h, w), k as of `joined_dims`."""
        # both dates pass in one batch, so that norms that see the batch see both alike
        stacked: list[Tensor] = self.taps(torch.cat(inputs.chunk(2, dim=1)))
        join = JOINS[self.dates][1]
        return [torch.cat(join(*level.chunk(2)), dim=1) for level in stacked]


def joined(taps: nn.Module, dates: str) -> nn.Module:
    """The taps themselves where the later date is all that is seen, else both dates through them."""
    return taps if dates == AFTER else TwoDates(taps, dates)


def joined_dims(dims: Sequence[int], dates: str) -> tuple[int, ...]:
    """Channels of each level that a head sees."""
    return tuple(dims) if dates == AFTER else tuple(JOINS[dates][0] * dim for dim in dims)
