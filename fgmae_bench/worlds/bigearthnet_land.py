"""The land of a synthetic BigEarthNet: how each of the 43 CORINE classes looks, and which of them belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.worlds import covers
from fgmae_bench.worlds.covers import patchy, plain, studded
from fgmae_bench.worlds.scene import MARGIN, Array, farmland, forest, level, meander, pasture, smooth, water

SIZE = 120  # pixels of 10 m on a side of a patch
CANVAS = SIZE + 2 * MARGIN
MIN_SHARE = 0.08  # of a patch that each of its classes takes at least

Rng = np.random.Generator


def _fields(rng: Rng, contrast: float = 1.8) -> Array:
    return farmland(rng, rng.uniform(0.5, 1.3) * contrast, CANVAS)


def _grass(rng: Rng) -> Array:
    return pasture(rng, CANVAS)


def _wood(rng: Rng, cover: str = "forest") -> Array:
    return plain(rng, cover, CANVAS, texture_db=0.8, scale=2.5)


def _mixed_wood(rng: Rng) -> Array:
    return patchy(rng, forest(rng, CANVAS), _wood(rng, "conifers"), 0.5)


def _orchard(rng: Rng) -> Array:
    return covers.permanent_crop(rng, CANVAS)


def _town(rng: Rng, density: float) -> Array:
    return covers.residential(rng, CANVAS, density)


def _suburb(rng: Rng) -> Array:
    return patchy(rng, _town(rng, 0.7), _grass(rng), rng.uniform(0.1, 0.4))


def _works(rng: Rng) -> Array:
    return covers.industrial(rng, CANVAS)


def _pit(rng: Rng) -> Array:
    return patchy(rng, plain(rng, "bare", CANVAS, texture_db=2, scale=4), _works(rng), 0.15, 4)


def _open(rng: Rng, cover: str, trees: float = 0.0, texture_db: float = 0.8) -> Array:
    return studded(rng, plain(rng, cover, CANVAS, texture_db=texture_db), "forest", trees)


def _water(rng: Rng) -> Array:
    return water(rng, CANVAS)


# Class -> how it is painted, (2, CANVAS, CANVAS) in dB; the 43 in the order of their CORINE codes.
LAND: dict[str, Callable[[Rng], Array]] = {
    "Continuous urban fabric": lambda rng: _town(rng, 1.6),
    "Discontinuous urban fabric": _suburb,
    "Industrial or commercial units": _works,
    "Road and rail networks and associated land": lambda rng: covers.highway(rng, CANVAS),
    "Port areas": lambda rng: patchy(rng, _works(rng), _water(rng), 0.4, 12),
    "Airports": lambda rng: patchy(rng, _open(rng, "grass"), plain(rng, "asphalt", CANVAS), 0.25, 12),
    "Mineral extraction sites": _pit,
    "Dump sites": lambda rng: plain(rng, "bare", CANVAS, texture_db=2.2, scale=3),
    "Construction sites": lambda rng: patchy(rng, plain(rng, "bare", CANVAS), _works(rng), 0.3),
    "Green urban areas": lambda rng: patchy(rng, _grass(rng), _wood(rng), 0.4),
    "Sport and leisure facilities": lambda rng: patchy(rng, _grass(rng), _wood(rng), 0.25, 5),
    "Non-irrigated arable land": _fields,
    "Permanently irrigated land": lambda rng: _fields(rng, 2.5),
    "Rice fields": lambda rng: level(rng, "paddy") - level(rng, "crop", 0) + _fields(rng, 2.0),
    "Vineyards": _orchard,
    "Fruit trees and berry plantations": _orchard,
    "Olive groves": lambda rng: studded(rng, plain(rng, "crop", CANVAS), "orchard", 0.3),
    "Pastures": _grass,
    "Annual crops associated with permanent crops": lambda rng: patchy(rng, _fields(rng), _orchard(rng), 0.5),
    "Complex cultivation patterns": lambda rng: patchy(
        rng, _fields(rng, 2.5), patchy(rng, _orchard(rng), _grass(rng), 0.5), 0.5, 6
    ),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        lambda rng: patchy(rng, _fields(rng), patchy(rng, _wood(rng), _open(rng, "herbs"), 0.4), 0.45, 9)
    ),
    "Agro-forestry areas": lambda rng: _open(rng, "grass", 0.12),
    "Broad-leaved forest": lambda rng: forest(rng, CANVAS),
    "Coniferous forest": lambda rng: _wood(rng, "conifers"),
    "Mixed forest": _mixed_wood,
    "Natural grassland": lambda rng: _open(rng, "grass", 0.01, 1.1),
    "Moors and heathland": lambda rng: _open(rng, "heath", 0.02),
    "Sclerophyllous vegetation": lambda rng: _open(rng, "scrub", 0.15, 1.2),
    "Transitional woodland/shrub": lambda rng: patchy(rng, _wood(rng), _open(rng, "herbs", 0.1), 0.5, 5),
    "Beaches, dunes, sands": lambda rng: plain(rng, "sand", CANVAS, texture_db=1.0),
    "Bare rock": lambda rng: plain(rng, "rock", CANVAS, texture_db=2.5, scale=6),
    "Sparsely vegetated areas": lambda rng: patchy(
        rng, plain(rng, "rock", CANVAS, texture_db=1.8), _open(rng, "herbs"), 0.4
    ),
    "Burnt areas": lambda rng: _open(rng, "bare", 0.05),
    "Inland marshes": lambda rng: patchy(rng, _open(rng, "marsh", 0, 1.5), _water(rng), 0.15, 4),
    "Peatbogs": lambda rng: _open(rng, "bog", 0.03),
    "Salt marshes": lambda rng: patchy(rng, _open(rng, "marsh"), plain(rng, "mudflat", CANVAS), 0.35, 4),
    "Salines": lambda rng: level(rng, "mudflat") - level(rng, "crop", 0) + _fields(rng, 3.0),
    "Intertidal flats": lambda rng: patchy(rng, plain(rng, "mudflat", CANVAS, texture_db=1.5), _water(rng), 0.25),
    "Water courses": _water,
    "Water bodies": _water,
    "Coastal lagoons": _water,
    "Estuaries": _water,
    "Sea and ocean": _water,
}
STRIPS = ("Water courses",)  # painted as a strip across the patch where there is any other class

# Landscape -> its classes and how often each is met there. What shares a landscape shares patches: this is what
# correlates labels.
LANDSCAPES: dict[str, dict[str, float]] = {
    "boreal": {
        "Coniferous forest": 6,
        "Mixed forest": 5,
        "Transitional woodland/shrub": 4,
        "Broad-leaved forest": 1.5,
        "Water bodies": 2.5,
        "Peatbogs": 1.2,
        "Non-irrigated arable land": 0.8,
    },
    "woods": {
        "Broad-leaved forest": 5,
        "Mixed forest": 4,
        "Coniferous forest": 3,
        "Transitional woodland/shrub": 2,
        "Pastures": 1,
        ("Land principally occupied by agriculture, with significant areas of natural vegetation"): 2,
        "Water courses": 0.5,
    },
    "cropland": {
        "Non-irrigated arable land": 7,
        "Pastures": 3,
        "Complex cultivation patterns": 2,
        "Broad-leaved forest": 1.5,
        "Land principally occupied by agriculture, with significant areas of natural vegetation": 2,
        "Discontinuous urban fabric": 1.2,
        "Water courses": 0.5,
        "Permanently irrigated land": 0.3,
    },
    "pastoral": {
        "Pastures": 7,
        "Non-irrigated arable land": 3,
        "Peatbogs": 1,
        "Moors and heathland": 0.8,
        "Discontinuous urban fabric": 0.6,
        ("Land principally occupied by agriculture, with significant areas of natural vegetation"): 2,
        "Natural grassland": 0.7,
    },
    "bog": {
        "Peatbogs": 5,
        "Moors and heathland": 1.5,
        "Pastures": 2,
        "Coniferous forest": 2,
        "Transitional woodland/shrub": 2,
        "Water bodies": 1.5,
        "Inland marshes": 1.5,
    },
    "town": {
        "Discontinuous urban fabric": 7,
        "Industrial or commercial units": 4,
        "Continuous urban fabric": 2,
        "Green urban areas": 0.8,
        "Sport and leisure facilities": 0.8,
        ("Road and rail networks and associated land"): 0.7,
        "Mineral extraction sites": 0.5,
        "Airports": 0.3,
        "Construction sites": 0.3,
        "Dump sites": 0.2,
        "Non-irrigated arable land": 3,
        "Pastures": 1.2,
        "Complex cultivation patterns": 1.5,
        "Water courses": 0.5,
    },
    "montado": {
        "Agro-forestry areas": 6,
        "Broad-leaved forest": 3,
        "Sclerophyllous vegetation": 1.5,
        "Transitional woodland/shrub": 3,
        "Olive groves": 1,
        "Non-irrigated arable land": 2,
        "Permanently irrigated land": 0.8,
        "Rice fields": 0.5,
        "Burnt areas": 0.3,
    },
    "orchards": {
        "Vineyards": 3,
        "Olive groves": 2.5,
        "Fruit trees and berry plantations": 2,
        "Complex cultivation patterns": 4,
        ("Annual crops associated with permanent crops"): 1.5,
        "Discontinuous urban fabric": 1.5,
        "Sclerophyllous vegetation": 0.8,
        "Land principally occupied by agriculture, with significant areas of natural vegetation": 2.5,
    },
    "mountain": {
        "Natural grassland": 3,
        "Sparsely vegetated areas": 2,
        "Bare rock": 1.5,
        "Moors and heathland": 2,
        "Coniferous forest": 3,
        "Transitional woodland/shrub": 1.5,
        "Pastures": 1,
        "Water bodies": 0.4,
    },
    "coast": {
        "Sea and ocean": 7,
        "Beaches, dunes, sands": 1.5,
        "Salt marshes": 1,
        "Intertidal flats": 1,
        "Salines": 0.5,
        "Estuaries": 1,
        "Coastal lagoons": 0.8,
        "Port areas": 0.5,
        "Discontinuous urban fabric": 1.5,
        "Pastures": 1,
        "Moors and heathland": 0.5,
    },
    "sea": {"Sea and ocean": 1},
}
LABEL_COUNTS = (0.22, 0.28, 0.25, 0.15, 0.10)  # probabilities of 1, 2, … 5 labels


def draw_labels(rng: Rng, landscape: str, count: int, alone: Sequence[str]) -> list[tuple[str, ...]]:
    """Labels of `count` patches of one landscape, each in nomenclature order.

    In a random order every class of the landscape leads one patch (as far as they go), then classes by weight; the
    others of a patch are drawn by weight. The first class of the landscape that is in `alone` stays alone where it
    leads in that first round.
    """
    names, weights = list(LANDSCAPES[landscape]), np.array(list(LANDSCAPES[landscape].values()))
    leaders = [*range(len(names))][:count]
    leaders += rng.choice(len(names), count - len(leaders), p=weights / weights.sum()).tolist()
    lonely = next((number for number, name in enumerate(names) if name in alone), None)
    order = list(LAND)
    drawn = []
    for place, leader in enumerate(leaders):
        wanted = min(int(rng.choice(len(LABEL_COUNTS), p=LABEL_COUNTS)), len(names) - 1)
        others = np.where(np.arange(len(names)) == leader, 0, weights)
        company = rng.choice(len(names), wanted, replace=False, p=others / others.sum()).tolist() if wanted else []
        chosen = [leader] if place == lonely else [leader, *company]
        drawn.append(tuple(sorted((names[number] for number in chosen), key=order.index)))
    return [drawn[place] for place in rng.permutation(count)]


def paint(rng: Rng, labels: Sequence[str]) -> Array:
    """Ground (2, CANVAS, CANVAS) in dB of a patch in which each of `labels` takes MIN_SHARE or more."""
    areas = [name for name in labels if name not in STRIPS] or list(labels)
    number = _areas(rng, len(areas))
    ground = LAND[areas[0]](rng)
    for place, name in enumerate(areas[1:], start=1):
        ground = np.where(number == place, LAND[name](rng), ground)
    for name in labels:
        if name not in areas:
            across = np.abs(meander(rng, rng.uniform(2, 14), CANVAS))
            ground = np.where(across < np.quantile(across, rng.uniform(MIN_SHARE, 0.15)), LAND[name](rng), ground)
    return ground.astype(np.float32, copy=False)


def _areas(rng: Rng, count: int) -> NDArray[np.int64]:
    """Numbers 0 … count-1 (H, W) of areas with random shares, each MIN_SHARE or more of the patch."""
    if count == 1:
        return np.zeros((CANVAS, CANVAS), np.int64)
    relief = smooth(rng, rng.uniform(10, 25), CANVAS) + 0.15 * smooth(rng, 3, CANVAS)
    share = MIN_SHARE + (1 - count * MIN_SHARE) * rng.dirichlet(np.full(count, 1.5))
    order = rng.permutation(count)
    bounds = np.quantile(relief[MARGIN:-MARGIN, MARGIN:-MARGIN], np.cumsum(share[order])[:-1])
    return order[np.searchsorted(bounds, relief)]
