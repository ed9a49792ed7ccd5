"""TerraMind, THOR and Clay through terratorch's registry of backbones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.errors import BenchError
from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given, carrier, require_patches
from fgmae_bench.models.torchgeo_models import as_map

RESOLUTION = 10  # metres a pixel
CLAY_WAVES = [3500.0, 4000.0]  # nm, of VV and VH in Clay's configs/metadata.yaml


class Tokens(Adapter):
    """A backbone that returns the tokens (B, N, D) of each block: the last block's patch tokens."""

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, S/p, S/p)."""
        return as_map(self.network(images)[-1])


class Clay(Adapter):
    """Clay's encoder, given the wavelengths and the resolution; time and place are zeros."""

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, S/8, S/8)."""
        return as_map(self._tokens(images)[:, 1:])

    def pooled(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D): the CLS token."""
        return self._tokens(images)[:, 0]

    def _tokens(self, images: Tensor) -> Tensor:
        zeros = images.new_zeros((len(images), 4))
        cube = {
            "pixels": images,
            "time": zeros,
            "latlon": zeros,
            "gsd": images.new_tensor(RESOLUTION),
            "waves": images.new_tensor(CLAY_WAVES),
        }
        tokens: Tensor = self.network(cube)[0]
        return tokens


def make(entry: Encoder, size: int, patch: int) -> Adapter:
    """The encoder with random weights. Raises BenchError without terratorch, or where the installed one lacks it."""
    require_patches(entry.model, size, patch)
    registry: Any = carrier(entry, "terratorch.registry").BACKBONE_REGISTRY
    options: dict[str, Any] = {"pretrained": False}
    if entry.weights == "thor":
        carrier(entry, "thor_terratorch_ext")
        inputs = {"ground_covers": [size * RESOLUTION], "flexivit_patch_size_seqs": [patch]}
        options |= {"model_bands": ["VV", "VH"], "input_params": inputs}
    elif entry.weights == "terramind":
        options["modalities"] = ["S1GRD"]
    if entry.variant not in registry:
        raise BenchError(
            f"the model {entry.model} needs a terratorch with {entry.variant}, which this one lacks",
            "install a later terratorch: 1.2.4 has TerraMind alone",
        )
    with torch.device("cpu"):  # it reads its rates of stochastic depth, which a meta tensor does not hold
        network: Any = registry.build(entry.variant, **options)
    if entry.weights != "clay":
        return Tokens(network)
    network.encoder.mask_ratio, network.encoder.shuffle = 0.0, False
    return Clay(network.encoder)
