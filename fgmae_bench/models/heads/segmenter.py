"""Segmenter's mask transformer (Strudel et al. 2021, arXiv 2105.05633): classes are tokens next to the patches.

Its stochastic depth of at most 0.1 is left out: a result would depend on how a batch is divided.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize

from fgmae_bench.models.heads.layers import FeedForward, SelfAttention, resized

HEAD_DIM, DEPTH, STD = 64, 2, 0.02


class Layer(nn.Module):
    """A pre-norm transformer layer, MLP ratio 4."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.ln1, self.attn = nn.LayerNorm(dim), SelfAttention(dim, heads)
        self.ln2, self.ffn = nn.LayerNorm(dim), FeedForward(dim, 4 * dim, gelu)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to the same."""
        x = x + self.attn(self.ln1(x))
        out: Tensor = x + self.ffn(self.ln2(x))
        return out


class MaskTransformer(nn.Module):
    """Two layers over the patches of the last map and one token a class; logits are their cosines, normalised."""

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        fpn_dim: int = 768,
        norm: str = "batch",
        heads: int | None = None,
    ):
        """`dims` are the channels of the maps, of which the last is used; strides and `norm` are not."""
        super().__init__()
        heads = heads or max(1, fpn_dim // HEAD_DIM)
        heads = heads if fpn_dim % heads == 0 else 1
        self.dec_proj = nn.Linear(dims[-1], fpn_dim)
        self.cls_emb = nn.Parameter(torch.empty(1, num_classes, fpn_dim))
        self.layers = nn.ModuleList([Layer(fpn_dim, heads) for _ in range(DEPTH)])
        self.decoder_norm = nn.LayerNorm(fpn_dim)
        self.patch_proj = nn.Linear(fpn_dim, fpn_dim, bias=False)
        self.classes_proj = nn.Linear(fpn_dim, fpn_dim, bias=False)
        self.mask_norm = nn.LayerNorm(num_classes)
        nn.init.trunc_normal_(self.cls_emb, std=STD)
        for projection in (self.patch_proj, self.classes_proj):
            nn.init.normal_(projection.weight, std=fpn_dim**-0.5)

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, of which the last (B, C, h, w) is used, to logits (B, K, h, w)."""
        patches = self.dec_proj(maps[-1].flatten(2).transpose(1, 2))  # (B, N, D)
        tokens = torch.cat([patches, self.cls_emb.expand(len(patches), -1, -1)], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens, count = self.decoder_norm(tokens), patches.shape[1]
        places = normalize(self.patch_proj(tokens[:, :count]), dim=2)
        classes = normalize(self.classes_proj(tokens[:, count:]), dim=2)
        masks: Tensor = self.mask_norm(places @ classes.transpose(1, 2))  # (B, N, K)
        return masks.transpose(1, 2).unflatten(2, maps[-1].shape[-2:])

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps, of which the last is used, to logits (B, K, *size)."""
        return resized(self.decode(maps), size)
