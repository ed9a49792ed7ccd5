"""Boundary scores against distances of scipy, and by hand."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter

from fgmae_bench.metrics.boundary import TOLERANCES, boundary_columns, boundary_counts, boundary_f1

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)


def maps(seed, classes=3, shape=(31, 40)):
    """Reference with patches of no label, and a prediction whose outlines are near."""
    rng = np.random.default_rng(seed)
    fields = np.stack([gaussian_filter(rng.normal(size=shape), 3) for _ in range(classes)])
    moved = fields + 0.3 * np.stack([gaussian_filter(rng.normal(size=shape), 2) for _ in range(classes)])
    reference = fields.argmax(0).astype(np.uint8)
    reference[gaussian_filter(rng.normal(size=shape), 2) > 0.12] = 255
    return reference, moved.argmax(0)


def by_distance(pairs, k, tolerance):
    """Independent: boundaries by dilation of every other class, nearness by Euclidean distances."""
    hits = np.zeros(4)
    for reference, predicted in pairs:
        kept = reference != 255
        outlines = []
        for labels in (predicted, reference):
            other = kept & (labels != k)
            outlines.append(kept & (labels == k) & binary_dilation(other, CROSS))
        for at, (one, two) in ((0, outlines), (2, outlines[::-1])):
            away = distance_transform_edt(~two) if two.any() else np.full(two.shape, np.inf)
            hits[at : at + 2] += (one & (away <= tolerance)).sum(), one.sum()
    precision, recall = hits[0] / hits[1], hits[2] / hits[3]
    return 2 * precision * recall / (precision + recall)


def test_boundary_f1_is_that_of_euclidean_distances():
    pairs = [maps(seed) for seed in range(4)]
    values = boundary_f1(np.stack([boundary_counts(r, p, 3) for r, p in pairs]))
    for k in range(3):
        for place, tolerance in enumerate(TOLERANCES):
            assert values[k, place] == pytest.approx(by_distance(pairs, k, tolerance), abs=1e-12)
    assert ((values > 0.1) & (values < 1)).all()
    assert (values[:, 1] > values[:, 0]).all()


def test_a_line_that_is_moved_by_two_pixels():
    reference, moved, far = (np.repeat((np.arange(12) >= at)[None], 8, 0).astype(np.uint8) for at in (4, 6, 7))
    # of class 1: columns 4 and 6 are two apart; of class 0: columns 3 and 5
    assert boundary_f1(boundary_counts(reference, moved, 2)[None]).tolist() == [[0, 1], [0, 1]]
    assert boundary_f1(boundary_counts(reference, far, 2)[None]).tolist() == [[0, 0], [0, 0]]
    assert boundary_f1(boundary_counts(reference, reference, 2)[None]).tolist() == [[1, 1], [1, 1]]


def test_pixels_without_a_label_and_edges_make_no_boundary():
    reference = np.zeros((6, 6), np.uint8)
    reference[:, 3] = 255
    reference[:, 4:] = 1
    predicted = np.repeat((np.arange(6) >= 3)[None], 6, 0).astype(np.int64)
    assert not boundary_counts(reference, predicted, 2).any()
    assert np.isnan(boundary_f1(boundary_counts(reference, predicted, 2)[None])).all()
    named = boundary_columns(boundary_counts(reference, predicted, 2)[None], ("a", "b"))
    assert named == {name: {"boundary_f1_1": None, "boundary_f1_2": None} for name in "ab"}


def test_a_class_that_only_one_side_has_scores_0_and_other_schemes_go_by_their_columns():
    reference = np.zeros((8, 8), np.uint8)
    predicted = np.repeat((np.arange(8) >= 4)[None], 8, 0).astype(np.int64)
    assert boundary_f1(boundary_counts(reference, predicted, 2)[None]).tolist() == [[0, 0], [0, 0]]
    reference = predicted.astype(np.uint8)
    columns = np.array([1, 0])
    assert (boundary_counts(reference, 1 - predicted, 2, columns) == boundary_counts(reference, predicted, 2)).all()
    assert not boundary_counts(reference, predicted, 2, np.array([0, 2]))[1, :, :2].any()  # a class of neither
