"""Heads on frozen features against torch's own modules and optimiser, and arithmetic."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from blobs import clusters
from sklearn.metrics import accuracy_score
from torch import nn

from fgmae_bench.config.recipes import ProbeRecipe
from fgmae_bench.config.run import Model
from fgmae_bench.config.schedules import cosine
from fgmae_bench.probe.heads import HeadGrid, head_logits
from fgmae_bench.probe.resolve import Materials
from fgmae_bench.probe.train import GridFit
from fgmae_bench.runs.tasks import TASKS
from fgmae_bench.system.randomness import epoch_order

DIM, CLASSES, BATCH = 24, 5, 32
GRID = [(0.1, 0.001), (0.1, 0.0), (0.03, 0.01), (1.0, 0.0)]
DTYPES = [(torch.float64, 1e-12), (torch.float32, 1e-6)]


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
