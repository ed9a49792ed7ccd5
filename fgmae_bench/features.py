"""Features of a frozen backbone: images read and viewed ahead in threads, forwarded in batches, gathered over processes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fgmae_bench.backbones import Backbone
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.raster import Chip
from fgmae_bench.device import Precision, autocast
from fgmae_bench.distributed import World
from fgmae_bench.errors import RunFailed
from fgmae_bench.views import Augmentation, View

Rows = NDArray[np.int64]
Features = NDArray[np.float32]  # (N, D)


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """All that turns rows of a dataset into features: backbone, view, device and precision."""

    dataset: Dataset
    backbone: Backbone
    view: View
    device: torch.device
    amp: Precision
    workers: int
    world: World
    compiled: bool = False

    @property
    def batch_size(self) -> int:
        """Images a forward pass; no part of the recipe. On a CPU few, so that activations stay in its caches.

        8 at 224 px: with ViT-S on two AVX-512 cores 63 images/s in bfloat16, against 54 at 32 and 48 at 64.
        """
        if self.device.type != "cpu":
            return 256
        side = self.backbone.contract.size or 64
        return min(32, max(8, round(8 * (224 / side) ** 2)))


@dataclass
class Spent:
    """Where the time of extraction went, and how many images it was."""

    images: int = 0
    forward_seconds: float = 0.0
    wait_seconds: float = 0.0


def extract(
    extractor: Extractor, rows: Rows, augmentation: Augmentation | None, spent: Spent
) -> Iterator[tuple[Rows, Features, NDArray[np.bool_]]]:
    """Yield (rows, features (n, D), usable (n,)) batch by batch in the order of `rows`.

    Reading and view run in threads ahead of the forward pass. Images with too many invalid pixels are not usable.
    """
    world = extractor.world
    step = extractor.batch_size * world.size
    chunks = [rows[i : i + step] for i in range(0, len(rows), step)]
    prepared = _ahead(lambda chunk: _prepare(extractor, chunk[world.rank :: world.size], augmentation), chunks, extractor.workers)
    for chunk in chunks:
        start = time.perf_counter()
        batch, usable = world.together(lambda: next(prepared))
        waited = time.perf_counter()
        features = world.interleaved(_forward(extractor, batch), len(chunk))
        usable = world.interleaved(usable[:, None], len(chunk))[:, 0]
        spent.images += len(chunk)
        spent.wait_seconds += waited - start
        spent.forward_seconds += time.perf_counter() - waited
        finite = np.isfinite(features).all(axis=1)
        if not finite[usable].all():
            bad = extractor.dataset.index.ids[chunk[usable & ~finite][0]]
            raise RunFailed(f"the backbone's features of {bad} are not finite; try --amp off, or verify the weights")
        yield chunk, features, usable


def _forward(extractor: Extractor, batch: NDArray[Any]) -> Features:
    """Features (n, D) of a prepared batch (n, 2, S, S); uint8 input is brought to [0, 1] on the device."""
    if not len(batch):
        return np.zeros((0, extractor.backbone.feature_dim), np.float32)
    with torch.inference_mode(), autocast(extractor.amp, extractor.device):
        images = torch.from_numpy(batch).to(extractor.device, non_blocking=True)
        images = images.float().div_(255) if images.dtype == torch.uint8 else images
        features: Features = extractor.backbone.module(images).float().cpu().numpy()
    return features


def _prepare(extractor: Extractor, rows: Rows, augmentation: Augmentation | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read and view a batch: (B, 2, S, S) and which images are usable."""
    dataset = extractor.dataset
    if not len(rows):
        return np.zeros((0, 0), np.uint8), np.zeros(0, bool)
    chips: list[Chip] = [dataset.index.read(row, dataset.card) for row in rows]
    usable = np.array([chip.invalid_fraction <= dataset.card.signal.max_invalid_fraction for chip in chips])
    return extractor.view.batch(chips, [dataset.index.ids[row] for row in rows], augmentation), usable


def _ahead(work: Callable[[Rows], Any], chunks: list[Rows], workers: int) -> Iterator[Any]:
    """Results of `work` over chunks in order, computed by threads a few chunks ahead."""
    if workers == 0:
        yield from map(work, chunks)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Any] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(work, chunk))
                if len(waiting) > workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
