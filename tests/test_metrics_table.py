"""One definition a metric, from which everything else follows. That a new one is a function and a line is tried in
test_adding.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from fgmae_bench.metrics import intervals as iv
from fgmae_bench.metrics.multi_label import average_precision, multi_label
from fgmae_bench.metrics.segmentation import segmentation
from fgmae_bench.metrics.single_label import single_label
from fgmae_bench.metrics.statistics import Confusion, mean_known
from fgmae_bench.metrics.table import METRICS, MULTI, REGRESSION, SEGMENTATION, SINGLE, measure, names, selection


def test_the_table_is_whole():
    assert names(SINGLE) == ("oa", "aa", "kappa", "f1_macro")
    assert names(MULTI) == ("map_micro", "map_macro", "f1_micro", "f1_macro")
    assert names(SEGMENTATION) == ("miou", "miou_union", "miou_all", "oa", "aa", "fwiou")
    assert names(REGRESSION) == ("rmse", "mae", "bias", "r2", "rank_correlation")
    assert [selection(task) for task in (SINGLE, MULTI, SEGMENTATION, REGRESSION)] == ["oa", "map_micro", "miou", "r2"]
    chosen = [metric.selects for metric in METRICS.values() if metric.selects]
    assert sorted(chosen) == sorted({SINGLE, MULTI, SEGMENTATION, REGRESSION}), "one metric selects in each task"
    for name, metric in METRICS.items():
        assert metric.title
        assert metric.axis_label
        assert metric.selects is None or metric.selects in metric.tasks
        assert metric.interval == (name != "loss")


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("seed", range(20))
def test_one_set_and_a_batch_give_the_same_values(seed, extra):
    """The same function scores a split and its resamples: absent classes, empty matrices and a foreign column too."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 20))
    stack = rng.integers(0, 50, (30, k, k + extra)) * (rng.random((30, k, 1)) > 0.3) * (rng.random((30, 1, 1)) > 0.1)
    for task, one in ((SINGLE, single_label), (SEGMENTATION, segmentation)):
        if task == SINGLE and extra:
            continue
        together = measure(task, Confusion(stack.astype(float)))
        for i, matrix in enumerate(stack):
            alone = {name: np.nan if value is None else value for name, value in one(matrix).items()}
            assert {name: values[i] for name, values in together.items()} == pytest.approx(
                alone, abs=1e-15, rel=1e-14, nan_ok=True
            )


def test_scores_are_the_plain_means_to_the_last_bit():
    """A score of a record is numpy's mean of the defined values, whatever classes are absent."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        row = rng.random(int(rng.integers(1, 40)))
        row[rng.random(len(row)) < 0.4] = np.nan
        known = row[~np.isnan(row)]
        assert mean_known(row[None])[0] == known.mean() if len(known) else np.isnan(mean_known(row[None])[0])


def test_average_precision_of_ties_is_rounded_once_a_level():
    """By hand in whole numbers: each level's hits x positives over what was seen, summed, over all positives."""
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 7, 300) / 7
    positive = rng.random(300) < scores
    terms, hits, seen = [], 0, 0
    for level in sorted(set(scores.tolist()), reverse=True):
        step = int(positive[scores == level].sum())
        hits, seen = hits + step, seen + int((scores == level).sum())
        terms.append(step * hits / seen)
    assert average_precision(scores, positive) == pytest.approx(sum(terms) / positive.sum(), rel=1e-15)


def test_the_split_itself_is_scored_as_in_the_record():
    rng = np.random.default_rng(2)
    targets = rng.random((500, 4)) < 0.3
    logits = np.round(rng.normal(size=targets.shape) + targets, 1)
    assert iv.point(iv.multi_label_units(logits, targets)) == multi_label(logits, targets)


def test_resamples_without_positives_have_no_f1():
    """As the score of a split without positives: undefined, not 0."""
    logits, targets = np.ones((3, 2)), np.array([[1, 0], [0, 0], [0, 0]])
    measured = iv.multi_label_units(logits, targets).measure(np.array([[1, 1, 1], [0, 2, 1]], np.float32))
    assert np.isnan(measured["f1_micro"]).tolist() == [False, True]
    assert set(multi_label(logits[1:], targets[1:]).values()) == {None}
