"""How far decode heads agree on a ranking of encoders: Kendall's tau-b of their scores, its interval over scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics import table
from fgmae_bench.metrics.ranks import kendall_tau_b
from fgmae_bench.metrics.statistics import Confusion
from fgmae_bench.system.randomness import generator

MODELS_FOR_AN_INTERVAL = 8  # encoders; a tau of fewer is shown as a point
DRAWS, LEVEL = 1000, 0.95


@dataclass(frozen=True, kw_only=True)
class HeadAgreement:
    """tau-b of the rankings by two heads; `interval` is None where there are too few encoders, or scenes."""

    heads: tuple[str, str]
    tau: float
    interval: tuple[float, float] | None


def miou(confusions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean IoU (...) of confusions (..., K, K or K + 1) over the classes that have reference pixels."""
    *lead, classes, columns = confusions.shape
    return table.miou(Confusion(confusions.reshape(-1, classes, columns))).reshape(lead)


def agreements(confusions: dict[str, NDArray[np.float64]], seed: int = 0) -> list[HeadAgreement]:
    """tau-b of each pair of heads; `confusions` by head are (M encoders, N scenes, K, C), the same scenes for all.

    The interval draws scenes with replacement and ranks the encoders anew, 95 %, where there are eight encoders or
    more and two scenes.
    """
    (models, scenes) = next(iter(confusions.values())).shape[:2]
    whole = {head: miou(each.sum(1)) for head, each in confusions.items()}
    drawn: dict[str, NDArray[np.float64]] = {}
    if models >= MODELS_FOR_AN_INTERVAL and scenes > 1:
        rows = generator(seed, "heads", scenes).integers(0, scenes, (DRAWS, scenes))
        counts = np.stack([np.bincount(row, minlength=scenes) for row in rows]).astype(np.float64)  # (draws, N)
        drawn = {head: miou(np.einsum("dn,mnij->dmij", counts, each)) for head, each in confusions.items()}
    found = []
    for pair in combinations(confusions, 2):
        interval = None
        if drawn:
            taus = [kendall_tau_b(a, b) for a, b in zip(*(drawn[head] for head in pair), strict=True)]
            low, high = np.nanquantile(taus, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            interval = float(low), float(high)
        found.append(HeadAgreement(heads=pair, tau=kendall_tau_b(*(whole[head] for head in pair)), interval=interval))
    return found


def by_group(confusions: NDArray[np.float64], groups: Sequence[str] | None) -> NDArray[np.float64]:
    """Confusions (N, K, C) of images summed by their group, in the order of names; images stay where there are none."""
    if groups is None:
        return confusions.astype(np.float64)
    names = sorted(set(groups))
    places = np.array([names.index(group) for group in groups])
    total = np.zeros((len(names), *confusions.shape[1:]))
    np.add.at(total, places, confusions)
    return total
