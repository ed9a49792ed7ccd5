"""Multi-label scores against scikit-learn, the logistic head against autograd, and probes that take multi-hot labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, log_loss
from sklearn.neighbors import KNeighborsClassifier

from fgmae_bench.metrics import multi_label as multi
from fgmae_bench.probe.closed import Part, fit_knn, fit_logistic
from fgmae_bench.probe.heads import HeadGrid
from fgmae_bench.runs.tasks import TASKS


def sample(n: int = 700, classes: int = 7, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, classes)) < rng.uniform(0.05, 0.5, classes)).astype(np.uint8)
    logits = (2.0 * targets - 1 + rng.normal(0, 1.5, (n, classes))).astype(np.float32)
    return (np.round(logits) if ties else logits), targets


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_map_and_f1_equal_scikit_learns_on_probabilities(seed: int, ties: bool) -> None:
    logits, y = sample(seed=seed, ties=ties)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    ours = multi.multi_label(logits, y)
    assert ours["map_micro"] == pytest.approx(average_precision_score(y, p, average="micro"), abs=1e-12)
    assert ours["map_macro"] == pytest.approx(average_precision_score(y, p, average="macro"), abs=1e-12)
    assert ours["f1_micro"] == pytest.approx(f1_score(y, p >= 0.5, average="micro"), abs=1e-12)
    assert ours["f1_macro"] == pytest.approx(f1_score(y, p >= 0.5, average="macro"), abs=1e-12)
    per_class = multi.per_class(logits, y, tuple("abcdefg"))
    for k, name in enumerate("abcdefg"):
        assert per_class[name]["ap"] == pytest.approx(average_precision_score(y[:, k], p[:, k]), abs=1e-12)
        assert per_class[name]["support"] == y[:, k].sum()


def test_loss_equals_the_mean_of_scikit_learns_binary_losses() -> None:
    logits, y = sample()
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = np.mean([log_loss(y[:, k], p[:, k]) for k in range(y.shape[1])])
    assert multi.binary_cross_entropy(logits, y) == pytest.approx(expected, abs=1e-12)
    assert multi.binary_cross_entropy(np.full((3, 2), 1e4), np.zeros((3, 2))) == 1e4


def test_class_without_positives_is_left_out_and_listed() -> None:
    """scikit-learn counts it as AP 0 (with a warning) and F1 0; ours averages over the classes that can be scored."""
    logits, y = sample()
    y[:, 3] = 0
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    kept = [0, 1, 2, 4, 5, 6]
    ours = multi.multi_label(logits, y)
    assert ours["map_macro"] == pytest.approx(
        average_precision_score(y[:, kept], p[:, kept], average="macro"), abs=1e-12
    )
    assert ours["f1_macro"] == pytest.approx(f1_score(y[:, kept], p[:, kept] >= 0.5, average="macro"), abs=1e-12)
    assert ours["map_micro"] == pytest.approx(average_precision_score(y.ravel(), p.ravel()), abs=1e-12)
    assert multi.classes_scored(y, tuple("abcdefg")) == list("abcefg")
    assert multi.per_class(logits, y, tuple("abcdefg"))["d"] == {"ap": None, "f1": None, "support": 0}
    assert set(multi.multi_label(logits, np.zeros_like(y)).values()) == {None}


@pytest.mark.parametrize(("batch_size", "least"), [(8, 0.02), (64, 0.005)])
def test_per_batch_macro_map_is_inflated_and_macro_f1_is_not(batch_size: int, least: float) -> None:
    """Sign and order of the trap: small batches flatter macro-mAP, and the more so the smaller they are."""
    logits, y = sample(3000, 19, seed=4)
    exact, legacy = multi.multi_label(logits, y), multi.legacy_multi_label(logits, y, batch_size)
    assert legacy["map_macro"] - exact["map_macro"] > least
    assert legacy["f1_macro"] < exact["f1_macro"]
    larger = multi.legacy_multi_label(logits, y, batch_size * 4)
    assert legacy["map_macro"] > larger["map_macro"] > exact["map_macro"]


def test_legacy_equals_torchmetrics_batch_by_batch() -> None:
    """But for macro AP: torchmetrics of today counts a class without positives as 0, the published numbers left it out."""
    from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

    logits, y = sample(256, 7, seed=5)
    p, targets = torch.from_numpy(1 / (1 + np.exp(-logits))), torch.from_numpy(y.astype(np.int64))
    legacy = multi.legacy_multi_label(logits, y, 16)
    for name, function, average in (
        ("map_micro", multilabel_average_precision, "micro"),
        ("f1_micro", multilabel_f1_score, "micro"),
        ("f1_macro", multilabel_f1_score, "macro"),
    ):
        values = [
            float(function(p[i : i + 16], targets[i : i + 16], num_labels=7, average=average))
            for i in range(0, 256, 16)
        ]
        assert legacy[name] == pytest.approx(np.mean(values), abs=1e-5), name


def test_logistic_head_equals_autograd_and_torch_sgd() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 12), (torch.rand(64, 5) < 0.3).to(torch.uint8)
    grid = HeadGrid.start(12, 5, 2, 3)
    start = grid.head(0)
    norm, linear = torch.nn.BatchNorm1d(12, affine=False, eps=1e-6), torch.nn.Linear(12, 5)
    linear.weight.data, linear.bias.data = start["weight"].clone(), start["bias"].clone()
    optimizer = torch.optim.SGD(linear.parameters(), 0.5, momentum=0.9, weight_decay=0.01)
    for i in range(0, 64, 16):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(linear(norm(x[i : i + 16])), y[i : i + 16].float())
        rates, decays = torch.tensor([0.5, 0.1]), torch.tensor([0.01, 0.0])
        ours = grid.step(x[i : i + 16], y[i : i + 16], rates, decays, 0.9, TASKS["multi_label"].loss_and_grad)
        assert float(ours[0]) == pytest.approx(loss.item(), abs=1e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(grid.head(0)["weight"], linear.weight.data, atol=1e-6, rtol=0)
    torch.testing.assert_close(grid.head(0)["bias"], linear.bias.data, atol=1e-6, rtol=0)


def features(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 9)).astype(np.float32)
    weight = np.random.default_rng(99).normal(size=(9, 4))
    return x, (x @ weight + rng.normal(0, 1, (n, 4)) > 0.8).astype(np.uint8)


def test_logistic_regression_of_multi_hot_labels_is_one_a_class() -> None:
    (x, y), (z, t) = features(300, 0), features(100, 1)
    fitted = fit_logistic(Part(x, y), {"test": Part(z, t)}, 4, (0.01,), 42)
    mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    for k in range(4):
        model = LogisticRegression(C=1 / (0.01 * 300), max_iter=3000, tol=1e-8).fit((x - mean) / deviation, y[:, k])
        np.testing.assert_allclose(
            fitted.logits["test"][:, k], model.decision_function((z - mean) / deviation), atol=5e-3
        )


def test_class_that_no_training_sample_carries_gets_the_lowest_logit() -> None:
    (x, y), (z, t) = features(300, 0), features(100, 1)
    y[:, 2] = 0
    logits = fit_logistic(Part(x, y), {"test": Part(z, t)}, 4, (0.01,), 42).logits["test"]
    assert np.isfinite(logits).all()
    assert (logits.argmin(axis=1) == 2).all()


def test_neighbours_of_multi_hot_labels_vote_class_by_class() -> None:
    (x, y), (z, t) = features(300, 0), features(100, 1)
    logits = fit_knn(Part(x, y), {"test": Part(z, t)}, 4, 7).logits["test"]
    oracle = KNeighborsClassifier(7, metric="cosine").fit(x, y)
    shares = np.stack([p[:, 1] for p in oracle.predict_proba(z)], axis=1)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits.astype(np.float64))), np.clip(shares, 1e-6, 1 - 1e-6), atol=1e-6)
