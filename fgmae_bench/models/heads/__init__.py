"""Decode heads: feature maps of a backbone to logits of each pixel, one file a family.

To add one: a file here with its class, and its line in `fgmae_bench.config.names.HEADS`; `--head`, the protocol
`frozen_<name>`, help and the Python API follow. The class takes `(dims, strides, num_classes, *, fpn_dim, norm)`, the
channels and strides (pixels) of the maps, finest first, and maps (maps, size) to logits (B, K, *size). In training it
may give `fgmae_bench.models.heads.outputs.Learnt` in their place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from fgmae_bench.config.names import HEADS, HEADS_GROUP, NECKS, SHIPPED_HEADS, code_of
from fgmae_bench.config.plugins import REPAIR, entry_points, foreign
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.models.heads.fcn import AUXILIARY_WEIGHT, Auxiliary
from fgmae_bench.models.heads.necks import SCALES, MultiLevelNeck, Necked
from fgmae_bench.models.heads.outputs import KINDS, PIXELS, Extra, Learnt, with_extra
from fgmae_bench.models.heads.psa import PSA


def make_head(
    name: str,
    dims: Sequence[int],
    strides: Sequence[int],
    num_classes: int,
    *,
    fpn_dim: int = 256,
    norm: str = "batch",
    neck: str = "scales",
    auxiliary: bool = False,
    dropout: float = 0.0,
) -> nn.Module:
    """The head of that name on maps of `dims` channels at `strides` pixels. Raises BenchError on an unknown name or no
    classes.

    `neck` stands between maps of one stride and a head that wants a pyramid; `auxiliary` adds a second loss in
    training; `dropout` is the rate of every dropout layer. Weights are drawn from torch's generator: seed it first.
    """
    _require_one(name)
    kind = code_of("head", name, HEADS)
    if neck not in NECKS:
        raise unknown("neck", neck, NECKS)
    if num_classes < 1:
        raise BenchError(f"a head of {num_classes} classes", "take a label scheme with classes")
    between = MultiLevelNeck(dims, fpn_dim) if neck == "multilevel" and len(set(strides)) == 1 else None
    if between is not None and len(dims) != len(SCALES):
        raise BenchError(f"--neck {neck} on {len(dims)} maps", "name four blocks")
    seen = (dims, strides)
    if between is not None:
        seen = (
            [fpn_dim] * len(dims),
            [max(1, int(stride / scale)) for stride, scale in zip(strides, SCALES, strict=True)],
        )
    head: nn.Module
    if name in SHIPPED_HEADS:
        head = kind(*seen, num_classes, fpn_dim=fpn_dim, norm=norm)
    else:
        with foreign(f"the head {name} cannot be built", REPAIR, kind.__module__):
            head = kind(*seen, num_classes, fpn_dim=fpn_dim, norm=norm)
    if between is not None:
        head = Necked(between, head)
    if auxiliary:
        head = WithAuxiliary(head, Auxiliary(dims, num_classes, norm))
    for layer in head.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.p = dropout
    return head


def require_usable(
    name: str, head: nn.Module, dims: Sequence[int], strides: Sequence[int], num_classes: int, size: tuple[int, int]
) -> None:
    """Raise BenchError where a head does not take the maps of an image of `size`: before they are computed of all.

    A copy of one of another package is asked, in training and in evaluation, with zeros: it must give (B, K, *size).
    """
    grids = [[math.ceil(side / stride) for side in size] for stride in strides]
    if name in SHIPPED_HEADS:
        for part in head.modules():
            if isinstance(part, PSA):
                part.require_grid(grids[-1])
        return
    maps = [torch.zeros(2, dim, *grid) for dim, grid in zip(dims, grids, strict=True)]
    for training in (True, False):
        asked = deepcopy(head).train(training)
        with torch.no_grad(), foreign(f"the head {name} cannot be used", REPAIR, type(head).__module__):
            out = asked(maps, size)
        fault = _fault_of(out, (2, num_classes, *size), training)
        if fault:
            raise BenchError(f"the head {name} gives {fault}", REPAIR)


def _fault_of(out: object, wanted: tuple[int, ...], training: bool) -> str | None:
    """What is wrong with an output; in training it may be `Learnt`, and logits of another size, which are resized."""
    logits: object = out
    if training and isinstance(out, Learnt):
        strange = [extra.kind for extra in out.extra if extra.kind not in KINDS]
        if strange:
            return f"the loss '{strange[0]}', not one of {', '.join(KINDS)}"
        if out.logits is None and out.extra:
            return None
        logits = out.logits
    if not isinstance(logits, Tensor):
        return f"{type(logits).__name__}, not logits (B, K, H, W)"
    compared = 2 if training else len(wanted)
    if logits.dim() != len(wanted) or tuple(logits.shape[:compared]) != wanted[:compared]:
        return f"{tuple(logits.shape)}, not {wanted}"
    return None


class WithAuxiliary(nn.Module):
    """A head, and in training the loss of another on the same maps."""

    def __init__(self, head: nn.Module, auxiliary: nn.Module):
        super().__init__()
        self.head, self.auxiliary = head, auxiliary

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor | Learnt:
        """As the head's."""
        out: Tensor | Learnt = self.head(maps, size)
        if not self.training:
            return out
        second = self.auxiliary.decode(maps)  # type: ignore[operator]
        return with_extra(out, Extra(PIXELS, AUXILIARY_WEIGHT, (second,)))


def _require_one(name: str) -> None:
    """Raise BenchError where a package offers a head under the name of a shipped one."""
    if name in SHIPPED_HEADS and any(p.name == name for p in entry_points(group=HEADS_GROUP)):
        raise BenchError(f"the head {name} is defined twice", "rename the entry point")
