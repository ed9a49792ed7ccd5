"""What a head learns from besides its logits, as tensors: losses are computed outside of the model, over all processes.

A head in evaluation gives logits (B, K, H, W). In training it may give `Learnt`, whose `extra` each name a loss of
`fgmae_bench.train.head_losses`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

PIXELS, POINTS, PRESENCE, MASKS, POINT_MASKS = "pixels", "points", "presence", "masks", "point_masks"
KINDS = (PIXELS, POINTS, PRESENCE, MASKS, POINT_MASKS)


@dataclass(frozen=True)
class Extra:
    """`weight` times the loss called `kind` of `tensors`."""

    kind: str
    weight: float
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Learnt:
    """`logits` (B, K, H, W) learn by cross-entropy, None where only `extra` do."""

    logits: Tensor | None
    extra: tuple[Extra, ...]


def with_extra(out: Tensor | Learnt, more: Extra) -> Learnt:
    """An output of a head in training and one more thing to learn from."""
    if isinstance(out, Tensor):
        return Learnt(out, (more,))
    return Learnt(out.logits, (*out.extra, more))
