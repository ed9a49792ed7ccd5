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
    """An encoder that is given one polarisation as `grey` equal channels; `network` makes a map of them."""

    grey = GREY

    def __init__(self, network: nn.Module, entry: Encoder):
        super().__init__(network)
        self.band = BANDS.index(entry.one_band)

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, S/p, S/p)."""
        found: Tensor = self.network(self.one(images))
        return found

    def one(self, images: Tensor) -> Tensor:
        """(B, 2, S, S) to (B, grey, S, S)."""
        return images[:, self.band : self.band + 1].expand(-1, self.grey, -1, -1)


class GreyConvolutions(OneBand):
    """A convolutional network of timm: its last map."""

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, S/32, S/32)."""
        network: Any = self.network
        found: Tensor = network.forward_features(self.one(images))
        return found


class GreyViT(OneBand):
    """A timm ViT: patch tokens as a map, the CLS token as features."""

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, S/p, S/p)."""
        network: Any = self.network
        return as_map(network.forward_features(self.one(images))[:, network.num_prefix_tokens :])

    def pooled(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D)."""
        network: Any = self.network
        features: Tensor = network.forward_features(self.one(images))[:, 0]
        return features


def make(entry: Encoder, size: int, patch: int) -> OneBand:
    """A timm model with random weights: `entry.variant` is its name."""
    require_patches(entry.model, size, patch)
    if patch == 1:
        return GreyConvolutions(timm.create_model(entry.variant, in_chans=GREY, num_classes=0), entry)
    return GreyViT(timm.create_model(entry.variant, in_chans=GREY, num_classes=0, img_size=size), entry)
