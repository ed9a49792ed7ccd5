"""Tolerances, areas and chance levels against cases by hand, scipy and enumeration."""

import itertools

import numpy as np
import pytest
from scipy.optimize import isotonic_regression
from sklearn.metrics import average_precision_score

from fgmae_bench.metrics.tolerance import area_kept, chance_of, crossing, falling, flip_rate, random_order

CURVE = np.array([[0.9, 0.86, 0.70, 0.45]])
AT = (0.0, 1.0, 2.0, 3.0)


def test_a_curve_by_hand():
    assert area_kept(AT, CURVE, 0.0)[0] == pytest.approx(0.745 / 0.9, abs=1e-6)
    assert crossing(AT, CURVE, 0.0, lost=0.05 / 0.9)[0] == pytest.approx(1.0625)  # 5 points of .9
    assert crossing(AT, CURVE, 0.0, lost=0.1)[0] == pytest.approx(1.3125)
    assert crossing(AT, CURVE, 0.0, lost=0.0)[0] == 0
    # chance .5: 5 % of .4 is .02, half of the way to .86
    assert crossing(AT, CURVE, 0.5)[0] == pytest.approx(0.5)
    assert area_kept(AT, CURVE, 0.5)[0] == pytest.approx(np.mean([(1 + 0.9) / 2, (0.9 + 0.5) / 2, (0.5 - 0.125) / 2]))


def test_curves_are_made_monotone_as_scipy_does():
    drawn = np.random.default_rng(0).random((200, 7))
    wanted = [isotonic_regression(curve, increasing=False).x for curve in drawn]
    np.testing.assert_allclose(falling(drawn), wanted, atol=1e-12)
    assert np.isnan(falling(np.array([[0.5, np.nan, 0.2]]))).all()


def test_never_reached_is_censored_and_below_chance_is_undefined():
    flat = np.array([[0.9, 0.89, 0.9, 0.89], [0.3, 0.2, 0.1, 0.0], [0.9, 0.95, 0.2, 0.1]])
    found = crossing(AT, flat, 0.35)
    assert np.isinf(found[0])
    assert np.isnan(found[1])
    # a rise is pooled with clean: the fall is from .925 at 1 to .2 at 2, the level is .9 less 5 % of .55
    assert found[2] == pytest.approx(1 + (0.925 - 0.8725) / (0.925 - 0.2))
    assert np.isnan(area_kept(AT, flat, 0.35)[1])


@pytest.mark.parametrize(
    ("samples", "positives", "wanted"),
    [(5, 2, 0.5925), (6, 1, 0.408333), (10, 2, 0.371464), (100, 1, 0.051874), (1000, 10, 0.016427)],
)
def test_average_precision_of_random_order(samples, positives, wanted):
    assert random_order(samples, positives) == pytest.approx(wanted, abs=5e-7)


def test_random_order_is_the_mean_over_all_orders():
    orders = [[i in kept for i in range(6)] for kept in itertools.combinations(range(6), 3)]
    every = [average_precision_score(order, range(6, 0, -1)) for order in orders]
    assert random_order(6, 3) == pytest.approx(np.mean(every))
    assert random_order(4, 4) == 1
    assert random_order(1, 1) == 1
    assert random_order(5, 0) == 0


def test_chance_by_task():
    assert chance_of("single_label", np.array([0, 0, 0, 2]), 3) == {"oa": 0.75, "aa": 0.5}
    tags = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0]])
    found = chance_of("multi_label", tags, 3)
    assert found["map_macro"] == pytest.approx((random_order(4, 3) + random_order(4, 1)) / 2)
    assert found["map_micro"] == pytest.approx(random_order(12, 4))
    with pytest.raises(ValueError, match="chance"):
        chance_of("painting", tags, 3)


def test_flips_are_counted_without_labels():
    clean, stressed = np.eye(4), np.eye(4)[[0, 1, 2, 2]]
    assert flip_rate("single_label", clean, stressed) == 0.25
    assert flip_rate("multi_label", clean - 0.5, stressed - 0.5) == 0.125
