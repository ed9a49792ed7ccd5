"""Standard errors, intervals and tests against scipy, scikit-learn and values computed by hand or by enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from fgmae_bench.metrics import intervals as iv
from fgmae_bench.metrics.jackknife import (
    Estimate,
    degrees_of_freedom,
    effective_groups,
    pseudo_values,
    shares,
    standard_error,
)
from fgmae_bench.metrics.multi_label import average_precision
from fgmae_bench.metrics.ranks import agreement, kendall_tau_b
from fgmae_bench.metrics.rows import row_differences, row_estimates
from fgmae_bench.metrics.significance import holm, mean_ranks, sign_flip_mid_p, wilcoxon_p
from fgmae_bench.metrics.variance import (
    MANY,
    crossed,
    hierarchical,
    improvement_probability,
    interquartile_mean,
    over_datasets,
)

X = np.array([0.70, 0.74, 0.68, 0.81, 0.77])
M = np.array([[0.70, 0.80, 0.60], [0.74, 0.82, 0.66]])


def without_each(x, score=np.mean):
    return np.array([score(np.delete(x, i, 0)) for i in range(len(x))])


def units_of(hits, sizes):
    """Single-label units of groups with `hits` of `sizes`; one class is the target, the other what is missed for it."""
    right = np.concatenate([np.arange(n) < h for h, n in zip(hits, sizes, strict=True)])
    groups = np.repeat([f"g{i:02}" for i in range(len(sizes))], sizes)
    return iv.single_label_units(np.stack([right, ~right], 1).astype(float), np.zeros(len(right), int), groups.tolist())


# One score over groups


def test_the_jackknife_of_a_mean_is_its_standard_error_and_students_interval():
    error = float(standard_error(without_each(X)))
    assert error == pytest.approx(X.std(ddof=1) / np.sqrt(5)) == pytest.approx(0.0234521, abs=5e-8)
    found = Estimate(value=X.mean(), error=error, degrees=4).interval()
    assert found == pytest.approx((0.674887, 0.805113), abs=5e-7)
    assert found == pytest.approx(stats.t.interval(0.95, 4, X.mean(), stats.sem(X)))
    assert pseudo_values(np.array(X.mean()), without_each(X)) == pytest.approx(X)


def test_the_expanded_percentile_interval_of_all_3125_resamples():
    means = np.array([np.mean(drawn) for drawn in product(X, repeat=5)])
    assert iv.percentile_interval(means, 5) == pytest.approx((0.684, 0.802), abs=5e-4)
    assert means.std() == pytest.approx(0.0209762, abs=5e-8)


def test_the_jackknife_of_a_ratio_of_sums():
    hits, sizes = np.array([8, 3, 10, 1]), np.array([10, 6, 12, 5])
    units = units_of(hits, sizes)
    value, without = iv.point(units)["oa"], iv.left_out(units)[0]["oa"]
    assert value == pytest.approx(0.666667, abs=5e-7)
    assert 3 * (without.mean() - value) == pytest.approx(-0.024629, abs=5e-7)
    estimate = iv.estimates(units)["oa"]
    assert estimate.error == pytest.approx(0.123928, abs=5e-7)
    t3 = Estimate(value=value, error=estimate.error, degrees=3)
    assert t3.interval() == pytest.approx((0.272273, 1.061061), abs=5e-7)


def test_bounds_stay_within_what_the_metric_can_be():
    found = iv.intervals(units_of([9, 9, 10, 10, 10, 4], [10] * 6))["test"]["oa"]
    assert found[1] == 1.0
    assert 0 < found[0] < 52 / 60


def test_effective_groups_are_kishs():
    assert effective_groups(np.array([100, 10, 10, 5, 5])) == pytest.approx(1.648780, abs=5e-7)
    assert effective_groups(np.array([10, 6, 12, 5])) == pytest.approx(3.570492, abs=5e-7)


def test_degrees_of_freedom_are_g_minus_1_for_equal_groups_and_fall_with_unequal_ones_and_rare_classes():
    equal = np.full((12, 3), 7)
    for macro, ranked in product((False, True), repeat=2):
        assert degrees_of_freedom(equal, macro=macro, ranked=ranked) == pytest.approx(11)
    sizes = np.array([[100.0], [10], [10], [5], [5]])
    share = sizes[:, 0] / 130
    variance = share + share**2 / (share**2).sum()
    wanted = variance.sum() ** 2 / (variance**2).sum() - 1
    assert degrees_of_freedom(sizes, macro=False) == pytest.approx(max(1.0, wanted))
    rare = np.full((20, 2), 10)
    rare[3:, 1] = 0
    assert shares(rare, macro=True) == pytest.approx([1 / 40 + 1 / 6] * 3 + [1 / 40] * 17)
    within = np.array([10 / 200**2 + 10 / 30**2] * 3 + [10 / 200**2] * 17)
    both = within / within.sum() + shares(rare, macro=True)
    assert degrees_of_freedom(rare, macro=True) == pytest.approx(both.sum() ** 2 / (both**2).sum() - 1)
    assert degrees_of_freedom(rare, macro=True) < 8 < degrees_of_freedom(rare, macro=False)


def test_paired_groups_and_their_signs():
    a, b = np.array([0.8, 0.7, 0.9, 0.6]), np.array([0.75, 0.68, 0.8, 0.62])
    error = float(standard_error(without_each(a - b)))
    assert error == pytest.approx(0.02529, abs=5e-6)
    found = Estimate(value=(a - b).mean(), error=error, degrees=3).interval()
    assert found == pytest.approx((-0.042984, 0.117984), abs=5e-7)
    assert stats.ttest_rel(a, b).pvalue == pytest.approx(0.234753, abs=5e-7)
    d = [0.02, 0.01, 0.03, 0.015, 0.005]
    assert wilcoxon_p(d) == stats.wilcoxon(d).pvalue == 0.0625
    assert sign_flip_mid_p(d) == 0.0625 / 2  # of 16 pairs of signs the one that was seen, as half


def test_a_paired_difference_over_groups_is_the_paired_t_test_with_few_groups_too():
    hits = np.array([[40, 35, 45, 30, 41, 38, 29], [37, 34, 40, 31, 36, 39, 25]])
    a, b = (units_of(h, [50] * 7) for h in hits)
    found = iv.paired_differences(a, b)["oa"]
    wanted = stats.ttest_rel(*(hits / 50))
    assert found.p == pytest.approx(wanted.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval(0.95)))
    d = (hits[0] - hits[1]) / 50
    flips = [abs(np.mean(d * signs)) for signs in product((1, -1), repeat=7)]
    more, tied = np.sum(np.array(flips) > d.mean() + 1e-12), np.sum(np.isclose(flips, d.mean()))
    assert found.flips == pytest.approx((more + tied / 2) / 128)


def test_a_paired_difference_of_macro_average_precision_has_g_minus_1_degrees_whatever_the_shares():
    """With those of the shares its test rejected 1.3 to 3.4 % of true nulls (experiments/statistics/coverage.py)."""
    random = np.random.default_rng(0)
    targets = random.random((240, 3)) < (0.5, 0.3, 0.06)
    groups = [f"{int(i):02}" for i in np.sqrt(np.arange(240) * 0.6)]
    a, b = (iv.multi_label_units(random.normal(size=targets.shape) + 2 * targets, targets, groups) for _ in range(2))
    found = iv.paired_differences(a, b)
    assert found["map_macro"].degrees == a.count - 1 == 11
    assert max(found[name].degrees for name in ("f1_macro", "map_micro")) < 11
    gaps = iv.left_out(a)[0]["map_macro"] - iv.left_out(b)[0]["map_macro"]
    t = (found["map_macro"].a - found["map_macro"].b) / float(standard_error(gaps))
    assert found["map_macro"].p == pytest.approx(2 * stats.t.sf(abs(t), 11))


# What is withheld


@pytest.mark.parametrize(("groups", "reason"), [(4, "few_groups"), (5, None)])
def test_fewer_than_five_groups_give_neither_interval_nor_test(groups, reason):
    a, b = units_of(range(5, 5 + groups), [10] * groups), units_of([6, 4, 8, 7, 3][:groups], [10] * groups)
    found = iv.intervals(a)
    assert found["withheld"].get("oa") == reason
    assert (found["test"]["oa"] is None) == (reason is not None)
    found_pair = iv.paired_differences(a, b)["oa"]
    assert (found_pair.reason, found_pair.p is None, found_pair.low is None) == (
        reason,
        reason is not None,
        reason is not None,
    )
    assert iv.interval_notes(found, "scene")[0]["code"] == "few_groups"
    assert f"{groups} scenes" in iv.interval_notes(found, "scene")[0]["text"]


@pytest.mark.parametrize(
    ("holders", "each", "withheld"), [(2, 10, True), (3, 10, False), (3, 3, True), (5, 2, False), (12, 1, False)]
)
def test_a_class_in_two_groups_or_of_nine_samples_withholds_means_over_classes_alone(holders, each, withheld):
    random = np.random.default_rng(0)
    group = np.concatenate([np.repeat(np.arange(12), 20), np.repeat(np.arange(holders), each)])
    target = np.array([i % 2 for i in range(240)] + [2] * (holders * each))
    logits = np.eye(3)[np.where(random.random(len(target)) < 0.7, target, (target + 1) % 3)]
    units = iv.single_label_units(logits, target, [f"{g:02}" for g in group])
    found = iv.intervals(units, classes=("a", "b", "ice"))
    assert found["test"]["oa"] is not None
    assert found["test"]["kappa"] is not None
    for name in ("aa", "f1_macro"):
        assert found["withheld"].get(name) == ("rare_class" if withheld else None)
    texts = [note["text"] for note in iv.interval_notes(found, "tile") if note["code"] == "rare_class"]
    assert len(texts) == withheld
    assert all("are ice" in text for text in texts)


def test_units_that_all_score_the_same_show_no_spread():
    found = iv.intervals(units_of([10] * 6, [10] * 6))
    assert found["withheld"]["oa"] == "no_spread"
    assert "no_spread" in [note["code"] for note in iv.interval_notes(found, "")]


def test_many_groups_are_left_out_in_bags_that_give_the_same_error(monkeypatch):
    random = np.random.default_rng(1)
    hits = random.binomial(10, random.beta(8, 2, 1500))
    exact = iv.estimates(units_of(hits, [10] * 1500))["oa"]
    assert exact.error == pytest.approx(hits.std(ddof=1) / 10 / np.sqrt(1500))
    monkeypatch.setitem(iv.JACKKNIFE, "single_label", 200)
    bags = iv.estimates(units_of(hits, [10] * 1500))["oa"]
    assert bags.error == pytest.approx(exact.error, rel=0.15)
    assert bags.degrees == pytest.approx(199, abs=3)


def test_a_difference_that_is_the_same_in_every_group_has_neither_interval_nor_p_and_says_why():
    a, b = units_of([9] * 6, [10] * 6), units_of([7] * 6, [10] * 6)
    found = iv.paired_differences(a, b)["oa"]
    assert (found.reason, found.p, found.low, found.high, found.flips) == ("no_spread", None, None, None, None)
    same = iv.paired_differences(a, a)["oa"]
    assert (same.reason, same.p, same.low, same.high, same.flips) == (None, 1.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("seeds", [(1, 3), (3, 1), (2, 2)])
def test_rows_over_fewer_groups_than_five_warn_of_nothing_and_are_withheld(groups, seeds, recwarn):
    made = [[units_of([4 + (i + g) % 3 for g in range(groups)], [10] * groups) for i in range(n)] for n in seeds]
    found = row_differences(*made, paired=seeds[0] == seeds[1])["oa"]
    assert np.isnan(found.error) == (groups == 1)
    assert iv.obstacles(made[0][0])["oa"] == "few_groups"
    assert not recwarn.list


# Average precision and IoU


def test_average_precision_by_hand_and_of_chance():
    assert average_precision(np.array([4.0, 3, 2, 1]), np.array([1, 0, 1, 0])) == pytest.approx(0.833333, abs=5e-7)
    orders = [order for order in product((0, 1), repeat=5) if sum(order) == 2]
    chance = np.mean([average_precision(np.arange(5, 0, -1.0), np.array(order)) for order in orders])
    assert chance == pytest.approx(0.5925, abs=5e-7)


def test_iou_is_a_ratio_of_sums():
    images = np.array([[[8, 2], [0, 0]], [[1, 4], [0, 0]]])
    assert iv.point(iv.segmentation_units(images))["miou"] == pytest.approx(9 / 15)


# Two sources of variance


def test_seeds_and_groups_of_a_crossed_design():
    found = crossed(M)
    assert (found.over_seeds, found.over_groups) == pytest.approx((0.02, 0.051962), abs=5e-7)
    assert (found.value, found.error) == pytest.approx((0.72, 0.055377), abs=5e-7)
    one = crossed(M[:1])
    assert one.over_seeds is None
    assert one.error == one.over_groups == pytest.approx(stats.sem(M[0]))
    with pytest.raises(ValueError, match="no variance"):
        crossed(M[:1, :1])


def test_the_hierarchical_bootstrap_draws_seeds_in_each_resample_of_groups():
    drawn = [(s, g) for s in product(range(2), repeat=2) for g in product(range(3), repeat=3)]
    every = np.array([M[np.ix_(s, g)].mean() for s, g in drawn])
    assert every.std() == pytest.approx(0.044845, abs=5e-7)
    groups = np.array(list(product(range(3), repeat=3)) * 400)
    found = hierarchical(M[:, groups].mean(2))
    assert found.std() == pytest.approx(0.044845, rel=0.03)
    assert np.quantile(found, [0.025, 0.975]) == pytest.approx([0.632250, 0.803250], abs=0.01)


def rows(seeds, shift=0.0, count=12):
    random = np.random.default_rng(5)
    hard = random.normal(size=count)
    made = []
    for _ in range(seeds):
        rate = 1 / (1 + np.exp(-(1 + 0.5 * hard + 0.2 * random.normal() + 0.2 * random.normal(size=count) + shift)))
        made.append(units_of(random.binomial(50, rate), [50] * count))
    return made


def test_a_row_of_groups_of_one_size_is_the_crossed_design_of_its_accuracies():
    seeds = rows(3)
    table = np.array(
        [[units.measure(np.eye(12, dtype=np.float32)[[g]])["oa"][0] for g in range(12)] for units in seeds]
    )
    found, wanted = row_estimates(seeds)["oa"], crossed(table)
    assert (found.value, found.error, found.degrees) == pytest.approx((wanted.value, wanted.error, wanted.degrees))
    other = rows(3, 0.5)
    second = np.array(
        [[units.measure(np.eye(12, dtype=np.float32)[[g]])["oa"][0] for g in range(12)] for units in other]
    )
    paired = row_differences(seeds, other, paired=True)["oa"]
    assert paired.error == pytest.approx(crossed(table - second).error)
    apart = row_differences(seeds, other, paired=False)["oa"]
    seeds_alone = table.mean(1).var(ddof=1) / 3 + second.mean(1).var(ddof=1) / 3
    groups_alone = (table.mean(0) - second.mean(0)).var(ddof=1) / 12
    both = 0.0  # the interaction of each row, which the variance of seeds and that of groups both hold
    for each in (table, second):
        rest = each - each.mean(1, keepdims=True) - each.mean(0) + each.mean()
        both += (rest**2).sum() / (2 * 11) / (3 * 12)
    assert apart.error == pytest.approx(np.sqrt(max(seeds_alone + groups_alone - both, seeds_alone, groups_alone)))
    assert apart.over_seeds == pytest.approx(np.sqrt(seeds_alone))


def test_six_seeds_are_drawn_again_and_come_near_the_formula():
    seeds = rows(MANY + 6)
    found = row_estimates(seeds)["oa"]
    table = np.array(
        [[units.measure(np.eye(12, dtype=np.float32)[[g]])["oa"][0] for g in range(12)] for units in seeds]
    )
    assert found.error != crossed(table).error
    assert found.error == pytest.approx(crossed(table).error, rel=0.15)


def test_the_mean_over_datasets_adds_independent_errors():
    each = [Estimate(value=v, error=e, degrees=d) for v, e, d in ((0.02, 0.01, 9), (0.04, 0.02, 19), (0.0, 0.01, 30))]
    found = over_datasets(each)
    variances = np.array([0.01, 0.02, 0.01]) ** 2 / 9
    assert (found.value, found.error) == pytest.approx((0.02, np.sqrt(variances.sum())))
    assert found.degrees == pytest.approx(variances.sum() ** 2 / (variances**2 / np.array([9, 19, 30])).sum())
    assert found.p() == pytest.approx(2 * stats.t.sf(found.value / found.error, found.degrees))


# Ranks


def test_kendalls_tau_b_is_scipys_with_its_interval_by_enumeration():
    assert kendall_tau_b(np.array([1, 2, 3, 4, 5]), np.array([1, 3, 2, 4, 4])) == pytest.approx(7 / np.sqrt(90))
    random = np.random.default_rng(0)
    for _ in range(50):
        a, b = random.integers(0, 5, (2, int(random.integers(2, 12))))
        assert kendall_tau_b(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, nan_ok=True)
    a = np.array([[0.9, 0.8, 0.7, 0.6], [0.8, 0.85, 0.7, 0.5], [0.7, 0.6, 0.65, 0.4]])
    b = np.array([[0.85, 0.8, 0.6, 0.65], [0.8, 0.7, 0.75, 0.5], [0.6, 0.7, 0.5, 0.4]])
    found = agreement(a, b)
    assert (found.tau, found.low, found.high) == pytest.approx((1.0, 1 / 3, 1.0))
    assert found.ceiling is None
    drawn = [stats.kendalltau(a[[*rows]].mean(0), b[[*rows]].mean(0)).statistic for rows in product(range(3), repeat=3)]
    for level in (0.5, 0.6, 0.7):
        half = agreement(a, b, level=level)
        assert (half.low, half.high) == pytest.approx(tuple(np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])))


def test_the_noise_ceiling_is_what_halves_of_one_condition_agree_on():
    random = np.random.default_rng(1)
    true = np.linspace(0.5, 0.6, 6)
    scores = true + 0.1 * random.normal(size=(2, 30, 6))
    noisy = agreement(*scores)
    exact = agreement(np.tile(true, (30, 1)), np.tile(true, (30, 1)))
    assert exact.tau == exact.ceiling == exact.low == 1.0
    assert noisy.ceiling < 1
    assert noisy.low <= noisy.tau <= noisy.high


def test_wilcoxon_ranks_and_holm_are_those_of_scipy_and_of_the_hand():
    random = np.random.default_rng(2)
    for n in (1, 2, 6, 9, 15):
        d = random.normal(0.3, 1, n)
        assert wilcoxon_p(d) == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)
    tied = [1, 1, -2, 3, 0]
    signed = [np.dot(signs, [1.5, 1.5, 3, 4]) for signs in product((0, 1), repeat=4)]
    low = np.mean(np.array(signed) <= 7.0 - 1e-9 + 1e-9)
    high = np.mean(np.array(signed) >= 7.0)
    assert wilcoxon_p(tied) == pytest.approx(min(1, 2 * min(low, high)))
    assert wilcoxon_p([0, 0]) == 1.0
    values = random.integers(0, 6, 20)
    assert mean_ranks(values) == pytest.approx(stats.rankdata(values))
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    p = random.random(12)
    wanted = np.maximum.accumulate(np.sort(p) * np.arange(12, 0, -1)).clip(max=1)
    assert np.sort(holm(p.tolist())) == pytest.approx(wanted)


@pytest.mark.slow  # the import alone takes seconds; the adjustment by hand stands above
def test_holm_is_statsmodels():
    from statsmodels.stats.multitest import multipletests

    random = np.random.default_rng(3)
    for count in (1, 2, 5, 40):
        p = np.round(random.random(count) ** 3, 2)  # ties
        assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])


def test_scores_over_runs_and_tasks():
    runs = np.array([[0.1, 0.5], [0.2, 0.6], [0.3, 0.7], [0.9, 0.8]])
    assert interquartile_mean(runs) == pytest.approx(0.525) == pytest.approx(stats.trim_mean(runs, 0.25, axis=None))
    x, y = np.array([0.8, 0.9, 0.7]), np.array([0.6, 0.8, 0.75])
    assert improvement_probability(x, y) == pytest.approx(13 / 18)
    assert improvement_probability(x, y) == pytest.approx(stats.mannwhitneyu(x, y).statistic / 9)


@pytest.mark.parametrize("test", [sign_flip_mid_p, wilcoxon_p])
def test_unknown_values_are_refused_and_no_difference_is_no_evidence(test):
    with pytest.raises(ValueError, match="not finite"):
        test([np.nan, 1, 2])
    assert test([0.0, 0.0, 0.0]) == 1.0


def test_a_ranking_on_one_unit_has_no_interval_and_one_with_unknown_scores_is_refused():
    one = np.array([[0.1, 0.2, 0.3]])
    found = agreement(one, one)
    assert found.tau == 1.0
    assert np.isnan((found.low, found.high)).all()
    with pytest.raises(ValueError, match="rank models on the units"):
        agreement(np.array([[0.1, np.nan], [0.3, 0.2]]), np.array([[0.1, 0.2], [0.3, 0.2]]))


def test_signs_of_too_many_or_too_few_values_are_refused():
    for count in (1, 21):
        with pytest.raises(ValueError, match="values to flip"):
            sign_flip_mid_p(np.ones(count))
