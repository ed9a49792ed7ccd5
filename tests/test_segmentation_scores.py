"""Segmentation metrics against plain loops over pixels and scikit-learn, and what each average does with absent
classes.
"""

import numpy as np
import pytest
from sklearn import metrics

from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.segmentation import (
    classes_scored,
    eval_columns,
    image_confusion,
    legacy_segmentation,
    per_class,
    segmentation,
    total,
)

K = 6
NAMES = ("forest", "shrub", "grass", "crops", "town", "water")


def masks(seed, count=4, present=K, predicted=K):
    """(count, 20, 17) reference with some 255, and a prediction that is right half of the time."""
    rng = np.random.default_rng(seed)
    reference = rng.choice(present, (count, 20, 17), p=rng.dirichlet(np.ones(present))).astype(np.uint8)
    guess = np.where(rng.random(reference.shape) < 0.5, reference, rng.integers(0, predicted, reference.shape)).astype(
        np.uint8
    )
    reference[rng.random(reference.shape) < 0.1] = 255
    return reference, guess


def by_sets(reference, guess, classes=K):
    """Independent: each class as sets of pixels, over all images."""
    kept = reference != 255
    ious, recalls, shares = {}, {}, {}
    for k in range(classes):
        real, said = (reference == k) & kept, (guess == k) & kept
        either = np.count_nonzero(real | said)
        if either:
            ious[k] = np.count_nonzero(real & said) / either
        if real.any():
            recalls[k] = np.count_nonzero(real & said) / np.count_nonzero(real)
            shares[k] = np.count_nonzero(real) / np.count_nonzero(kept)
    return {
        "miou": sum(ious[k] for k in recalls) / len(recalls),
        "miou_union": sum(ious.values()) / len(ious),
        "miou_all": sum(ious.values()) / classes,
        "oa": np.count_nonzero((reference == guess) & kept) / np.count_nonzero(kept),
        "aa": sum(recalls.values()) / len(recalls),
        "fwiou": sum(ious[k] * share for k, share in shares.items()),
    }


@pytest.mark.parametrize(("present", "predicted"), [(K, K), (4, K), (4, 4), (K, 3), (1, 1)])
def test_metrics_equal_a_computation_with_sets_of_pixels(present, predicted):
    reference, guess = masks(present * 10 + predicted, present=present, predicted=predicted)
    stack = np.stack([image_confusion(r, g, K) for r, g in zip(reference, guess, strict=True)])
    assert stack.dtype == np.int64
    assert segmentation(stack) == pytest.approx(by_sets(reference, guess), abs=1e-14)
    assert segmentation(stack) == segmentation(total(stack))


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_scikit_learns(seed):
    reference, guess = masks(seed)
    kept = reference != 255
    confusion = image_confusion(reference, guess, K)
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(reference[kept], guess[kept], labels=range(K)))
    ours, per = segmentation(confusion), per_class(confusion, NAMES)
    jaccard = metrics.jaccard_score(reference[kept], guess[kept], labels=range(K), average=None)
    precision = metrics.precision_score(reference[kept], guess[kept], labels=range(K), average=None)
    np.testing.assert_allclose([per[name]["iou"] for name in NAMES], jaccard)
    np.testing.assert_allclose([per[name]["precision"] for name in NAMES], precision)
    present = np.unique(reference[kept])
    assert ours["miou"] == pytest.approx(jaccard[present].mean())
    assert ours["miou_all"] == pytest.approx(jaccard.mean())
    assert ours["aa"] == pytest.approx(metrics.balanced_accuracy_score(reference[kept], guess[kept]))
    assert ours["fwiou"] == pytest.approx(metrics.jaccard_score(reference[kept], guess[kept], average="weighted"))


def test_one_stray_pixel_of_an_absent_class_moves_the_union_and_not_miou():
    reference = np.repeat(np.array([0, 1], np.uint8), 500)
    guess = reference.copy()
    before = segmentation(image_confusion(reference, guess, K))
    assert before["miou"] == before["miou_union"] == 1
    assert before["miou_all"] == pytest.approx(2 / K)
    guess[0] = 5
    after = segmentation(image_confusion(reference, guess, K))
    assert after["miou"] == pytest.approx((499 / 500 + 1) / 2)
    assert after["miou_union"] == pytest.approx((499 / 500 + 1) / 3), "the control: the stray class counts here"
    assert classes_scored(image_confusion(reference, guess, K), NAMES) == ["forest", "shrub"]


def test_undefined_is_none_and_ignored_pixels_leave_no_trace():
    nothing = image_confusion(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8), K)
    assert nothing.sum() == 0
    assert set(segmentation(nothing).values()) == {None}
    assert per_class(nothing, NAMES)["forest"] == {
        **dict.fromkeys(("iou", "accuracy", "precision", "omission", "commission", "area_bias")),
        "support": 0,
    }
    assert classes_scored(nothing, NAMES) == []
    predicted_only = per_class(image_confusion(np.zeros(3, np.uint8), np.array([0, 0, 2]), K), NAMES)["grass"]
    assert predicted_only == {
        "iou": 0.0,
        "accuracy": None,
        "precision": 0.0,
        "omission": None,
        "commission": 1.0,
        "area_bias": None,
        "support": 0,
    }


def test_sums_beyond_float32_are_exact():
    stack = np.zeros((3, 2, 2), np.int64)
    stack[:, 0, 0] = [2**40, 1, 1]
    assert total(stack)[0, 0] == 2**40 + 2


def test_schemes_are_matched_by_name_and_unmatched_classes_can_only_be_wrong():
    train, evaluation = ("water", "savanna", "forest"), ("forest", "water", "snow")
    columns = eval_columns(train, evaluation)
    assert columns.tolist() == [1, 3, 0]
    reference = np.array([0, 0, 1, 1, 2, 255], np.uint8)  # forest x2, water x2, snow, ignored
    guess = np.array([2, 1, 0, 0, 1, 0])  # forest, savanna, water, water, savanna
    confusion = image_confusion(reference, guess, 3, columns)
    assert confusion.tolist() == [[1, 0, 0, 1], [0, 2, 0, 0], [0, 0, 0, 1]]
    assert segmentation(confusion) == pytest.approx(
        {"miou": 0.5, "miou_union": 0.5, "miou_all": 0.5, "oa": 0.6, "aa": 0.5, "fwiou": (0.5 * 2 + 2) / 5}
    )
    assert eval_columns(train, train) is None


def test_schemes_that_cannot_be_matched_are_refused():
    with pytest.raises(BenchError, match="share no class"):
        eval_columns(("a", "b"), ("c",))
    with pytest.raises(BenchError, match="'a' stands twice"):
        eval_columns(("a", "a"), ("a",))
    with pytest.raises(ValueError, match="reference label outside"):
        image_confusion(np.array([7]), np.array([0]), K)
    with pytest.raises(ValueError, match="predicted label outside"):
        image_confusion(np.array([0]), np.array([255]), K)
    with pytest.raises(ValueError, match="reference \\(2,\\)"):
        image_confusion(np.array([0, 1]), np.array([0]), K)


def test_the_notes_collapse_is_in_the_metrics():
    """A perfect prediction against labels mapped twice, on the published histogram of the 986 validation tiles."""
    pixels = np.zeros(10, np.int64)
    pixels[[0, 1, 3, 4, 5, 6, 8, 9]] = [5904112, 3353501, 7655859, 11272496, 8405224, 3517590, 1887823, 22621891]
    twice = [0, 0, 0, 0, 0, 1, 1, 2, 2, 3]
    perfect, forest = np.zeros((10, 10), np.int64), np.zeros((10, 10), np.int64)
    for true, count in enumerate(pixels):
        perfect[twice[true], true] += count
        forest[twice[true], 0] += count
    scores = segmentation(perfect)
    assert [round(scores[name], 4) for name in ("miou", "miou_union", "miou_all")] == [0.0524, 0.0233, 0.0209]
    assert round(segmentation(forest)["miou"], 3) == 0.109
    assert segmentation(np.diag(pixels)) == pytest.approx({**dict.fromkeys(scores, 1.0), "miou_all": 0.8})


def test_batch_averages_are_lower_than_the_whole_where_classes_are_missing_from_batches():
    reference = np.repeat(np.arange(K, dtype=np.uint8), 2)[:, None, None].repeat(5, 1)  # one class an image
    stack = np.stack([image_confusion(r, r, K) for r in reference])
    assert segmentation(stack)["miou"] == 1
    assert legacy_segmentation(stack, 2) == pytest.approx({"oa": 1.0, "aa": 1 / K, "miou": 1 / K})
    assert legacy_segmentation(stack, 5)["miou"] == pytest.approx((5 * 3 / K + 5 * 3 / K + 2 * 1 / K) / 12)
    assert legacy_segmentation(np.zeros((2, K, K)), 1) == {"oa": None, "aa": None, "miou": None}
