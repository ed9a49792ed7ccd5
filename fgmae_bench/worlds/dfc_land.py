"""The land of a synthetic DFC2020 or SEN12MS: each DFC class at 10 m, and as a coarse satellite labels it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.worlds import covers
from fgmae_bench.worlds.covers import patchy, plain, studded
from fgmae_bench.worlds.scene import MARGIN, Array, farmland, forest, pasture, smooth, water

Rng = np.random.Generator
Codes = NDArray[np.uint8]

BLOCK = 50  # pixels of 10 m on a side of a MODIS pixel
MIN_SHARE = 0.1  # of a tile that each of its classes takes at least

# DFC code -> how it is painted on a canvas of some size, (2, canvas, canvas) in dB.
LAND: dict[int, Callable[[Rng, int], Array]] = {
    1: forest,
    2: lambda rng, canvas: studded(rng, plain(rng, "scrub", canvas, texture_db=1.2), "forest", 0.05),
    3: lambda rng, canvas: studded(rng, plain(rng, "herbs", canvas), "forest", 0.15),
    4: pasture,
    5: lambda rng, canvas: patchy(rng, plain(rng, "marsh", canvas, texture_db=1.5), water(rng, canvas), 0.15, 4),
    6: lambda rng, canvas: farmland(rng, rng.uniform(1.2, 2.4), canvas),
    7: covers.residential,
    9: lambda rng, canvas: patchy(rng, plain(rng, "bare", canvas, texture_db=1.5), plain(rng, "sand", canvas), 0.3),
    10: water,
}
LANDSCAPES: dict[str, tuple[int, ...]] = {
    "coast": (10, 5, 9, 7),
    "farmland": (6, 1, 4, 7),
    "hills": (1, 4, 2, 9),
    "wet": (5, 10, 4, 1),
    "dry": (2, 9, 4, 6),
    "town": (7, 6, 10, 1),
    "savanna": (3, 1, 4, 6),
}
DFC_LANDSCAPES = ("coast", "farmland", "hills", "wet", "dry", "town")  # no Savanna, as in the published labels

# DFC code -> IGBP codes that MODIS gives it, with probabilities: right most of the time, else what is met nearby.
SEEN_AS: dict[int, dict[int, float]] = {
    1: {5: 0.4, 4: 0.2, 1: 0.2, 8: 0.2},
    2: {7: 0.45, 6: 0.1, 10: 0.25, 8: 0.2},
    3: {9: 0.6, 8: 0.3, 10: 0.1},
    4: {10: 0.6, 12: 0.2, 9: 0.2},
    5: {11: 0.45, 10: 0.3, 8: 0.15, 17: 0.1},
    6: {12: 0.7, 14: 0.2, 10: 0.1},
    7: {13: 0.75, 12: 0.15, 14: 0.1},
    9: {16: 0.6, 7: 0.25, 10: 0.15},
    10: {17: 0.95, 11: 0.05},
}
# IGBP code -> codes of LCCS land cover, land use and surface hydrology.
LCCS: dict[int, tuple[int, int, int]] = {
    1: (11, 10, 10),
    2: (12, 10, 10),
    3: (13, 10, 10),
    4: (14, 10, 10),
    5: (15, 10, 10),
    6: (41, 40, 40),
    7: (43, 40, 40),
    8: (21, 20, 20),
    9: (22, 20, 20),
    10: (31, 30, 30),
    11: (31, 30, 50),
    12: (31, 36, 30),
    13: (1, 9, 1),
    14: (42, 35, 30),
    15: (2, 2, 2),
    16: (1, 1, 1),
    17: (3, 3, 3),
}


def draw_classes(rng: Rng, landscape: str) -> list[int]:
    """DFC codes of a tile: two to four of its landscape."""
    choices = LANDSCAPES[landscape]
    return rng.permutation(choices)[: int(rng.integers(2, len(choices) + 1))].tolist()


def truth(rng: Rng, classes: list[int], canvas: int) -> Codes:
    """DFC code (canvas, canvas) of each pixel: areas of each class, MIN_SHARE or more of the tile each."""
    relief = smooth(rng, rng.uniform(0.08, 0.2) * canvas, canvas) + 0.12 * smooth(rng, 3, canvas)
    share = MIN_SHARE + (1 - len(classes) * MIN_SHARE) * rng.dirichlet(np.full(len(classes), 1.5))
    bounds = np.quantile(relief[MARGIN:-MARGIN, MARGIN:-MARGIN], np.cumsum(share)[:-1])
    return np.array(classes, np.uint8)[np.searchsorted(bounds, relief)]


def paint(rng: Rng, codes: Codes) -> Array:
    """Ground (2, H, W) in dB under DFC codes (H, W)."""
    ground = np.zeros((2, *codes.shape), np.float32)
    for code in np.unique(codes).tolist():
        ground = np.where(codes == code, LAND[code](rng, codes.shape[0]), ground)
    return ground.astype(np.float32, copy=False)


def modis(rng: Rng, codes: Codes) -> NDArray[np.uint16]:
    """IGBP and LCCS (4, H, W) of a coarse satellite over DFC codes (H, W): blocks of BLOCK pixels, partly wrong.

    A block takes the class that is most of it, as an IGBP code drawn by SEEN_AS; the grid of blocks starts anywhere.
    """
    height, width = codes.shape
    top, left = rng.integers(0, BLOCK, 2)
    row, column = (np.arange(height) + top) // BLOCK, (np.arange(width) + left) // BLOCK
    igbp = np.zeros((row[-1] + 1, column[-1] + 1), np.int64)
    for place in np.ndindex(igbp.shape):
        inside = codes[np.ix_(row == place[0], column == place[1])]
        seen = SEEN_AS[int(np.bincount(inside.ravel()).argmax())]
        igbp[place] = rng.choice(list(seen), p=list(seen.values()))
    lccs = np.array([LCCS.get(code, (0, 0, 0)) for code in range(18)])
    bands = np.stack([igbp, *(lccs[igbp, band] for band in range(3))])
    return bands[:, row][:, :, column].astype(np.uint16)
