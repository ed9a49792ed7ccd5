"""Places, rates and losses of training steps, by hand."""

import copy
import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from train_world import make_loop, recipe_of, run

from fgmae_bench.config.recipes import FinetuneRecipe
from fgmae_bench.config.schedules import base_lr, cosine, poly, scaled_lr
from fgmae_bench.runs.curve_notes import lr_off_rule, small_batch_norm, still_improving
from fgmae_bench.runs.tasks import Scale
from fgmae_bench.train.classification import ClassificationJob
from fgmae_bench.train.plan import make_plan


def test_rates_end_at_the_floor_and_stay_there():
    for schedule in (cosine, poly):
        for progress in (10.0, 10.5, 13.0, 25.0):
            assert schedule(progress, peak=1.0, floor=0.2, warmup=2.0, total=10.0) == pytest.approx(0.2)
        assert schedule(2.0, peak=1.0, floor=0.2, warmup=2.0, total=10.0) == pytest.approx(1.0)
    assert cosine(6.0, peak=1.0, floor=0.2, warmup=2.0, total=10.0) == pytest.approx(0.6)
    assert poly(4.0, peak=1.0, floor=0.2, warmup=0.0, total=10.0) == pytest.approx(0.2 + 0.8 * 0.6**0.9)


def test_base_rates_are_those_of_256_samples():
    assert scaled_lr(0.1, 256) == pytest.approx(0.1)
    assert scaled_lr(0.1, 1024) == pytest.approx(0.4)
    assert base_lr(0.4, 1024) == pytest.approx(0.1)


@pytest.mark.parametrize(("samples", "batch", "accum", "world"), [(130, 16, 3, 1), (130, 16, 5, 1), (100, 4, 4, 3)])
def test_progress_counts_samples_also_where_the_last_step_of_an_epoch_is_short(samples, batch, accum, world):
    recipe = FinetuneRecipe(recipe="corrected", batch_size=batch, accum_iter=accum, epochs=3, lr=0.1, warmup_epochs=1.0)
    plan = make_plan(recipe, samples, world)
    micro = samples // (batch * world)
    assert plan.steps_per_epoch == math.ceil(micro / accum)
    assert (plan.total, plan.warmup) == (3 * plan.steps_per_epoch, plan.steps_per_epoch)
    done = 0
    for step in range(plan.total):
        assert plan.progress(step) / plan.steps_per_epoch == pytest.approx(done / micro)
        done += len(plan.micro_steps(step, 0))
    assert done == 3 * micro


def test_the_budget_stretches_steps_and_warm_up():
    plain, twice = (
        make_plan(FinetuneRecipe(batch_size=8, epochs=3, lr=0.1, warmup_epochs=1.0, budget=budget), 80, 1)
        for budget in (1, 2)
    )
    assert (plain.total, plain.warmup, twice.total, twice.warmup) == (30, 10, 60, 20)


def test_the_last_step_is_evaluated_whatever_the_period():
    plan = dataclasses.replace(make_plan(FinetuneRecipe(batch_size=8, epochs=1), 80, 1), total=10, period=4)
    assert [step for step in range(1, 11) if plan.evaluated_after(step)] == [4, 8, 10]


def test_the_loss_of_a_step_is_the_mean_over_its_micro_batches(world):
    loop = make_loop(world, recipe_of(8, 2, False), double=True)
    model, seen = copy.deepcopy(loop.job.model), []
    losses = []
    for rows in loop.plan.micro_steps(0, 0):
        images, labels = loop.job.read(loop.job.train[rows], 0)
        logits = model(torch.from_numpy(images).double() / 255)
        losses.append(nn.functional.cross_entropy(logits, torch.from_numpy(labels), label_smoothing=0.1).item())
    loop.plan = dataclasses.replace(loop.plan, total=1)
    loop.run(
        lambda: seen.append((loop.period.loss, loop.period.steps, loop.period.images)), lambda: None, lambda: False
    )
    assert seen == [(pytest.approx(np.mean(losses), rel=1e-9), 1, 16)]


def test_views_follow_the_epoch_and_what_is_random_in_a_pass_its_step_and_micro_batch(world, monkeypatch):
    loop = make_loop(world, recipe_of(16, 2, False))
    read, epochs, seeds = loop.job.read, [], []
    monkeypatch.setattr(loop.job, "read", lambda rows, epoch: (epochs.append(epoch), read(rows, epoch))[1])
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    steps = loop.plan.steps_per_epoch + 1
    run(loop, steps=steps)
    assert epochs == [step // (steps - 1) for step in range(steps) for _ in loop.plan.micro_steps(step, 0)]
    assert set(epochs) == {0, 1}
    assert len(set(seeds)) == len(seeds) == len(epochs)


def test_notes_begin_where_they_are_said_to():
    def curve(values):
        return [{"val": {"oa": value}} for value in values]

    flat = [0.5] * 36
    assert still_improving(curve([*flat, 0.5, 0.504, 0.504, 0.504]), "oa") == []
    assert still_improving(curve([*flat, 0.506, 0.506, 0.506, 0.506]), "oa") != []
    assert still_improving(curve([*flat, 0.508, 0.5, 0.5, 0.5]), "oa") == []  # a tenth of 40 is four of them
    assert [bool(lr_off_rule(0.1 * factor, 256, 0.1)) for factor in (0.45, 0.55, 1.9, 2.1)] == [
        True,
        False,
        False,
        True,
    ]
    assert [bool(small_batch_norm(batch, 1)) for batch in (31, 32)] == [True, False]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_are_smoothed_towards_a_half_or_an_even_share(smoothing):
    random = np.random.default_rng(0)
    logits, tags, classes = random.normal(size=(6, 4)), random.random((6, 4)) < 0.4, random.integers(0, 4, 6)
    p = 1 / (1 + np.exp(-logits))
    wanted = tags * (1 - smoothing) + smoothing / 2
    binary = -(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).mean()
    log_share = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    single = -((np.eye(4)[classes] * (1 - smoothing) + smoothing / 4) * log_share).sum(1).mean()
    for task, targets, expected in (("multi_label", tags, binary), ("single_label", classes, single)):
        card, recipe = SimpleNamespace(task=task), FinetuneRecipe(smoothing=smoothing)
        job = SimpleNamespace(dataset=SimpleNamespace(card=card), recipe=recipe, scale=Scale())
        loss = ClassificationJob.loss(job, torch.from_numpy(logits), torch.from_numpy(targets))
        assert float(loss) == pytest.approx(expected, rel=1e-12)
