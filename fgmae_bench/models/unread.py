"""Pixels at the right and lower side that strided layers leave out, as where a size is not divided by the strides."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fgmae_bench.errors import note

log = logging.getLogger("fgmae_bench")
STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


@contextmanager
def watched(module: nn.Module, size: int) -> Iterator[list[float]]:
    """Within it a forward pass of images of `size` pixels adds to the list how many of them a layer leaves out."""
    found: list[float] = []

    def look(layer: Any, inputs: tuple[Any, ...], out: Any) -> None:
        if not inputs or not isinstance(inputs[0], Tensor) or not isinstance(out, Tensor):
            return
        for axis in (-2, -1):
            kernel, stride, padding = (
                _along(getattr(layer, name), axis) for name in ("kernel_size", "stride", "padding")
            )
            rest = inputs[0].shape[axis] - (out.shape[axis] - 1) * stride - kernel
            # a kernel below its stride, as of a ResNet's shortcut, passes over pixels wherever it is
            if kernel >= stride > 1 and padding == 0 and rest > 0:
                found.append(rest * size / inputs[0].shape[axis])

    hooks = [layer.register_forward_hook(look) for layer in module.modules() if isinstance(layer, STRIDED)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _along(value: Any, axis: int) -> int:
    """A layer's number for an axis; 0 for padding that a word names: torch allows words without stride alone."""
    value = value[axis] if isinstance(value, tuple | list) else value
    return value if isinstance(value, int) else 0


def unread_notes(name: str, module: nn.Module, size: int) -> tuple[dict[str, str], ...]:
    """A note, and a warning, where pixels of each side were found to be left out; see `PooledMap.unread`."""
    pixels = round(getattr(module, "unread", 0))
    if not pixels:
        return ()
    levels = getattr(getattr(module, "inner", None), "feature_info", None)
    stride = max((int(level["reduction"]) for level in levels), default=0) if levels else 0
    good = f"; {size // stride * stride or stride} px are read whole" if stride and size % stride else ""
    text = f"{name} at {size} px: its strides leave out the last {pixels} px of each side, in whole or in part{good}"
    log.warning("%s", text)
    return (note("unread_pixels", text),)
