"""A record fills a row, and counts for a suite, only where every field of Data, Model and Recipe is what the row means:
stated or not. What is not compared has its reason in a table.
"""

import copy
import dataclasses
import functools
import typing

import pytest
from commands import TINY_VIT, call, linear, only_record, rewrite, shared_world, small_world
from make_records import make_record

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.experiments import OPEN, Experiment, PlannedRun, matches
from fgmae_bench.config.layout import Layout
from fgmae_bench.config.recipes import protocol_of
from fgmae_bench.config.run import SECTIONS
from fgmae_bench.config.run_ids import to_plain
from fgmae_bench.config.same_run import DECIDED, ELSEWHERE, same_run, without_meaning

ROWS = {
    "probe": ("linear", "eurosat", {"features": "stream"}),
    "random views": ("linear", "eurosat", {"features": "cached", "views": 2}),
    "regression": ("linear", "eurosat", {"probe": "lbfgs", "recipe": "corrected"}),
    "neighbours": ("linear", "eurosat", {"probe": "knn"}),
    "candidates": ("linear", "eurosat", {"probe": "lbfgs", "weight_decay": [0.1, 1.0]}),
    "flags set aside": ("linear", "eurosat", {"probe": "knn", "lr": [0.1, 0.2], "weight_decay": [0.1, 0.2]}),
    "few labels": ("linear", "eurosat", {"shots": 5, "probe": "knn"}),
    "fine-tuning": ("finetune", "eurosat", {}),
    "fine-tuning by AdamW": ("finetune", "bigearthnet", {"recipe": "corrected"}),
    "segmentation": ("segment", "dfc2020", {"recipe": "published"}),
    "segmentation by epochs": ("segment", "dfc2020", {"recipe": "corrected", "optimizer": "sgd"}),
    "frozen": ("segment", "dfc2020", {"recipe": "corrected", "freeze_backbone": True, "features": "stream"}),
    "threshold": ("segment", "dfc2020", {"head": "otsu_vv", "model": "backscatter_stats", "weights": "random"}),
}
# Another value of fields whose type alone does not give one that may stand there.
OTHER = {
    "split": "another",
    "band_order": "VH,VV",
    "bands_as": "HH=VV",
    "model": "vit_base_patch16",
    "weights": "random",
    "weights_prefix": "encoder.",
    "inputs": ["location"],
    "penalties": [0.5],
    "blocks": [1, 2],
    "train_frac": 0.5,
}


@functools.cache
def row(name):
    module, dataset, flags = ROWS[name]
    run = compose(module, {"dataset": dataset, **flags}, load_card(dataset), processes=1)[0]
    protocol = protocol_of(module, run.recipe)
    planned = PlannedRun(
        label="row", flags={"dataset": dataset, "weights": "fgmae", "model": "vit_small_patch16"} | flags
    )
    layout = Layout(columns=("run",))
    return Experiment(title="T", module=module, protocol=protocol, layout=layout, runs=(planned,)), run


def left_by(name):
    """A record as the engines leave it: what card, schedule and hardware decide is filled in. A copy, to be changed."""
    return copy.deepcopy(_left_by(name))


@functools.cache
def _left_by(name):
    experiment, run = row(name)
    card, record = load_card(run.data.dataset), make_record(dataset=run.data.dataset, world_size=1)
    config = to_plain(run)
    corrected, recipe = run.recipe.recipe == "corrected", config["recipe"]
    config["data"] |= {
        "split": card.recommended_split if corrected else card.default_split,
        "band_order": "VV,VH",
        "nb_classes": len(card.outputs),
    }
    config["model"] |= {
        "pool": run.model.pool or "cls",
        "input_size": 224,
        "normalizer": "fgmae",
        "mean": [-12.59, -20.26],
    }
    config["model"] |= {"std": [5.26, 5.91], "inputs": []}
    recipe |= {"amp": "off"}
    if recipe.get("probe", "sgd") == "sgd":
        batch = recipe["batch_size"] * recipe["accum_iter"]
        recipe["lr"] = recipe["lr"] or (recipe["blr"] or type(run.recipe).base_rate) * batch / 256
        recipe["blr"] = recipe["lr"] * 256 / batch
    if "probe" in recipe:
        recipe["features"] = recipe["features"] or "cached"
    elif experiment.module == "segment":
        recipe["features"] = recipe["features"] or "stream"
        scheme = {"train_labels": card.label_source, "train_scheme": card.label_scheme}
        config["data"] |= scheme | {"eval_labels": card.label_source, "eval_scheme": card.label_scheme}
    if "eval_every" in recipe:
        recipe["eval_every"] = recipe["max_steps"] // 10 if recipe["max_steps"] else 1
        recipe |= {"epochs": 1} if recipe["max_steps"] else {}
        recipe |= {"warmup_epochs": 0.0} if recipe["warmup_steps"] is not None else {}
        recipe |= {"sync_bn": False} if "sync_bn" in recipe else {}
    record["config"] = config | {"facts": {}}
    record |= {"protocol": experiment.protocol, "recipe": recipe["recipe"]}
    record["model"]["weights"]["source"] = "none" if run.model.model == "backscatter_stats" else run.model.weights
    record["model"]["contract"] = {"normalizer": "fgmae", "geometry": "resize_crop", "assumed": False}
    return record


def fields():
    for name, (module, _, _) in ROWS.items():
        for part, kind in SECTIONS[module].items():
            if part != "execution":
                hints = typing.get_type_hints(kind)
                for field in dataclasses.fields(kind):
                    yield pytest.param(name, part, field.name, hints[field.name], id=f"{name}-{field.name}")


def another(name, held, hint):
    """A value of the field's type that the record does not hold."""
    if name in OTHER and held != OTHER[name]:
        return OTHER[name]
    if isinstance(held, bool):
        return not held
    if isinstance(held, int | float):
        return held * 2 + 1
    choices = [value for value in _literals(hint) if value != held]
    return choices[0] if choices else (7 if held is None and {int, float} & {*typing.get_args(hint)} else "another")


def _literals(hint):
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return [value for part in typing.get_args(hint) for value in _literals(part)]


@pytest.mark.parametrize("name", ROWS)
def test_a_record_of_the_row_fills_it(name):
    experiment, run = row(name)
    record = left_by(name)
    assert matches(experiment, experiment.runs[0], record)
    assert same_run(run, record, load_card(run.data.dataset), 1)


@pytest.mark.parametrize(("name", "part", "field", "hint"), list(fields()))
def test_another_value_of_any_field_fills_no_row_that_does_not_state_it(name, part, field, hint):
    (experiment, run), record = row(name), left_by(name)
    planned, card = experiment.runs[0], load_card(run.data.dataset)
    record["config"][part][field] = another(field, record["config"][part][field], hint)
    if field in (*ELSEWHERE, *without_meaning(run, left_by(name))) or (field, name) == ("weights", "threshold"):
        if field not in ("dataset", "batch_size", "accum_iter"):  # these have tests of their own
            assert matches(experiment, planned, record)
        return
    if field in DECIDED and getattr(getattr(run, part), field) in (None, ()):
        assert matches(experiment, planned, record)  # weights or hardware decide: the value alone says nothing
        record["config"]["departs"] = [field]
    assert not same_run(run, record, card, 1), record["config"][part][field]
    assert field in OPEN.keys() - planned.flags.keys() or not matches(experiment, planned, record)


@pytest.mark.parametrize("name", ["probe", "fine-tuning", "segmentation"])
def test_another_number_of_samples_a_step_fills_no_row(name):
    (experiment, run), card = row(name), load_card(ROWS[name][1])
    for batch, accum, expected in ((2, 1, False), (1, 2, False), (0.5, 2, True)):
        record = left_by(name)
        recipe = record["config"]["recipe"]
        recipe |= {"batch_size": int(batch * recipe["batch_size"]), "accum_iter": accum * recipe["accum_iter"]}
        assert matches(experiment, experiment.runs[0], record) is expected
        assert same_run(run, record, card, 1) is expected
    other = left_by(name)
    other["dataset"]["name"] = "s1f_chips"
    assert not matches(experiment, experiment.runs[0], other)


def test_another_number_of_samples_in_a_batch_norm_fills_no_row():
    experiment, run = row("fine-tuning")
    record = left_by("fine-tuning")
    for seen, expected in ((run.recipe.batch_size, True), (2 * run.recipe.batch_size, False)):
        record["config"]["facts"]["batch_norm_samples"] = seen
        assert matches(experiment, experiment.runs[0], record) is expected


def test_fields_that_are_not_compared_are_fields_and_have_their_reason():
    every = {
        f.name
        for kinds in SECTIONS.values()
        for part in ("data", "model", "recipe")
        for f in dataclasses.fields(kinds[part])
    }
    assert {*ELSEWHERE, *OPEN, *DECIDED} <= every
    assert all(len(reason.split()) > 3 for reason in (*ELSEWHERE.values(), *OPEN.values()))


def test_a_row_of_a_card_that_is_not_here_is_filled_by_nothing(caplog):
    experiment, _ = row("probe")
    planned = dataclasses.replace(experiment.runs[0], flags={**experiment.runs[0].flags, "dataset": "gone/card.toml"})
    assert not matches(experiment, planned, left_by("probe"))
    assert "gone/card.toml" in caplog.text


def test_a_grid_of_neighbours_is_filled_by_what_few_labels_make_of_it():
    experiment, _ = row("few labels")
    planned = dataclasses.replace(experiment.runs[0], flags=experiment.runs[0].flags | {"shots": 3, "knn_k": [4, 9]})
    record = left_by("few labels")
    record["config"]["data"]["shots"] = 3
    for neighbours, expected in ((3, True), (4, False), (5, False)):
        record["config"]["recipe"]["knn_k"] = neighbours
        assert matches(experiment, planned, record) is expected


def test_a_fitted_head_means_its_name_its_seed_and_its_recipe_and_nothing_else_of_the_recipe():
    """Nothing of it is trained, so that rates, batches and losses say nothing of it."""
    (_, run), card = row("threshold"), load_card("dfc2020")
    for field, value in {"head": "otsu_vh", "seed": 7, "recipe": "corrected", "freeze_backbone": False}.items():
        record = left_by("threshold")
        assert record["config"]["recipe"][field] != value
        record["config"]["recipe"][field] = value
        assert not same_run(run, record, card, 1), field
    record = left_by("threshold")
    record["config"]["recipe"] |= {"lr": 9.0, "epochs": 77, "weight_decay": 0.9, "fpn_dim": 8}
    assert same_run(run, record, card, 1)


def test_a_hostile_value_of_what_a_row_leaves_open_is_no_error():
    experiment, _ = row("probe")
    record = left_by("probe")
    record["config"]["recipe"]["seed"] = -5
    assert not matches(experiment, experiment.runs[0], record)


DEPARTING = {
    "input_size": ("--input_size", "48"),
    "pool": ("--pool", "mean"),
    "normalizer": ("--normalizer", "zscore"),
    "band_order": ("--band_order", "VH,VV"),
}


@pytest.mark.parametrize("name", DEPARTING)
def test_a_run_with_another_value_is_in_no_row_that_does_not_state_it(tmp_path, name):
    """By whole commands: the record of a run says where somebody departed from what weights and card give."""
    backbone = ("--model", "test_vit", "--input_size", "160", *TINY_VIT[4:])
    data = shared_world(5)
    if name == "band_order":
        data = tmp_path / "swapped"
        small_world(tmp_path).rename(data)
        for path in data.rglob("*.tif"):
            rewrite(path, lambda bands: bands[::-1])
    done = linear(data, *DEPARTING[name], cwd=tmp_path, backbone=backbone)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    flags = {"dataset": "eurosat", "features": "cached", "epochs": 2, "batch_size": 16}
    flags |= {"model": "test_vit", "weights": "random"}
    layout = Layout(columns=("run",))

    def fills(**more):
        run = PlannedRun(label="row", flags=flags | more)
        made = Experiment(title="T", module="linear", protocol="linear_probe", layout=layout, runs=(run,))
        return matches(made, run, record)

    size = {} if name == "input_size" else {"input_size": 160}
    value = {"input_size": 48}.get(name, DEPARTING[name][1])
    assert fills(**size, **{name: value})
    assert not fills(**size)
    assert call("report", "--validate", "--results_dir", "results", cwd=tmp_path).code == 0
