"""Norms of decode heads: group norm, or batch norm over all processes; never batch norm of one process's share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from fgmae_bench.errors import unknown
from fgmae_bench.sync_bn import SyncBatchNorm

Norm = Literal["batch", "group"]
GROUPS, LEAST = 32, 8  # groups at most (Wu & He 2018, arXiv 1803.08494), channels of a group at least


def group_norm(channels: int) -> nn.Module:
    """Group norm with 32 groups, or fewer, so that a group has 8 channels: at 1x1 they are all it has to average over."""
    fitting = [groups for groups in range(1, GROUPS + 1) if channels % groups == 0 and channels // groups >= LEAST]
    return nn.GroupNorm(max(fitting, default=1), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": SyncBatchNorm, "group": group_norm}


def make_norm(name: str, channels: int) -> nn.Module:
    """The norm of that name; raises BenchError with the choices."""
    if name not in NORMS:
        raise unknown("norm", name, NORMS)
    return NORMS[name](channels)
