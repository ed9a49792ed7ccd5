"""Intervals and paired tests: exact against scikit-learn and scipy, honest on clustered simulations, bounded on large
splits.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score

from fgmae_bench.metrics import intervals as iv
from fgmae_bench.metrics.multi_label import multi_label
from fgmae_bench.metrics.segmentation import segmentation
from fgmae_bench.metrics.significance import holm, mcnemar_mid_p, t_quantile, t_two_sided
from fgmae_bench.metrics.single_label import confusion_matrix, single_label

SIMULATION = runpy.run_path(str(Path(__file__).resolve().parents[1] / "experiments/statistics/coverage.py"))


def split(n=400, k=4, seed=0):
    random = np.random.default_rng(seed)
    targets = random.integers(0, k, n)
    return random.normal(size=(n, k)) + 2 * np.eye(k)[targets], targets


def tags(n=400, seed=0):
    random = np.random.default_rng(seed)
    targets = random.random((n, 5)) < 0.3
    return np.round(random.normal(size=(n, 5)) + targets, 1), targets  # ties on purpose


# Metrics of weighted sums


def test_resampled_single_label_metrics_are_those_of_the_repeated_samples():
    logits, targets = split()
    units = iv.single_label_units(logits, targets)
    weights = np.random.default_rng(1).integers(0, 3, (2, len(targets))).astype(np.float32)
    for i, found in enumerate(zip(*units.measure(weights).values(), strict=True)):
        rows = np.repeat(np.arange(len(targets)), weights[i].astype(int))
        wanted = single_label(confusion_matrix(targets[rows], logits[rows].argmax(1), 4))
        assert found == pytest.approx(tuple(wanted.values()), abs=1e-12)
    assert iv.point(units) == single_label(confusion_matrix(targets, logits.argmax(1), 4))


def test_weighted_average_precision_is_scikit_learns():
    logits, targets = tags()
    units = iv.multi_label_units(logits, targets)
    weights = np.random.default_rng(1).integers(0, 4, len(targets)).astype(np.float32)
    found = {name: value[0] for name, value in units.measure(weights[None]).items()}
    p, y = 1 / (1 + np.exp(-logits)), targets.astype(int)
    each = [average_precision_score(y[:, c], p[:, c], sample_weight=weights) for c in range(5)]
    assert found["map_macro"] == pytest.approx(np.mean(each), abs=1e-6)
    micro = average_precision_score(y.ravel(), p.ravel(), sample_weight=np.repeat(weights, 5))
    assert found["map_micro"] == pytest.approx(micro, abs=1e-6)
    for average in ("micro", "macro"):
        assert found[f"f1_{average}"] == pytest.approx(
            f1_score(y, p >= 0.5, sample_weight=weights, average=average), abs=1e-6
        )


def test_segmentation_metrics_are_those_of_the_scores():
    c = np.array(
        [[8, 2, 2, 0, 1], [1, 9, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    )  # 2 is only predicted, 3 never occurs
    for matrix in (c, c[:, :4]):
        units = iv.segmentation_units(np.stack([matrix] * 3))
        assert iv.point(units) == segmentation(matrix)


def test_an_empty_split_has_no_interval():
    units = iv.segmentation_units(np.zeros((3, 2, 2), np.int64))
    assert iv.intervals(units, 50)["test"]["miou"] is None


# Intervals


def test_intervals_are_the_same_again_and_know_what_was_drawn():
    logits, targets = split()
    groups = [f"tile{i // 20}" for i in range(len(targets))]
    first, second = (iv.intervals(iv.single_label_units(logits, targets, groups), 200) for _ in range(2))
    assert first == second
    assert (first["over"], first["units"]) == ("groups", 20)
    plain = iv.intervals(iv.single_label_units(logits, targets), 200)
    assert (plain["over"], plain["units"]) == ("samples", 400)


def test_groups_of_identical_patches_widen_the_interval_by_the_square_root_of_their_size():
    logits, targets = split(100)
    often = (np.repeat(logits, 25, axis=0), np.repeat(targets, 25))
    groups = [str(i // 25) for i in range(2500)]
    width = {
        name: np.subtract(*iv.intervals(iv.single_label_units(*often, chosen))["test"]["oa"][::-1])
        for name, chosen in (("groups", groups), ("samples", None))
    }
    assert width["groups"] / width["samples"] == pytest.approx(5, rel=0.15)


def test_bags_of_many_samples_give_the_interval_of_samples(monkeypatch):
    logits, targets = split(9000)
    exact = iv.intervals(iv.single_label_units(logits, targets))["test"]
    monkeypatch.setattr(iv, "MAX_SAMPLES", 5000)
    bagged = iv.intervals(iv.single_label_units(logits, targets))
    assert bagged["units"] == iv.BAGS
    for name, (low, high) in exact.items():
        assert bagged["test"][name] == pytest.approx([low, high], abs=(high - low) / 8)


def test_score_levels_instead_of_all_scores_change_nothing_that_shows(monkeypatch):
    random = np.random.default_rng(3)
    targets = random.random((3000, 3)) < 0.2
    logits = random.normal(size=targets.shape) + 1.5 * targets
    groups = [str(i // 60) for i in range(3000)]
    exact = iv.intervals(iv.multi_label_units(logits, targets, groups), 300)["test"]
    monkeypatch.setattr(iv, "CELLS", 1)
    coarse = iv.multi_label_units(logits, targets, groups)
    assert iv.point(coarse) == pytest.approx(multi_label(logits, targets), abs=1e-6)
    for name, pair in iv.intervals(coarse, 300)["test"].items():
        assert pair == pytest.approx(exact[name], abs=5e-4)


def test_one_group_and_wrong_groups():
    logits, targets = split(50)
    assert iv.intervals(iv.single_label_units(logits, targets, ["a"] * 50), 50)["test"]["oa"] is None
    with pytest.raises(ValueError, match="49 groups for 50 samples"):
        iv.single_label_units(logits, targets, ["a"] * 49)


def simulated_job(kind, world="simulated", groups=20, size=None):
    design = SIMULATION["Design"](groups=groups, size=size or SIMULATION["WORLDS"][world].SIZES[kind], correlation=0.1)
    return SIMULATION["Job"](world=world, kind=kind, design=design)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single", "segmentation", "tags"])
def test_intervals_over_twenty_unequal_groups_cover_what_they_say(kind):
    """A quick look at what experiments/statistics/coverage.py shows of all designs; four standard errors of freedom."""
    for name, cell in SIMULATION["coverage"](simulated_job(kind), 250, 3).items():
        if len(cell.held) >= 100:
            free = 4 * np.sqrt(0.05 * 0.95 / len(cell.held))
            assert 0.92 - free <= np.mean(cell.held) <= 0.97 + free, name


@pytest.mark.parametrize("world", ["simulated", "confirmation"])
@pytest.mark.parametrize("kind", ["single", "segmentation", "tags"])
def test_the_truth_of_a_simulated_world_is_what_its_largest_splits_come_to(world, kind):
    """The generators' own oracle: a split of very many groups scores its stated truth."""
    job = simulated_job(kind, world, groups=1500, size=40)
    units, truth = SIMULATION["drawn"](job, np.random.default_rng(4))
    for each in units:
        found = iv.point(each)
        for name, value in truth.items():
            assert found[name] == pytest.approx(value, abs=0.02), name


def test_a_simulation_is_the_same_for_its_seed_and_another_for_another():
    job = simulated_job("single", groups=10, size=30)
    first, again, other = (SIMULATION["coverage"](job, 3, seed)["oa"].widths for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.slow
def test_blocks_cover_what_they_say_and_chips_one_by_one_far_less():
    grouped, plain = (SIMULATION["blocks"](0.2, count, plain=plain) for count, plain in ((150, False), (60, True)))
    for name in ("oa", "aa"):
        assert np.mean(grouped[name].held) >= 0.90
        assert np.mean(plain[name].held) < 0.85


# Paired tests


@pytest.mark.slow
def test_false_positives_of_the_paired_tests_are_as_announced():
    p = SIMULATION["coverage"](simulated_job("single"), 400, 1)["oa"].p
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09
    assert 0.035 <= SIMULATION["mcnemar_false_positives"](20_000) <= 0.065


def test_a_paired_difference_is_told_where_unpaired_intervals_overlap():
    logits, targets = split(600)
    worse = logits.copy()
    worse[np.flatnonzero(logits.argmax(1) == targets)[:25]] *= -1
    a, b = iv.single_label_units(logits, targets), iv.single_label_units(worse, targets)
    difference = iv.paired_differences(a, b)["oa"]
    assert difference.a - difference.b == pytest.approx(25 / 600)
    assert difference.low > 0
    assert difference.p < 1e-4
    low_a, high_b = iv.intervals(a)["test"]["oa"][0], iv.intervals(b)["test"]["oa"][1]
    assert low_a < high_b
    assert iv.paired_differences(a, a)["oa"].p == 1.0


def test_t_and_mcnemar_against_scipy():
    for df in (1, 2, 3, 4, 5, 39, 40, 999):
        assert t_quantile(0.95, df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-10)
        assert t_two_sided(-2.5, df) == pytest.approx(2 * stats.t.sf(2.5, df), rel=1e-9)
    for b, c in ((0, 0), (0, 5), (3, 9), (20, 31), (400, 460), (7, 7)):
        k, n = min(b, c), b + c
        wanted = min(1.0, 2 * stats.binom.cdf(k, n, 0.5) - stats.binom.pmf(k, n, 0.5)) if n else 1.0
        assert mcnemar_mid_p(b, c) == pytest.approx(wanted, rel=1e-9)


def test_holm_is_stepwise_and_keeps_what_could_not_be_tested():
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(("count", "most"), [(2, 2048), (10, 409), (100, 256)])
def test_a_large_multi_label_split_keeps_bounded_counts(count, most, monkeypatch):
    """Work and memory of a resample follow from units x score levels, not from the number of samples."""
    monkeypatch.setattr(iv, "CELLS", 2**12)
    random = np.random.default_rng(0)
    scores, unit = random.random(20_000), random.integers(0, count, 20_000)
    chosen = random.random(20_000) < 0.1
    positive, every = iv._level_counts(scores, chosen, unit, count)
    assert positive.shape == every.shape == (count, most)
    assert (positive.sum(), every.sum()) == (chosen.sum(), 20_000)
