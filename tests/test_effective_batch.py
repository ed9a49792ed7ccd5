"""Recipes state the effective batch: how many processes there are changes neither it, the rate nor the updates."""

import dataclasses
import shlex

import pytest
import torch
from test_bigearthnet_command import PUBLISHED as THIRD_FLAGS
from test_finetune_command import FOURTH, SECOND
from test_segment_command import FIFTH

from fgmae_bench.command import IGNORED
from fgmae_bench.config.cards import card_names, load_card
from fgmae_bench.config.compose import compose, merged, named_recipe
from fgmae_bench.config.flags import parse_run
from fgmae_bench.config.run import EFFECTIVE
from fgmae_bench.config.run_ids import run_hash
from fgmae_bench.config.schedules import rate_of
from fgmae_bench.errors import BenchError
from fgmae_bench.runs.curve_notes import rate_notes
from fgmae_bench.segment import IGNORED as OF_SEGMENT
from fgmae_bench.system.device import resolve_amp
from fgmae_bench.train.plan import make_plan

FIRST = SECOND.replace("--lr 0.01", "--lr 0.1").replace(" --num_workers 10 --fine_tune", "")
THIRD = f"{THIRD_FLAGS} --finetune B2_vits16_fgmae_ep99.pth"
# (entry, dataset): the effective batch of the reference code, over 4 processes and its accumulation
PUBLISHED = {
    ("linear", "eurosat"): 256,
    ("finetune", "eurosat"): 256,
    ("linear", "bigearthnet"): 256,
    ("finetune", "bigearthnet"): 512,
    ("segment", "dfc2020"): 8,
}


# The command lines of the notes: entry, dataset, flags, and what they make of one process.
LINES = {
    1: ("linear", "eurosat", FIRST, {"lr": 0.1, "batch_size": 256, "weight_decay": 0.001, "epochs": 50}),
    2: ("finetune", "eurosat", SECOND, {"lr": 0.01, "batch_size": 256, "weight_decay": 0.001, "epochs": 50}),
    3: ("linear", "bigearthnet", THIRD, {"lr": 0.5, "batch_size": 64, "epochs": 50, "warmup_epochs": 0}),
    4: ("finetune", "bigearthnet", FOURTH, {"blr": 1e-3, "batch_size": 256, "accum_iter": 2, "layer_decay": 0.75}),
    5: ("segment", "dfc2020", FIFTH, {"blr": 1e-3, "batch_size": 128, "accum_iter": 2, "drop_path": 0.2}),
}


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("number", LINES)
def test_the_command_lines_of_the_notes_keep_what_they_say(number, processes):
    """A batch that is typed is one process's, so that four see four times as many a step: that is noted."""
    module, dataset, line, expected = LINES[number]
    card = load_card(dataset)
    given, config, _ = parse_run(
        module, "", ["--dataset", dataset, *shlex.split(line)], IGNORED + (OF_SEGMENT if module == "segment" else ())
    )
    (run,) = compose(module, given, card, config, processes=processes)
    assert {name: getattr(run.recipe, name) for name in expected} == expected
    assert (run.model.weights, run.recipe.seed) == ("B2_vits16_fgmae_ep99.pth", 42)
    effective = run.recipe.batch_size * run.recipe.accum_iter * processes
    run = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, lr=rate_of(run.recipe, effective)))
    noted = "effective_batch" in [each["code"] for each in rate_notes(module, run, card, effective)]
    # an explicit mixup makes it the corrected recipe, which states a batch of its own
    stated = merged(*named_recipe(module, run.recipe.recipe, card, run.model.model))[EFFECTIVE]
    assert noted == (effective != stated)


@pytest.mark.parametrize(("module", "dataset"), [key for key in PUBLISHED if key[0] != "linear"])
def test_one_process_and_four_make_as_many_updates_at_the_same_rates(module, dataset):
    found = []
    for processes in (1, 4):
        recipe = composed(module, dataset, processes).recipe
        plan = make_plan(recipe, 21_600, processes)
        effective = recipe.batch_size * recipe.accum_iter * processes
        found.append((effective, rate_of(recipe, effective), plan.total, plan.images_per_epoch))
    assert found[0] == found[1]


def composed(module, dataset, processes, **flags):
    return compose(module, {"dataset": dataset, **flags}, load_card(dataset), processes=processes)[0]


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
@pytest.mark.parametrize(("module", "dataset"), PUBLISHED)
def test_published_recipes_have_one_effective_batch_whatever_the_processes(module, dataset, processes):
    recipe = composed(module, dataset, processes).recipe
    effective = recipe.batch_size * recipe.accum_iter * processes
    assert effective == PUBLISHED[module, dataset]
    one = composed(module, dataset, 1).recipe
    assert rate_of(recipe, effective) == rate_of(one, effective)


def test_fine_tuning_keeps_the_references_64_images_a_forward_pass():
    """A batch norm that is not synchronised then sees what it saw there, on one process as on four."""
    for processes, accum in ((1, 4), (2, 2), (4, 1)):
        recipe = composed("finetune", "eurosat", processes).recipe
        assert (recipe.batch_size, recipe.accum_iter) == (64, accum)


@pytest.mark.parametrize("processes", [1, 4])
def test_updates_of_bigearthnets_fine_tuning_are_the_references(processes):
    """269,695 images at 64 on 4 processes are 1,053 micro-batches; at two a step the reference makes 526 updates."""
    recipe = composed("finetune", "bigearthnet", processes).recipe
    plan = make_plan(recipe, 269_695, processes)
    assert plan.steps_per_epoch == 526
    assert plan.images_per_epoch == 526 * 512
    assert all(len(plan.micro_steps(step, 0)) == plan.accum for step in (0, 525, 526))


def test_a_corrected_recipe_keeps_its_incomplete_last_step():
    recipe = composed("finetune", "bigearthnet", 4, recipe="corrected", batch_size=64, accum_iter=2).recipe
    assert make_plan(recipe, 269_695, 4).steps_per_epoch == 527


def test_rates_follow_the_references_schedule_where_a_last_batch_is_discarded():
    """MAE's lr_sched, evaluated where an accumulation begins: progress counts the discarded micro-batch too."""
    recipe = composed("finetune", "bigearthnet", 4, lr=0.01, epochs=2, warmup_epochs=0, min_lr=0.0).recipe
    plan = make_plan(recipe, 5 * 256, 4)  # 5 micro-batches an epoch, two steps of two
    epochs = [0, 2 / 5, 1, 1 + 2 / 5]
    expected = [0.01 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * e / 2, dtype=torch.float64))) for e in epochs]
    assert [plan.rate(step, recipe) for step in range(plan.total)] == pytest.approx([float(e) for e in expected])


def test_run_ids_do_not_depend_on_the_number_of_processes():
    hashes = {run_hash(composed("linear", "eurosat", n), {}, n) for n in (1, 2, 4)}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"batch_size": 256}, (256, 1)),
        ({"batch_size": 32, "accum_iter": 2}, (32, 2)),
        ({"accum_iter": 2}, (64, 2)),
    ],
)
def test_what_is_given_wins(flags, expected):
    recipe = composed("linear", "eurosat", 2, **flags).recipe
    assert (recipe.batch_size, recipe.accum_iter) == expected


@pytest.mark.parametrize(("batch", "noted"), [(256, False), (64, True), (1024, True)])
def test_another_effective_batch_is_noted(batch, noted):
    run = composed("linear", "eurosat", 1, batch_size=batch)
    codes = [note["code"] for note in rate_notes("linear", run, load_card("eurosat"), batch)]
    assert ("effective_batch" in codes) == noted


def test_processes_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(BenchError, match="3 processes do not divide the recipe's effective batch of 256; start 2, or"):
        composed("linear", "eurosat", 3)
    with pytest.raises(BenchError, match=r"--accum_iter 3 on 1 processes does not divide .* 256; give --batch_size"):
        composed("linear", "eurosat", 1, accum_iter=3)
    assert composed("linear", "eurosat", 3, batch_size=16).recipe.batch_size == 16


def test_an_accumulation_longer_than_an_epoch_is_refused():
    recipe = composed("finetune", "eurosat", 1, batch_size=8, accum_iter=9).recipe
    with pytest.raises(BenchError, match="--accum_iter 9 takes more batches than an epoch has"):
        make_plan(recipe, 70, 1)


@pytest.mark.parametrize("name", card_names())
@pytest.mark.parametrize("module", ["linear", "finetune", "segment"])
@pytest.mark.parametrize("recipe", ["published", "corrected"])
def test_every_recipe_states_its_effective_batch(module, recipe, name):
    assert merged(*named_recipe(module, recipe, load_card(name), "vit_small_patch16"))[EFFECTIVE] > 0


def test_published_precision_is_the_references_on_cuda_and_bf16_is_for_the_rest():
    cuda = torch.device("cuda")
    assert resolve_amp(None, cuda, published=True) == "fp16"
    assert resolve_amp("bf16", cuda, published=True) == "bf16"
    assert resolve_amp(None, torch.device("cpu"), published=True) in ("bf16", "off")
