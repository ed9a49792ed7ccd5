"""Few labels: which samples a draw takes, nested, equal, spread over groups, and no more than a class has."""

import dataclasses
import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest

from fgmae_bench.data.few_labels import Subset, few_labels, label_order
from fgmae_bench.data.index import Index
from fgmae_bench.errors import BenchError

FRACTIONS = (0.01, 0.1, 0.5)
SHOTS = (1, 5, 10)


def made_index(labels, ids=None, groups=None):
    labels = np.asarray(labels)
    ids = ids or [f"sample-{i:04}" for i in range(len(labels))]
    return Index(
        root="/nowhere",
        files=tuple(f"{name}.tif" for name in ids),
        labels=labels,
        stamps=np.zeros(len(labels), np.uint64),
        synthetic=None,
        groups=groups and tuple(groups),
    )


def drawn(index, rows=None, classes=(), **subset):
    rows = np.arange(len(index.files)) if rows is None else rows
    return few_labels(index, rows, Subset(**subset), classes)


def ids(index, rows):
    return {index.ids[row] for row in rows}


@pytest.fixture(scope="module")
def uneven():
    return made_index(np.repeat(np.arange(10), [30, 100, 17, 250, 13, 40, 41, 99, 11, 333]))


@pytest.fixture(scope="module")
def grouped():
    """Two classes in eight scenes of very different size."""
    rng = np.random.default_rng(0)
    scenes = [f"scene-{int(8 * u**3)}" for u in rng.random(400)]
    return made_index(rng.integers(0, 2, 400), groups=scenes)


def test_subsets_of_a_draw_are_nested_by_fraction_and_by_shots(uneven):
    rows = np.random.default_rng(0).permutation(len(uneven.files))
    small, middle, large = (set(drawn(uneven, rows, fraction=f).tolist()) for f in FRACTIONS)
    assert small < middle < large < set(rows.tolist())
    one, five, ten = (set(drawn(uneven, rows, shots=k).tolist()) for k in SHOTS)
    assert one < five < ten
    np.testing.assert_array_equal(drawn(uneven, rows), rows)


@pytest.mark.parametrize("fraction", ["0.01", "0.05", "0.07", "0.1", "0.29", "0.3", "0.5", "0.7", "1e-12"])
def test_a_fraction_takes_exactly_ceil_f_n_of_each_class(uneven, fraction):
    """In exact arithmetic: .1 x 30 is 3.0000000000000004 in floating point, and its ceiling 4."""
    chosen = drawn(uneven, fraction=float(fraction))
    expected = [math.ceil(Fraction(fraction) * int(n)) for n in np.bincount(uneven.labels)]
    np.testing.assert_array_equal(np.bincount(uneven.labels[chosen], minlength=10), expected)
    assert len(set(chosen.tolist())) == len(chosen)  # the reference drew with replacement


@pytest.mark.parametrize("shots", SHOTS)
def test_shots_are_as_many_of_each_class(uneven, shots):
    np.testing.assert_array_equal(np.bincount(uneven.labels[drawn(uneven, shots=shots)]), shots)


def test_shots_above_a_classs_size_are_refused_by_name(uneven):
    names = tuple(f"class-{k}" for k in range(10))
    assert len(drawn(uneven, classes=names, shots=11)) == 110
    with pytest.raises(BenchError, match="--shots is 12: class 'class-8' has 11 training images; give 11 or fewer"):
        drawn(uneven, classes=names, shots=12)


def test_an_order_is_that_of_the_stated_hashes():
    """Recomputed here from SHA-256 of seed, purpose, draw, class and sample id."""
    index = made_index([0] * 9)

    def place(name):
        text = "\x1f".join(("7", "few_labels", "3", "0", name))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")

    expected = sorted(index.ids, key=place)
    found = label_order(index, list(range(9)), Subset(shots=1, seed=7, draw=3), "0")
    assert [index.ids[row] for row in found] == expected


def test_subsets_do_not_depend_on_the_order_of_files(grouped):
    turned = np.random.default_rng(1).permutation(len(grouped.files))
    other = made_index(grouped.labels[turned], [grouped.ids[i] for i in turned], [grouped.groups[i] for i in turned])
    for subset in ({"shots": 5}, {"fraction": 0.1}):
        assert ids(other, drawn(other, **subset)) == ids(grouped, drawn(grouped, **subset))
    backwards = np.arange(len(grouped.files))[::-1]
    kept = drawn(grouped, backwards, fraction=0.1)
    np.testing.assert_array_equal(kept, sorted(kept, reverse=True))  # the order of the split is kept


def test_subsets_do_not_depend_on_other_classes(uneven):
    rows = np.arange(len(uneven.files))
    for subset in ({"fraction": 0.1}, {"shots": 5}):
        everything = drawn(uneven, **subset)
        for label in (1, 3, 9):
            alone = drawn(uneven, rows[uneven.labels == label], **subset)
            np.testing.assert_array_equal(everything[uneven.labels[everything] == label], alone)


def test_new_samples_change_few_members(uneven):
    """Ten more of a class of 100: of ten shots about one is another, where a draw by position would change all."""
    more = made_index(np.append(uneven.labels, np.ones(10, int)), [*uneven.ids, *(f"new-{i}" for i in range(10))])
    changed = [
        len(ids(uneven, drawn(uneven, shots=10, draw=d)) - ids(more, drawn(more, shots=10, draw=d))) for d in range(20)
    ]
    assert 0 < np.mean(changed) < 2.5
    assert max(changed) <= 5


@pytest.mark.parametrize("key", ["seed", "draw"])
def test_every_seed_and_every_draw_is_another_subset_and_none_is_preferred(uneven, key):
    subsets = {tuple(drawn(uneven, fraction=0.1, **{key: number})) for number in range(5)}
    assert len(subsets) == 5
    rows, counts = np.flatnonzero(uneven.labels == 3), np.zeros(250)
    for number in range(200):
        counts[drawn(uneven, rows, fraction=0.1, **{key: number}) - rows[0]] += 1
    assert abs(counts.mean() - 20) < 1e-9
    assert counts.min() > 3
    assert counts.max() < 45


def test_labels_come_from_as_many_groups_as_there_are(grouped):
    """The first k of a class are of min(k, G) of the G groups that hold it, whatever their sizes."""
    groups = np.asarray(grouped.groups)
    for label in (0, 1):
        held = len(set(groups[grouped.labels == label]))
        assert held == 8
        for draw in range(5):
            for shots in (1, 3, 8, 12):
                rows = drawn(grouped, shots=shots, draw=draw)
                of = groups[rows][grouped.labels[rows] == label]
                assert len(set(of)) == min(shots, held)
                assert np.unique(of, return_counts=True)[1].max() <= -(-shots // held) + 2  # small scenes run out


def test_the_first_group_is_drawn_too(grouped):
    firsts = {grouped.groups[drawn(grouped, shots=1, draw=draw)[0]] for draw in range(80)}
    assert len(firsts) == 8


def test_multi_label_shots_are_the_union_over_the_classes_and_a_fraction_is_of_all_samples():
    rng = np.random.default_rng(0)
    index = made_index((rng.random((300, 4)) < [0.5, 0.2, 0.1, 0.05]).astype(np.uint8))
    one, five = drawn(index, shots=1), drawn(index, shots=5)
    assert set(one) < set(five)
    assert (index.labels[five].sum(0) >= 5).all()
    assert 5 <= len(five) <= 20
    assert len(drawn(index, fraction=0.1)) == 30
    with pytest.raises(BenchError, match=r"has [0-9]+ training images"):
        drawn(index, shots=100, classes=("a", "b", "c", "d"))


@pytest.mark.parametrize("labels", [np.zeros((20, 0), np.uint8), np.linspace(0, 1, 20)], ids=["maps", "numbers"])
def test_label_maps_and_numbers_have_no_shots(labels):
    index = made_index(labels)
    assert len(drawn(index, fraction=0.25)) == 5
    with pytest.raises(BenchError, match="has no class of its own; give --train_frac"):
        drawn(index, shots=1)


def test_the_whole_is_the_whole():
    assert Subset().whole
    assert not any(dataclasses.replace(Subset(), **few).whole for few in ({"shots": 3}, {"fraction": 0.5}))
