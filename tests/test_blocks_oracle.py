"""Blocks dealt to parts once more in plain Python, and what must hold of any deal."""

import numpy as np
import pytest

from fgmae_bench.data.multilabel_splits import SIZE_WEIGHT, grid_of, label_shares, tile_parts
from fgmae_bench.data.spatial import deal_blocks, gaps, nearer_than
from fgmae_bench.system.randomness import generator


def dealt(blocks, held, shares, seed):
    """Greedy: the largest block first (equal ones in the keyed order), each to the part that misses its labels most.

    `held` (N, C) is how much of each class a sample holds; missing is counted in units of a part's share of a class.
    """
    count = max(blocks) + 1
    inside = [
        [sum(held[i][c] for i in np.flatnonzero(blocks == b)) for c in range(held.shape[1])] for b in range(count)
    ]
    totals = held.sum(0)
    order = sorted(generator(seed, "spatial_blocks").permutation(count), key=lambda b: -sum(inside[b]))
    part = {}
    for b in order:
        gains = []
        for p, share in enumerate(shares):
            if share == 0:
                gains.append(-np.inf)
                continue
            gone = [sum(inside[other][c] for other in part if part[other] == p) for c in range(len(totals))]
            wanted = [share * total for total in totals]
            gains.append(sum(inside[b][c] * (wanted[c] - gone[c]) / max(wanted[c], 1e-9) for c in range(len(totals))))
        part[b] = int(np.argmax(gains))
    return np.array([part[b] for b in blocks])


@pytest.mark.parametrize("shares", [(0.6, 0.2, 0.2), (0.8, 0.0, 0.2), (0.34, 0.33, 0.33)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_blocks_go_where_their_labels_are_missed_most(shares, seed):
    random = np.random.default_rng(seed)
    blocks = np.sort(random.integers(0, 25, 300)) ** 2 // 30  # of many sizes
    blocks = np.unique(blocks, return_inverse=True)[1]
    labels = (blocks % 3 + random.integers(0, 2, len(blocks))) % 4  # neighbours are alike
    found = deal_blocks(blocks, labels, np.array(shares), seed)
    np.testing.assert_array_equal(found, dealt(blocks, np.eye(4)[labels], shares, seed))
    weights = random.random((len(blocks), 3))
    found = deal_blocks(blocks, weights, np.array(shares), seed)
    np.testing.assert_array_equal(found, dealt(blocks, weights, shares, seed))


def test_a_part_without_a_share_gets_nothing_when_the_others_are_full():
    blocks = np.arange(30) // 3
    part = deal_blocks(blocks, np.zeros(30, np.int64), np.array([0.5, 0.0, 0.5]), 0)
    assert set(part) == {0, 2}
    nothing = deal_blocks(np.arange(6), np.zeros((6, 2)), np.array([0.0, 0.5, 0.5]), 0)  # blocks that no part misses
    assert 0 not in nothing


@pytest.mark.parametrize(("metres", "near"), [(1100, []), (1125, [0]), (11_000, [0]), (11_200, [0, 1])])
def test_distances_are_great_circles_on_the_mean_earth(metres, near):
    """One hundredth of a degree of latitude is 1,112 m, a tenth of longitude at the equator 11,119 m."""
    points = np.array([[0.0, 0.01], [0.1, 0.0], [0.0, 0.0]])
    places = np.repeat(points[:, None], 5, axis=1)  # without extent
    found = nearer_than(metres, places, np.array([True, True, False]), np.array([False, False, True]))
    assert found.tolist() == near


def test_distances_of_outlines_are_those_of_shapely():
    """Turned, sheared, touching, one inside the other."""
    shapely = pytest.importorskip("shapely")
    random = np.random.default_rng(3)
    square = np.array([[-1.0, -1.0], [1, -1], [1, 1], [-1, 1]])
    turns = random.uniform(0, 2 * np.pi, 400)
    matrix = np.stack([np.stack([np.cos(turns), -np.sin(turns)], 1), np.stack([np.sin(turns), np.cos(turns)], 1)], 1)
    sheared = square * random.uniform(0.05, 3, (400, 1, 2)) @ np.array([[1, 0.4], [0, 1]])
    others = np.einsum("kxy,kcy->kcx", matrix, sheared) + random.uniform(-6, 6, (400, 1, 2))
    others[0], others[1], others[2] = square + np.array([2, 0]), square / 3, square * 5
    wanted = shapely.distance(shapely.polygons(square), shapely.polygons(others))
    found = gaps(np.repeat(square[None], 400, axis=0), others)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert (wanted == 0).sum() > 20
    assert found[:3].tolist() == [0, 0, 0]


def chips_at(corners_m, lon, lat, side=640.0):
    """Places of square chips whose upper left corners are so many metres east and north of a point."""
    scale = np.degrees(1 / 6_371_008.8)
    outline = np.array([(0.5, -0.5), (0, 0), (1, 0), (1, -1), (0, -1)]) * side
    metres = np.asarray(corners_m, float)[:, None] + outline
    east = lon + metres[..., 0] * scale / np.cos(np.radians(lat))
    return np.stack([(east + 180) % 360 - 180, lat + metres[..., 1] * scale], axis=-1)


@pytest.mark.parametrize(("lon", "lat"), [(11.0, 0.0), (-70.0, 60.0), (179.999, -10.0)], ids=["zero", "north", "date"])
def test_a_buffer_is_from_edge_to_edge(lon, lat):
    """Chips of 640 m: 1,000 m between their edges are 1,640 m between centres, and more along the diagonal."""
    places = chips_at([(0, 0), (1630, 0), (0, 1650), (1340, 1340), (1350, 1350), (0, 300)], lon, lat)
    of = np.array([False, True, True, True, True, True])
    found = nearer_than(1000, places, of, ~of)
    assert found.tolist() == [1, 3, 5]  # 990 m; 700 m along both axes; overlapping
    assert nearer_than(0, places, of, ~of).tolist() == []


def test_tiles_are_dealt_by_their_size_and_by_each_label_whether_rare_or_frequent():
    random = np.random.default_rng(10)  # no two blocks are of one size: ties would hang on rounding
    row, col = random.integers(0, 40, 600), random.integers(0, 40, 600)
    grid = grid_of(np.where(random.random(600) < 0.5, "A", "B").tolist(), row, col)
    labels = (random.random((600, 3)) < np.stack([0.9 * (row > 10), 0.02 + 0 * row, 0.3 * (col > 30)], 1)).astype(int)
    found = tile_parts(grid, labels, fractions=(0.6, 0.2, 0.2), seed=0, block=10, buffer=0)
    blocks = np.unique(grid.group * 100 + row // 10 * 10 + col // 10, return_inverse=True)[1]
    held = np.hstack([np.full((600, 1), SIZE_WEIGHT / 600), labels / labels.sum(0)])
    np.testing.assert_array_equal(found, dealt(blocks, held, (0.6, 0.2, 0.2), 0))
    counts = np.array([[labels[found == p, c].sum() for c in range(3)] for p in range(3)])
    np.testing.assert_allclose(label_shares(found, labels), counts / labels.sum(0))
