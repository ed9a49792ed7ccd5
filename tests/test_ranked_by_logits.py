"""Average precision ranks by logits: beyond a logit of 37 all probabilities are 1."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from fgmae_bench.metrics.intervals import multi_label_units
from fgmae_bench.metrics.multi_label import legacy_multi_label, multi_label, per_class, probabilities


def saturated():
    draw = np.random.default_rng(3)
    targets = draw.random((400, 3)) < [0.1, 0.3, 0.5]
    return 40 + 12 * (draw.normal(size=targets.shape) + 1.5 * targets), targets.astype(np.uint8)


def test_ap_of_saturated_scores_is_that_of_their_logits():
    logits, targets = saturated()
    expected = [average_precision_score(targets[:, k], logits[:, k]) for k in range(3)]
    blunt = [average_precision_score(targets[:, k], probabilities(logits)[:, k]) for k in range(3)]
    assert max(np.subtract(expected, blunt)) > 0.05  # the case tells the two apart
    found = multi_label(logits, targets)
    assert found["map_macro"] == pytest.approx(np.mean(expected))
    assert found["map_micro"] == pytest.approx(average_precision_score(targets.ravel(), logits.ravel()))
    classes = per_class(logits, targets, ("a", "b", "c"))
    assert [classes[name]["ap"] for name in "abc"] == pytest.approx(expected)


def test_intervals_rank_as_the_score_does():
    logits, targets = saturated()
    own = multi_label_units(logits, targets).measure(np.ones((1, len(logits)), np.float32))
    for name, value in multi_label(logits, targets).items():
        assert own[name][0] == pytest.approx(value, abs=1e-6)


def test_what_the_reference_printed_ranks_by_probabilities():
    logits, targets = saturated()
    expected = np.mean([average_precision_score(targets[:, k], probabilities(logits)[:, k]) for k in range(3)])
    assert legacy_multi_label(logits, targets, len(logits))["map_macro"] == pytest.approx(expected)
