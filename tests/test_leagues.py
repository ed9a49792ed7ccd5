"""Ranks over datasets against scipy, against Bradley-Terry by logistic regression, and against published numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import optimize, stats

from fgmae_bench.metrics.leagues import elo, friedman, league, ranks, strengths, unseparated, wins

TIED = np.array([[0.90, 0.85, 0.80], [0.88, 0.86, 0.79], [0.70, 0.72, 0.65], [0.95, 0.95, 0.90]])


def some_scores(datasets: int, models: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.round(random.normal(0.7, 0.1, (datasets, models)) + np.linspace(0.05, 0, models), 2)


def test_average_ranks_and_friedman_are_those_of_scipy():
    for scores in (TIED, some_scores(10, 5), some_scores(8, 3, 4)):
        expected = stats.rankdata(-scores, axis=1)
        np.testing.assert_allclose(ranks(scores), expected)
        found, oracle = friedman(scores), stats.friedmanchisquare(*scores.T)
        assert found.chi_square == pytest.approx(oracle.statistic, abs=1e-9)
        assert found.p == pytest.approx(oracle.pvalue, abs=1e-12)
    assert friedman(TIED).critical == pytest.approx(1.657247, abs=1e-6)


def test_the_critical_difference_is_that_of_demsar_2006():
    k, n = 4, 14
    q = stats.studentized_range.ppf(0.95, k, np.inf) / np.sqrt(2)
    found = friedman(np.random.default_rng(0).random((n, k))).critical
    assert found == pytest.approx(q * np.sqrt(k * (k + 1) / (6 * n)))
    assert found == pytest.approx(1.2536, abs=1e-4)


def by_logistic_regression(won: np.ndarray) -> np.ndarray:
    """Bradley-Terry by Newton-like minimisation of the log-likelihood, nothing shared with the MM iteration."""
    models = len(won)

    def loss(free: np.ndarray) -> float:
        b = np.append(free, -free.sum())
        return sum(won[i, j] * np.logaddexp(0, b[j] - b[i]) for i, j in itertools.permutations(range(models), 2))

    free = optimize.minimize(loss, np.zeros(models - 1), method="BFGS", options={"gtol": 1e-10}).x
    return np.exp(np.append(free, -free.sum()))


@pytest.mark.parametrize(
    ("won", "expected"),
    [
        ([[0, 3, 4], [1, 0, 3], [1, 2, 0]], [2.288065, 0.798159, 0.547573]),
        ([[0, 3], [1, 0]], [3**0.5, 3**-0.5]),
        ([[0, 2.5], [1.5, 0]], [(5 / 3) ** 0.5, (5 / 3) ** -0.5]),
    ],
    ids=["three", "two", "tie"],
)
def test_strengths_are_the_likeliest(won, expected):
    found = strengths(np.array(won, float))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(found, by_logistic_regression(np.array(won, float)), rtol=1e-4)


def test_strengths_of_one_that_always_wins_stay_finite():
    points = 400 * np.log10(strengths(np.array([[0, 4, 4], [0, 0, 3], [0, 1, 0]]) - 0.0))
    # with half a win each way added: 4.5 and .5, and 3.5 and 1.5 for the pair that shared its games
    mixed = np.array([[0, 4.5, 4.5], [0.5, 0, 3.5], [0.5, 1.5, 0]])
    np.testing.assert_allclose(points, 400 * np.log10(by_logistic_regression(mixed)), atol=1e-2)
    np.testing.assert_allclose(points, [260.160591, -68.874443, -191.286148], atol=1e-5)


def test_elo_does_not_depend_on_the_order_of_datasets():
    scores = some_scores(9, 4, 2)
    points = elo(scores)
    np.testing.assert_allclose(points, elo(scores[::-1]), atol=1e-6)
    assert points.mean() == pytest.approx(1000)
    assert wins(scores).sum() == pytest.approx(9 * 6)


def test_strengths_and_critical_differences_wait_for_eight_datasets():
    few, enough = league(some_scores(7, 4)), league(some_scores(8, 4))
    assert (few.elo, few.rank_bounds, few.friedman, few.top) == (None, None, None, None)
    assert enough.elo is not None
    assert enough.friedman is not None
    low, high = enough.elo_bounds.T
    assert (low <= enough.elo).all()
    assert (enough.elo <= high).all()
    assert enough.top.sum() == pytest.approx(1)


def test_bounds_are_over_datasets_drawn_again():
    scores = some_scores(8, 3, 5)
    found = league(scores)
    random = np.random.default_rng(1)
    drawn = stats.rankdata(-scores, axis=1)[random.integers(0, 8, (20_000, 8))].mean(1)
    np.testing.assert_allclose(found.rank_bounds.T, np.quantile(drawn, [0.025, 0.975], axis=0), atol=0.13)


def test_the_interquartile_mean_is_a_trimmed_mean_and_waits_for_four_datasets():
    scores = some_scores(4, 2)
    runs = [[np.array([value - 0.01, value + 0.02]) for value in line] for line in scores]
    found = league(scores, runs)
    pooled = np.concatenate([line[0] for line in runs])
    assert found.iqm[0] == pytest.approx(stats.trim_mean(pooled, 0.25))
    assert league(scores[:3], runs[:3]).iqm is None


def test_bounds_of_the_interquartile_mean_draw_runs_within_each_dataset():
    """Against every draw of two runs on four datasets, each as likely as any other."""
    runs = [[np.array(pair)] for pair in ([0.2, 0.8], [0.4, 0.5], [0.1, 0.9], [0.55, 0.6])]
    every = [
        stats.trim_mean(np.concatenate(drawn), 0.25)
        for drawn in itertools.product(*([pair[[i, j]] for i in (0, 1) for j in (0, 1)] for (pair,) in runs))
    ]
    one = [np.array([0.5])] * 4  # a single run each: nothing shows its spread
    found = league(some_scores(4, 2), [[*each, alone] for each, alone in zip(runs, one, strict=True)])
    assert found.iqm_bounds[0] == pytest.approx(np.quantile(every, [0.025, 0.975]), abs=0.02)
    assert found.iqm_bounds[0][0] < found.iqm[0] < found.iqm_bounds[0][1]
    assert np.isnan(found.iqm_bounds[1]).all()
    assert league(some_scores(3, 2), [[*each, np.ones(1)] for each in runs[:3]]).iqm_bounds is None


def test_a_quarter_is_left_out_on_either_side_of_each_draw():
    """Of eight datasets of equal runs two are far below and two above: none of them moves a bound."""
    runs = [[np.full(2, value)] * 2 for value in (0.1, 0.2, 0.5, 0.5, 0.5, 0.5, 0.6, 0.9)]
    assert league(some_scores(8, 2), runs).iqm_bounds[0] == pytest.approx([0.5, 0.5])


def test_one_dataset_of_a_single_run_leaves_no_bounds():
    runs = [[np.array([0.4, 0.5])] * 2] * 3 + [[np.array([0.5])] * 2]
    assert np.isnan(league(some_scores(4, 2), runs).iqm_bounds).all()


@pytest.mark.parametrize("shape", [(1, 4), (4, 1)], ids=["one dataset", "one model"])
def test_a_league_of_one_dataset_or_one_model_is_refused(shape):
    with pytest.raises(ValueError, match="datasets of"):
        league(some_scores(*shape))


def test_unknown_scores_have_no_rank():
    with pytest.raises(ValueError, match="not all finite"):
        ranks(np.array([[0.5, np.nan]]))


def test_bars_join_what_the_critical_difference_does_not_separate():
    assert unseparated(np.array([1.0, 1.5, 2.9, 4.0]), 1.0) == [(0, 1)]
    assert unseparated(np.array([3.0, 1.0, 2.0]), 1.5) == [(0, 1), (1, 2)]
    assert unseparated(np.array([1.0, 3.0]), 1.0) == []


def test_a_model_that_wins_three_of_four_datasets_is_190_points_above_the_other():
    """Elo's own scale: a tenfold chance is 400 points, so that 3 to 1 is 400 log10(3)."""
    points = elo(np.array([[0.9, 0.8], [0.7, 0.6], [0.5, 0.4], [0.3, 0.35]]))
    assert points[0] - points[1] == pytest.approx(400 * np.log10(3))
    assert points[0] - points[1] == pytest.approx(190.85, abs=0.01)
