"""TerraMind, THOR and Clay through terratorch's registry of backbones, which needs a later Python than this suite."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.errors import BenchError
from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given, carrier, require_patches
from fgmae_bench.models.torchgeo_models import as_map

PYTHON = (3, 12)
RESOLUTION = 10  # metres a pixel
CLAY_WAVES = [3500.0, 4000.0]  # nm, of VV and VH in Clay's configs/metadata.yaml


class Tokens(Adapter):
    """A backbone that returns the tokens (B, N, D) of each block: the last block's patch tokens."""

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, S/p, S/p)."""
        return as_map(self.network(images)[-1])


class Clay(Adapter):
    """Clay's encoder, told the wavelengths and the resolution; time and place are zeros."""

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
    """The encoder with random weights. Raises BenchError under an older Python and without terratorch."""
    require_patches(entry.model, size, patch)
    if sys.version_info < PYTHON:
        found = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BenchError(
            f"the model {entry.model} needs terratorch and Python 3.12 or later; this is {found}",
            "make an environment of a later Python and install 'fgmae-bench[terratorch]' there",
        )
    registry: Any = carrier(entry, "terratorch.registry").BACKBONE_REGISTRY
    network: nn.Module
    if entry.weights == "clay":
        network = registry.build(entry.variant, pretrained=False).encoder
        network.mask_ratio, network.shuffle = 0.0, False  # type: ignore[assignment]
        return Clay(network)
    if entry.weights == "thor":
        carrier(entry, "thor_terratorch_ext")
        options = {"ground_covers": [size * RESOLUTION], "flexivit_patch_size_seqs": [patch]}
        network = registry.build(entry.variant, pretrained=False, model_bands=["VV", "VH"], input_params=options)
        return Tokens(network)
    return Tokens(registry.build(entry.variant, pretrained=False, modalities=["S1GRD"]))
