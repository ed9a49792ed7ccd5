"""A run that is shorter than its recipe, or of smaller batches, has a warm-up and a rate that fit it, or says so."""

import dataclasses
import math

import numpy as np
import pytest
from commands import FOLDERS, call, codes, only_record, records, said
from segment_world import opened

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.recipes import NAMED_RECIPES
from fgmae_bench.config.run import EFFECTIVE
from fgmae_bench.config.schedules import rate_of
from fgmae_bench.errors import BenchError
from fgmae_bench.report.calibration import with_calibration
from fgmae_bench.report.predictions import read_predictions
from fgmae_bench.runs.curve_notes import head_not_trained, rate_notes
from fgmae_bench.train.plan import make_plan

pytest_plugins = ("segment_world",)


def recipe(module, dataset, processes=1, name="corrected", **flags):
    return compose(module, {"dataset": dataset, "recipe": name, **flags}, load_card(dataset), processes=processes)[
        0
    ].recipe


def rate(module, dataset, processes=1, **flags):
    found = recipe(module, dataset, processes, **flags)
    return rate_of(found, found.batch_size * found.accum_iter * processes)


@pytest.mark.parametrize(
    ("module", "dataset", "epochs", "warmup"),
    [("linear", "eurosat", 10, 0.5), ("finetune", "eurosat", 2, 0.2), ("segment", "dfc2020", 5, 0.3)],
)
def test_the_warm_up_keeps_its_share_of_a_shorter_run(module, dataset, epochs, warmup):
    assert recipe(module, dataset, epochs=epochs).warmup_epochs == pytest.approx(warmup)


def test_the_warm_up_of_a_run_counted_in_steps_is_its_share_of_them():
    found = recipe("segment", "dfc2020", max_steps=100)
    assert (found.max_steps, found.warmup_steps) == (100, 6)  # 3 of 50 epochs
    assert make_plan(recipe("segment", "dfc2020", max_steps=4), 32, 1).warmup == 0


def test_at_its_own_length_or_longer_a_recipe_keeps_its_numbers():
    named = NAMED_RECIPES["finetune"]["corrected"]
    for epochs in (named["epochs"], 2 * named["epochs"]):
        assert recipe("finetune", "eurosat", epochs=epochs).warmup_epochs == named["warmup_epochs"]
    assert recipe("finetune", "eurosat").warmup_epochs == named["warmup_epochs"]


def test_a_warm_up_that_is_given_stays_and_must_fit():
    assert recipe("finetune", "eurosat", epochs=4, warmup_epochs=3.0).warmup_epochs == 3
    found = recipe("segment", "dfc2020", max_steps=4, warmup_steps=2)
    assert (found.warmup_steps, found.warmup_epochs) == (2, 0.0)
    with pytest.raises(BenchError, match="the warm-up is 4 of 4 steps"):
        make_plan(recipe("segment", "dfc2020", max_steps=4, warmup_steps=4), 32, 1)


def test_published_numbers_stay_and_a_run_that_is_too_short_for_them_is_refused():
    found = recipe("segment", "dfc2020", name="published", max_steps=4)
    assert (found.warmup_steps, found.lr) == (500, 1e-4)
    with pytest.raises(BenchError, match=r"the warm-up is 500 of 4 steps; give .* a shorter --warmup_steps"):
        make_plan(found, 32, 1)
    assert recipe("finetune", "bigearthnet", name="published", epochs=10).warmup_epochs == 3
    assert recipe("linear", "eurosat", name="published", batch_size=16).lr == 0.1


@pytest.mark.parametrize("batch", [1, 7, 8, 16, 32])
def test_the_rate_of_adamw_falls_with_the_square_root_of_a_smaller_batch(batch):
    named = NAMED_RECIPES["segment"]["corrected"]
    at_its_own = named["blr"] * named[EFFECTIVE] / 256
    linear = batch / named[EFFECTIVE]
    assert rate("segment", "dfc2020", batch_size=batch) == pytest.approx(
        at_its_own * (math.sqrt(linear) if batch < 16 else linear)
    )


def test_the_rate_follows_the_batch_of_all_processes():
    alone = rate("finetune", "eurosat", batch_size=8, accum_iter=2)
    assert rate("finetune", "eurosat", 4, batch_size=4) == pytest.approx(alone)
    assert alone == pytest.approx(1e-3 * 64 / 256 * math.sqrt(16 / 64))


def test_sgd_keeps_the_linear_rule_and_a_rate_that_is_given_stays():
    assert rate("linear", "eurosat", batch_size=16) == pytest.approx(0.1 * 16 / 256)
    assert rate("finetune", "eurosat", batch_size=16, optimizer="sgd") == pytest.approx(1e-3 * 16 / 256)
    assert rate("segment", "dfc2020", batch_size=4, blr=1e-3) == pytest.approx(1e-3 * 4 / 256)
    assert rate("segment", "dfc2020", batch_size=4, lr=3e-4) == 3e-4


def test_a_head_on_a_frozen_backbone_has_a_rate_of_its_own():
    assert rate("segment", "dfc2020", freeze_backbone=True) == pytest.approx(1e-3)  # 16 images
    assert rate("segment", "dfc2020", freeze_backbone=True, batch_size=4) == pytest.approx(5e-4)
    assert rate("segment", "dfc2020") == pytest.approx(6.25e-5)
    frozen = recipe("segment", "dfc2020", name="published", freeze_backbone=True)
    assert frozen.lr == 1e-4


@pytest.mark.parametrize("flags", [{}, {"batch_size": 2}, {"freeze_backbone": True, "batch_size": 4}])
def test_a_rate_that_the_suite_itself_has_fitted_is_no_remark(flags):
    card = load_card("dfc2020")
    run = compose("segment", {"dataset": "dfc2020", "recipe": "corrected", "blr": 0.5, **flags}, card)[0]
    own = compose("segment", {"dataset": "dfc2020", "recipe": "corrected", **flags}, card)[0]
    assert "lr_off_rule" not in noted(own, card)
    assert "lr_off_rule" in noted(run, card)


def noted(run, card):
    """Codes of the notes on the rate, once it is made definite."""
    batch = run.recipe.batch_size * run.recipe.accum_iter
    definite = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, lr=rate_of(run.recipe, batch)))
    return [note["code"] for note in rate_notes("segment", definite, card, batch)]


@pytest.mark.parametrize(
    ("task", "classes", "loss", "seen"),
    [
        ("segmentation", 2, 0.677, True),  # of ln 2 = .693: a frozen head that had hardly been trained
        ("segmentation", 2, 0.95 * math.log(2) + 1e-9, True),
        ("segmentation", 2, 0.95 * math.log(2) - 1e-9, False),
        ("single_label", 10, 2.29, True),
        ("single_label", 10, 0.69, False),
        ("multi_label", 19, 0.68, True),  # each label by itself
        ("multi_label", 19, 0.3, False),
        ("single_label", 10, 5.0, True),
        ("single_label", 10, None, False),
        ("single_label", 10, math.nan, False),
    ],
)
def test_a_loss_that_hardly_moved_is_noted(task, classes, loss, seen):
    history = [{"train_loss": 0.1}, {"train_loss": loss}]
    assert [note["code"] for note in head_not_trained(history, task, classes)] == ["head_not_trained"] * seen


def test_a_run_without_epochs_says_nothing():
    assert head_not_trained([], "single_label", 10) == []


HEAD = ("--model", "test_vit", "--weights", "random", "--input_size", "64", "--freeze_backbone", "--head", "linear")


def test_a_head_that_was_hardly_trained_says_so_and_one_that_was_does_not(tiles, tmp_path):
    """Linear heads on one bank of a frozen backbone: the rate that was left of the recipe's at small batches, and more."""
    flags = ("--dataset", "dfc2020", "--data_path", tiles, *HEAD, "--recipe", "corrected", "--panels", 0)
    short = (*flags, "--batch_size", 4, "--epochs", 3, *FOLDERS[:2], *FOLDERS[4:])
    for folder, rates in (("small", ("--lr", "2.7e-5")), ("large", ("--lr", "0.03")), ("own", ())):
        done = call("segment", *short, *rates, "--results_dir", folder, cwd=tmp_path)
        assert done.code == 0, done.err
    small, large, own = (only_record(tmp_path / folder) for folder in ("small", "large", "own"))
    assert "head_not_trained" in codes(small)
    assert "head_not_trained" not in codes(large)
    assert own["config"]["recipe"]["lr"] == pytest.approx(5e-4)
    assert own["config"]["recipe"]["warmup_epochs"] == pytest.approx(3 * 3 / 50)
    moved = [record["history"][0]["train_loss"] - record["history"][-1]["train_loss"] for record in (small, own)]
    assert moved[1] > 3 * abs(moved[0])
    assert len(records(tmp_path / "large")) == 1


def test_a_configuration_that_a_run_left_keeps_its_numbers(tiles, tmp_path):
    """What was fitted once is not fitted again."""
    prepared = opened(tiles, tmp_path, recipe="corrected", batch_size=4, epochs=5, lr=None, warmup_epochs=0.3)
    assert prepared.run.recipe.warmup_epochs == 0.3
    left = {
        "resolved": True,
        **{k: v for k, v in vars(prepared.run.recipe).items() if v is not None and k != "lr"},
        "dataset": "dfc2020",
    }
    again = compose("segment", {}, load_card("dfc2020"), config=left)[0].recipe
    assert (again.blr, again.warmup_epochs) == (prepared.run.recipe.blr, 0.3)


def test_the_shortest_run_of_the_default_recipe_ends_in_one_line(tiles, tmp_path):
    flags = ("--dataset", "dfc2020", "--data_path", tiles, *HEAD, "--batch_size", 4, "--max_steps", 4, *FOLDERS)
    assert "the warm-up is 500 of 4 steps" in said(call("segment", *flags, cwd=tmp_path))
    assert call("segment", *flags, "--recipe", "corrected", "--panels", 0, cwd=tmp_path).code == 0
    record = only_record(tmp_path / "results")
    held = read_predictions(record, tmp_path / "results" / "predictions" / f"{record['run_id']}.safetensors")
    pixels, _, right = held.confidence.sum((0, 1))[:3]
    assert pixels == held.scores.sum()  # of every pixel that is scored its tile keeps the confidence, in bins
    found = with_calibration(record, tmp_path / "results")["calibration"]
    assert 0 <= found["ece"] <= 1
    assert found["nll"] == record["metrics"]["test"]["loss"]
    assert 0 < found["brier"] < 2
    assert right == np.trace(held.scores.sum(0))
