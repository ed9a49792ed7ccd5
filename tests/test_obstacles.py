"""No difference from a published number but of the same run: what differs stands where the difference would."""

import csv
import dataclasses
import io
import re

import pytest
from make_records import make_record
from test_report import LEGACY, PUBLISHED

from fgmae_bench.config.experiments import Experiment, Layout, PlannedRun, PublishedRow
from fgmae_bench.records import seal
from fgmae_bench.report import published
from fgmae_bench.report.columns import COLUMNS
from fgmae_bench.report.deltas import _other_decoder, differences
from fgmae_bench.report.formats.latex import latex
from fgmae_bench.report.formats.markdown import markdown
from fgmae_bench.report.formats.spreadsheet import comma_separated
from fgmae_bench.report.page_data import cell
from fgmae_bench.report.table import build

COPERNICUS = {"source": "Copernicus-Bench", "pretraining": "random"}


def stated(table="eurosat_linear", **where):
    where = where or {"source": "notes", "model": "vit_small_patch16", "batch_per_process": 16}
    return published.select(published.read_rows(PUBLISHED), PublishedRow(table=table, where=where), "here")


def changed(record=None, recipe=(), **parts):
    """A record with other values in its recipe or model."""
    record = record or make_record(legacy=LEGACY)
    record = {**record, "config": {**record["config"], "recipe": {**record["config"]["recipe"], **dict(recipe)}}}
    return seal({**{key: value for key, value in record.items() if key != "sha256"}, **parts})


def reason(record, row=None, files=()):
    """(what stands in place of the difference, the sentence)."""
    deltas, notes = differences((record,), row or stated(), files)
    assert deltas == {}
    (note,) = notes
    return note.short, note.text


def test_the_very_run_has_its_difference():
    deltas, _ = differences((make_record(legacy=LEGACY),), stated())
    assert deltas == pytest.approx({"oa": 0.005, "aa": 0.006})


MODEL = make_record(legacy=LEGACY)["model"]
RANDOM = {**MODEL, "weights": {**MODEL["weights"], "source": "random"}}
MISMATCH = [{"code": "contract_mismatch", "text": "another normaliser"}]


@pytest.mark.parametrize(
    ("record", "short", "words"),
    [
        (make_record(recipe="corrected", legacy=LEGACY), "recipe", "recipe (corrected, published: published)"),
        (make_record(epochs=10, legacy=LEGACY), "epochs", "epochs (10, published: 50)"),
        (make_record(lr=0.3, legacy=LEGACY), "lr", "lr (0.3, published: 0.1)"),
        (make_record(features="cached", legacy=LEGACY), "features", "features (cached, published: stream)"),
        (make_record(weight_decay=0.0, legacy=LEGACY), "weight decay", "weight decay (0, published: 0.001)"),
        (make_record(batch_size=32, legacy=LEGACY), "effective batch", "effective batch (64, published: 32)"),
        (make_record(views=4, legacy=LEGACY), "views", "views (4, published: 1)"),
        (changed(recipe={"momentum": 0.0}), "momentum", "momentum (0, published: 0.9)"),
        (changed(recipe={"crop_scale": 0.2}), "crop scale", "crop scale (0.2, published: 0.08)"),
        (changed(recipe={"warmup_epochs": 5.0}), "warmup epochs", "warmup epochs (5, published: 0)"),
        (
            make_record(model="vit_base_patch16", legacy=LEGACY),
            "model",
            "model (vit_base_patch16, published: vit_small_patch16)",
        ),
        (changed(model=RANDOM), "weights", "weights (random, published: FGMAE)"),
        (changed(notes=MISMATCH), "input", "input (not the one that the weights were trained on)"),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) and "(" not in value else "",
)
def test_each_setting_that_differs_is_named(record, short, words):
    assert reason(record) == (f"other {short}", f"No difference shown: other {words}.")


def test_a_tiny_random_model_is_not_held_against_fgmae_and_all_that_differs_is_named():
    tiny = {**RANDOM, "name": "vit_tiny_patch16_224"}
    record = changed(make_record(recipe="corrected", epochs=2, lr=0.01, legacy=LEGACY), model=tiny)
    short, text = reason(record)
    assert short == "other recipe, epochs, lr, model, weights"
    assert "model (vit_tiny_patch16_224, published: vit_small_patch16)" in text


def test_a_file_that_the_plan_names_holds_the_same_weights():
    own = changed(model={**MODEL, "weights": {**MODEL["weights"], "source": "ours.pth"}})
    assert reason(own)[0] == "other weights"
    deltas, _ = differences((own,), stated(), ("ours.pth",))
    assert deltas


def test_a_base_rate_is_compared_as_one():
    row = dataclasses.replace(stated(), lr=0.8, lr_kind="blr")
    assert reason(changed(recipe={"blr": 0.4}), row)[1] == "No difference shown: other blr (0.4, published: 0.8)."
    assert differences((changed(recipe={"blr": 0.8}),), row)[0]


def test_what_the_source_does_not_say_is_no_obstacle():
    silent = dataclasses.replace(stated(), epochs=None, lr=None, model="", pretraining="", world_size=None)
    other = changed(make_record(epochs=9, lr=0.7, batch_size=16, legacy=LEGACY), model=RANDOM)
    assert differences((other,), silent)[0]


def test_copernicus_bench_is_another_protocol_whatever_a_run_sets():
    row = stated("eurosat_s1_frozen", **COPERNICUS)
    held = {**RANDOM, "name": "vit_base_patch16"}
    record = changed(make_record(split="copernicus", batch_size=64, world_size=1, legacy=LEGACY), model=held)
    row = dataclasses.replace(row, dataset="EuroSAT-SAR")
    assert reason(record, row)[0] == "other momentum, flips, geometry"
    nearer = changed(record, recipe={"momentum": 0.0}, model=held)
    short, text = reason(nearer, row)
    assert short == "other flips, geometry"
    assert "published: the whole image resized" in text
    assert "lr (1, published: 0.1)" in reason(changed(nearer, recipe={"lr": 1.0}, model=held), row)[1]
    small = changed(nearer, model={**held, "name": "vit_small_patch16"})
    assert "model (vit_small_patch16, published: ViT-B)" in reason(small, row)[1]


def table_of(record):
    """A table with a layout of its own in which the record has a published row."""
    run = PlannedRun(
        label="ours",
        flags={"dataset": "eurosat", "model": record["model"]["name"], "epochs": 10, "batch_size": 16}
        | {"split_seed": [42, 7]},
        nproc_per_node=2,
    )
    columns = ("run", "oa", "published_oa", "delta_oa", "delta_kappa")
    layout = Layout(columns=columns)
    experiment = Experiment(title="T", module="linear", protocol="linear_probe", layout=layout, runs=(run,))
    return build(experiment, [record], [[stated()]])


AS_PUBLISHED = {
    "fpn_dim": 512,
    "head_dropout": 0.1,
    "auxiliary": True,
    "augment": True,
    "crop_scale": 1.0,
    "vflip": True,
    "rotate": 90.0,
    "rotate_fill": "zero",
}


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({}, []),
        ({"auxiliary": False}, ["decoder"]),
        ({"rotate": 0.0}, ["augmentation"]),
        ({"rotate_fill": "ignore", "fpn_dim": 256}, ["decoder", "augmentation"]),
    ],
    ids=lambda value: "+".join(value) or "as published",
)
def test_of_copernicus_benchs_decoders_what_a_recipe_has_is_no_obstacle(other, named):
    """Optimiser and last map are ours whatever a recipe says; a record older than a field means its default."""
    found = _other_decoder({"config": {"recipe": {**AS_PUBLISHED, **other}}})
    assert [each.split(" (")[0] for each in found] == [*named, "optimiser", "last map"]
    older = {"config": {"recipe": {"fpn_dim": 512, "crop_scale": 1.0, "vflip": True}}}
    assert [each.split(" (")[0] for each in _other_decoder(older)] == [
        "decoder",
        "augmentation",
        "optimiser",
        "last map",
    ]


def test_the_reason_stands_in_tables_csv_and_page_where_the_difference_would():
    table = table_of(make_record(epochs=10, legacy=LEGACY))
    (row,) = table.rows
    (line,) = csv.DictReader(io.StringIO(comma_separated(table)))
    assert (line["delta_oa"], line["delta_kappa"]) == ("other epochs", "")
    assert "other_run" in line["codes"].split(";")
    assert "other epochs (10, published: 50)" in line["remarks"]
    text = markdown(table)
    cells = next(each for each in text.splitlines() if each.startswith("| EuroSAT-SAR | ours"))
    assert "| 0.795 | other epochs | – |" in cells
    assert re.search(r"\[\^\d+\]: No difference shown: other epochs \(10, published: 50\)\.", text)
    assert cell(COLUMNS["delta_oa"], COLUMNS["delta_oa"].value(row)) == "other epochs"
    assert "other epochs" in latex(table)


def test_data_that_differs_is_said_there_too():
    table = table_of(make_record(epochs=10, split_seed=7, legacy=LEGACY))
    (line,) = csv.DictReader(io.StringIO(comma_separated(table)))
    assert line["delta_oa"] == "other split"
    without = table_of(make_record(epochs=10))
    assert next(csv.DictReader(io.StringIO(comma_separated(without))))["delta_oa"] == "other epochs"
    assert reason(make_record())[0] == "no legacy metrics"
