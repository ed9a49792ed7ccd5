"""Curves of all kinds of labels: several a sample, and numbers, read as scikit-learn scores them."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, r2_score

from fgmae_bench.metrics.tolerance import random_order
from fgmae_bench.stress.reading import of_pixels, of_samples
from fgmae_bench.stress.summary import Curve, summarised, tolerance
from fgmae_bench.views.stress_table import STRESSES

GROUPS = [f"g{i % 12}" for i in range(240)]


def curve_of(outputs):
    return Curve(name="offset", stress=STRESSES["offset"], severities=(1.0, 3.0), outputs=outputs)


def test_several_labels_a_sample():
    random = np.random.default_rng(0)
    targets = (random.random((240, 4)) < (0.2, 0.4, 0.5, 0.7)).astype(np.int64)
    clean = targets * 2 - 1 + random.normal(0, 0.5, targets.shape)
    draws = [[clean + random.normal(0, s, targets.shape) for _ in range(2)] for s in (0.3, 3.0)]
    reading = of_samples("multi_label", clean, targets, GROUPS)
    found = summarised(curve_of(draws), reading)
    assert reading.metric == "map_micro"
    scores = [np.mean([average_precision_score(targets, each, average="micro") for each in pair]) for pair in draws]
    own = average_precision_score(targets, clean, average="micro")
    for item, score, pair in zip(found.items, scores, draws, strict=True):
        assert item["metrics"]["map_micro"] == pytest.approx(score)
        assert item["metrics"]["change"] == pytest.approx(score - own)
        assert item["metrics"]["flip_rate"] == pytest.approx(np.mean([(clean > 0) != (each > 0) for each in pair]))
    assert found.tolerance["chance"] == pytest.approx(random_order(960, int(targets.sum())))
    assert 0 < found.tolerance["value"] < 3


def test_numbers():
    random = np.random.default_rng(1)
    targets = random.normal(0, 1, (240, 1))
    clean = targets + random.normal(0, 0.2, targets.shape)
    draws = [[clean + shift] for shift in (0.05, 0.8)]
    reading = of_samples("regression", clean, targets, GROUPS)
    found = summarised(curve_of(draws), reading)
    assert reading.metric == "r2"
    for item, ((outputs,)) in zip(found.items, draws, strict=True):
        assert item["metrics"]["r2"] == pytest.approx(r2_score(targets, outputs))
        assert item["metrics"]["change"] == pytest.approx(r2_score(targets, outputs) - r2_score(targets, clean))
        assert item["metrics"]["flip_rate"] is None
    assert found.tolerance["chance"] == 0  # of the mean
    assert 0.05 < found.tolerance["value"] < 3


def test_one_label_a_sample():
    """Draws are averaged before the curve; the largest class is what clean data must beat on the same resamples."""
    random = np.random.default_rng(2)
    targets = (np.arange(240) % 10 > 5).astype(np.int64)
    clean = np.eye(2)[targets] * 2 + random.normal(0, 0.3, (240, 2))
    draws = [[clean + random.normal(0, s * (1 + i), clean.shape) for i in range(2)] for s in (0.5, 4.0)]
    reading = of_samples("single_label", clean, targets, GROUPS)
    found = summarised(curve_of(draws), reading)
    scores = [[float((each.argmax(1) == targets).mean()) for each in pair] for pair in draws]
    own = float((clean.argmax(1) == targets).mean())
    np.testing.assert_allclose(found.changes, np.mean(scores, 1) - own)
    assert scores[0][0] != scores[0][1]  # the mean is no single draw's
    middle = found.drawn.mean(1)  # resamples are about the split's own change
    np.testing.assert_allclose(middle, found.changes, atol=0.01)
    assert reading.guess.argmax(1).tolist() == [0] * 240
    level, at = own - 0.05 * (own - 0.6), np.array([own, *np.mean(scores, 1)])
    assert at[0] > level > at[1]
    assert found.tolerance["value"] == pytest.approx((own - level) / (own - at[1]))
    low, high = found.tolerance["interval"]  # of resampled curves that fall as the split's own does
    assert low <= found.tolerance["value"] <= high < 3
    wanted = np.mean([(at[0] + at[1]) / 2, *[(at[1] + at[2]) / 2] * 2]) - 0.6
    assert found.tolerance["area"] == pytest.approx(wanted / (own - 0.6))


FALL = np.array([0.9, 0.87, 0.5])  # at 0, 1 and 3 dB, chance .5: the level is .88


def test_a_tolerance_and_its_interval_by_hand():
    lower = np.linspace(0.5, 0.86, 41)  # resamples that end lower at 1 dB cross earlier
    drawn = np.stack([np.full(41, 0.9), lower, np.full(41, 0.4)], 1)
    drawn = np.concatenate([drawn, [[0.4, 0.3, 0.2]]])  # one resample at chance says nothing
    found = tolerance(STRESSES["offset"], (1.0, 3.0), FALL, drawn, 0.5, np.full(42, 0.39))
    assert found["value"] == pytest.approx(0.02 / 0.03)
    crossings = np.sort(0.02 / (0.9 - lower))
    assert found["interval"] == pytest.approx([crossings[1], crossings[39]])  # of 41: the 2nd and the 40th
    assert found["area"] == pytest.approx(np.mean([0.385, 0.185, 0.185]) / 0.4)
    assert not found["censored"]
    noise = tolerance(STRESSES["noise"], (-20.0, -10.0), FALL, drawn, 0.5, np.full(42, 0.39))
    assert noise["value"] == pytest.approx(10 * np.log10(0.02 / 0.03 * 0.01))  # linear in power, stated in dB


@pytest.mark.parametrize(
    ("points", "guessed", "reason"),
    [
        (FALL, 0.89, "clear chance"),  # the largest class does as well on one resample of forty
        ([0.5, 0.4, 0.3], 0.3, "clear chance"),
        ([0.9, np.nan, 0.3], 0.3, "undefined"),
    ],
)
def test_a_tolerance_that_would_mean_nothing_is_withheld(points, guessed, reason):
    drawn = np.tile([0.9, 0.87, 0.5], (40, 1))
    drawn[:2, 0] = 0.88
    found = tolerance(STRESSES["offset"], (1.0, 3.0), np.array(points), drawn, 0.5, np.full(40, guessed))
    assert reason in found["withheld"]
    assert (found["value"], found["interval"], found["area"]) == (None, None, None)
    assert tolerance(STRESSES["offset"], (1.0,), FALL[:2], drawn[:, :2], 0.5)["withheld"] == "it has one severity"


def test_one_group_has_a_tolerance_without_an_interval():
    """All its resamples are the same."""
    targets = (np.arange(240) % 10 > 5).astype(np.int64)
    random = np.random.default_rng(2)
    clean = np.eye(2)[targets] * 2 + random.normal(0, 0.3, (240, 2))
    draws = [[clean + random.normal(0, s, clean.shape)] for s in (0.5, 4.0)]
    for groups, known in ((["one"] * 240, False), (GROUPS, True)):
        found = summarised(curve_of(draws), of_samples("single_label", clean, targets, groups))
        assert found.tolerance["value"] is not None
        assert (found.tolerance["interval"] is not None) == known


def test_a_mean_over_draws_of_which_one_is_undefined_is_undefined():
    random = np.random.default_rng(3)
    targets = random.normal(0, 1, (240, 1))
    whole, broken = targets + 0.1, np.full((240, 1), np.nan)
    found = summarised(curve_of([[whole, whole], [whole, broken]]), of_samples("regression", targets, targets, GROUPS))
    assert [item["metrics"]["r2"] is None for item in found.items] == [False, True]


def test_the_largest_class_of_maps_is_that_of_the_labels_everywhere():
    """Two images by (label, decision): 6 and 2 pixels of two classes, then 3 and 4."""
    tables = np.array([[[5, 1], [2, 0]], [[0, 3], [4, 0]]])
    rows = np.concatenate([tables.reshape(2, -1)] * 2 + [np.array([[0, 8], [0, 7]])], axis=1)
    reading = of_pixels(rows, 2, 2, None)
    assert reading.guess[:, :4].reshape(2, 2, 2).tolist() == [[[6, 0], [2, 0]], [[3, 0], [4, 0]]]
    assert reading.chance == pytest.approx(9 / 15 / 2)
