"""Land covers over Europe: each function paints a ground (2, canvas, canvas) of sigma0 in dB, VV and VH."""

from __future__ import annotations

import numpy as np

from fgmae_bench.worlds.scene import (
    CANVAS,
    Array,
    axes,
    both,
    farmland,
    fields,
    forest,
    level,
    meander,
    pasture,
    points,
    rows,
    smooth,
    water,
)


def _many(count: float, canvas: int) -> int:
    """A number of things that is meant for CANVAS, at the same density on another canvas."""
    return int(count * (canvas / CANVAS) ** 2)


def plain(
    rng: np.random.Generator, cover: str, canvas: int = CANVAS, *, texture_db: float = 0.7, scale: float = 5.0
) -> Array:
    """One cover everywhere, uneven by `texture_db` over about `scale` pixels."""
    return level(rng, cover, 0.9) + both(
        rng.uniform(0.6, 1.4) * texture_db * smooth(rng, rng.uniform(0.6, 1.6) * scale, canvas)
    )


def studded(rng: np.random.Generator, ground: Array, cover: str, share: float) -> Array:
    """`ground` with another cover in single pixels, on `share` of it at most: trees, rocks or shrubs."""
    canvas = ground.shape[-1]
    return np.where(
        points(rng, int(rng.uniform(0.3, 1) * share * canvas**2), canvas=canvas), level(rng, cover) + 2, ground
    )


def patchy(rng: np.random.Generator, ground: Array, other: Array, share: float, scale: float = 8.0) -> Array:
    """`ground` with `other` in clearings and copses that take about `share` of it."""
    relief = smooth(rng, scale, ground.shape[-1])
    return np.where(relief > np.quantile(relief[::4, ::4], 1 - share), other, ground)


def annual_crop(rng: np.random.Generator, canvas: int = CANVAS) -> Array:
    """Fields of strong contrast."""
    return farmland(rng, rng.uniform(1.2, 2.8), canvas)


def herbaceous_vegetation(rng: np.random.Generator, canvas: int = CANVAS) -> Array:
    """Uneven low growth with shrubs."""
    patches = rng.uniform(0.8, 1.8) * smooth(rng, rng.uniform(4, 8), canvas)
    shrubs = rng.uniform(2, 5) * points(rng, _many(int(rng.integers(40, 250)), canvas), canvas=canvas)
    return level(rng, "herbs") + both(patches + shrubs.astype(np.float32), 1.2)


def permanent_crop(rng: np.random.Generator, canvas: int = CANVAS) -> Array:
    """Plots of rows of trees or vines: 4 to 7 pixels apart, each plot with a direction of its own."""
    number = fields(rng, int(rng.integers(2, 7)), rng.uniform(0, np.pi), rng.uniform(1, 2), canvas)
    directions = rng.uniform(0, np.pi, number.max() + 1)
    planted = np.stack([rows(angle, rng.uniform(4, 7), canvas) for angle in directions])
    row = np.take_along_axis(planted, number[None], axis=0)[0]
    plots = rng.normal(0, 0.7, number.max() + 1).astype(np.float32)[number]
    return level(rng, "orchard") + both(plots + rng.uniform(1.5, 3.5) * row + 0.5 * smooth(rng, 2, canvas))


def highway(rng: np.random.Generator, canvas: int = CANVAS) -> Array:
    """A road with verges and metal through forest or fields."""
    ground = forest(rng, canvas) if rng.random() < 0.25 else farmland(rng, rng.uniform(0.5, 1.5), canvas)
    road, width = np.abs(meander(rng, rng.uniform(0, 6), canvas)), rng.uniform(1.5, 3.5)
    ground = np.where(road < width, level(rng, "asphalt"), ground)
    verge = (road >= width) & (road < width + 1.5)
    ground = np.where(verge, ground + rng.uniform(0, 4), ground)  # embankment and crash barrier
    metal = points(rng, int(rng.integers(10, 60)), road < width + 1.5, canvas)  # vehicles, gantries, bridges
    return np.where(metal, level(rng, "roof") + rng.uniform(4, 11), ground)


def residential(rng: np.random.Generator, canvas: int = CANVAS, density: float = 1.0) -> Array:
    """Streets in a grid, houses as double bounces between them; `density` scales their number."""
    along, across = axes(rng.uniform(0, np.pi), canvas=canvas)
    block = rng.uniform(7, 14)
    street = np.minimum(along % block, across % (block * rng.uniform(1, 2))) < 1.5
    ground = level(rng, "houses") + both(rng.uniform(0.8, 1.8) * smooth(rng, 4, canvas))
    house = points(rng, _many(density * int(rng.integers(200, 700)), canvas), ~street, canvas)
    ground = np.where(street, ground - 3, ground)
    return np.where(house, ground + rng.uniform(7, 10) + rng.normal(0, 2, house.shape), ground)


def industrial(rng: np.random.Generator, canvas: int = CANVAS) -> Array:
    """Halls on flat yards, bright along the wall that faces the sensor, and some very bright corners."""
    angle = rng.uniform(0, np.pi)
    ground = level(rng, "yard", 1.0) + both(rng.uniform(0.8, 1.8) * smooth(rng, 4, canvas))
    wall_gain, corner_gain = rng.uniform(5, 9), rng.uniform(12, 18)
    for _ in range(rng.integers(4, 15)):
        centre = rng.uniform(0, 1, 2) * canvas
        along, across = axes(angle, (centre[0], centre[1]), canvas)
        length, depth = rng.uniform(4, 14), rng.uniform(3, 8)
        hall = (np.abs(along) < length) & (np.abs(across) < depth)
        roof = level(rng, "roof", 1.5)
        ground = np.where(hall, np.where(across < 2 - depth, roof + wall_gain, roof), ground)
        ground = np.where(points(rng, int(rng.integers(0, 5)), hall, canvas), roof + corner_gain, ground)
    return ground


def river(rng: np.random.Generator, canvas: int = CANVAS) -> Array:
    """A river through forest, grassland or fields."""
    kind = rng.random()
    ground = (
        forest(rng, canvas)
        if kind < 0.3
        else pasture(rng, canvas)
        if kind < 0.5
        else farmland(rng, rng.uniform(0.5, 1.5), canvas)
    )
    return np.where(np.abs(meander(rng, rng.uniform(2, 14), canvas)) < rng.uniform(2, 12), water(rng, canvas), ground)


def sea_lake(rng: np.random.Generator, canvas: int = CANVAS) -> Array:
    """Open water, now and then with a shore."""
    shore = rng.uniform(8, 25) if rng.random() < 0.2 else np.inf
    return np.where(meander(rng, rng.uniform(2, 10), canvas) > shore, pasture(rng, canvas), water(rng, canvas))
