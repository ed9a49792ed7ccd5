"""Every pair of several models tested together: against tests of each pair alone, and on models of known gaps."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from commands import REPOSITORY
from scipy import stats

from fgmae_bench.metrics.intervals import single_label_units
from fgmae_bench.metrics.jackknife import Estimate
from fgmae_bench.metrics.rows import row_differences
from fgmae_bench.metrics.separation import apart, equality_p, over_places, pair_estimates, together


def units(rate: float, seed: int, groups: int = 20, each: int = 15):
    """Two classes of which a share is right, the groups alike for all models."""
    random = np.random.default_rng(seed)
    shift = np.random.default_rng(99).normal(0, 0.05, groups).repeat(each)
    targets = np.tile([0, 1], groups * each)[: groups * each]
    right = random.random(len(targets)) < np.clip(rate + shift, 0, 1)
    logits = np.eye(2)[np.where(right, targets, 1 - targets)]
    names = [f"g{i:02}" for i in range(groups)]
    return single_label_units(logits, targets, np.repeat(names, each).tolist())


def rows(rates, seeds=(0, 1, 2)):
    return [[units(rate, 100 * m + seed) for seed in seeds] for m, rate in enumerate(rates)]


def test_pairs_are_those_of_each_comparison_alone():
    three = rows([0.8, 0.7, 0.6])
    found = pair_estimates(three, [["0", "1", "2"]] * 3, "oa")
    assert list(found) == [(0, 1), (0, 2), (1, 2)]
    for (i, j), estimate in found.items():
        alone = row_differences(three[i], three[j], paired=True)["oa"]
        assert (estimate.value, estimate.error, estimate.degrees) == (alone.value, alone.error, alone.degrees)
    apart_seeds = pair_estimates(three, [["0", "1", "2"], ["3", "4", "5"], ["0", "1", "2"]], "oa")
    alone = row_differences(three[0], three[1], paired=False)["oa"]
    assert apart_seeds[0, 1].error == alone.error


def test_nothing_is_tested_where_intervals_are_withheld():
    few = [[units(0.8, seed, groups=4)] for seed in (0, 1)]
    assert pair_estimates(few, [["0"], ["0"]], "oa") == {}


def test_the_set_that_may_be_best_and_the_ranks_that_models_may_have():
    found = apart(3, pair_estimates(rows([0.85, 0.84, 0.5]), [["0", "1", "2"]] * 3, "oa"))
    assert found.may_be_best().tolist() == [True, True, False]
    assert found.rank_sets() == [(1, 2), (1, 2), (3, 3)]
    assert found.tests == 3
    nothing = apart(3, {})
    assert nothing.may_be_best().all()
    assert nothing.rank_sets() == [(1, 3)] * 3


def test_holm_runs_over_all_pairs():
    def pair(t: float) -> Estimate:
        return Estimate(value=t, error=1.0, degrees=1e6)

    # p = .03 each: alone below .05, after Holm over three not
    t = float(stats.norm.isf(0.015))
    assert apart(2, {(0, 1): pair(t)}).above[0, 1]
    assert not apart(3, {(0, 1): pair(t), (0, 2): pair(t), (1, 2): pair(t)}).above.any()


def test_equality_is_two_one_sided_tests_with_a_stated_margin():
    random = np.random.default_rng(0)
    x = random.normal(0.001, 0.004, 25)
    estimate = Estimate(value=float(x.mean()), error=float(x.std(ddof=1) / 5), degrees=24)
    above = stats.ttest_1samp(x, -0.005, alternative="greater").pvalue
    below = stats.ttest_1samp(x, 0.005, alternative="less").pvalue
    assert equality_p(estimate, 0.005) == pytest.approx(max(above, below))
    assert apart(2, {(0, 1): estimate}, margin=0.005).equal[0, 1]
    assert not apart(2, {(0, 1): estimate}, margin=0.001).equal.any()
    with pytest.raises(ValueError, match="margin"):
        equality_p(estimate, 0.0)


def test_what_is_not_separated_is_not_thereby_equal():
    vague = apart(2, {(0, 1): Estimate(value=0.0, error=0.1, degrees=10)})
    assert not vague.above.any()
    assert not vague.equal.any()


def test_datasets_of_the_same_scenes_make_nothing_surer():
    one = Estimate(value=0.1, error=0.04, degrees=9)
    both = together([one, Estimate(value=0.2, error=0.06, degrees=4)])
    assert (both.value, both.error, both.degrees) == (pytest.approx(0.15), pytest.approx(0.05), 4)
    apart_places = over_places([{(0, 1): one}, {(0, 1): one, (0, 2): one}])
    assert list(apart_places) == [(0, 1)]
    assert apart_places[0, 1].error == pytest.approx(0.04 / 2**0.5)


def test_a_model_is_equal_to_itself():
    twice = rows([0.8])[0]
    found = pair_estimates([twice, twice], [["0", "1", "2"]] * 2, "oa")
    assert not apart(2, found).above.any()
    assert apart(2, found).equal[0, 1]


def test_rows_of_other_seeds_do_not_count_their_interaction_twice():
    """Nothing but noise of single hits: seeds and groups both show it, and it is one variance, not two."""
    random = np.random.default_rng(3)
    groups, each = 50, 20
    targets = np.tile([0, 1], groups * each // 2)
    names = np.repeat([f"g{i:02}" for i in range(groups)], each).tolist()

    def noise():
        logits = np.eye(2)[np.where(random.random(len(targets)) < 0.7, targets, 1 - targets)]
        return single_label_units(logits, targets, names)

    ratios = []
    for _ in range(40):
        a, b = ([noise() for _ in range(4)] for _ in range(2))
        ratios.append(row_differences(a, b, paired=False)["oa"].error)
    true = (2 * 0.7 * 0.3 / (4 * groups * each)) ** 0.5
    # the larger of two estimates of one variance stands; twice the variance would be 1.41
    assert 0.95 < np.sqrt(np.mean(np.square(ratios))) / true < 1.25


def test_simulated_models_of_known_gaps():
    path = REPOSITORY / "experiments/statistics/ranking.py"
    spec = importlib.util.spec_from_file_location("simulated_ranking", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    quiet, power, _ = script.simulate(60)
    assert quiet >= 0.93  # two of 60 worlds are within the simulation error of 95 %
    assert power >= 0.84


def test_claims_of_equality_are_corrected_together():
    """Three pairs, each equal within the margin at 3 % alone: after Holm none is; one at 1 % is."""
    from scipy.stats import norm

    def alike(p):
        return Estimate(value=0.0, error=0.01 / float(norm.isf(p)), degrees=1e9)

    pairs = {(0, 1): alike(0.03), (0, 2): alike(0.03), (1, 2): alike(0.03)}
    assert [equality_p(each, 0.01) for each in pairs.values()] == pytest.approx([0.03] * 3, rel=1e-4)
    assert not apart(3, pairs, 0.01).equal.any()
    assert apart(3, {**pairs, (0, 1): alike(0.01)}, 0.01).equal.sum() == 2


def test_what_rounding_leaves_separates_no_models():
    estimate = Estimate(value=1e-13, error=1e-17, degrees=20.0)
    found = apart(2, {(0, 1): estimate})
    assert not found.above.any()
    assert found.equal[0, 1]
    assert equality_p(Estimate(value=0.2, error=0.0, degrees=20.0), 0.01) == 1.0
