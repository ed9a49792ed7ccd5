"""A run as data: where each value comes from, what a grid is, and what changes a run's id."""

import dataclasses
import itertools
import re
import shlex

import pytest

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose, read_config
from fgmae_bench.config.flags import parse_run
from fgmae_bench.config.recipes import NAMED_RECIPES, ProbeRecipe
from fgmae_bench.config.run import Data, Execution, Model, Run
from fgmae_bench.config.run_ids import run_hash, run_id, to_plain
from fgmae_bench.config.schedules import base_lr, scaled_lr
from fgmae_bench.errors import BenchError

FACTS = {"card": "eurosat", "card_version": 1, "synthetic": None, "weights": ["random", None]}


@pytest.fixture
def bare(card):
    """A card without recipes of its own."""
    return dataclasses.replace(card, recipes={})


def one(card, given=None, config=None):
    (run,) = compose("linear", {"dataset": "eurosat"} | (given or {}), card, config)
    return run


def a_run(**recipe):
    return Run(data=Data(dataset="eurosat"), model=Model(), recipe=ProbeRecipe(lr=0.1, **recipe), execution=Execution())


# --- precedence


def test_values_come_from_command_line_then_file_then_card_then_module_then_default(bare):
    """Each level is taken away in turn; the value of the next one shows."""
    card = dataclasses.replace(bare, recipes={"linear": {"published": {"lr": 0.3, "momentum": 0.8}}})
    module = NAMED_RECIPES["linear"]["published"]
    assert module["lr"] == 0.1
    assert one(card, {"lr": 0.5}, {"lr": 0.4}).recipe.lr == 0.5
    assert one(card, {}, {"lr": 0.4}).recipe.lr == 0.4
    assert one(card).recipe.lr == 0.3
    assert one(bare).recipe.lr == 0.1
    assert one(card).recipe.momentum == 0.8
    assert one(bare).recipe.momentum == 0.9 == ProbeRecipe().momentum
    assert "momentum" not in module


def test_recipe_named_in_the_file_is_followed_and_the_command_line_stands_above_it(bare):
    assert one(bare, {}, {"recipe": "corrected"}).recipe.epochs == NAMED_RECIPES["linear"]["corrected"]["epochs"] == 100
    assert one(bare, {"recipe": "published"}, {"recipe": "corrected"}).recipe.epochs == 50


def test_published_recipe_of_eurosat_is_the_protocols(card):
    recipe = one(card).recipe
    got = (
        recipe.lr,
        recipe.weight_decay,
        recipe.epochs,
        recipe.warmup_epochs,
        recipe.min_lr,
        recipe.batch_size,
        recipe.crop_scale,
        recipe.momentum,
    )
    assert got == (0.1, 0.001, 50, 0, 0, 256, 0.08, 0.9)
    assert (recipe.recipe, recipe.seed, recipe.accum_iter) == ("published", 42, 1)


def test_sections_get_their_own_flags(card):
    run = one(card, {"train_frac": 0.1, "model": "vit_tiny_patch16_224", "seed": 7, "device": "cpu"})
    assert (run.data.train_frac, run.model.model, run.recipe.seed, run.execution.device) == (
        0.1,
        "vit_tiny_patch16_224",
        7,
        "cpu",
    )


def test_command_line_of_the_notes_gives_the_published_run(card):
    line = (
        "--dataset eurosat --batch_size 256 --epochs 50 --model vit_small_patch16 --finetune B2_vits16_fgmae_ep99.pth --data_path DIR --lr 0.1 "
        "--warmup_epochs 0 --seed 42 --weight_decay 0.001 --nb_classes 10 --output_dir DIR --log_dir DIR --train_frac 1.0"
    )
    given, config, ignored = parse_run("linear", "", shlex.split(line))
    assert (config, ignored) == ({}, ())
    (typed,) = compose("linear", given, card, config)
    assert typed.recipe == one(card).recipe
    assert typed.model.weights == "B2_vits16_fgmae_ep99.pth"
    assert typed.data.nb_classes == 10


def test_config_file_gives_the_flags_of_its_sections(tmp_path, card):
    path = tmp_path / "config.toml"
    path.write_text('[data]\ndataset = "eurosat"\n[recipe]\nlr = [0.1, 0.2]\nepochs = 3\n[execution]\ndevice = "cpu"\n')
    given, config, _ = parse_run("linear", "", ["--config", str(path), "--epochs", "4"])
    runs = compose("linear", given, card, config)
    assert [(run.recipe.lr, run.recipe.epochs, run.execution.device) for run in runs] == [
        (0.1, 4, "cpu"),
        (0.2, 4, "cpu"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[recipe]\nlearning_rate = 1.0\n", "recipe: unknown key 'learning_rate'"),
        ("[recipes]\nlr = 1.0\n", "unknown section 'recipes'"),
        ("lr = 1.0\n", "unknown section 'lr'"),
        ("[model]\nlr = 1.0\n", "model: unknown key 'lr'"),
        ("[recipe\n", "not valid TOML"),
    ],
)
def test_mistake_in_a_config_file_is_named(tmp_path, text, message):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(BenchError, match=rf"config\.toml.*{re.escape(message)}"):
        read_config(path, "linear")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("epochs", "3"),
        ("epochs", 2.5),
        ("lr", "0.1"),
        ("probe", "svm"),
        ("recipe", "mine"),
        ("amp", "fp8"),
        ("seed", True),
        ("compile", 1),
    ],
)
def test_wrong_types_and_choices_are_refused(card, flag, value):
    with pytest.raises(BenchError, match=flag):
        one(card, {flag: value})


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("train_frac", 0.0),
        ("train_frac", 1.5),
        ("epochs", 0),
        ("batch_size", 0),
        ("accum_iter", 0),
        ("views", 0),
        ("lr", 0.0),
        ("lr", -1.0),
        ("lr", float("inf")),
        ("lr", float("nan")),
        ("blr", 0.0),
        ("min_lr", -1e-9),
        ("weight_decay", -0.1),
        ("weight_decay", float("nan")),
        ("momentum", 1.0),
        ("crop_scale", 0.0),
        ("crop_scale", 1.1),
        ("knn_k", 0),
        ("num_workers", -1),
        ("input_size", 0),
        ("warmup_epochs", -1.0),
    ],
)
def test_values_outside_their_range_are_refused_by_name(card, flag, value):
    with pytest.raises(BenchError, match=f"--{flag} is"):
        one(card, {flag: value})


# --- lr and blr


def test_blr_alone_takes_the_recipes_absolute_lr_away(card):
    """In the reference an absolute rate bypassed the rule lr = blr x batch / 256 at other batch sizes."""
    recipe = one(card, {"blr": 0.2}).recipe
    assert (recipe.lr, recipe.blr) == (None, 0.2)


def test_lr_alone_takes_the_recipes_base_rate_away(bare):
    recipe = one(bare, {"lr": 0.7, "recipe": "corrected"}).recipe
    assert (recipe.lr, recipe.blr) == (0.7, None)
    assert one(bare, {"recipe": "corrected"}).recipe.blr == 0.1


def test_explicit_lr_is_absolute_even_beside_a_blr(card):
    assert one(card, {"lr": 0.7, "blr": 0.2}).recipe.lr == 0.7


def test_blr_of_the_command_line_stands_above_an_lr_of_the_file(card):
    """config.toml of a finished run holds both."""
    assert one(card, {"blr": 0.2}, {"lr": 0.4, "blr": 0.4}).recipe.lr is None


def test_blr_of_a_cards_recipe_stands_above_the_modules_lr(bare):
    card = dataclasses.replace(bare, recipes={"linear": {"published": {"blr": 0.3}}})
    assert one(card).recipe.lr is None


def test_recipe_that_is_a_list_is_an_error_in_words(card):
    with pytest.raises(BenchError, match="recipe"):
        one(card, {}, {"recipe": ["published"]})


@pytest.mark.parametrize(("batch", "lr"), [(256, 0.1), (512, 0.2), (64, 0.025)])
def test_base_rate_scales_with_the_effective_batch(batch, lr):
    assert scaled_lr(0.1, batch) == pytest.approx(lr)
    assert base_lr(scaled_lr(0.1, batch), batch) == pytest.approx(0.1)


# --- grids


def test_grid_is_the_product_of_its_values(card):
    runs = compose("linear", {"dataset": "eurosat", "lr": [0.01, 0.1, 1.0], "weight_decay": [0.0, 0.001]}, card)
    expected = list(itertools.product((0.01, 0.1, 1.0), (0.0, 0.001)))
    assert [(run.recipe.lr, run.recipe.weight_decay) for run in runs] == expected
    assert len({run_id(run, FACTS) for run in runs}) == 6


def test_value_given_twice_in_a_grid_is_refused(card):
    for values in ([0.1, 0.1], [0.1, 0.2, 0.10]):
        with pytest.raises(BenchError, match="twice"):
            compose("linear", {"dataset": "eurosat", "lr": values}, card)


def test_run_of_a_grid_has_the_id_of_the_same_run_alone(card):
    grid = compose("linear", {"dataset": "eurosat", "lr": [0.01, 0.1]}, card)
    assert [run_id(run, FACTS) for run in grid] == [run_id(one(card, {"lr": lr}), FACTS) for lr in (0.01, 0.1)]


@pytest.mark.parametrize("probe", ["lbfgs", "knn"])
def test_flags_of_sgd_cannot_tell_fitted_probes_apart(card, probe):
    plain = one(card, {"probe": probe})
    for flag, value in {
        "lr": 0.7,
        "epochs": 3,
        "batch_size": 8,
        "momentum": 0.1,
        "warmup_epochs": 2.0,
        "crop_scale": 0.5,
    }.items():
        assert run_id(one(card, {"probe": probe, flag: value}), FACTS) == run_id(plain, FACTS), flag


def test_weight_decay_of_lbfgs_names_candidates_and_is_no_grid(card):
    run = one(card, {"probe": "lbfgs", "weight_decay": [0.1, 0.01]})
    assert (run.recipe.penalties, run.recipe.weight_decay) == (
        (0.01, 0.1),
        0,
    )  # rising: in another order they are the same
    default = one(card, {"probe": "lbfgs"}).recipe.penalties
    assert (default[0], default[-1], len(default)) == (pytest.approx(1e-8), 1e4, 13)


# --- the hash


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Execution)])
def test_paths_workers_and_device_do_not_change_the_run(name):
    run = a_run()
    value = getattr(run.execution, name)
    other = not value if isinstance(value, bool) else "other" if value is None or isinstance(value, str) else value + 7
    moved = dataclasses.replace(run, execution=dataclasses.replace(run.execution, **{name: other}))
    assert moved != run
    assert run_hash(moved, FACTS) == run_hash(run, FACTS)


def test_execution_holds_what_may_not_count_and_the_recipe_what_must():
    """Moving a flag of the recipe into Execution would leave the test above green."""
    execution = {f.name for f in dataclasses.fields(Execution)}
    assert {"data_path", "output_dir", "log_dir", "results_dir", "cache_dir", "num_workers", "device"} <= execution
    counts = {f.name for kind in (Data, Model, ProbeRecipe) for f in dataclasses.fields(kind)}
    assert {
        "lr",
        "weight_decay",
        "seed",
        "amp",
        "split",
        "split_seed",
        "train_frac",
        "weights",
        "normalizer",
        "batch_size",
    } <= counts


def test_batch_accumulation_and_processes_count_by_their_product():
    hashes = {
        run_hash(a_run(batch_size=256), FACTS),
        run_hash(a_run(batch_size=64, accum_iter=4), FACTS),
        run_hash(a_run(batch_size=64), FACTS, world_size=4),
        run_hash(a_run(batch_size=32, accum_iter=2), FACTS, world_size=4),
    }
    assert len(hashes) == 1
    assert run_hash(a_run(batch_size=128), FACTS) not in hashes
    assert run_hash(a_run(batch_size=256), FACTS, world_size=4) not in hashes


OTHER = {str: "other", int: 7, float: 0.123, bool: True}
CHANGES = {
    "split": "spatial",
    "limit": 9,
    "missing_band": "offset",
    "bands_as": "HH=VV",
    "band_order": "VH,VV",
    "nb_classes": 11,
    "pool": "mean",
    "input_size": 32,
    "normalizer": "zscore",
    "weights_prefix": "x.",
    "mean": (-9.0, -9.0),
    "std": (4.0, 4.0),
    "recipe": "corrected",
    "patch_size": 8,
    "inputs": ("month",),
    "probe": "knn",
    "features": "cached",
    "penalties": (0.1,),
    "lr": 0.2,
    "blr": 0.2,
    "amp": "bf16",
    "views": 3,
    "train_frac": 0.5,
    "shots": 5,
}


NAMED_BY_FACTS = {
    "dataset": {"card": "other"},
    "split": {"samples_sha256": {"train": "ab"}},
    "weights": {"weights": ["file", "ab"]},
}


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (part, f.name)
        for part, kind in (("data", Data), ("model", Model), ("recipe", ProbeRecipe))
        for f in dataclasses.fields(kind)
    ],
)
def test_every_field_of_data_model_and_recipe_changes_the_run(part, name):
    """Dataset, split and weights may be paths: they count by the facts of what they stand for."""
    run = a_run()
    value = getattr(getattr(run, part), name)
    other = CHANGES[name] if name in CHANGES else OTHER[type(value)]
    assert other not in (None, value)
    changed = dataclasses.replace(run, **{part: dataclasses.replace(getattr(run, part), **{name: other})})
    assert run_hash(changed, FACTS | NAMED_BY_FACTS.get(name, {})) != run_hash(run, FACTS)
    if name in NAMED_BY_FACTS:
        assert run_hash(changed, FACTS) == run_hash(run, FACTS)  # the same card, lists or file by another path


@pytest.mark.parametrize(
    "fact", [{"card_version": 2}, {"weights": ["file", "ab"]}, {"synthetic": "tagged"}, {"samples": "x"}]
)
def test_facts_of_card_and_weights_change_the_run(fact):
    assert run_hash(a_run(), FACTS | fact) != run_hash(a_run(), FACTS)


def test_order_of_the_facts_does_not_change_the_run():
    assert run_hash(a_run(), dict(reversed(FACTS.items()))) == run_hash(a_run(), FACTS)


def test_run_id_is_model_recipe_and_ten_hex_digits():
    run = a_run()
    assert re.fullmatch(r"vit_small_patch16-published-[0-9a-f]{10}", run_id(run, FACTS))
    assert run_id(run, FACTS).endswith(run_hash(run, FACTS)[:10])
    assert re.fullmatch(r"[0-9a-f]{64}", run_hash(run, FACTS))


@pytest.mark.parametrize(
    ("model", "stem"), [("my.pkg:make", "my.pkg_make"), ("../../etc:x", "etc_x"), ("a b/c", "a_b_c"), (":::", "model")]
)
def test_run_id_is_safe_as_a_file_name(model, stem):
    run = a_run()
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, model=model))
    assert re.fullmatch(rf"{re.escape(stem)}-published-[0-9a-f]{{10}}", run_id(run, FACTS))


def test_plain_form_gives_the_run_back(card):
    run = one(card, {"probe": "lbfgs", "weight_decay": [0.1]})
    plain = to_plain(run)
    assert list(plain) == ["data", "model", "recipe", "execution"]
    flat = {key: value for values in plain.values() for key, value in values.items() if value is not None}
    assert compose("linear", flat | {"weight_decay": 0.0}, load_card("eurosat")) == [run]


@pytest.mark.parametrize(
    ("module", "given", "message"),
    [
        ("linear", {"probe": "knn", "resume": "a.pth"}, "--resume a.pth with --probe knn, which is fitted at once"),
        ("linear", {"probe": "lbfgs", "resume": "a.pth"}, "--resume a.pth with --probe lbfgs"),
        ("segment", {"head": "otsu_vv", "resume": "a.pth"}, "--resume a.pth with --head otsu_vv"),
        ("linear", {"class_text": "a.safetensors"}, "--class_text with --probe sgd, which reads no texts"),
        ("linear", {"probe": "knn", "class_text": "a.safetensors"}, "--class_text with --probe knn"),
    ],
)
def test_a_file_that_a_run_does_not_read_is_refused(card, module, given, message):
    with pytest.raises(BenchError, match=re.escape(message)):
        compose(module, {"dataset": "eurosat"} | given, card)


def test_files_that_runs_read_are_taken(card):
    assert one(card, {"resume": "a.pth"}).execution.resume == "a.pth"
    assert one(card, {"probe": "knn", "resume": "auto"}).execution.resume == "auto"
    assert one(card, {"probe": "zero_shot", "class_text": "a"}).execution.class_text == "a"
