"""The training loop against independent computations: processes, accumulation, mixing, stochastic depth, what is not
finite.
"""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import preloaded
import pytest
import torch
from torch import nn
from train_world import make_loop, recipe_of, run

from fgmae_bench.config.recipes import FinetuneRecipe
from fgmae_bench.errors import RunFailed
from fgmae_bench.train.classification import Mixing
from fgmae_bench.train.optim import param_groups

WORLD = Path(__file__).with_name("train_world.py")


def torchrun(world, out, batch, accum, *more, processes=2):
    done = preloaded.run_ranks(processes, [WORLD, world, out, batch, accum, *more])
    assert [rank.returncode for rank in done] == [0] * processes, done
    return torch.load(out, weights_only=True)


def one_process(world, batch, accum, sync=False):
    loop = run(make_loop(world, recipe_of(batch, accum, sync), double=True), steps=3)
    return {"model": loop.job.model.state_dict()}


def largest_difference(a, b):
    return max((a["model"][name].double() - b["model"][name].double()).abs().max().item() for name in a["model"])


@pytest.mark.slow
def test_processes_and_accumulation_do_not_change_three_steps(world, tmp_path):
    """float64, no batch norm: 1 process x 8 = 2 x 4 = 1 x 4 x accumulation 2."""
    whole = one_process(world, 8, 1)
    assert largest_difference(whole, torchrun(world, tmp_path / "two.pth", 4, 1)) < 1e-9
    assert largest_difference(whole, one_process(world, 4, 2)) < 1e-9
    assert largest_difference(whole, one_process(world, 4, 1)) > 1e-4  # the comparison can fail


@pytest.mark.slow
def test_synchronised_batch_norm_does_not_change_three_steps(world, tmp_path):
    assert (
        largest_difference(one_process(world, 8, 1, sync=True), torchrun(world, tmp_path / "two.pth", 4, 1, "sync"))
        < 1e-9
    )


def test_a_step_is_what_plain_torch_computes(world):
    """Three steps of a loop written out by hand: same samples and views, torch's own AdamW, clipping and smoothing."""
    recipe = recipe_of(8, 2, False)
    loop = make_loop(world, recipe, double=True)
    reference = make_loop(world, recipe, double=True).job.model
    job, plan = loop.job, dataclasses.replace(loop.plan, total=3)
    groups = param_groups(reference, weight_decay=0.05, layer_decay=0.75, decay_all=False)
    optimizer = torch.optim.AdamW(groups, lr=0)
    for step in range(3):
        rows = np.concatenate(plan.micro_steps(step, 0))
        images, labels = job.read(job.train[rows], 0)
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step, recipe) * group["lr_scale"]
        logits = reference(torch.from_numpy(images).double() / 255)
        nn.functional.cross_entropy(logits, torch.from_numpy(labels), label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    run(loop, steps=3)
    for name, tensor in loop.job.model.state_dict().items():
        torch.testing.assert_close(tensor, reference.state_dict()[name], rtol=0, atol=1e-10)


def test_mixup_changes_the_batch_and_conserves_label_mass():
    images = torch.rand(8, 2, 16, 16)
    single = nn.functional.one_hot(torch.arange(8) % 5, 5).float()
    several = (torch.rand(8, 5) < 0.4).float()
    for mixing in (Mixing(0.8, 0.0, 3), Mixing(0.0, 1.0, 3), Mixing(0.8, 1.0, 3)):
        for targets in (single, several):
            mixed, labels = mixing(images, targets, 0, 0)
            assert not torch.equal(mixed, images)
            torch.testing.assert_close(labels.sum(0), targets.sum(0))  # pairs exchange shares
            again, same = mixing(images, targets, 0, 0)
            assert torch.equal(mixed, again)
            assert torch.equal(labels, same)
            assert not torch.equal(mixing(images, targets, 1, 0)[0], mixed)
    mixed, labels = Mixing(0.8, 0.0, 3)(images, single, 0, 0)
    share = labels[0, 0].item()  # image 0 is of class 0, its partner 7 of class 2
    torch.testing.assert_close(mixed[0], share * images[0] + (1 - share) * images[7])
    assert labels[0, 2].item() == pytest.approx(1 - share)


def test_mixing_leaves_the_global_generator_and_the_batch_alone():
    before_state = np.random.get_state()[1].copy()  # noqa: NPY002 (timm's generator)
    images = torch.rand(4, 2, 8, 8)
    before = images.clone()
    Mixing(0.8, 1.0, 0)(images, torch.eye(4), 0)
    np.testing.assert_array_equal(np.random.get_state()[1], before_state)  # noqa: NPY002
    assert torch.equal(images, before)


def test_mixup_reaches_the_loss(world):
    seen = []
    loop = make_loop(world, FinetuneRecipe(lr=0.01, batch_size=8, epochs=1, mixup=0.8))
    loss = loop.job.loss
    loop.job.loss = lambda outputs, targets: (seen.append(targets), loss(outputs, targets))[1]
    run(loop, steps=2)
    assert all(targets.shape == (8, 10) for targets in seen)
    assert any(((targets > 0) & (targets < 1)).any() for targets in seen)


def test_stochastic_depth_is_active_in_training_and_off_in_evaluation(world):
    model = make_loop(world, FinetuneRecipe(lr=0.01, batch_size=8), drop_path=0.5).job.model
    images = torch.rand(16, 2, 32, 32)
    model.train()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_stochastic_depth_is_keyed(world):
    runs = [run(make_loop(world, FinetuneRecipe(lr=0.01, batch_size=8), drop_path=0.5), steps=3) for _ in range(2)]
    torch.rand(5)  # draws elsewhere do not matter
    states = [loop.job.model.state_dict() for loop in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_chunks_of_the_backbone_do_not_change_the_gradients(world):
    model = make_loop(world, FinetuneRecipe(lr=0.01, batch_size=8, head="bn_linear"), double=True).job.model.train()
    images, gradients = torch.rand(8, 2, 32, 32, dtype=torch.float64), []
    for chunk in (0, 3):
        model.chunk = chunk
        model.zero_grad()
        model(images).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(world):
    loop = make_loop(world, FinetuneRecipe(optimizer="sgd", lr=0.01, batch_size=8, epochs=3))
    loss, calls, saves = loop.job.loss, [], []

    def failing(outputs, targets):
        calls.append(1)
        return loss(outputs, targets) * (float("nan") if len(calls) == 14 else 1)

    loop.job.loss = failing
    with pytest.raises(RunFailed, match=r"loss became nan in step 14 \(epoch 1\) at lr 0\.0"):
        loop.run(lambda: None, lambda: saves.append(loop.step), lambda: True)
    assert saves
    assert max(saves) < 14


def test_being_asked_to_stop_saves_and_ends(world):
    saves = []
    loop = make_loop(world, FinetuneRecipe(lr=0.01, batch_size=8, epochs=3))
    loop.stop = lambda: loop.step == 5
    with pytest.raises(KeyboardInterrupt):
        loop.run(lambda: None, lambda: saves.append(loop.step), lambda: False)
    assert saves == [5]
    assert loop.period.steps == 5


def test_a_state_within_a_period_goes_on_to_the_same_bits(world):
    recipe = FinetuneRecipe(lr=0.01, batch_size=8, epochs=2, head="bn_linear", mixup=0.8)
    whole = run(make_loop(world, recipe, drop_path=0.2))
    torn = make_loop(world, recipe, drop_path=0.2)
    torn.stop = lambda: torn.step == 7
    kept = {}

    def save():
        kept.update(copy.deepcopy({"tensors": torn.tensors(), "step": torn.step, "period": vars(torn.period)}))

    with pytest.raises(KeyboardInterrupt):
        torn.run(lambda: None, save, lambda: False)
    resumed = make_loop(world, recipe, drop_path=0.2)
    resumed.restore(**kept)
    losses = []
    resumed.run(lambda: losses.append(resumed.period.loss), lambda: None, lambda: False)
    for name, tensor in whole.job.model.state_dict().items():
        assert torch.equal(tensor, resumed.job.model.state_dict()[name]), name
    again = make_loop(world, recipe, drop_path=0.2)
    expected = []
    again.run(lambda: expected.append(again.period.loss), lambda: None, lambda: False)
    assert losses == expected
