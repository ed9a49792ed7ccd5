"""DOFA v2: torchgeo's embedding by wavelength before timm's ViT with layer scale, by the definition of its code.

Source: zhu-xlab/DOFA @ a414125, dofa_v2.py. torchgeo itself has the first version alone.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given, carrier
from fgmae_bench.models.torchgeo_models import DOFA_WAVELENGTHS, as_map

SHAPES = {"base": (768, 12, 12), "large": (1024, 24, 16)}  # width, blocks, heads
PATCH, SIZE, WAVES = 14, 224, 128  # pixels, pixels, numbers that a wavelength becomes
SCALE = 1e-5  # of a layer's scale before training


class Network(nn.Module):
    """The network under its publishers' names; `norm` stands in its files and is used nowhere."""

    def __init__(self, embedding: Any, width: int, depth: int, heads: int):
        super().__init__()
        self.patch_embed = embedding(dynamic_embed_dim=WAVES, kernel_size=PATCH, embed_dim=width)
        self.model = VisionTransformer(
            patch_size=PATCH, embed_dim=width, depth=depth, num_heads=heads, init_values=SCALE, num_classes=0
        )
        del self.model.patch_embed
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor, wavelengths: list[float]) -> Tensor:
        """(B, C, 224, 224) and a wavelength (micrometres) a channel to the last block's tokens (B, 1 + N, D)."""
        waves = torch.tensor(wavelengths, device=images.device, dtype=images.dtype)
        tokens, _ = self.patch_embed(images, waves)
        found: Tensor = self.model.blocks(self.model.norm_pre(self.model._pos_embed(tokens)))
        return found


class DofaV2(Adapter):
    """DOFA v2, given the wavelength of VV and VH: normalised patch tokens as a map, their mean as features."""

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, 224, 224) to (B, D, 16, 16)."""
        network: Any = self.network
        return as_map(network.model.norm(network(images, DOFA_WAVELENGTHS[""]))[:, 1:])


def make(entry: Encoder, size: int, patch: int) -> DofaV2:
    """The encoder with random weights. Raises BenchError without torchgeo."""
    embedding = carrier(entry, "torchgeo.models.dofa").DOFAEmbedding
    return DofaV2(Network(embedding, *SHAPES[entry.variant]))
