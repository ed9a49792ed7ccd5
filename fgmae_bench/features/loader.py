"""Images of a dataset read and viewed ahead of what consumes them, in threads, always in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.index import Rows
from fgmae_bench.views.chip import Chip
from fgmae_bench.views.classification import Augmentation, View

T = TypeVar("T")
R = TypeVar("R")


def read_view(
    dataset: Dataset, view: View, rows: Rows, augmentation: Augmentation | None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Views (B, 2, S, S) of some rows, and which images have few enough invalid pixels."""
    if not len(rows):
        return np.zeros((0, 0), np.uint8), np.zeros(0, bool)
    usable = np.empty(len(rows), bool)

    def chips() -> Iterator[Chip]:  # decoded as the view asks for them: each is viewed while the caches hold it
        for place, row in enumerate(rows):
            chip = dataset.samples.take_chip(row)
            usable[place] = chip.invalid_fraction <= dataset.card.signal.max_invalid_fraction
            yield chip

    return view.batch(chips(), [dataset.index.ids[row] for row in rows], augmentation), usable


def blank_view(dataset: Dataset, view: View, row: int) -> NDArray[Any]:
    """(1, C, S, S): what the view makes of an image of the size that the card states; no file is read.

    Its values are a ramp of backscatter, so that no normaliser meets a band of one value.
    """
    signal = dataset.card.signal
    height, width = signal.size
    ramp = np.linspace(-25, -5, height * width, dtype=np.float32).reshape(height, width)
    chip = Chip(db=np.repeat(ramp[None], len(signal.bands), axis=0), valid=None, synthetic=dataset.synthetic)
    return view.batch([chip], [dataset.index.ids[row]], None)


def ahead(work: Callable[[T], R], chunks: Iterable[T], workers: int) -> Generator[R, None, None]:
    """Results of `work` over chunks in order, computed by threads a few chunks ahead."""
    if workers == 0:
        yield from map(work, chunks)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Any] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(work, chunk))
                # a bounded queue: behind a slow consumer reading waits, and memory does not grow
                if len(waiting) > workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # the consumer has gone: what has not begun need not
            for future in waiting:
                future.cancel()
