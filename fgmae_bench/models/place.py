"""The baseline of georeferenced tables: features of where and when an image was taken, none of what it shows."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fgmae_bench.errors import BenchError
from fgmae_bench.models.encoders.adapter import NOTHING, Given
from fgmae_bench.models.encoders.galileo import on_sphere

NAME = "place_and_month"
WIDTHS = {"location": 3, "month": 2, "day_of_year": 2}
CYCLES = {"month": 12, "day_of_year": 366}


class PlaceAndMonth(nn.Module):
    """Location as a point of the unit sphere, month and day of the year as points of a circle; (B, 3 to 7)."""

    def __init__(self, inputs: tuple[str, ...]):
        """Raises BenchError where nothing is given: then there is nothing to classify by."""
        super().__init__()
        if not inputs:
            raise BenchError(f"{NAME} knows nothing", f"give --inputs {' '.join(WIDTHS)}, or some of them")
        self.inputs = inputs
        self.feature_dim = sum(WIDTHS[name] for name in inputs)

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, H, W), which are not looked at, to (B, D)."""
        parts = [on_sphere(given[name]) if name == "location" else self._circle(name, given) for name in self.inputs]
        return torch.cat(parts, dim=-1).float()

    @staticmethod
    def _circle(name: str, given: Given) -> Tensor:
        angle = given[name].double() * (2 * math.pi / CYCLES[name])
        return torch.stack([angle.cos(), angle.sin()], dim=-1)
