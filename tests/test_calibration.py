"""Calibration against torchmetrics, scikit-learn, published pins and simulations; curves of labels and of choices."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss

from fgmae_bench.metrics import calibration as cal
from fgmae_bench.metrics.label_curves import area_on_log, labels_to_reach
from fgmae_bench.metrics.selection import (
    best_on_val,
    one_standard_error,
)

CONFIDENCE = np.array([0.92, 0.83, 0.71, 0.63, 0.55, 0.97])
CORRECT = np.array([1, 1, 0, 1, 0, 1])


def error(confidence, correct, place, bins):
    return cal.calibration_error(cal.binned(confidence, correct, place, bins))[0]


def sample(n=3000, k=6, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, k))
    targets = np.array([rng.choice(k, p=p) for p in cal.softmax(logits / 2)])
    return logits.astype(np.float32), targets  # twice too sure


@pytest.mark.parametrize(("bins", "expected"), [(5, 0.195), (10, 0.318333), (15, 0.318333)])
def test_equal_width_error_of_the_worked_example(bins, expected):
    assert error(CONFIDENCE, CORRECT, cal.equal_width(CONFIDENCE, bins), bins) == pytest.approx(expected, abs=1e-6)


def test_equal_mass_error_of_the_worked_example_in_any_order():
    for order in (np.arange(6), np.arange(6)[::-1], np.random.default_rng(0).permutation(6)):
        p, y = CONFIDENCE[order], CORRECT[order]
        assert error(p, y, cal.equal_mass(p, 3), 3) == pytest.approx(0.138333, abs=1e-6)


def test_bins_hold_their_upper_end_and_equal_confidences_stay_together():
    assert cal.equal_width(np.array([0.0, 0.2, 0.2000001, 1.0]), 5).tolist() == [0, 0, 1, 4]
    assert cal.equal_mass(np.array([0.5, 0.9, 0.5, 0.5, 0.7, 0.9]), 3).tolist() == [0, 2, 0, 0, 1, 2]


@pytest.fixture(scope="module")
def theirs():
    """The functions of torchmetrics, whose import takes seconds: not at collection, which every worker does."""
    return pytest.importorskip("torchmetrics.functional.classification")


@pytest.mark.parametrize("bins", [5, 15])
def test_the_error_is_that_of_torchmetrics(bins, theirs):
    logits, targets = sample()
    p = cal.softmax(logits)
    expected = theirs.multiclass_calibration_error(
        torch.from_numpy(p), torch.from_numpy(targets), 6, n_bins=bins, norm="l1"
    )
    found = error(p.max(1), p.argmax(1) == targets, cal.equal_width(p.max(1), bins), bins)
    assert found == pytest.approx(expected.item(), abs=1e-6)
    q, y = p[:, 0], targets == 0
    binary = theirs.binary_calibration_error(
        torch.from_numpy(q), torch.from_numpy(y.astype(int)), n_bins=bins, norm="l1"
    )
    assert error(q, y, cal.equal_width(q, bins), bins) == pytest.approx(binary.item(), abs=1e-6)


def test_brier_and_loss_are_scikit_learns_and_the_worked_examples():
    assert ((CONFIDENCE - CORRECT) ** 2).mean() == pytest.approx(0.163283, abs=1e-6)
    two = np.stack([1 - CONFIDENCE, CONFIDENCE], axis=1)
    assert cal.brier(two, CORRECT) == pytest.approx(0.326567, abs=1e-6)
    assert cal.brier(CONFIDENCE[:, None], CORRECT[:, None]) == pytest.approx(brier_score_loss(CORRECT, CONFIDENCE))
    p = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3]])
    assert cal.brier(p, np.array([0, 2])) == pytest.approx(0.44)
    found = cal.calibration("single_label", np.log(p), np.array([0, 2]))
    assert (found["brier"], found["nll"]) == (pytest.approx(0.44), pytest.approx(0.780324, abs=1e-6))
    logits, targets = sample()
    assert cal.calibration("single_label", logits, targets)["nll"] == pytest.approx(
        log_loss(targets, cal.softmax(logits)), abs=1e-6
    )


def test_temperature_of_the_worked_example():
    logits, targets = np.tile([2.0, 0.0], (4, 1)), np.array([0, 0, 0, 1])
    found = cal.calibration("single_label", logits, targets, (logits, targets))
    assert found["temperature"] == pytest.approx(2 / math.log(3), abs=1e-5)
    assert (found["nll"], found["nll_scaled"]) == (pytest.approx(0.626928, abs=1e-6), pytest.approx(0.562335, abs=1e-6))


def test_temperature_undoes_what_logits_were_multiplied_by():
    logits, targets = sample(20_000)
    assert cal.temperature(logits, targets) == pytest.approx(2, abs=0.05)
    hot = np.eye(6)[targets]
    binary = np.log(cal.softmax(logits / 2)) - np.log1p(-cal.softmax(logits / 2))
    assert cal.temperature(3 * binary, hot) == pytest.approx(3, abs=0.1)
    found = cal.calibration("single_label", logits, targets, (logits, targets))
    assert found["ece_scaled"] < 2 * found["ece_perfect"] < found["ece"]


def test_without_val_there_is_no_temperature():
    logits, targets = sample(100)
    found = cal.calibration("single_label", logits, targets)
    assert found["temperature"] is found["ece_scaled"] is found["nll_scaled"] is None


def test_the_error_of_a_perfectly_calibrated_model_is_that_of_new_outcomes(theirs):
    """Outcomes are drawn here by another generator, and binned by torchmetrics."""
    rng = np.random.default_rng(5)
    p = rng.beta(4, 2, 400)
    place = cal.equal_width(p)
    found = cal.perfect_error(cal.binned(p, p > 0.5, place, 15), (p, place))
    outcomes = [torch.from_numpy((rng.random(400) < p).astype(int)) for _ in range(200)]
    expected = [theirs.binary_calibration_error(torch.from_numpy(p), y, n_bins=15, norm="l1").item() for y in outcomes]
    assert found == pytest.approx(np.mean(expected), abs=4 * np.std(expected) / math.sqrt(100))
    from_sums = cal.perfect_error(cal.binned(p, p > 0.5, place, 15))
    assert from_sums == pytest.approx(np.mean(expected), abs=4 * np.std(expected) / math.sqrt(100))


def test_small_sets_have_an_error_even_when_calibration_is_perfect():
    """It falls as 1 / sqrt(n): a published error means nothing without it."""
    found = []
    for n in (100, 1000, 10_000):
        p = np.random.default_rng(1).uniform(0.5, 1, n)
        place = cal.equal_width(p)
        found.append(cal.perfect_error(cal.binned(p, p > 0, place, 15), (p, place)))
    assert found[0] > 0.05
    assert [a / b for a, b in pairwise(found)] == pytest.approx([math.sqrt(10)] * 2, rel=0.15)


def test_many_labels_are_calibrated_over_all_decisions(theirs):
    rng = np.random.default_rng(2)
    logits = rng.normal(-1, 2, (500, 4))
    y = (rng.random((500, 4)) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    found = cal.calibration("multi_label", logits, y)
    p = torch.from_numpy(1 / (1 + np.exp(-logits))).flatten()
    expected = theirs.binary_calibration_error(
        p, torch.from_numpy(y.astype(int)).flatten(), n_bins=15, norm="l1"
    ).item()
    assert found["ece"] == pytest.approx(expected, abs=1e-6)
    assert found["brier"] == pytest.approx(brier_score_loss(y.ravel(), p.numpy()))
    each = [
        theirs.binary_calibration_error(
            torch.from_numpy(1 / (1 + np.exp(-logits[:, k]))), torch.from_numpy(y[:, k].astype(int)), n_bins=15
        ).item()
        for k in range(4)
    ]
    assert found["ece_classwise"] == pytest.approx(np.mean(each), abs=1e-6)
    assert found["ece"] < 2 * found["ece_perfect"]
    # a decision against a label is as sure as one for it
    sure = np.maximum(p.numpy(), 1 - p.numpy())
    wrong = (p.numpy() >= 0.5) != y.ravel()
    risks = np.cumsum(wrong[np.argsort(-sure)]) / np.arange(1, 2001)
    assert len(np.unique(sure)) == 2000
    assert found["aurc"] == pytest.approx(risks.mean())


def test_risk_over_coverage_of_a_worked_example_with_ties():
    """Errors 0, then two of equal confidence with one error: each counts one half."""
    area, curve = cal.risk_over_coverage(np.array([0.9, 0.7, 0.7, 0.6]), np.array([1, 0, 1, 1]))
    risks = [0, 0.25, 1 / 3, 0.25]
    assert area == pytest.approx(np.mean(risks))
    assert curve[-1] == pytest.approx([1.0, 0.25])
    assert cal.risk_over_coverage(np.array([0.7, 0.9, 0.6, 0.7]), np.array([1, 1, 1, 0]))[0] == pytest.approx(area)


def test_pixels_in_fine_bins_give_what_their_samples_give():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (8000, 5))
    targets = np.array([rng.choice(5, p=p) for p in cal.softmax(logits / 1.5)])
    p = cal.softmax(logits)
    kept = np.stack([cal.pixel_confidence(p[part], targets[part]) for part in np.split(np.arange(8000), 4)])
    found = cal.pixel_calibration(kept, 0.5)
    exact = cal.calibration("single_label", np.log(p), targets)
    for name in ("ece", "brier"):
        assert found[name] == pytest.approx(exact[name], abs=1e-9)
    assert found["ece_perfect"] == pytest.approx(exact["ece_perfect"], rel=0.1)
    assert found["ece_mass"] == pytest.approx(exact["ece_mass"], rel=0.1)
    assert found["aurc"] == pytest.approx(exact["aurc"], rel=0.1)
    np.testing.assert_allclose(found["reliability"], exact["reliability"], atol=1e-6)
    assert (found["temperature"], found["nll"]) == (None, 0.5)


# --- curves over numbers of labels

LABELS, SCORES = (1, 5, 10, 50, 100), (0.4, 0.6, 0.7, 0.8, 0.82)


def test_area_on_the_logarithm_of_labels():
    assert area_on_log(LABELS, SCORES) == pytest.approx(0.656608, abs=1e-6)
    assert np.trapezoid(SCORES, LABELS) / 99 == pytest.approx(0.765152, abs=1e-6)  # linear: the right end alone counts
    assert area_on_log((3, 7), (0.5, 0.5)) == pytest.approx(0.5)
    for labels in ((1,), (5, 1), (0, 1), (1, 1)):
        with pytest.raises(ValueError, match="numbers of labels"):
            area_on_log(labels, [0.5] * len(labels))


def test_labels_that_reach_a_score_are_interpolated_and_never_extrapolated():
    assert labels_to_reach(LABELS, SCORES, 0.75) == pytest.approx(22.360680, abs=1e-6)
    assert labels_to_reach(LABELS, SCORES, 0.83) is None
    assert labels_to_reach(LABELS, SCORES, 0.3) == 1
    assert labels_to_reach(LABELS, SCORES, 0.6) == pytest.approx(5)
    twice = [labels_to_reach(LABELS, SCORES, 0.7), labels_to_reach([2 * n for n in LABELS], SCORES, 0.7)]
    assert twice[1] / twice[0] == pytest.approx(2)


# --- choosing among candidates


def test_the_best_on_val_is_the_first_of_equal_ones_and_none_where_one_is_undefined():
    assert best_on_val([0.5, 0.7, 0.7, 0.6]) == 1
    assert best_on_val([0.1, None]) is None
    assert best_on_val([]) is None


def test_one_standard_error_is_glmnets_rule():
    """cvsd = sqrt(weighted mean of (fold mean - mean)^2 / (folds - 1)), lambda.1se the largest within it."""
    rng = np.random.default_rng(0)
    units = np.repeat([0, 1, 2, 3], [10, 20, 30, 40])
    losses = [
        (rng.normal(m, 0.3, 100) + np.array([0, 0.1, -0.1, 0.05])[units], np.ones(100)) for m in (1.2, 1.0, 1.06, 1.5)
    ]
    chosen, best, means, errors = one_standard_error((0.1, 1.0, 10.0, 100.0), losses, units)
    for (loss, _), mean, error_ in zip(losses, means, errors, strict=True):
        folds = [loss[units == u].mean() for u in range(4)]
        share = np.array([0.1, 0.2, 0.3, 0.4])
        assert mean == pytest.approx(loss.mean())
        assert error_ == pytest.approx(math.sqrt((share * (np.array(folds) - loss.mean()) ** 2).sum() / 3))
    assert (chosen, best) == (10.0, 1.0)
    flat = [(np.full(4, 1.0), np.ones(4))] * 3
    assert one_standard_error((1.0, 2.0, 3.0), flat, np.arange(4))[:2] == (3.0, 1.0)  # ties: the first, the strongest
    with pytest.raises(ValueError, match="no held sample"):
        one_standard_error((1.0,), [(np.zeros(4), np.zeros(4))], np.arange(4))
