"""Curves of all kinds of labels: several a sample, and numbers, read as scikit-learn scores them."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, r2_score

from fgmae_bench.metrics.tolerance import random_order
from fgmae_bench.stress.reading import of_samples
from fgmae_bench.stress.summary import Curve, summarised
from fgmae_bench.views.stress_table import STRESSES

GROUPS = [f"g{i % 12}" for i in range(240)]


def curve_of(outputs):
    return Curve(name="offset", stress=STRESSES["offset"], severities=(1.0, 3.0), outputs=outputs)


def test_several_labels_a_sample():
    random = np.random.default_rng(0)
    targets = (random.random((240, 4)) < (0.2, 0.4, 0.5, 0.7)).astype(np.int64)
    clean = targets * 2 - 1 + random.normal(0, 0.5, targets.shape)
    draws = [[clean + random.normal(0, s, targets.shape) for _ in range(2)] for s in (0.3, 3.0)]
    reading = of_samples("multi_label", clean, targets, GROUPS)
    found = summarised(curve_of(draws), reading)
    assert reading.metric == "map_micro"
    scores = [np.mean([average_precision_score(targets, each, average="micro") for each in pair]) for pair in draws]
    own = average_precision_score(targets, clean, average="micro")
    for item, score, pair in zip(found.items, scores, draws, strict=True):
        assert item["metrics"]["map_micro"] == pytest.approx(score)
        assert item["metrics"]["change"] == pytest.approx(score - own)
        assert item["metrics"]["flip_rate"] == pytest.approx(np.mean([(clean > 0) != (each > 0) for each in pair]))
    assert found.tolerance["chance"] == pytest.approx(random_order(960, int(targets.sum())))
    assert 0 < found.tolerance["value"] < 3


def test_numbers():
    random = np.random.default_rng(1)
    targets = random.normal(0, 1, (240, 1))
    clean = targets + random.normal(0, 0.2, targets.shape)
    draws = [[clean + shift] for shift in (0.05, 0.8)]
    reading = of_samples("regression", clean, targets, GROUPS)
    found = summarised(curve_of(draws), reading)
    assert reading.metric == "r2"
    for item, ((outputs,)) in zip(found.items, draws, strict=True):
        assert item["metrics"]["r2"] == pytest.approx(r2_score(targets, outputs))
        assert item["metrics"]["change"] == pytest.approx(r2_score(targets, outputs) - r2_score(targets, clean))
        assert item["metrics"]["flip_rate"] is None
    assert found.tolerance["chance"] == 0  # of the mean
    assert 0.05 < found.tolerance["value"] < 3
