"""Mean and deviation of backscatter over a set of samples, for backbones whose training input nobody stated."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.data.index import Index
from fgmae_bench.errors import BenchError

Band = tuple[float, ...]


def band_statistics(
    card: Card, index: Index, rows: NDArray[np.int64], order: tuple[int, ...], workers: int
) -> tuple[Band, Band]:
    """(mean, deviation) in the data's units of each band over the valid pixels of `rows`, bands in `order`.

    Sums are kept in float64 around each image's own mean (Chan, Golub & LeVeque 1983), so that neither the number of
    pixels nor their level costs digits. Rounded to .001, so that the last bits of a sum do not tell runs apart.
    """

    def moments(row: int) -> NDArray[np.float64]:
        chip = index.read(row, card)
        found = np.zeros((len(order), 3))
        for i, band in enumerate(order):
            values = chip.db[band] if chip.valid is None else chip.db[band][chip.valid[band]]
            values = values.astype(np.float64)
            if values.size:
                found[i] = values.size, values.mean(), np.square(values - values.mean()).sum()
        return found

    with ThreadPoolExecutor(max(1, workers)) as pool:
        each = np.stack(list(pool.map(moments, rows.tolist())))  # (N, bands, [count, mean, squares])
    counts, means, squares = each[..., 0], each[..., 1], each[..., 2]
    total = counts.sum(0)
    if not len(rows) or (total == 0).any():
        raise BenchError(f"{index.root}: no valid pixel to take statistics from", "look at it with prepare inspect")
    mean = (counts * means).sum(0) / total
    deviation = np.sqrt((squares + counts * np.square(means - mean)).sum(0) / total)
    return tuple(np.round(mean, 3).tolist()), tuple(np.round(deviation, 3).tolist())
