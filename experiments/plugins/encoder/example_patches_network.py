"""The network of the example: one convolution over patches of 8 pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given


class Patches(Adapter):
    """(B, 2, H, W) to a map (B, 32, H/8, W/8)."""

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """The convolution and a GELU; extra inputs are none."""
        return torch.nn.functional.gelu(self.network(images))


def make(entry: Encoder, size: int, patch: int) -> Adapter:
    """The encoder with random weights, for inputs of any size that its patches divide."""
    return Patches(nn.Conv2d(2, entry.dim, patch, patch))
