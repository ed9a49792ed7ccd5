"""Encoders of one grey channel: a polarisation is chosen, said, and repeated as their publishers repeat it."""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from fgmae_bench.config.contract import BANDS
from fgmae_bench.config.encoders import Encoder
from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given, require_patches
from fgmae_bench.models.torchgeo_models import as_map

GREY = 3  # equal channels


class OneBand(Adapter):
    """A timm ViT of three equal channels, given one polarisation: patch tokens as a map, the CLS token as features."""

    def __init__(self, network: nn.Module, band: int):
        super().__init__(network)
        self.band = band

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, S/p, S/p)."""
        network: Any = self.network
        return as_map(network.forward_features(self._grey(images))[:, network.num_prefix_tokens :])

    def pooled(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D)."""
        network: Any = self.network
        features: Tensor = network.forward_features(self._grey(images))[:, 0]
        return features

    def _grey(self, images: Tensor) -> Tensor:
        return images[:, self.band : self.band + 1].expand(-1, GREY, -1, -1)


def make(entry: Encoder, size: int, patch: int) -> OneBand:
    """The encoder with random weights."""
    require_patches(entry.model, size, patch)
    network = timm.create_model(entry.variant, in_chans=GREY, num_classes=0, img_size=size)
    return OneBand(network, BANDS.index(entry.one_band))
