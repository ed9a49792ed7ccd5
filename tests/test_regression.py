"""Regression of images and of pixels: scores, probes and sums against scikit-learn, scipy and numpy."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge as Sklearn
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.neighbors import KNeighborsRegressor

from fgmae_bench.config.cards import Target
from fgmae_bench.config.recipes import ProbeRecipe
from fgmae_bench.data.content import part_sha256
from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.intervals import intervals, pixel_units, point, regression_units
from fgmae_bench.metrics.regression import (
    PixelSums,
    by_bin,
    details,
    pixel_regression,
    regression,
    residuals,
    spearman_of_counts,
    target_bins,
    weighted_spearman,
)
from fgmae_bench.probe.fitted import Part
from fgmae_bench.probe.ridge import Ridge, fit_knn_mean, fit_ridge
from fgmae_bench.runs.tasks import TASKS, Scale

RNG = np.random.default_rng(3)
Y = np.round(RNG.gamma(2, 40, 200))  # with ties
P = Y + RNG.normal(3, 25, 200).round()


def wanted(p, y):
    return {
        "rmse": root_mean_squared_error(y, p),
        "mae": mean_absolute_error(y, p),
        "bias": float(np.mean(p - y)),
        "r2": r2_score(y, p),
        "rank_correlation": spearmanr(p, y).statistic,
    }


def test_scores_are_those_of_scikit_learn_and_scipy():
    found = regression(P[:, None].astype(np.float32), Y[:, None])
    assert found.pop("loss") == pytest.approx(np.mean((P - Y) ** 2))
    assert found == pytest.approx(wanted(P, Y))


@pytest.mark.parametrize(
    ("p", "y", "absent"),
    [
        ([1.0, 2.0], [3.0, 3.0], {"r2", "rank_correlation"}),
        ([1.0, 1.0], [2.0, 3.0], {"rank_correlation"}),
        ([], [], {"loss", "rmse", "mae", "bias", "r2", "rank_correlation"}),
        ([np.nan, 1.0], [2.0, 3.0], {"loss", "rmse", "mae", "bias", "r2", "rank_correlation"}),
    ],
    ids=["one-target", "one-prediction", "nothing", "nan"],
)
def test_scores_that_are_undefined_are_none(p, y, absent):
    found = regression(np.array(p), np.array(y))
    assert {name for name, value in found.items() if value is None} == absent


def test_weights_are_repeats():
    weights = RNG.integers(0, 3, (5, len(Y)))
    found = residuals(P, Y, weights)
    assert found.rank_correlation == pytest.approx(weighted_spearman(P, Y, weights.astype(float)))
    for row, w in enumerate(weights):
        p, y = np.repeat(P, w), np.repeat(Y, w)
        expected = wanted(p, y)
        assert found.rank_correlation[row] == pytest.approx(expected["rank_correlation"])
        assert 1 - found.squared[row] / found.scatter[row] == pytest.approx(expected["r2"])
        assert np.sqrt(found.squared[row] / found.count[row]) == pytest.approx(expected["rmse"])


def test_the_scatter_of_large_targets_keeps_its_digits():
    assert regression(P + 1e9, Y + 1e9)["r2"] == pytest.approx(r2_score(Y, P), rel=1e-5)


def test_bins_of_targets():
    assert target_bins(Y, (10.0, 20.0)) == [10.0, 20.0]
    assert target_bins(np.arange(101.0), ()) == pytest.approx([20, 40, 60, 80])
    p, y = np.array([1.0, 4.0, 9.0, 11.0]), np.array([0.0, 5.0, 5.0, 20.0])
    rows = by_bin(p, y, [5.0, 10.0])
    assert [(row["low"], row["high"], row["count"]) for row in rows] == [
        (None, 5.0, 1),
        (5.0, 10.0, 2),
        (10.0, None, 1),
    ]
    assert [row["rmse"] for row in rows] == pytest.approx([1, np.sqrt((1 + 16) / 2), 9])
    assert [row["bias"] for row in rows] == pytest.approx([1, 1.5, -9])


@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")
def test_the_training_mean_is_the_null():
    train = np.array([[1.0], [5.0]])
    found = details(P[:, None], Y[:, None], train, Target(name="agb", unit="t/ha", bins=(50.0,)))
    expected = wanted(np.full_like(Y, 3.0), Y)
    assert found["null"]["train_mean"] == 3
    assert {name: found["null"][name] for name in ("rmse", "mae", "bias", "r2")} == pytest.approx(
        {name: expected[name] for name in ("rmse", "mae", "bias", "r2")}
    )
    assert [row["count"] for row in found["bins"]] == [(Y < 50).sum(), (Y >= 50).sum()]


# Pixels


SUMS = PixelSums(origin=70.0, levels=tuple(np.quantile(Y, np.linspace(0, 1, 9)[1:-1])), bins=(50.0, 100.0))


def maps(count=6, side=16):
    y = RNG.gamma(2, 40, (count, side, side)).astype(np.float32)
    p = (y + RNG.normal(3, 25, y.shape)).astype(np.float32)
    y[:, :2] = np.nan
    return p, y


@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")
def test_rows_of_images_sum_to_the_scores_of_all_pixels():
    p, y = maps()
    rows = np.stack([SUMS.row(a, b) for a, b in zip(p, y, strict=True)])
    kept = np.isfinite(y)
    expected = wanted(p[kept].astype(float), y[kept].astype(float))
    found = pixel_regression(SUMS, rows)
    assert found["loss"] == pytest.approx(expected["rmse"] ** 2)
    for name in ("rmse", "mae", "bias", "r2"):
        assert found[name] == pytest.approx(expected[name])
    levels = spearmanr(np.digitize(p[kept], SUMS.levels), np.digitize(y[kept], SUMS.levels)).statistic
    assert found["rank_correlation"] == pytest.approx(levels)
    said = SUMS.details(rows, Target(name="h", bins=SUMS.bins))
    for row, other in zip(said["bins"], by_bin(p[kept], y[kept], list(SUMS.bins)), strict=True):
        assert row == pytest.approx(other)
    null = wanted(np.full(kept.sum(), 70.0), y[kept].astype(float))
    assert [said["null"][name] for name in ("rmse", "bias", "r2")] == pytest.approx(
        [null[name] for name in ("rmse", "bias", "r2")]
    )


def test_an_image_without_targets_adds_nothing():
    row = SUMS.row(np.ones((4, 4)), np.full((4, 4), np.nan))
    assert row.shape == (SUMS.width,)
    assert not row.any()


def test_counts_of_levels_give_spearmans_correlation():
    joint = RNG.integers(0, 5, (3, 6, 6)).astype(float)
    for found, counts in zip(spearman_of_counts(joint), joint, strict=True):
        a, b = np.indices(counts.shape)
        times = counts.astype(int).ravel()
        assert found == pytest.approx(spearmanr(np.repeat(a.ravel(), times), np.repeat(b.ravel(), times)).statistic)


def test_intervals_are_over_groups():
    groups = [f"g{n % 12}" for n in range(len(Y))]
    found = intervals(regression_units(P[:, None], Y[:, None], groups))
    assert (found["over"], found["units"]) == ("groups", 12)
    for name, value in wanted(P, Y).items():
        low, high = found["test"][name]
        assert low < value < high
    p, y = maps(12)
    units = pixel_units(
        SUMS, np.stack([SUMS.row(a, b) for a, b in zip(p, y, strict=True)]), [f"g{n}" for n in range(12)]
    )
    assert point(units)["rmse"] == pytest.approx(root_mean_squared_error(y[np.isfinite(y)], p[np.isfinite(y)]))


# Probes


def features(count, dim=20):
    x = RNG.normal(0, 1, (count, dim)).astype(np.float32) * np.linspace(0.1, 5, dim, dtype=np.float32) + 3
    return x, (x @ np.cos(np.arange(dim))[:, None] + RNG.normal(0, 2, (count, 1))).astype(np.float64)


@pytest.mark.parametrize("count", [200, 12], ids=["tall", "wide"])
@pytest.mark.parametrize("penalty", [1e-4, 0.1, 10.0])
def test_ridge_is_scikit_learns(count, penalty):
    x, y = features(count)
    test = features(30)[0]
    mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    model = Sklearn(alpha=penalty * count).fit((x - mean) / deviation, y[:, 0])
    expected = model.predict((test - mean) / deviation)
    assert Ridge(x, y).predict(test, penalty)[:, 0] == pytest.approx(expected, rel=1e-5, abs=1e-4)


RIDGE = dataclasses.replace(ProbeRecipe(), probe="ridge", penalties=(1e-3, 1e-1, 1e3))


@pytest.mark.parametrize("with_val", [True, False])
def test_the_penalty_is_chosen_without_the_test_split(with_val):
    train, val, test = (Part(*features(count)) for count in (60, 40, 40))
    parts = ({"val": val} if with_val else {}) | {"test": test}
    found = fit_ridge(train, parts, RIDGE)
    changed = fit_ridge(train, parts | {"test": test._replace(labels=-test.labels)}, RIDGE)
    assert found.penalty == changed.penalty < 1e3
    if with_val:
        squares = [np.square(Ridge(*train[:2]).predict(val.features, p) - val.labels) for p in RIDGE.penalties]
        assert found.selection["path"]["loss"] == pytest.approx([e.mean() / train.labels.var() for e in squares])
        assert found.selection["path"]["smallest"] == RIDGE.penalties[int(np.argmin([e.mean() for e in squares]))]
    assert found.logits["test"].shape == (40, 1)


def by_scene(count, each=20, dim=30):
    """Scenes whose features name them and whose targets differ: told apart by name inside, of no use elsewhere."""
    random = np.random.default_rng(3)
    x = random.normal(size=(count * each, dim)).astype(np.float32)
    scene = np.repeat(np.arange(count), each)
    x[:, :count] += 4 * np.eye(count, dtype=np.float32)[scene]
    y = x[:, -1] + 3 * random.normal(size=count)[scene] + 0.3 * random.normal(size=len(scene))
    return x, y[:, None], scene


@pytest.mark.parametrize(("count", "how"), [(6, "leaving out each of 6 groups"), (20, "5 folds of whole groups")])
def test_the_penalty_of_a_regression_is_judged_on_groups_that_the_fit_has_not_seen(count, how):
    x, y, scene = by_scene(count)
    groups = tuple(f"scene {i:02}" for i in scene)
    part = Part(x, y, groups)
    grouped, plain = (fit_ridge(each, {"test": part}, RIDGE) for each in (part, Part(x, y)))
    assert how in grouped.notes[0]["text"]
    assert "5-fold cross-validation" in plain.notes[0]["text"]
    assert grouped.penalty > plain.penalty  # of samples' folds: knowing the scene pays
    path = grouped.selection["path"]
    assert path["units"] == count
    if count == 6:
        held = []
        for group in range(count):
            mean, deviation = x[scene != group].mean(0), x[scene != group].std(0)
            model = Sklearn(alpha=1e3 * np.sum(scene != group)).fit(
                (x[scene != group] - mean) / deviation, y[scene != group]
            )
            held.append(
                np.square(model.predict((x[scene == group] - mean) / deviation).reshape(-1, 1) - y[scene == group])
            )
        assert path["loss"][-1] == pytest.approx(np.concatenate(held).mean() / y.var(), rel=1e-4)


def test_few_groups_of_a_regression_are_noted_and_one_alone_is_dealt_by_samples():
    x, y, scene = by_scene(3)
    found = fit_ridge(Part(x, y, tuple(map(str, scene))), {"test": Part(x, y)}, RIDGE)
    assert "few_groups" in [note["code"] for note in found.notes]
    one = fit_ridge(Part(x, y, ("a",) * len(y)), {"test": Part(x, y)}, RIDGE)
    assert "5-fold cross-validation" in one.notes[0]["text"]


def test_nearest_neighbours_are_scikit_learns():
    train, test = Part(*features(80)), Part(*features(30))
    recipe = dataclasses.replace(ProbeRecipe(), probe="knn", knn_k=7)
    model = KNeighborsRegressor(7, metric="cosine", algorithm="brute").fit(train[0], train[1][:, 0])
    found = fit_knn_mean(train, {"test": test}, recipe)
    assert found.logits["test"][:, 0] == pytest.approx(model.predict(test[0]), rel=1e-5)


def test_the_gradient_of_the_squared_error_is_autograds():
    outputs = torch.randn(8, 3, 1, dtype=torch.float64, requires_grad=True)
    targets = torch.randn(8, 1)
    loss, gradient = TASKS["regression"].loss_and_grad(outputs, targets)
    own = (outputs - targets.double()[:, None]).square().mean(dim=(0, 2))
    assert torch.allclose(loss, own)
    (expected,) = torch.autograd.grad(own.sum(), outputs)
    assert torch.allclose(gradient, expected)


def test_targets_are_standardised_for_a_head_and_back():
    scale = Scale.of("regression", Y[:, None])
    down = scale.down(Y[:, None])
    assert (down.mean(), down.std()) == pytest.approx((0, 1), abs=1e-6)
    assert scale.up(down) == pytest.approx(Y[:, None], rel=1e-5)
    labels = np.array([3, 1])
    assert Scale.of("single_label", labels).down(labels) is labels
    assert Scale.of("regression", np.full((4, 1), 7.0)).down(np.full((4, 1), 7.0)).tolist() == [[0.0]] * 4


def test_targets_that_differ_by_less_than_one_are_other_content():
    content, rows = np.arange(2, dtype=np.uint64), np.arange(2)
    hashes = {part_sha256(content, np.array([[a], [1.0]]), rows) for a in (0.25, 0.5)}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("probe", "task", "todo"), [("ridge", "single_label", "lbfgs"), ("lbfgs", "regression", "ridge")]
)
def test_a_probe_for_another_task_is_refused(card, probe, task, todo):
    from fgmae_bench.probe.resolve import _require_fitting

    with pytest.raises(BenchError, match=f"--probe {probe} on a {task} dataset; use --probe {todo}"):
        _require_fitting(probe, dataclasses.replace(card, task=task))


def test_blocks_are_dealt_by_samples_whatever_their_targets(index):
    from fgmae_bench.data.spatial import counted, deal_blocks

    targets = np.linspace(-5, 50, len(index.ids))[:, None]
    blocks, shares = np.arange(len(index.ids)) // 6, np.array([0.5, 0.2, 0.3])
    part = deal_blocks(blocks, counted(dataclasses.replace(index, labels=targets)), shares, 0)
    assert np.array_equal(part, deal_blocks(blocks, np.ones((len(blocks), 1)), shares, 0))
    assert np.abs(np.bincount(part) / len(part) - shares).max() < 0.06
