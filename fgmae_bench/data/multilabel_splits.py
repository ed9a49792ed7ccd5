"""Splits of multi-label patches on tiles: at random, by tiles or by blocks; and how much a split leaks.

Everything here is a pure function of names, places and labels. A split is an array `part` (N,): 0 train, 1 val, 2 test,
LEFT_OUT for patches in the buffer between parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.spatial import EARTH_RADIUS_M, deal_blocks
from fgmae_bench.errors import BenchError
from fgmae_bench.system.randomness import keyed_order

LEFT_OUT = -1
PATCH_M = 1200.0  # side of a patch, and of a cell of a tile's grid
SIZE_WEIGHT = 5.0  # how much the number of patches counts in the balance, where one class counts 1

Ints = NDArray[np.int64]
Part = NDArray[np.int8]
Fractions = tuple[float, float, float]  # train, val, test


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where patches are: `group` numbers their tiles (or acquisitions), `row` and `col` their cell in it; all (N,)."""

    group: Ints
    row: Ints
    col: Ints


@dataclass(frozen=True, kw_only=True)
class Adjacency:
    """How many `tested` patches touch a training patch, and the mean number of training patches that each touches."""

    touching: int
    tested: int
    mean_neighbours: float

    @property
    def share(self) -> float:
        """Share of the tested patches that touch a training patch; 0 where nothing is tested."""
        return self.touching / self.tested if self.tested else 0.0


def grid_of(groups: Sequence[str], row: Sequence[int], col: Sequence[int]) -> Grid:
    """The grid of patches given the name of each one's tile or acquisition, and its cell."""
    number = np.unique(np.array(groups, dtype=str), return_inverse=True)[1].reshape(-1)
    return Grid(group=number.astype(np.int64), row=np.array(row, np.int64), col=np.array(col, np.int64))


def random_parts(ids: Sequence[str], *, fractions: Fractions, seed: int) -> Part:
    """Part of each patch at random, not stratified; depends on the seed and the set of ids, not their order."""
    _check(fractions, len(ids))
    # ranks in a keyed order of the names: the order in which they are given decides nothing
    place = {name: rank for rank, name in enumerate(keyed_order(seed, "random_split", ids))}
    if len(place) != len(ids):
        raise BenchError(f"{len(ids) - len(place)} of {len(ids)} names repeat", "name each patch once")
    rank = np.array([place[name] for name in ids], np.int64)
    # the parts are the first, middle and last ranks
    bounds = np.round(np.cumsum(fractions[:2]) * len(ids))
    return np.searchsorted(bounds, rank, side="right").astype(np.int8)


def tile_parts(
    grid: Grid,
    labels: NDArray[np.integer] | None,
    *,
    fractions: Fractions,
    seed: int,
    block: int | None = None,
    buffer: int = 1,
    centres: NDArray[np.float64] | None = None,
) -> Part:
    """Part of each patch: whole groups, or blocks of `block` x `block` cells, dealt by shares of labels.

    `labels` are multi-hot (N, C), None to balance the number of patches alone. Between two parts `buffer` cells stay
    empty: the earlier in (train, val, test) gives way. Patches of different groups may overlap on the ground; that is
    seen where `centres`, longitude and latitude (N, 2) in degrees, are given. Raises BenchError where there are fewer
    groups or blocks than parts.
    """
    _check(fractions, len(grid.row))
    if buffer < 0 or (block is not None and block <= 2 * buffer):
        raise BenchError(
            f"blocks of {block} patches with a buffer of {buffer}", "give buffer >= 0 and blocks wider than two buffers"
        )
    # without blocks a tile is one block
    size = block or int(max(grid.row.max(), grid.col.max())) + 1
    cells = np.stack([grid.group, grid.row // size, grid.col // size], axis=1)
    blocks = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    if blocks.max() + 1 < np.count_nonzero(fractions):
        raise BenchError(
            f"{blocks.max() + 1} tiles or blocks do not make {np.count_nonzero(fractions)} parts",
            "divide tiles into blocks",
        )
    part = deal_blocks(blocks, _weights(labels, len(blocks)), np.array(fractions), seed).astype(np.int8)
    # test keeps all of its patches, val loses those near test, train those near either
    kept = part.copy()
    for earlier in (0, 1):
        rows, later = np.flatnonzero(part == earlier), np.flatnonzero(part > earlier)
        near = neighbours(grid, rows, later, buffer) > 0
        if centres is not None:
            near |= _overlaps(grid, centres, rows, later, (buffer + 1) * PATCH_M * np.sqrt(2)) > 0
        kept[rows[near]] = LEFT_OUT
    return kept


def adjacency(grid: Grid, train: Ints, test: Ints, centres: NDArray[np.float64] | None = None) -> Adjacency:
    """How the rows `test` touch the rows `train`: the same or one of the eight cells around, in the same group.

    With `centres`, longitude and latitude (N, 2) in degrees, patches of other groups count where their squares may
    touch.
    """
    count = neighbours(grid, test, train, 1)
    if centres is not None:
        # squares of two tiles may touch where their centres are a diagonal apart
        count = count + _overlaps(grid, centres, test, train, PATCH_M * np.sqrt(2))
    mean = float(count.mean()) if len(test) else 0.0
    return Adjacency(touching=int((count > 0).sum()), tested=len(test), mean_neighbours=mean)


def neighbours(grid: Grid, rows: Ints, others: Ints, reach: int) -> Ints:
    """For each of `rows` the number of `others` in its group at most `reach` cells away in row and in column."""
    if not len(rows) or not len(others):
        return np.zeros(len(rows), np.int64)
    shape = (int(grid.group.max()) + 1, int(grid.row.max()) + 1 + 2 * reach, int(grid.col.max()) + 1 + 2 * reach)
    # how many `others` each cell holds, with an empty rim of `reach` cells around the tile
    held = np.zeros(shape, np.int32)
    np.add.at(held, (grid.group[others], grid.row[others] + reach, grid.col[others] + reach), 1)
    for axis in (1, 2):  # sums over windows of 2 reach + 1 cells
        # a window's sum is the difference of two cumulated sums: its cost does not depend on `reach`
        total = np.cumsum(held, axis=axis)
        behind = np.roll(total, 2 * reach + 1, axis=axis)
        behind[(slice(None),) * axis + (slice(0, 2 * reach + 1),)] = 0
        held = total - behind
    # the window that ends 2 reach cells on has the patch in its middle
    place = (grid.group[rows], grid.row[rows] + 2 * reach, grid.col[rows] + 2 * reach)
    return held[place].astype(np.int64)


def label_shares(part: Part, labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Share (3, C) of each label's patches that each part holds, of those that are in a part; NaN for labels that
    nobody has.
    """
    counts = np.stack([labels[part == number].sum(axis=0) for number in range(3)]).astype(np.float64)
    total = counts.sum(axis=0)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)


def _overlaps(grid: Grid, centres: NDArray[np.float64], rows: Ints, others: Ints, distance_m: float) -> Ints:
    """For each of `rows` the number of `others` of other groups within `distance_m` (great circle)."""
    from sklearn.neighbors import BallTree

    if not len(rows) or not len(others):
        return np.zeros(len(rows), np.int64)
    radians = np.radians(centres[:, ::-1])
    found = BallTree(radians[others], metric="haversine").query_radius(radians[rows], distance_m / EARTH_RADIUS_M)
    # one pair (of, other) a hit; pairs of one group are counted by cells already
    of = np.repeat(np.arange(len(rows)), [len(hits) for hits in found])
    other = others[np.concatenate(found).astype(np.int64)]
    return np.bincount(of[grid.group[rows[of]] != grid.group[other]], minlength=len(rows))


def _weights(labels: NDArray[np.integer] | None, count: int) -> NDArray[np.float64]:
    """(N, 1 + C): the patches and each label, scaled so that a rare label counts as much as a frequent one."""
    size = np.full((count, 1), SIZE_WEIGHT / count)
    if labels is None:
        return size
    return np.hstack([size, labels / np.maximum(labels.sum(axis=0), 1)])


def _check(fractions: Fractions, count: int) -> None:
    """Raise BenchError unless three fractions add up to 1, train and test are above 0, and patches are there."""
    if (
        len(fractions) != 3
        or min(fractions) < 0
        or not (fractions[0] > 0 < fractions[2])
        or abs(sum(fractions) - 1) > 1e-6
    ):
        raise BenchError(
            f"fractions are {' '.join(map(str, fractions))}",
            "give train > 0, val and test > 0 that add up to 1, such as .6 .2 .2",
        )
    if not count:
        raise BenchError("there are no patches to split", "check the index or the lists")
