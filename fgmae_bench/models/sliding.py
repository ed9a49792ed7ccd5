"""Sliding windows: a scene larger than a model's input, predicted piece by piece, averaged where pieces overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fgmae_bench.errors import BenchError


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of windows that cover `length` pixels: `stride` apart, the last flush with the border.

    Raises BenchError on a window or stride below 1, and on a stride beyond the window, which would leave pixels out.
    """
    if not 1 <= stride <= window:
        raise BenchError(
            f"--stride {stride} with windows of {window} px", f"give 1 to {window}, for example {max(1, window // 2)}"
        )
    last = max(0, length - window)
    return [*range(0, last, stride), last]


def sliding_window(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    window: int,
    stride: int,
    average: Literal["logits", "probabilities"] = "logits",
    batch_size: int = 8,
) -> Tensor:
    """Mean (B, K, H, W) float32 over all windows that hold a pixel, of what `predict` makes of (b, C, window, window).

    `predict` returns logits (b, K, window, window); `probabilities` averages their softmax. A scene smaller than the
    window is extended by its border pixels, and what is outside is cut away again. Nothing is padded otherwise.
    """
    height, width = images.shape[-2:]
    images = _extended(images, window)
    places = [
        (b, top, left)
        for b in range(len(images))
        for top in window_starts(images.shape[-2], window, stride)
        for left in window_starts(images.shape[-1], window, stride)
    ]
    # Windows of all images in batches; a pixel's sum is divided by the windows that hold it.
    total: Tensor | None = None
    visits = torch.zeros(images.shape[-2:], device=images.device)  # (H, W), the same for every image
    for start in range(0, len(places), batch_size):
        part = places[start : start + batch_size]
        out = predict(
            torch.stack([images[b, :, top : top + window, left : left + window] for b, top, left in part])
        ).float()
        if out.dim() != 4 or out.shape[-2:] != (window, window):
            raise BenchError(
                f"windows of {window} px gave predictions of shape {tuple(out.shape)}",
                "predict each pixel of the window",
            )
        if average == "probabilities":
            out = out.softmax(dim=1)
        if total is None:
            total = torch.zeros(len(images), out.shape[1], *images.shape[-2:], device=out.device)
            visits = visits.to(out.device)
        for (b, top, left), logits in zip(part, out, strict=True):
            total[b, :, top : top + window, left : left + window] += logits
            if b == 0:
                visits[top : top + window, left : left + window] += 1
    if total is None:
        raise BenchError("no image to predict", "give at least one")
    return (total / visits)[..., :height, :width]


@dataclass(frozen=True)
class Windows:
    """The windows of square scenes of `side` pixels, whose maps are kept in the bank one after the other."""

    side: int
    window: int
    stride: int

    @property
    def places(self) -> list[tuple[int, int]]:
        """First row and column of each."""
        starts = window_starts(self.side, self.window, self.stride)
        return [(top, left) for top in starts for left in starts]

    def cut(self, scenes: Tensor) -> Iterator[Tensor]:
        """Scenes (B, C, side, side) to each window of all of them, (B, C, window, window)."""
        for top, left in self.places:
            yield scenes[..., top : top + self.window, left : left + self.window]

    def stitched(self, pieces: Sequence[Tensor]) -> Tensor:
        """Logits (K, window, window) of a scene's windows to (K, side, side) float32, means where they overlap."""
        total = torch.zeros(pieces[0].shape[0], self.side, self.side, device=pieces[0].device)
        visits = torch.zeros(self.side, self.side, device=pieces[0].device)
        for (top, left), piece in zip(self.places, pieces, strict=True):
            total[:, top : top + self.window, left : left + self.window] += piece
            visits[top : top + self.window, left : left + self.window] += 1
        return total / visits


def _extended(images: Tensor, window: int) -> Tensor:
    """Images (B, C, H, W) with at least `window` pixels a side: border pixels repeated to the right and below."""
    for axis in (-2, -1):
        length = images.shape[axis]
        if length < window:
            images = images.index_select(axis, torch.arange(window, device=images.device).clamp(max=length - 1))
    return images
