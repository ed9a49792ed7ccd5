"""Decoders of other libraries as heads: how one that is not installed is named, and their norms and maps made ours."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fgmae_bench.errors import BenchError
from fgmae_bench.models.heads.layers import PooledBatchNorm, resized
from fgmae_bench.models.norms import group_norm

EXTRA = "heads"


def library(head: str, module: str, what: str = "head") -> Any:
    """A module of the library that carries a head, or `what` else; raises BenchError naming the extra without it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise BenchError(
            f"the {what} {head} needs {package}, which cannot be imported ({error})",
            f"install it with: pip install 'fgmae-bench[{EXTRA}]'",
        ) from error


def with_norm(module: nn.Module, norm: str) -> nn.Module:
    """The module with its batch norms over all processes, the same keys and numbers, or group norms in their place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            made: nn.Module = group_norm(child.num_features)
            if norm == "batch":
                made = PooledBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum or 0.1)
                made.load_state_dict(child.state_dict())
            setattr(module, name, made)
        else:
            with_norm(child, norm)
    return module


def doubling(maps: Sequence[Tensor], least: int = 1) -> list[Tensor]:
    """The maps, each twice as large as the next, as decoders of fixed steps want them; only odd sizes are resized.

    `least`: what the coarsest is a multiple of at least.
    """
    height, width = (-(-side // least) * least for side in maps[-1].shape[-2:])
    sizes = [(height << step, width << step) for step in reversed(range(len(maps)))]
    return [
        level if tuple(level.shape[-2:]) == size else resized(level, size)
        for level, size in zip(maps, sizes, strict=True)
    ]
