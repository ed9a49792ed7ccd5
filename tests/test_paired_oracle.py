"""Intervals and paired tests against scipy: the t-test of groups, and the expanded percentiles of the same resamples."""

import numpy as np
import pytest
from scipy import stats

from fgmae_bench.metrics import intervals as iv


def grouped(groups=6, each=50, seed=0):
    """(logits of two classifiers, targets, group of each sample); every group has the same number of samples."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, 3, groups * each)
    level = np.repeat(random.normal(size=(2, groups)), each, axis=1)  # some groups are harder than others
    logits = [random.normal(size=(len(targets), 3)) + np.eye(3)[targets] * (1 + own)[:, None] for own in level]
    return logits, targets, np.repeat([f"tile {g}" for g in range(groups)], each).tolist()


@pytest.mark.parametrize("groups", [5, 6, 15])
def test_the_difference_of_means_over_groups_is_the_paired_t_tests(groups):
    """OA over groups of one size is a mean over groups: there the test has a closed form."""
    (first, second), targets, names = grouped(groups)
    a, b = (iv.single_label_units(logits, targets, names) for logits in (first, second))
    found = iv.paired_differences(a, b, count=40_000)["oa"]
    right = [(logits.argmax(1) == targets).reshape(groups, -1).mean(1) for logits in (first, second)]
    wanted = stats.ttest_rel(*right)
    low, high = wanted.confidence_interval(0.95)
    assert found.a - found.b == pytest.approx(np.mean(right[0] - right[1]))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02 * (high - low))
    gap = found.a - found.b
    error = gap / stats.t.isf(found.p / 2, groups - 1)
    assert abs(error) == pytest.approx(abs(gap / wanted.statistic), rel=0.02)


def test_bounds_and_p_follow_from_the_resamples_and_students_t():
    (first, second), targets, _ = grouped(5)
    a, b = (iv.single_label_units(logits, targets) for logits in (first, second))
    found, drawn, other = iv.paired_differences(a, b, 200), iv.replicates(a, 200), iv.replicates(b, 200)
    for name, each in found.items():
        spread = drawn[name] - other[name]
        error = np.sqrt(((spread - spread.mean()) ** 2).sum() / 199) * np.sqrt(250 / 249)
        half = stats.t.ppf(0.975, 249) * error
        assert (each.low, each.high) == pytest.approx((each.a - each.b - half, each.a - each.b + half), rel=1e-9)
        assert each.p == pytest.approx(2 * stats.t.sf(abs(each.a - each.b) / error, 249), rel=1e-9)


@pytest.mark.parametrize(("units", "level"), [(2, 0.95), (7, 0.95), (7, 0.8), (400, 0.95)])
def test_percentiles_are_expanded_as_hesterberg_says(units, level):
    values = np.random.default_rng(1).normal(size=1000)
    z = np.sqrt(units / (units - 1)) * stats.t.ppf((1 + level) / 2, units - 1)
    wanted = np.quantile(values, [stats.norm.cdf(-z), stats.norm.cdf(z)])
    assert iv.percentile_interval(values, units, level) == pytest.approx(tuple(wanted), rel=1e-9)


def test_an_interval_stands_or_falls_with_units_and_defined_values():
    values = np.linspace(0, 1, 100)
    assert iv.percentile_interval(values, 1) is None
    assert iv.percentile_interval(np.append(values, np.nan), 10) is None


def test_resamples_are_keyed_by_seed_and_number_of_units():
    logits, targets, names = grouped()
    one = iv.replicates(iv.single_label_units(logits[0], targets, names), 50)["oa"]
    again = iv.replicates(iv.single_label_units(logits[0], targets, names), 50)["oa"]
    other = iv.replicates(iv.single_label_units(logits[0], targets, names), 50, seed=1)["oa"]
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_metrics_over_groups_are_those_of_their_samples():
    logits, targets, names = grouped()
    units = iv.single_label_units(logits[0], targets, names)
    weights = np.array([[2, 0, 1, 1, 3, 0]], np.float32)
    rows = np.repeat(np.arange(len(targets)), np.repeat(weights[0].astype(int), 50))
    right = logits[0][rows].argmax(1) == targets[rows]
    assert units.measure(weights)["oa"] == pytest.approx(right.mean())
    assert units.measure(weights)["aa"] == pytest.approx(np.mean([right[targets[rows] == k].mean() for k in range(3)]))


def test_bags_of_many_samples_are_random_and_of_equal_size():
    targets = np.zeros(25_000, np.int64)
    logits = np.eye(2)[(np.arange(25_000) % 2)]
    units = iv.single_label_units(logits, targets)
    assert units.count == 2_000
    alone = [units.measure(np.eye(2_000, dtype=np.float32)[[bag]]) for bag in (0, 700, 1_400, 1_998, 1_999)]
    rights = np.array([one["oa"][0] for one in alone])
    sizes = [12, 13]
    assert all(any(abs(right * size - round(right * size)) < 1e-9 for size in sizes) for right in rights)
    assert len(set(rights)) > 1  # at random: not every second sample of a run
