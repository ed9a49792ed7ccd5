"""Heads on frozen features against torch's own modules and optimiser, scikit-learn's classifiers, and arithmetic."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn

from fgmae_bench.config.recipes import ProbeRecipe
from fgmae_bench.config.run import Model
from fgmae_bench.config.schedules import cosine
from fgmae_bench.errors import BenchError
from fgmae_bench.probe import closed
from fgmae_bench.probe.closed import Part
from fgmae_bench.probe.heads import HeadGrid, head_logits
from fgmae_bench.probe.resolve import Materials
from fgmae_bench.probe.train import GridFit
from fgmae_bench.runs.tasks import TASKS
from fgmae_bench.system.randomness import epoch_order

DIM, CLASSES, BATCH = 24, 5, 32
GRID = [(0.1, 0.001), (0.1, 0.0), (0.03, 0.01), (1.0, 0.0)]
DTYPES = [(torch.float64, 1e-12), (torch.float32, 1e-6)]


def fit_logistic(train, parts, *settings, **more):
    """Of (features, labels) and, where there are any, groups."""
    return closed.fit_logistic(Part(*train), {name: Part(*part) for name, part in parts.items()}, *settings, **more)


def fit_knn(train, parts, *settings):
    return closed.fit_knn(Part(*train), {name: Part(*part) for name, part in parts.items()}, *settings)


def clusters(n, seed=0, classes=CLASSES, dim=DIM, spread=2.5):
    """Overlapping classes of uneven size in features of uneven scale: (n, dim) float32 and labels."""
    centres = np.random.default_rng(99).normal(0, 1, (classes, dim))
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    x = (centres[labels] + spread * rng.normal(0, 1, (n, dim))) * np.linspace(0.1, 5, dim) + 3
    return x.astype(np.float32), labels.astype(np.int64)


def batches(count, seed=0, dtype=torch.float32):
    x, y = clusters(count * BATCH, seed)
    return [
        (torch.from_numpy(x[i : i + BATCH]).to(dtype), torch.from_numpy(y[i : i + BATCH]))
        for i in range(0, len(x), BATCH)
    ]


def grid_of(heads, dtype=torch.float32, seed=3):
    grid = HeadGrid.start(DIM, CLASSES, heads, seed)
    for name in ("weight", "bias", "velocity_w", "velocity_b", "running_mean", "running_var"):
        setattr(grid, name, getattr(grid, name).to(dtype))
    return grid


def reference_head(grid, dtype=torch.float32):
    """The reference's probing head, BatchNorm1d without affine and Linear, with the grid's initial weights."""
    norm, linear = nn.BatchNorm1d(DIM, affine=False, eps=1e-6), nn.Linear(DIM, CLASSES)
    linear.load_state_dict({"weight": grid.head(0)["weight"], "bias": grid.head(0)["bias"]})
    return nn.Sequential(norm, linear).to(dtype)


def rates(step, lrs):
    """A rate that changes from step to step, as a schedule's does."""
    return [lr * (1 - 0.07 * step) for lr in lrs]


def train(grid, data, settings, momentum=0.9):
    lrs, decays = zip(*settings, strict=True)
    dtype = grid.weight.dtype
    return torch.stack(
        [
            grid.step(
                x,
                y,
                torch.tensor(rates(i, lrs), dtype=dtype),
                torch.tensor(decays, dtype=dtype),
                momentum,
                TASKS["single_label"].loss_and_grad,
            )
            for i, (x, y) in enumerate(data)
        ]
    )


# --- the grid of heads


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_every_head_of_a_grid_is_batch_norm_linear_and_torchs_sgd(dtype, tolerance, momentum):
    grid, data = grid_of(len(GRID), dtype), batches(9, dtype=dtype)
    evaluated = batches(2, seed=5, dtype=dtype)
    heads = [reference_head(grid, dtype) for _ in GRID]
    losses = train(grid, data, GRID, momentum)
    for g, ((lr, decay), head) in enumerate(zip(GRID, heads, strict=True)):
        optimizer = torch.optim.SGD(head.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
        for i, (x, y) in enumerate(data):
            optimizer.param_groups[0]["lr"] = rates(i, [lr])[0]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(head(x), y)
            loss.backward()
            optimizer.step()
            assert losses[i, g].item() == pytest.approx(loss.item(), rel=10 * tolerance)
        ours = grid.head(g)
        torch.testing.assert_close(ours["weight"], head[1].weight.detach(), atol=tolerance, rtol=tolerance * 10)
        torch.testing.assert_close(ours["bias"], head[1].bias.detach(), atol=tolerance, rtol=tolerance * 10)
        torch.testing.assert_close(ours["running_mean"], head[0].running_mean, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(ours["running_var"], head[0].running_var, atol=tolerance, rtol=tolerance)
        head.eval()
        for x, _ in evaluated:
            with torch.inference_mode():
                expected = head(x)
            torch.testing.assert_close(grid.logits(x)[:, g], expected, atol=10 * tolerance, rtol=10 * tolerance)
            torch.testing.assert_close(head_logits(ours, x), expected, atol=10 * tolerance, rtol=10 * tolerance)


def test_evaluation_uses_running_statistics_and_not_the_batchs():
    grid = grid_of(1)
    train(grid, batches(5), GRID[:1])
    x = batches(1, seed=8)[0][0]
    torch.testing.assert_close(grid.logits(x[:1])[0], grid.logits(x)[0], atol=1e-6, rtol=1e-6)
    before = grid.running_mean.clone()
    grid.logits(x)
    assert torch.equal(grid.running_mean, before)


def test_head_in_a_grid_of_16_is_the_head_alone():
    settings = [(lr, decay) for lr in (0.01, 0.03, 0.1, 0.3) for decay in (0, 1e-4, 1e-3, 1e-2)]
    data = batches(12)
    grid = grid_of(16)
    losses = train(grid, data, settings)
    for g, setting in enumerate(settings):
        alone = grid_of(1)
        alone_losses = train(alone, data, [setting])
        for name, value in alone.head(0).items():
            torch.testing.assert_close(grid.head(g)[name], value, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(losses[:, g], alone_losses[:, 0], atol=1e-6, rtol=1e-5)


def test_diverging_head_leaves_the_others_untouched():
    sane, wild = [(0.1, 0.0), (0.01, 0.0), (0.03, 0.1)], [(0.1, 0.0), (1e38, 0.0), (0.03, 0.1)]
    calm, mixed = grid_of(3), grid_of(3)
    data = batches(10)
    calm_losses, mixed_losses = train(calm, data, sane), train(mixed, data, wild)
    assert not torch.isfinite(mixed_losses[:, 1]).all()
    assert not torch.isfinite(mixed.head(1)["weight"]).all()
    for g in (0, 2):
        assert torch.equal(mixed_losses[:, g], calm_losses[:, g])
        assert all(torch.equal(mixed.head(g)[name], value) for name, value in calm.head(g).items())


def test_heads_start_alike_from_a_truncated_normal_of_std_001():
    grid = HeadGrid.start(500, 40, 3, 0)
    weight = grid.head(0)["weight"]
    assert weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(weight.mean().item()) < 2e-4
    assert grid.bias.abs().max() == 0
    assert all(torch.equal(grid.head(g)["weight"], weight) for g in (1, 2))
    assert torch.equal(HeadGrid.start(500, 40, 1, 0).head(0)["weight"], weight)
    assert not torch.equal(HeadGrid.start(500, 40, 1, 1).head(0)["weight"], weight)


def test_drawing_heads_leaves_torchs_own_generator_alone():
    before = torch.random.get_rng_state()
    HeadGrid.start(DIM, CLASSES, 2, 0)
    assert torch.equal(torch.random.get_rng_state(), before)


# --- schedule


def test_cosine_is_maes_formula_at_every_iteration():
    """MAE, util/lr_sched.py, adjust_learning_rate."""
    for warmup, floor, total in ((0, 0.0, 50), (3, 1e-6, 20), (5.0, 0.0, 100), (0.5, 1e-3, 3)):
        for step in range(total * 7):
            epoch = step / 7
            expected = (
                0.1 * epoch / warmup
                if epoch < warmup
                else floor + (0.1 - floor) * 0.5 * (1.0 + math.cos(math.pi * (epoch - warmup) / (total - warmup)))
            )
            assert cosine(epoch, peak=0.1, floor=floor, warmup=warmup, total=total) == pytest.approx(
                expected, rel=1e-12
            )


def test_cosine_without_warm_up_is_torchs_annealing():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.01)
    for epoch in range(21):
        assert cosine(epoch, peak=0.3, floor=0.01, warmup=0, total=20) == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-9
        )
        optimizer.step()
        schedule.step()


def test_cosine_at_its_corners():
    at = lambda progress: cosine(progress, peak=1.0, floor=0.2, warmup=4, total=12)  # noqa: E731
    assert [at(p) for p in (0, 2, 4, 8, 12, 13)] == pytest.approx([0, 0.5, 1, 0.6, 0.2, 0.2])
    assert cosine(3, peak=1.0, floor=0.2, warmup=3, total=3) == 0.2


# --- whole epochs


def materials(train_x, train_y, parts):
    """A bank in memory: train rows first, then the evaluation parts."""
    features, labels = [train_x], [train_y]
    evaluation, start = {}, len(train_y)
    bank = SimpleNamespace(features=None)
    for part, (x, y) in parts.items():
        features.append(x)
        labels.append(y)
        evaluation[part] = (bank, np.arange(start, start + len(y)))
        start += len(y)
    bank.features = np.concatenate(features)
    return Materials(
        labels=np.concatenate(labels),
        train=np.arange(len(train_y)),
        evaluation=evaluation,
        train_banks=(bank,),
        extractor=None,
        spent=None,
    )


def fit(made, recipes, batch=BATCH):
    named = {str(g): recipe for g, recipe in enumerate(recipes)}
    return GridFit(made, named, batch, CLASSES, DIM, TASKS["single_label"]).run(
        lambda g, entry: None, lambda epochs: None
    )


def recipe(**changes):
    return ProbeRecipe(
        **{"lr": 0.1, "epochs": 4, "warmup_epochs": 1.0, "min_lr": 0.01, "weight_decay": 0.001, "batch_size": BATCH}
        | changes
    )


def test_epochs_are_whole_batches_in_keyed_order_under_the_schedule_of_each_iteration():
    """A plain torch loop over the same order gives the same curve, rate and logits; the last incomplete batch is
    dropped.
    """
    x, y = clusters(5 * BATCH + 17)
    test = clusters(150, seed=1)
    made = materials(x, y, {"test": test})
    (outcome,) = fit(made, [recipe()])
    grid = GridFit(made, {"a": recipe()}, BATCH, CLASSES, DIM, TASKS["single_label"]).heads
    head = reference_head(grid)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=0.001)
    for epoch in range(4):
        order, losses = epoch_order(42, epoch, len(y)), []
        head.train()
        for i in range(5):
            progress = epoch + i / 5
            lr = 0.1 * progress if progress < 1 else 0.01 + 0.09 * 0.5 * (1 + math.cos(math.pi * (progress - 1) / 3))
            optimizer.param_groups[0]["lr"] = lr
            rows = order[i * BATCH : (i + 1) * BATCH]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(head(torch.from_numpy(x[rows])), torch.from_numpy(y[rows]))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        head.eval()
        with torch.inference_mode():
            logits = head(torch.from_numpy(test[0])).numpy()
        entry = outcome.history[epoch]
        assert entry["epoch"] == epoch
        assert entry["lr"] == pytest.approx(lr, rel=1e-6)
        assert entry["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert entry["val"]["oa"] == pytest.approx(accuracy_score(test[1], logits.argmax(1)))
        assert entry["val"]["loss"] == pytest.approx(
            nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(test[1])).item(), rel=1e-5
        )
    np.testing.assert_allclose(outcome.logits, logits, atol=1e-4)
    assert outcome.final == outcome.history[-1]["val"] == pytest.approx(outcome.test)
    assert outcome.best is None  # nothing is selected on the test split


def test_without_val_final_is_test_to_the_last_bit():
    """The interface says final = test = the last epoch; two roundings can differ by a prediction as well."""
    made = materials(*clusters(160), {"test": clusters(400, seed=1)})
    for outcome in fit(made, [recipe(lr=lr) for lr in (0.03, 0.1, 0.3)]):
        assert outcome.final == outcome.test


def test_order_of_an_epoch_is_a_permutation_keyed_by_seed_and_epoch():
    assert sorted(epoch_order(42, 0, 100).tolist()) == list(range(100))
    np.testing.assert_array_equal(epoch_order(42, 0, 100), epoch_order(42, 0, 100))
    assert epoch_order(42, 0, 100).tolist() != epoch_order(42, 1, 100).tolist() != epoch_order(43, 1, 100).tolist()


def test_with_val_the_best_epoch_on_val_is_scored_once_on_test():
    """The rate is so high that the best epoch is not the last."""
    made = materials(*clusters(160), {"val": clusters(90, seed=1), "test": clusters(120, seed=2)})
    (outcome,) = fit(made, [recipe(lr=2.0, epochs=12, min_lr=1.0)])
    curve = [(entry["val"]["oa"], -entry["val"]["loss"]) for entry in outcome.history]
    best = int(max(range(12), key=lambda e: curve[e]))
    assert best < 11
    assert outcome.best == {"epoch": best, **outcome.history[best]["val"]}
    assert outcome.final == outcome.history[-1]["val"]
    (stopped,) = fit(
        materials(*clusters(160), {"test": clusters(120, seed=2)}), [recipe(lr=2.0, epochs=12, min_lr=1.0)]
    )
    assert outcome.test["loss"] == pytest.approx(stopped.history[best]["val"]["loss"], rel=1e-5)
    assert outcome.test["oa"] == accuracy_score(clusters(120, seed=2)[1], outcome.logits.argmax(1))


def test_grid_gives_each_run_the_outcome_of_its_own():
    made = materials(*clusters(200), {"test": clusters(90, seed=1)})
    recipes = [recipe(lr=lr, weight_decay=decay) for lr in (0.01, 0.1) for decay in (0.0, 0.01)]
    for together, alone in zip(fit(made, recipes), [fit(made, [r])[0] for r in recipes], strict=True):
        np.testing.assert_allclose(together.logits, alone.logits, atol=1e-4)
        assert [e["val"]["oa"] for e in together.history] == pytest.approx([e["val"]["oa"] for e in alone.history])


def test_diverged_head_is_noted_and_the_others_are_not():
    made = materials(*clusters(200), {"test": clusters(90, seed=1)})
    with np.errstate(all="ignore"):
        calm, wild = fit(made, [recipe(), recipe(lr=1e30)])
    assert (calm.diverged, wild.diverged) == (False, True)
    assert [note["code"] for note in wild.notes] == ["diverged"]
    assert wild.test["loss"] is None
    assert len(wild.targets) == len(wild.logits) == 90


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("vit_small_patch16", 3850),
        ("vit_base_patch16", 7690),
        ("vit_large_patch16", 10250),
        ("vit_huge_patch14", 12810),
    ],
)
def test_probe_has_the_published_number_of_parameters(model, count):
    from fgmae_bench.models.build import build_backbone

    with torch.device("meta"):
        backbone = build_backbone(Model(model=model, weights="random"), 0)
    head = HeadGrid.start(backbone.feature_dim, 10, 1, 0).head(0)
    assert head["weight"].numel() + head["bias"].numel() == count
    assert not any(p.requires_grad for p in backbone.module.parameters())


# --- logistic regression


def standardised(train_x, x):
    return StandardScaler().fit(train_x.astype(np.float64)).transform(x.astype(np.float64))


def oracle(train_x, train_y, penalty):
    """Mean loss + penalty/2 |w|^2 is scikit-learn's with C = 1 / (penalty n)."""
    model = LogisticRegression(C=1 / (penalty * len(train_y)), tol=1e-10, max_iter=20_000)
    return model.fit(standardised(train_x, train_x), train_y)


@pytest.mark.parametrize("penalty", [1e-3, 1e-1, 1.0])
def test_logistic_regression_is_scikit_learns_on_standardised_features(penalty):
    x, y = clusters(300)
    test = clusters(100, seed=1)
    fitted = fit_logistic((x, y), {"test": test}, CLASSES, (penalty,), 42)
    expected = oracle(x, y, penalty).decision_function(standardised(x, test[0]))
    np.testing.assert_allclose(fitted.logits["test"], expected, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_array_equal(fitted.logits["test"].argmax(1), expected.argmax(1))
    assert fitted.penalty == penalty


def test_penalty_is_the_one_with_the_lowest_loss_on_val():
    x, y = clusters(120)
    val, test = clusters(200, seed=1), clusters(100, seed=2)
    candidates = (1e-4, 1e-2, 1e-1, 1.0, 10.0)
    losses = [log_loss(val[1], oracle(x, y, p).predict_proba(standardised(x, val[0]))) for p in candidates]
    best = int(np.argmin(losses))
    assert 0 < best < 4
    fitted = fit_logistic((x, y), {"val": val, "test": test}, CLASSES, candidates, 42)
    assert fitted.penalty == candidates[best]
    assert "on val" in fitted.notes[0]["text"]
    alone = fit_logistic((x, y), {"test": test}, CLASSES, (candidates[best],), 42)
    np.testing.assert_array_equal(
        fitted.logits["test"], alone.logits["test"]
    )  # fitted on train, never on train and val


def test_without_val_the_penalty_is_chosen_by_cross_validation_inside_train():
    """Never on test: with its labels shuffled the choice stays the same."""
    x, y = clusters(120)
    test = clusters(100, seed=2)
    candidates = (1e-4, 1e-2, 1e-1, 1.0, 10.0)
    n = len(y) * 4 // 5
    search = GridSearchCV(
        LogisticRegression(tol=1e-8, max_iter=20_000),
        {"C": [1 / (p * n) for p in candidates]},
        scoring="neg_log_loss",
        cv=StratifiedKFold(5, shuffle=True, random_state=42),
        refit=False,
    ).fit(standardised(x, x), y)
    expected = candidates[int(search.best_index_)]
    assert expected not in (candidates[0], candidates[-1])
    fitted = fit_logistic((x, y), {"test": test}, CLASSES, candidates, 42)
    shuffled = fit_logistic((x, y), {"test": (test[0], test[1][::-1].copy())}, CLASSES, candidates, 42)
    assert fitted.penalty == shuffled.penalty == expected
    assert "cross-validation inside train" in fitted.notes[0]["text"]


def test_penalty_at_the_edge_of_the_candidates_is_noted():
    x, y = clusters(120)
    val = clusters(200, seed=1)
    codes = [note["code"] for note in fit_logistic((x, y), {"val": val, "test": val}, CLASSES, (1e-5, 1e-4), 42).notes]
    assert "penalty_at_edge" in codes
    assert "penalty_at_edge" not in [
        note["code"] for note in fit_logistic((x, y), {"val": val, "test": val}, CLASSES, (1e-4,), 42).notes
    ]


def test_logistic_regression_of_two_classes_has_two_logits():
    """scikit-learn's binary form has one decision value, ours is the difference of the logits; half its penalty is
    ours.
    """
    x, y = clusters(200, classes=2)
    test = clusters(80, seed=1, classes=2)
    fitted = fit_logistic((x, y), {"test": test}, 2, (0.05,), 42)
    expected = oracle(x, y, 0.05 / 2).decision_function(standardised(x, test[0]))
    assert fitted.logits["test"].shape == (80, 2)
    np.testing.assert_allclose(
        fitted.logits["test"][:, 1] - fitted.logits["test"][:, 0], expected, atol=2e-3 * np.abs(expected).max()
    )


def test_class_absent_from_training_is_never_predicted():
    x, y = clusters(200)
    keep = y != 2
    fitted = fit_logistic((x[keep], y[keep]), {"test": (x, y)}, CLASSES, (0.01,), 42)
    assert fitted.logits["test"].shape == (200, CLASSES)
    assert 2 not in fitted.logits["test"].argmax(1)
    expected = oracle(x[keep], y[keep], 0.01).predict(standardised(x[keep], x))
    np.testing.assert_array_equal(fitted.logits["test"].argmax(1), expected)


def test_constant_feature_is_no_division_by_zero():
    x, y = clusters(100)
    x[:, 3] = 7
    with np.errstate(all="raise"):
        fitted = fit_logistic((x, y), {"test": (x, y)}, CLASSES, (0.1,), 42)
    assert np.isfinite(fitted.logits["test"]).all()


def test_one_sample_of_a_class_is_too_few_to_cross_validate():
    x, y = clusters(60)
    keep = (y != 2) | (np.arange(60) == np.flatnonzero(y == 2)[0])
    with pytest.raises(BenchError, match="no cross-validation"):
        fit_logistic((x[keep], y[keep]), {"test": (x, y)}, CLASSES, (0.1, 1.0), 42)


# --- nearest neighbours


@pytest.mark.parametrize("k", [1, 4, 5, 20])
def test_nearest_neighbours_are_scikit_learns_by_cosine(k):
    (x, y), (tx, ty) = clusters(300), clusters(1100, seed=1)  # more than one chunk of 1024
    model = KNeighborsClassifier(n_neighbors=k, metric="cosine").fit(x.astype(np.float64), y)
    fitted = fit_knn((x, y), {"test": (tx, ty)}, CLASSES, k)
    np.testing.assert_allclose(
        softmax(fitted.logits["test"], axis=1), model.predict_proba(tx.astype(np.float64)), atol=1e-5
    )
    np.testing.assert_array_equal(fitted.logits["test"].argmax(1), model.predict(tx.astype(np.float64)))
    assert fitted.penalty is None


def test_nearest_neighbours_ignore_the_length_of_features():
    (x, y), (tx, ty) = clusters(200), clusters(50, seed=1)
    scale = np.random.default_rng(0).uniform(0.1, 10, (len(x), 1)).astype(np.float32)
    a, b = fit_knn((x, y), {"test": (tx, ty)}, CLASSES, 5), fit_knn((x * scale, y), {"test": (tx * 3, ty)}, CLASSES, 5)
    np.testing.assert_array_equal(a.logits["test"], b.logits["test"])


def test_all_samples_as_neighbours_give_the_class_shares():
    shares = np.bincount(clusters(60)[1]) / 60
    logits = fit_knn(clusters(60), {"test": clusters(10)}, CLASSES, 60).logits["test"]
    np.testing.assert_allclose(softmax(logits, axis=1), np.tile(shares, (10, 1)), atol=1e-6)


def test_the_loss_of_nearest_neighbours_is_that_of_their_shares():
    (x, y), (tx, ty) = clusters(300), clusters(200, seed=1)
    logits = fit_knn((x, y), {"test": (tx, ty)}, CLASSES, 5).logits["test"]
    shares = (
        KNeighborsClassifier(n_neighbors=5, metric="cosine")
        .fit(x.astype(np.float64), y)
        .predict_proba(tx.astype(np.float64))
    )
    expected = -np.log(np.maximum(shares[np.arange(len(ty)), ty], 1e-6)).mean()
    assert TASKS["single_label"].evaluate(logits, ty)["loss"] == pytest.approx(expected, abs=1e-4)
    same = fit_knn((x, y), {"test": (x, y)}, CLASSES, 1).logits["test"]
    assert TASKS["single_label"].evaluate(same, y)["loss"] == pytest.approx(0, abs=1e-4)
