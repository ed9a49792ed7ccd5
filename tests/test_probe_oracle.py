"""Details of the probes: banks of views in turn, classes that all or none carry, what the reference looks at."""

from types import SimpleNamespace

import numpy as np
import pytest

from fgmae_bench.config.recipes import ProbeRecipe
from fgmae_bench.probe.closed import Part, fit_logistic
from fgmae_bench.probe.train import _batches
from fgmae_bench.runs.tasks import rank, seen_by_reference
from fgmae_bench.system.randomness import epoch_order


def test_the_reference_looks_at_every_tenth_epoch_and_the_last():
    assert [epoch for epoch in range(25) if seen_by_reference(epoch, 25)] == [0, 10, 20, 24]


def test_of_equal_metrics_the_smaller_loss_is_better():
    better, worse = {"oa": 0.5, "loss": 0.1}, {"oa": 0.5, "loss": 0.2}
    assert rank(better, "oa") > rank(worse, "oa") > rank({"oa": 0.5, "loss": None}, "oa") > rank(None, "oa")


@pytest.mark.parametrize("epoch", [0, 1, 2, 5])
def test_epochs_take_the_banks_of_views_in_turn(epoch):
    train = np.arange(10) + 5
    views = [SimpleNamespace(features=np.arange(20)[:, None] + 100.0 * v) for v in range(3)]
    materials = SimpleNamespace(train=train, train_banks=views)
    rows = train[epoch_order(0, epoch, 10)]
    batches = list(_batches(materials, ProbeRecipe(seed=0), epoch, 4))
    assert len(batches) == 2
    for i, (features, taken) in enumerate(batches):
        np.testing.assert_array_equal(taken, rows[4 * i : 4 * i + 4])
        np.testing.assert_array_equal(features[:, 0], taken + 100 * (epoch % 3))


def test_a_tag_that_all_carry_is_sure_and_one_that_nobody_carries_is_not():
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 3)).astype(np.float32)
    y = np.stack([np.ones(40), np.zeros(40), x[:, 0] > 0], 1).astype(np.uint8)
    logits = fit_logistic(Part(x, y), {"test": Part(x, y)}, 3, (1e-2,), 0).logits["test"]
    assert (logits[:, 0] > 20).all()
    assert (logits[:, 1] < logits[:, 2] - 20).all()
    assert ((logits[:, 2] > 0) == y[:, 2]).mean() > 0.95
