"""Relative positions of patches on the keys of attention (iRPE, arXiv 2107.14222), as SAR-JEPA and AnySat use them.

Contextual, one table for all heads, ratio 1.9. Source: irpe.py of microsoft/Cream, in both publishers' repositories.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers import Mlp
from torch import Tensor, nn

Method = Literal["distance", "offsets"]  # one step for the distance; one for rows and one for columns
NEAR, FAR, LAST = 1.9, 8 * 1.9, 3  # patches that count one by one; patches at the last step; steps each way
STEPS = 2 * LAST + 1
BUCKETS: dict[Method, int] = {"distance": STEPS, "offsets": STEPS**2}


def steps(offsets: NDArray[np.float64]) -> NDArray[np.int64]:
    """Offsets in patches to whole steps from -3 to 3: near ones as they are, others by their logarithm (Eq. 18)."""
    size = np.abs(offsets)
    far = NEAR + np.log(np.maximum(size, NEAR) / NEAR) / math.log(FAR / NEAR) * NEAR
    found = np.where(size <= NEAR, np.round(size), np.minimum(np.round(far), LAST))
    return (np.sign(offsets) * found).astype(np.int64)


@cache
def buckets(side: int, method: Method) -> NDArray[np.int64]:
    """Row of the table for each pair of tokens (1 + L, 1 + L), L = side x side; the last for pairs with the CLS token.

    Kept as numpy: a tensor made under inference mode could not be used in training later.
    """
    places = np.indices((side, side)).reshape(2, -1).T.astype(float)  # (L, 2), row and column
    offsets = places[:, None] - places[None]  # (L, L, 2)
    if method == "distance":
        inner = steps(np.round(np.sqrt(np.square(offsets).sum(2)))) + LAST
    else:
        rows, columns = np.moveaxis(steps(offsets) + LAST, 2, 0)
        inner = rows * STEPS + columns
    found = np.full((side**2 + 1, side**2 + 1), BUCKETS[method])
    found[1:, 1:] = inner
    return found


class RelativeKeys(nn.Module):
    """What relative positions add to attention: each query's product with the row of the table of its pair.

    With `first_head` the queries of the first head stand for those of all: so AnySat's code reads its table.
    """

    def __init__(self, head_dim: int, method: Method, *, first_head: bool = False):
        super().__init__()
        self.method: Method = method
        self.first_head = first_head
        self.lookup_table_weight = nn.Parameter(torch.zeros(1, head_dim, BUCKETS[method] + 1))
        nn.init.trunc_normal_(self.lookup_table_weight, std=0.02)

    def forward(self, queries: Tensor) -> Tensor:
        """(B, heads, 1 + L, d) to (B, heads or 1, 1 + L, 1 + L); L is a square."""
        side = math.isqrt(queries.shape[2] - 1)
        queries = queries[:, :1] if self.first_head else queries
        table = queries @ self.lookup_table_weight  # (B, heads or 1, 1 + L, buckets)
        index = torch.from_numpy(buckets(side, self.method)).to(queries.device)
        return table.gather(3, index.expand(*queries.shape[:2], -1, -1))


class Attention(nn.Module):
    """Self-attention with relative positions on its keys; with `scaled` the queries that meet them are scaled, and are
    those of the first head.
    """

    def __init__(self, width: int, heads: int, method: Method, scaled: bool):
        super().__init__()
        self.heads, self.scale, self.scaled = heads, (width // heads) ** -0.5, scaled
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rpe_k = RelativeKeys(width // heads, method, first_head=scaled)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + L, D) to (B, 1 + L, D)."""
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, 1 + L, d)
        pairs = self.scale * q @ k.transpose(2, 3) + self.rpe_k(self.scale * q if self.scaled else q)
        mixed: Tensor = self.proj((pairs.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """A pre-norm transformer block around `Attention`."""

    def __init__(self, width: int, heads: int, method: Method, *, scaled: bool, eps: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, method, scaled)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + L, D) to (B, 1 + L, D)."""
        tokens = tokens + self.attn(self.norm1(tokens))
        found: Tensor = tokens + self.mlp(self.norm2(tokens))
        return found
