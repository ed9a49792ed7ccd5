"""Decode heads: feature maps of a backbone to logits of each pixel, one file a family.

To add one: a file here with its class, and its line in `fgmae_bench.config.names.HEADS`; `--head`, the protocol
`frozen_<name>`, help and the Python API follow. The class takes `(dims, strides, num_classes, *, fpn_dim, norm)`, the
channels and strides (pixels) of the maps, finest first, and maps (maps, size) to logits (B, K, *size).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

from torch import nn

from fgmae_bench.config.names import HEADS, HEADS_GROUP, SHIPPED_HEADS, code_of
from fgmae_bench.errors import BenchError


def make_head(
    name: str, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 256, norm: str = "batch"
) -> nn.Module:
    """The head of that name on maps of `dims` channels at `strides` pixels. Raises BenchError on an unknown name or no
    classes.

    Weights are drawn from torch's generator: seed it first.
    """
    _require_one(name)
    kind = code_of("head", name, HEADS)
    if num_classes < 1:
        raise BenchError(f"a head of {num_classes} classes", "take a label scheme with classes")
    head: nn.Module = kind(dims, strides, num_classes, fpn_dim=fpn_dim, norm=norm)
    return head


def _require_one(name: str) -> None:
    """Raise BenchError where a package offers a head under the name of a shipped one."""
    if name in SHIPPED_HEADS and any(p.name == name for p in importlib.metadata.entry_points(group=HEADS_GROUP)):
        raise BenchError(f"the head {name} is defined twice", "rename the entry point")
