"""Metrics of a whole split against scikit-learn, and the bound that no pair of OA and AA can break."""

import numpy as np
import pytest
from sklearn import metrics

from fgmae_bench.config.cards import load_card
from fgmae_bench.metrics.single_label import (
    classes_scored,
    confusion_matrix,
    cross_entropy,
    legacy_single_label,
    oa_aa_bound,
    per_class,
    single_label,
)
from fgmae_bench.metrics.statistics import finite
from fgmae_bench.runs.tasks import TASKS, assert_bound

K = 7


def labels(seed, n=400, present=K, predicted=K):
    """Uneven targets and half-right predictions."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(present, n, p=rng.dirichlet(np.ones(present)))
    return targets, np.where(rng.random(n) < 0.5, targets, rng.integers(0, predicted, n))


@pytest.mark.parametrize("seed", range(5))
def test_confusion_matrix_is_scikit_learns_with_reference_in_rows(seed):
    targets, predictions = labels(seed)
    ours = confusion_matrix(targets, predictions, K)
    assert ours.dtype == np.int64
    np.testing.assert_array_equal(ours, metrics.confusion_matrix(targets, predictions, labels=range(K)))
    assert (ours != ours.T).any()


def test_confusion_matrices_of_batches_add_up_to_the_whole_and_averages_of_batches_do_not():
    """Why metrics are computed once: averaged over batches of 8, with absent classes as 0, the published AA lost half
    its value.
    """
    targets, predictions = labels(0)
    batches = [(targets[i : i + 8], predictions[i : i + 8]) for i in range(0, 400, 8)]
    whole = sum(confusion_matrix(t, p, K) for t, p in batches)
    np.testing.assert_array_equal(whole, confusion_matrix(targets, predictions, K))
    averaged = np.mean(
        [metrics.recall_score(t, p, labels=range(K), average="macro", zero_division=0) for t, p in batches]
    )
    assert averaged < 0.75 * single_label(whole)["aa"]


@pytest.mark.parametrize(
    ("targets", "predictions"), [([0, 1, 7], [0, 1, 1]), ([0, 1, 1], [0, 1, 7]), ([0, -1], [0, 0]), ([0, 1], [0])]
)
def test_labels_outside_the_classes_are_refused(targets, predictions):
    """An ignored -1 would otherwise be counted for the last class of the class before."""
    with pytest.raises(ValueError, match=r"label outside|targets and"):
        confusion_matrix(np.array(targets), np.array(predictions), K)


@pytest.mark.parametrize("seed", range(8))
def test_scores_are_scikit_learns_where_every_class_has_samples(seed):
    targets, predictions = labels(seed)
    targets[:K] = np.arange(K)
    got = single_label(confusion_matrix(targets, predictions, K))
    assert got == pytest.approx(
        {
            "oa": metrics.accuracy_score(targets, predictions),
            "aa": metrics.balanced_accuracy_score(targets, predictions),
            "kappa": metrics.cohen_kappa_score(targets, predictions),
            "f1_macro": metrics.f1_score(targets, predictions, average="macro"),
        },
        abs=1e-12,
    )


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_classes_that_are_only_predicted_do_not_enter_the_averages():
    """scikit-learn's macro F1 takes the union of labels by default, so a class that is only predicted pulls it down by
    a zero.

    Ours averages over the classes with reference samples (as scikit-learn's balanced accuracy does), so that metrics of
    one split average over the same classes for every model; with `labels=` scikit-learn agrees.
    """
    targets, predictions = labels(3, present=4)
    assert set(predictions) - set(targets) == {4, 5, 6}
    got = single_label(confusion_matrix(targets, predictions, K))
    scored = sorted(set(targets.tolist()))
    assert got["aa"] == pytest.approx(metrics.balanced_accuracy_score(targets, predictions), abs=1e-12)
    assert got["f1_macro"] == pytest.approx(
        metrics.f1_score(targets, predictions, labels=scored, average="macro"), abs=1e-12
    )
    assert got["f1_macro"] > metrics.f1_score(targets, predictions, average="macro") + 0.05
    assert got["kappa"] == pytest.approx(metrics.cohen_kappa_score(targets, predictions), abs=1e-12)
    assert got["oa"] == pytest.approx(metrics.accuracy_score(targets, predictions), abs=1e-12)


def test_class_that_is_never_predicted_has_f1_zero():
    targets = np.array([0, 0, 1, 1, 2])
    predictions = np.array([0, 0, 1, 0, 0])
    got = single_label(confusion_matrix(targets, predictions, 3))
    assert got["f1_macro"] == pytest.approx(metrics.f1_score(targets, predictions, average="macro", zero_division=0))
    assert got["aa"] == pytest.approx(0.5)


def test_by_hand():
    got = single_label(np.array([[3, 1], [2, 4]]))
    assert got == pytest.approx(
        {"oa": 0.7, "aa": (3 / 4 + 4 / 6) / 2, "kappa": (0.7 - 0.5) / 0.5, "f1_macro": (6 / 9 + 8 / 11) / 2}
    )


def test_undefined_scores_are_none():
    assert single_label(np.zeros((3, 3))) == dict.fromkeys(("oa", "aa", "kappa", "f1_macro"))
    assert single_label(np.diag([5, 0, 0])) == {"oa": 1, "aa": 1, "kappa": None, "f1_macro": 1}
    assert finite(float("nan")) is None
    assert finite(float("inf")) is None
    assert finite(0.5) == 0.5


def test_per_class_scores_are_scikit_learns():
    targets, predictions = labels(5)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        targets, predictions, labels=range(K), zero_division=0
    )
    got = per_class(confusion_matrix(targets, predictions, K), tuple("abcdefg"))
    assert list(got) == list("abcdefg")
    for k, row in enumerate(got.values()):
        assert row == pytest.approx(
            {"accuracy": recall[k], "precision": precision[k], "f1": f1[k], "support": support[k]}, abs=1e-12
        )


def test_per_class_scores_that_are_undefined_are_none():
    got = per_class(np.array([[2, 1, 0], [0, 0, 0], [1, 0, 0]]), ("a", "b", "c"))
    assert got["b"] == {"accuracy": None, "precision": 0.0, "f1": None, "support": 0}
    assert got["c"] == {"accuracy": 0.0, "precision": None, "f1": 0.0, "support": 1}
    assert classes_scored(np.array([[2, 1, 0], [0, 0, 0], [1, 0, 0]]), ("a", "b", "c")) == ["a", "c"]


def test_cross_entropy_is_scikit_learns_log_loss():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(0, 3, (200, K)), rng.integers(0, K, 200)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert cross_entropy(logits, targets) == pytest.approx(metrics.log_loss(targets, p, labels=range(K)), rel=1e-12)


def test_cross_entropy_neither_overflows_nor_loses_the_tail():
    logits = np.array([[1000.0, 0.0], [0.0, -1000.0]], np.float32)
    assert cross_entropy(logits, np.array([1, 1])) == pytest.approx(1000)
    assert cross_entropy(logits, np.array([0, 0])) == 0
    assert np.isnan(cross_entropy(np.zeros((0, 2)), np.zeros(0, int)))


# --- the bound


def test_random_confusion_matrices_obey_the_bound():
    rng = np.random.default_rng(0)
    slack = []
    for _ in range(2000):
        k = rng.integers(2, 12)
        matrix = rng.integers(0, rng.integers(2, 200), (k, k)) * (rng.random((k, 1)) > 0.2) + np.diag(
            rng.integers(0, 300, k)
        )
        if matrix.sum() == 0:
            continue
        got, bound = single_label(matrix), oa_aa_bound(matrix.sum(1))
        assert abs(got["oa"] - got["aa"]) <= bound + 1e-12
        assert_bound(got, matrix)
        slack.append(bound - abs(got["oa"] - got["aa"]))
    assert len(slack) > 1900


@pytest.mark.parametrize("right", ["large", "small"])
def test_bound_is_attained_by_getting_only_the_large_or_only_the_small_classes_right(right):
    support = np.array([50, 30, 10, 6, 4])
    hit = (support > 20) == (right == "large")
    matrix = np.zeros((5, 5), int)
    for k in range(5):
        matrix[k, k if hit[k] else (k + 1) % 5] = support[k]
    got = single_label(matrix)
    assert got["oa"] - got["aa"] == pytest.approx(0.4 if right == "large" else -0.4)
    assert oa_aa_bound(support) == pytest.approx(0.4)


def test_bound_of_eurosats_shares_is_0556():
    card = load_card("eurosat")
    assert oa_aa_bound(np.array(list(card.counts.per_class.values()))) == pytest.approx(1 / 18, abs=1e-12)
    assert round(1 / 18, 4) == 0.0556


@pytest.mark.parametrize(("oa", "aa"), [(0.795, 0.644), (0.755, 0.431)])
def test_pairs_of_the_notes_cannot_come_from_one_confusion_matrix(oa, aa):
    reference = np.array(list(load_card("eurosat").counts.per_class.values())) // 5
    assert reference.sum() == 5400
    assert abs(oa - aa) > 2.5 * oa_aa_bound(reference)
    with pytest.raises(AssertionError, match="contradict"):
        assert_bound({"oa": oa, "aa": aa}, np.diag(reference))


def test_pair_of_whole_set_scores_passes_the_same_check():
    reference = np.array(list(load_card("eurosat").counts.per_class.values())) // 5
    assert_bound({"oa": 0.795, "aa": 0.7949}, np.diag(reference))


def test_classes_without_samples_do_not_widen_the_bound():
    assert oa_aa_bound(np.array([10, 10, 0])) == 0
    assert oa_aa_bound(np.array([30, 10, 0])) == pytest.approx(0.25)


# --- logits to scores


def test_logits_are_scored_over_the_whole_split():
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(0, 1, (300, K)).astype(np.float32), rng.integers(0, K, 300)
    task = TASKS["single_label"]
    got, confusion = task.evaluate(logits, targets), task.confusion(logits, targets)
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(targets, logits.argmax(1), labels=range(K)))
    assert got["oa"] == pytest.approx(metrics.accuracy_score(targets, logits.argmax(1)))
    assert set(got) == {"loss", "oa", "aa", "kappa", "f1_macro"}


def test_logits_of_a_diverged_head_have_no_loss_and_no_crash():
    logits = np.full((4, 3), np.nan, np.float32)
    logits[0] = [0, 1, 0]
    with np.errstate(all="ignore"):
        task, targets = TASKS["single_label"], np.array([1, 0, 1, 2])
        got, confusion = task.evaluate(logits, targets), task.confusion(logits, targets)
    assert got["loss"] is None
    assert confusion.sum() == 4
    assert confusion[1, 1] == 1


# --- what the reference code prints


def test_legacy_scores_are_the_size_weighted_averages_of_batches():
    rng = np.random.default_rng(2)
    logits, targets = rng.normal(0, 1, (203, K)).astype(np.float32), rng.integers(0, K, 203)
    logits[np.arange(203), targets] += 1
    batches = [(targets[i : i + 16], logits[i : i + 16]) for i in range(0, 203, 16)]
    sizes = [len(t) for t, _ in batches]
    recalls = [
        metrics.recall_score(t, z.argmax(1), labels=range(K), average="macro", zero_division=0) for t, z in batches
    ]
    got = legacy_single_label(logits, targets, 16)
    assert got["aa"] == pytest.approx(np.average(recalls, weights=sizes))
    assert got["oa"] == pytest.approx(metrics.accuracy_score(targets, logits.argmax(1)))
    assert got["loss"] == pytest.approx(np.mean([cross_entropy(z, t) for t, z in batches]))
    assert got["aa"] < single_label(confusion_matrix(targets, logits.argmax(1), K))["aa"]


@pytest.mark.parametrize(("batch", "ratio"), [(4, 0.343), (8, 0.568), (16, 0.810), (32, 0.962), (64, 0.998)])
def test_legacy_average_loses_the_share_of_aa_that_the_notes_lost(batch, ratio):
    """On EuroSAT's 5,400 test images in random order, for a perfect predictor; AA itself is 1."""
    shares = np.array(list(load_card("eurosat").counts.per_class.values())) // 5
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(10), shares))
    assert legacy_single_label(np.eye(10)[targets], targets, batch)["aa"] == pytest.approx(ratio, abs=0.012)
