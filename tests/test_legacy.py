"""What per-batch averaging would have printed: the factors of the published numbers, and pairs that cannot be whole-set
values.
"""

from __future__ import annotations

import numpy as np
import pytest

from fgmae_bench.metrics import single_label as scores

EUROSAT_COUNTS = np.array(
    [600, 600, 600, 500, 500, 400, 500, 600, 500, 600]
)  # the 5,400 test images of the reference split


def simulated(accuracy: float = 0.8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and targets of a classifier that is right with the same chance in every class, in a random order."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.repeat(np.arange(10), EUROSAT_COUNTS))
    right = rng.random(len(targets)) < accuracy
    predictions = np.where(right, targets, (targets + rng.integers(1, 10, len(targets))) % 10)
    return np.eye(10, dtype=np.float32)[predictions] * 3, targets


@pytest.mark.parametrize(("batch_size", "factor"), [(4, 0.343), (8, 0.568), (16, 0.810), (32, 0.962), (64, 0.998)])
def test_macro_accuracy_per_batch_shrinks_by_the_published_factor(batch_size: int, factor: float) -> None:
    logits, targets = simulated()
    exact = scores.single_label(scores.confusion_matrix(targets, logits.argmax(1), 10))
    legacy = scores.legacy_single_label(logits, targets, batch_size)
    assert legacy["aa"] / exact["aa"] == pytest.approx(factor, abs=0.006)
    assert legacy["oa"] == pytest.approx(exact["oa"], abs=1e-12)


def test_legacy_equals_a_loop_over_batches() -> None:
    """Written out: macro accuracy of each batch over all K classes, absent ones 0, weighted by the size of the batch."""
    logits, targets = simulated(seed=3)
    logits, targets = (
        logits[:1003] + np.random.default_rng(1).normal(size=(1003, 10)).astype(np.float32),
        targets[:1003],
    )
    macro, losses, sizes = [], [], []
    for start in range(0, 1003, 16):
        z, y = logits[start : start + 16].astype(np.float64), targets[start : start + 16]
        recalls = [np.mean(z[y == k].argmax(1) == k) if (y == k).any() else 0.0 for k in range(10)]
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        macro.append(np.mean(recalls))
        losses.append(-log_p[np.arange(len(y)), y].mean())
        sizes.append(len(y))
    legacy = scores.legacy_single_label(logits, targets, 16)
    assert legacy["aa"] == pytest.approx(np.average(macro, weights=sizes), abs=1e-12)
    assert legacy["loss"] == pytest.approx(np.mean(losses), abs=1e-9)


def test_torchmetrics_of_today_says_something_else() -> None:
    """Current torchmetrics leaves absent classes out: .942 at batch 16, not the .810 of the published numbers."""
    import torch
    from torchmetrics.functional.classification import multiclass_accuracy

    logits, targets = simulated()
    exact = scores.single_label(scores.confusion_matrix(targets, logits.argmax(1), 10))["aa"]
    values = [
        multiclass_accuracy(
            torch.from_numpy(logits[i : i + 16].argmax(1)), torch.from_numpy(targets[i : i + 16]), 10, "macro"
        ).item()
        for i in range(0, len(targets), 16)
    ]
    assert np.mean(values) / exact == pytest.approx(0.942, abs=0.02)
    assert scores.legacy_single_label(logits, targets, 16)["aa"] / exact < 0.83


@pytest.mark.parametrize(("oa", "aa"), [(0.795, 0.644), (0.755, 0.431)])
def test_the_notes_impossible_pairs_break_the_bound(oa: float, aa: float) -> None:
    bound = scores.oa_aa_bound(EUROSAT_COUNTS)
    assert bound == pytest.approx(0.0556, abs=5e-5)
    assert abs(oa - aa) > bound
