"""Mistakes of published runs in the model, made again on purpose: nothing outside the ablation can reach them."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import Backbone
from fgmae_bench.models.segmenter import SegmentationModel
from fgmae_bench.system.randomness import key

POSITION_STD = 0.02  # of timm's own initialisation


class FrozenOutput(nn.Module):
    """A head behind which a 3x3 convolution of its logits stays as it was drawn."""

    def __init__(self, head: nn.Module, outputs: int, seed: int):
        super().__init__()
        self.head = head
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(key(seed, "frozen output") % 2**63)
            self.output = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.output.requires_grad_(False)

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps (B, D, h, w) to logits (B, K, *size)."""
        logits: Tensor = self.output(self.head(maps, size))
        return logits


def frozen_output(model: SegmentationModel, outputs: int, seed: int) -> None:
    """Put a random 3x3 convolution behind the logits and never train it."""
    model.head = FrozenOutput(model.head, outputs, seed)


def random_position(backbone: Backbone, seed: int) -> None:
    """Draw the position embeddings anew after the weights were loaded, and freeze them, as when a loader deletes their
    key.

    Raises BenchError on a backbone without any.
    """
    vit = next((part for part in backbone.module.modules() if isinstance(part, VisionTransformer)), None)
    if vit is None or vit.pos_embed is None:
        raise BenchError(
            f"{backbone.name} has no position embeddings to spoil", "take a ViT, such as --model vit_small_patch16"
        )
    generator = torch.Generator().manual_seed(key(seed, "random position") % 2**63)
    with torch.no_grad():
        drawn = torch.empty(vit.pos_embed.shape)
        nn.init.trunc_normal_(drawn, std=POSITION_STD, generator=generator)
        vit.pos_embed.copy_(drawn)
    vit.pos_embed.requires_grad_(False)
