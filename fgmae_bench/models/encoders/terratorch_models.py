"""TerraMind through terratorch's registry of backbones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.errors import BenchError
from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given, carrier, require_patches
from fgmae_bench.models.torchgeo_models import as_map


class Tokens(Adapter):
    """A backbone that returns the tokens (B, N, D) of each block: the last block's patch tokens."""

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, S/p, S/p)."""
        return as_map(self.network(images)[-1])


def make(entry: Encoder, size: int, patch: int) -> Adapter:
    """The encoder with random weights. Raises BenchError without terratorch, or where the installed one lacks it."""
    require_patches(entry.model, size, patch)
    registry: Any = carrier(entry, "terratorch.registry").BACKBONE_REGISTRY
    if entry.variant not in registry:
        raise BenchError(
            f"the model {entry.model} needs a terratorch with {entry.variant}, which this one lacks",
            "install terratorch 1.2.4 or later",
        )
    with torch.device("cpu"):  # it reads its rates of stochastic depth, which a meta tensor does not hold
        return Tokens(registry.build(entry.variant, pretrained=False, modalities=["S1GRD"]))
