"""EncNet (Zhang et al. 2018, arXiv 1803.08904): channels weighted by how far an image's features are from codewords."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fgmae_bench.models.heads.layers import ConvNorm, Decoder, resized
from fgmae_bench.models.heads.outputs import PRESENCE, Extra, Learnt
from fgmae_bench.models.norms import SyncBatchNorm

CODES = 32
PRESENCE_WEIGHT = 0.2  # of the loss of which classes an image holds


class Encoding(nn.Module):
    """Residuals to codewords, each place's shared out by softmax over them, summed over places."""

    def __init__(self, dim: int, codes: int):
        super().__init__()
        bound = (codes * dim) ** -0.5
        self.codewords = nn.Parameter(torch.empty(codes, dim).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(codes).uniform_(-1, 0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, codes, C)."""
        places = x.flatten(2).transpose(1, 2)  # (B, N, C)
        # |x - c|^2 opened out: the residuals of all places and codewords at once would be N times the codes times C
        squares = (
            places.square().sum(-1, keepdim=True) - 2 * places @ self.codewords.T + self.codewords.square().sum(-1)
        )
        shares = (self.scale * squares).softmax(-1)  # (B, N, codes)
        return shares.transpose(1, 2) @ places - shares.sum(1).unsqueeze(-1) * self.codewords


class EncModule(nn.Module):
    """The encoding of a map and the map with its channels weighted by it."""

    def __init__(self, dim: int, codes: int, norm: str):
        super().__init__()
        self.encoding_project = ConvNorm(dim, dim, norm=norm)
        # statistics a codeword over channels, so that a batch of one has them too
        coded: nn.Module = SyncBatchNorm(codes) if norm == "batch" else nn.GroupNorm(1, codes)
        self.encoding = nn.Sequential(Encoding(dim, codes), coded, nn.ReLU())
        self.fc = nn.Sequential(nn.Linear(dim, dim), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) to (B, C) and (B, C, h, w)."""
        code = self.encoding(self.encoding_project(x)).mean(1)
        return code, torch.relu(x + x * self.fc(code)[..., None, None])


class Enc(Decoder):
    """Context encoding on the last map; in training also which classes the image holds."""

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        fpn_dim: int = 512,
        norm: str = "batch",
        codes: int = CODES,
    ):
        """`dims` are the channels of the maps, of which the last is used; strides are not."""
        super().__init__(num_classes, fpn_dim)
        self.bottleneck = ConvNorm(dims[-1], fpn_dim, 3, norm=norm)
        self.enc_module = EncModule(fpn_dim, codes, norm)
        self.se_layer = nn.Linear(fpn_dim, num_classes)

    def both(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, K, h, w), and logits (B, K) of which classes there are."""
        code, features = self.enc_module(self.bottleneck(maps[-1]))
        return self.classify(features), self.se_layer(code)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor | Learnt:
        """Logits (B, K, *size), and in training also those of presence."""
        logits, present = self.both(self.neck(maps))
        logits = resized(logits, size)
        return Learnt(logits, (Extra(PRESENCE, PRESENCE_WEIGHT, (present,)),)) if self.training else logits
