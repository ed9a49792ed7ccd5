"""Learning rates against independent computations: closed forms, MAE's rule for each iteration, layer decay block by
block.
"""

import math

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from fgmae_bench.config.recipes import FinetuneRecipe
from fgmae_bench.config.schedules import cosine, poly
from fgmae_bench.errors import BenchError
from fgmae_bench.train.classification import Classifier
from fgmae_bench.train.optim import param_groups
from fgmae_bench.train.plan import make_plan


class Wrapped(torch.nn.Module):
    """A ViT inside a classifier, as fine-tuning has it, without computing anything."""

    def __init__(self, name):
        super().__init__()
        with torch.device("meta"):
            self.vit = timm.create_model(name, in_chans=2, num_classes=0)


def classifier(name, classes=10, **recipe):
    with torch.device("meta"):
        vit = Wrapped(name)
    return Classifier(vit, vit.vit.num_features, classes, FinetuneRecipe(**recipe))


@pytest.mark.parametrize("step", [0, 1, 49, 50, 51, 500, 999, 1000])
def test_cosine_and_poly_equal_their_closed_forms(step):
    peak, floor, warmup, total = 0.3, 1e-4, 50, 1000
    share = max(0, step - warmup) / (total - warmup)
    halved = floor + (peak - floor) * (1 + math.cos(math.pi * share)) / 2
    power = floor + (peak - floor) * (1 - share) ** 0.9
    rising = peak * step / warmup
    rates = {"peak": peak, "floor": floor, "warmup": warmup, "total": total}
    assert cosine(step, **rates) == pytest.approx(rising if step < warmup else halved, abs=1e-15)
    assert poly(step, **rates) == pytest.approx(rising if step < warmup else power, abs=1e-15)


def mae_rate(iteration, iterations, accum, lr, min_lr, warmup, epochs):
    """util/lr_sched.py as called in engine_finetune.py: set where an accumulation begins."""
    epoch = (iteration // accum * accum % iterations) / iterations + iteration // iterations
    if epoch < warmup:
        return lr * epoch / warmup
    return min_lr + (lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


@pytest.mark.parametrize(
    ("samples", "batch", "accum", "world"), [(130, 16, 2, 1), (130, 8, 2, 2), (64, 8, 1, 2), (96, 16, 3, 1)]
)
def test_every_groups_rate_over_a_whole_schedule_is_maes(samples, batch, accum, world):
    recipe = FinetuneRecipe(
        lr=0.01,
        min_lr=1e-6,
        epochs=4,
        warmup_epochs=1.5,
        batch_size=batch,
        accum_iter=accum,
        layer_decay=0.75,
        weight_decay=0.05,
    )
    plan = make_plan(recipe, samples, world)
    groups = param_groups(classifier("vit_small_patch16_224"), weight_decay=0.05, layer_decay=0.75, decay_all=False)
    scales = {group["name"]: group["lr_scale"] for group in groups}
    iterations = samples // (batch * world)
    if iterations % accum == 0:
        assert plan.total == 4 * iterations // accum
    for step in range(plan.total):
        epoch, index = divmod(step, plan.steps_per_epoch)
        expected = mae_rate(epoch * iterations + index * accum, iterations, 1, 0.01, 1e-6, 1.5, 4)
        assert plan.rate(step, recipe) == pytest.approx(expected, rel=1e-12, abs=1e-18)
    assert scales["layer_0"] == scales["layer_0_no_decay"] == pytest.approx(0.75**13, rel=1e-12)


def test_steps_take_a_warm_up_and_a_poly_decay():
    recipe = FinetuneRecipe(lr=1e-4, max_steps=40, warmup_steps=5, schedule="poly", batch_size=4)
    plan = make_plan(recipe, 30, 1)
    assert (plan.total, plan.period, plan.steps_per_epoch) == (40, 4, 7)
    for step in range(40):
        expected = 1e-4 * step / 5 if step < 5 else 1e-4 * (1 - (step - 5) / 35) ** 0.9
        assert plan.rate(step, recipe) == pytest.approx(expected, rel=1e-12)


def test_twice_the_budget_is_the_same_curve_stretched():
    once, twice = (FinetuneRecipe(lr=0.1, epochs=6, warmup_epochs=2, batch_size=5, budget=budget) for budget in (1, 2))
    short, long = make_plan(once, 50, 1), make_plan(twice, 50, 1)
    assert long.total == 2 * short.total
    for step in range(short.total):
        assert long.rate(2 * step, twice) == pytest.approx(short.rate(step, once), rel=1e-12)


@pytest.mark.parametrize(("name", "depth"), [("vit_small_patch16_224", 12), ("vit_huge_patch14_224", 32)])
def test_layer_decay_block_by_block(name, depth):
    model = classifier(name)
    groups = param_groups(model, weight_decay=0.05, layer_decay=0.75, decay_all=False)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(scale) == len(list(model.parameters()))
    vit = model.backbone.vit
    for block, parameters in enumerate(vit.blocks):
        assert {scale[id(p)] for p in parameters.parameters()} == {0.75 ** (depth - block)}
    for embedding in (vit.cls_token, vit.pos_embed, *vit.patch_embed.parameters()):
        assert scale[id(embedding)] == 0.75 ** (depth + 1)
    assert {scale[id(p)] for p in (*vit.norm.parameters(), *model.head.parameters())} == {1.0}
    for parameter_name, p in model.named_parameters():
        bare = p.ndim <= 1 or parameter_name.endswith(("cls_token", "pos_embed"))
        assert decay[id(p)] == (0.0 if bare else 0.05)


def test_layer_decay_of_the_blocks_equals_timms():
    """timm's own grouping of the same ViT. It puts the last norm into the last block's layer, MAE into the head's."""
    vit = timm.create_model("vit_tiny_patch16_224", in_chans=2, num_classes=10)
    norm = {id(p) for p in vit.norm.parameters()}
    theirs = {id(p): g["lr_scale"] for g in param_groups_layer_decay(vit, layer_decay=0.65) for p in g["params"]}
    ours = {
        id(p): g["lr_scale"]
        for g in param_groups(vit, weight_decay=0.05, layer_decay=0.65, decay_all=False)
        for p in g["params"]
    }
    assert {k: v for k, v in ours.items() if k not in norm} == pytest.approx(
        {k: v for k, v in theirs.items() if k not in norm}
    )
    assert {ours[k] for k in norm} == {1.0}


def test_sgd_of_the_reference_decays_everything():
    groups = param_groups(classifier("vit_tiny_patch16_224"), weight_decay=1e-3, layer_decay=1.0, decay_all=True)
    assert {group["weight_decay"] for group in groups} == {1e-3}
    assert {group["lr_scale"] for group in groups} == {1.0}


def test_layer_decay_on_what_is_no_vit_is_refused():
    with pytest.raises(BenchError, match="has no blocks of a ViT"):
        param_groups(torch.nn.Linear(2, 2), weight_decay=0.0, layer_decay=0.9, decay_all=False)


def test_a_plan_takes_each_sample_once_and_drops_the_last_incomplete_micro_batch_only():
    recipe = FinetuneRecipe(recipe="corrected", batch_size=3, accum_iter=4, epochs=2)
    for world in (1, 2):
        plan = make_plan(recipe, 32, world)
        per_epoch = plan.steps_per_epoch
        assert per_epoch == {1: 3, 2: 2}[world]
        steps = [[len(rows) for rows in plan.micro_steps(step, 0)] for step in range(per_epoch)]
        assert steps == {1: [[3] * 4, [3] * 4, [3] * 2], 2: [[3] * 4, [3]]}[world]
        taken = [
            row
            for step in range(per_epoch)
            for rank in range(world)
            for rows in plan.micro_steps(step, rank)
            for row in rows
        ]
        assert len(taken) == len(set(taken)) == 30
        again = [
            row
            for step in range(per_epoch, 2 * per_epoch)
            for rank in range(world)
            for rows in plan.micro_steps(step, rank)
            for row in rows
        ]
        assert len(set(again)) == 30
        assert again != taken


def test_a_step_holds_the_same_samples_on_any_number_of_processes():
    whole = make_plan(FinetuneRecipe(batch_size=8), 40, 1)
    for recipe, world in ((FinetuneRecipe(batch_size=4), 2), (FinetuneRecipe(batch_size=4, accum_iter=2), 1)):
        plan = make_plan(recipe, 40, world)
        for step in range(plan.total):
            together = {row for rank in range(world) for rows in plan.micro_steps(step, rank) for row in rows}
            assert together == set(whole.micro_steps(step, 0)[0])


def test_a_batch_larger_than_the_split_names_one_that_fits():
    with pytest.raises(BenchError, match="use --batch_size 5 or less"):
        make_plan(FinetuneRecipe(batch_size=6), 11, 2)


def test_notes_follow_from_curve_and_rate():
    from fgmae_bench.runs.curve_notes import lr_off_rule, small_batch_norm, still_improving

    def curve(values):
        return [{"val": {"oa": value}} for value in values]

    assert still_improving(curve([0.5 + 0.01 * i for i in range(20)]), "oa")[0]["code"] == "still_improving"
    assert still_improving(curve([0.8] * 20), "oa") == []
    assert still_improving(curve([0.1, 0.9]), "oa") == []
    assert still_improving(curve([0.5 + 0.01 * i for i in range(19)] + [None]), "oa") == []
    assert lr_off_rule(0.1, 256, 0.1) == []
    assert "base rate of 1.6" in lr_off_rule(0.1, 16, 0.1)[0]["text"]  # the notes' ViT-H
    assert small_batch_norm(64, 4) == []
    assert small_batch_norm(8, 2)[0]["code"] == "small_batch_norm"
