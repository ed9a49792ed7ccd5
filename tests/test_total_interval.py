"""Columns of intervals over seeds and groups together, from what records hold: by hand, and how often they cover."""

import math

import numpy as np
import pytest
from make_records import make_record, resealed
from scipy import stats
from test_report_labels import shown

from fgmae_bench.metrics.variance import crossed, total_bounds
from fgmae_bench.report.row import Row


def row(scores, bounds, units=20):
    held = {"level": 0.95, "over": "groups", "method": "jackknife", "test": {"oa": bounds}}
    held |= {"units": units} if units else {}
    records = [make_record(seed=seed, test={"oa": oa}) for seed, oa in enumerate(scores)]
    return Row(label="a", dataset="d", records=tuple(resealed(each, "metrics", "intervals", held) for each in records))


def by_hand(scores, bounds, units):
    """The two distances: variances of both sources added, degrees of freedom by Satterthwaite, from scipy alone."""
    mean, of_seeds = np.mean(scores), np.var(scores, ddof=1) / len(scores)
    found = []
    for end in bounds:
        of_groups = ((end - mean) / stats.t.ppf(0.975, units - 1)) ** 2
        total = of_seeds + of_groups
        degrees = total**2 / (of_seeds**2 / (len(scores) - 1) + of_groups**2 / (units - 1))
        found.append(stats.t.ppf(0.975, max(1, degrees)) * math.sqrt(total))
    return mean - found[0], mean + found[1]


@pytest.mark.parametrize(
    ("scores", "bounds"),
    [([0.29, 0.33], [0.21, 0.41]), ([0.70, 0.74, 0.69], [0.60, 0.78]), ([0.5, 0.52, 0.49, 0.53, 0.5], [0.44, 0.56])],
    ids=["two", "three", "five"],
)
def test_the_column_adds_the_variances_of_seeds_and_groups(scores, bounds):
    found = shown(row(scores, bounds), "oa_total_interval")
    assert (found.low, found.high) == pytest.approx(by_hand(scores, bounds, 20), rel=1e-9)


def test_it_is_nowhere_narrower_than_the_groups_alone_and_stays_a_fraction():
    alike = shown(row([0.7, 0.7], [0.6, 0.79]), "oa_total_interval")
    assert (alike.low, alike.high) == pytest.approx((0.6, 0.79))
    near = shown(row([0.700, 0.701, 0.699, 0.7, 0.7, 0.7], [0.6, 0.79], units=5), "oa_total_interval")
    assert near.low <= 0.6
    assert near.high >= 0.79
    far = shown(row([0.5, 0.95], [0.6, 0.79]), "oa_total_interval")
    assert (far.low, far.high) == (0.0, 1.0)
    old = shown(row([0.69, 0.71], [0.6, 0.8], units=None), "oa_total_interval")
    assert old.low < 0.6
    assert shown(row([0.7], [0.6, 0.8]), "oa_total_interval") is None


def test_two_seeds_are_covered_and_no_third_wider_than_with_all_scores():
    """Worlds of two seeds in twenty groups, of which `crossed` sees every score and the column the intervals."""
    random = np.random.default_rng(5)
    covered, widths = [], []
    for _ in range(800):
        scores = random.normal(0, 1, 20) + random.normal(0, 0.15, (2, 1)) + random.normal(0, 0.4, (2, 20))
        half = stats.t.ppf(0.975, 19) * float(scores.std(1, ddof=1).mean()) / math.sqrt(20)
        mean = float(scores.mean())
        low, high = total_bounds(mean, (float(scores.mean(1).std(ddof=1)), 2), (mean - half, mean + half), 20)
        covered.append(low <= 0 <= high)
        both = crossed(scores).interval()
        widths.append((high - low, both[1] - both[0]))
    assert 0.93 <= np.mean(covered) <= 0.985
    column, compare = np.median(widths, 0)
    assert compare * 0.98 <= column <= compare * 4 / 3
