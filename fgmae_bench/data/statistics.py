"""Mean and deviation of backscatter over a set of samples, for backbones whose training input nobody stated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip

Band = tuple[float, ...]


def moments(chip: Chip) -> NDArray[np.float64]:
    """(bands, 3): number of valid pixels of each band, their mean, and the sum of squares around it."""
    found = np.zeros((len(chip.db), 3))
    for band, values in enumerate(chip.db):
        kept = (values if chip.valid is None else values[chip.valid[band]]).astype(np.float64)
        if kept.size:
            found[band] = kept.size, kept.mean(), np.square(kept - kept.mean()).sum()
    return found


def mean_and_deviation(each: NDArray[np.float64], order: tuple[int, ...]) -> tuple[Band, Band]:
    """(mean, deviation) of each band, in `order`, from the moments (N, bands, 3) of N images.

    Each image's squares are around its own mean (Chan, Golub & LeVeque 1983), so that neither the number of pixels nor
    their level costs digits. Rounded to .001, so that runs do not differ by the last bits of a sum. Raises BenchError
    where a band has no valid pixel.
    """
    counts, means, squares = (each[:, list(order), i] for i in range(3))
    total = counts.sum(0)
    if not len(each) or (total == 0).any():
        raise BenchError("no valid pixel to take statistics from", "look at the data with prepare inspect")
    mean = (counts * means).sum(0) / total
    deviation = np.sqrt((squares + counts * np.square(means - mean)).sum(0) / total)
    return tuple(np.round(mean, 3).tolist()), tuple(np.round(deviation, 3).tolist())


def by_runs(
    ids: Sequence[str], each: NDArray[np.float64], order: tuple[int, ...], count: int
) -> dict[str, tuple[Band, Band]]:
    """(mean, deviation) by sample id of the run of `count` images that it is in, in the data's own order; the last run
    is what is left over. Neither the split nor the device changes them.
    """
    found: dict[str, tuple[Band, Band]] = {}
    for start in range(0, len(ids), count):
        run = slice(start, start + count)
        found |= dict.fromkeys(ids[run], mean_and_deviation(each[run], order))
    return found
