"""The shipped experiments load, name published rows that exist, and every mistake in a file is named by file and key
path.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from pathlib import Path

import pytest
from make_records import make_record

from fgmae_bench.config import recipes
from fgmae_bench.config.experiments import load_experiment, load_experiments, matches
from fgmae_bench.config.layout import words
from fgmae_bench.errors import BenchError
from fgmae_bench.report.columns import COLUMNS

REPOSITORY = Path(__file__).resolve().parent.parent
SHIPPED = sorted(path for folder in (".", "demo") for path in (REPOSITORY / "experiments" / folder).glob("*.toml"))
GOOD = """
title = "Test"
module = "linear"
protocol = "linear_probe"
[common]
dataset = "eurosat"
[layout]
columns = ["run", "oa"]
[[runs]]
label = "a"
flags = { lr = 0.1 }
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_no_script_stands_before_a_module_of_the_standard_library():
    """A script's folder comes first on the path: one called signal.py would be what torch imports."""
    scripts = {path.stem for path in (REPOSITORY / "experiments").rglob("*.py")}
    assert not scripts & sys.stdlib_module_names


def test_there_are_shipped_experiments():
    assert [path.name for path in SHIPPED].count("eurosat_linear.toml") == 1


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_experiment_loads_with_known_columns_and_curves(path):
    assert load_experiment(path).layout.columns


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_published_clauses_single_out_one_row_of_the_csv(path):
    with open(REPOSITORY / "results/published/published_results.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for run in load_experiment(path).runs:
        for wanted in run.published:
            fitting = [
                row
                for row in rows
                if row["table"] == wanted.table and all(row[key] == str(value) for key, value in wanted.where.items())
            ]
            assert len(fitting) == 1, (run.label, wanted)


def test_good_file_loads(tmp_path):
    experiment = load_experiment(write(tmp_path, GOOD))
    assert experiment.name == "mine"
    assert experiment.runs[0].flags == {"lr": 0.1}


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('title = "Test"', 'titel = "Test"', ["titel", "did you mean 'title'"]),
        ('title = "Test"', "title = 3", ["title is 3"]),
        ('module = "linear"', 'module = "lineer"', ["lineer", "linear"]),
        ("lr = 0.1", "learning_rate = 0.1", ["runs[0].flags", "unknown flag 'learning_rate'"]),
        ("lr = 0.1", 'lr = "big"', ["runs[0].flags.lr", "'big'"]),
        ("lr = 0.1", "epochs = []", ["runs[0].flags.epochs is an empty grid"]),
        ("lr = 0.1", "epochs = [1, 1]", ["runs[0].flags.epochs holds 1 twice"]),
        ("lr = 0.1", "lr = [1, 1.0]", ["runs[0].flags.lr holds 1.0 twice"]),
        ("lr = 0.1", 'model = ["vit_small_patch16", 3]', ["runs[0].flags.model", "3"]),
        ('dataset = "eurosat"', "dataset = []", ["common.dataset is an empty grid"]),
        ("lr = 0.1", "lr = [0.1, true]", ["runs[0].flags.lr", "True"]),
        ('dataset = "eurosat"', 'dataset = "eurosat"\nepoch = 3', ["common", "'epoch'", "did you mean 'epochs'"]),
        ('dataset = "eurosat"', "", ["runs[0]", "no dataset"]),
        ('label = "a"', "", ["runs[0]", "label"]),
        ('label = "a"', 'label = ""', ["runs[0].label is empty"]),
        ('label = "a"', 'label = " "', ["runs[0].label is empty"]),
        ("lr = 0.1", "eval = true", ["runs[0].flags.eval is true, which records nothing", "fgmae_bench.linear --eval"]),
        ("lr = 0.1", "eval = [false, true]", ["runs[0].flags.eval is true"]),
        ('dataset = "eurosat"', 'dataset = "eurosat"\neval = true', ["common.eval is true"]),
        (
            "lr = 0.1",
            'resume = "a/checkpoint-last.pth"',
            ["runs[0].flags.resume is a/checkpoint-last.pth", "goes on from its own"],
        ),
        ('label = "a"', 'label = "a"\nnproc_per_node = 0', ["runs[0].nproc_per_node"]),
        ('columns = ["run", "oa"]', 'columns = "run"', ["layout", "columns"]),
    ],
)
def test_mistake_is_named_with_file_and_key_path(tmp_path, old, new, named):
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(BenchError) as caught:
        load_experiment(path)
    for part in [str(path), *named]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("module", "protocol", "flags", "expected"),
    [
        ("linear", "knn", "lr = 0.1", "protocol is knn, its flags give linear_probe; set probe or protocol"),
        (
            "linear",
            "linear_probe",
            'probe = "lbfgs"',
            "protocol is linear_probe, its flags give logistic_regression; set probe or protocol",
        ),
        (
            "linear",
            "linear_prob",
            "lr = 0.1",
            "protocol is linear_prob, its flags give linear_probe; set probe or protocol",
        ),
        (
            "linear",
            "knn",
            'probe = ["knn", "sgd"]',
            "its flags give linear_probe and knn; give each protocol a [[runs]] of its own",
        ),
        ("finetune", "linear_probe", "lr = 0.1", "protocol is linear_probe, its flags give finetune; set protocol"),
        (
            "segment",
            "frozen_upernet",
            "lr = 0.1",
            "protocol is frozen_upernet, its flags give segmentation_finetune; set freeze_backbone, head or protocol",
        ),
        ("segment", "segmentation_finetune", "freeze_backbone = true", "its flags give frozen_upernet"),
        ("segment", "frozen_upernet", 'freeze_backbone = true, head = "linear"', "its flags give frozen_linear"),
        # as on a command line: of a head that is fitted at once nothing of a backbone is trained
        ("segment", "segmentation_finetune", 'head = ["random_forest"]', "its flags give random_forest"),
        (
            "segment",
            "segmentation_finetune",
            'head = ["random_forest", "linear"]',
            "its flags give random_forest and segmentation_finetune; give each protocol a [[runs]] of its own",
        ),
    ],
)
def test_a_protocol_that_the_flags_do_not_give_is_refused(tmp_path, module, protocol, flags, expected):
    """It ran as what its flags say, was called recorded, and its table stayed empty."""
    text = GOOD.replace('"linear"', f'"{module}"').replace("lr = 0.1", flags)
    of_the_file = text.replace('"linear_probe"', f'"{protocol}"')
    of_the_run = text.replace('label = "a"', f'label = "a"\nprotocol = "{protocol}"')
    for wrong in (of_the_file, of_the_run):
        with pytest.raises(BenchError) as caught:
            load_experiment(write(tmp_path, wrong))
        assert f"{tmp_path / 'mine.toml'}: runs[0]: " in str(caught.value)
        assert str(caught.value).endswith(expected) or expected in caught.value.what


def test_a_protocol_that_the_flags_give_loads(tmp_path):
    for protocol, (module, means) in recipes.PROTOCOLS.items():
        flags = ", ".join(f"{name} = {json.dumps(value)}" for name, value in means.items())
        text = (
            GOOD.replace('"linear"', f'"{module}"')
            .replace('"linear_probe"', f'"{protocol}"')
            .replace("lr = 0.1", flags)
        )
        assert load_experiment(write(tmp_path, text)).protocol == protocol
    in_common = GOOD.replace('"linear_probe"', '"knn"').replace("[common]", '[common]\nprobe = "knn"')
    assert load_experiment(write(tmp_path, in_common)).protocol == "knn"


def test_a_recipe_stands_for_the_protocol_that_names_its_values():
    for protocol, (module, values) in recipes.PROTOCOLS.items():
        recipe = dataclasses.replace(recipes.RECIPES[module](), **values)
        assert recipes.protocol_of(module, recipe) == protocol


def test_repeated_label_and_empty_runs_are_named(tmp_path):
    with pytest.raises(BenchError, match=r"mine\.toml: runs\[1\]\.label repeats runs\[0\]"):
        load_experiment(write(tmp_path, GOOD + '[[runs]]\nlabel = "a"\n'))
    without_runs = GOOD.split("[[runs]]")[0].replace('title = "Test"', 'title = "Test"\nruns = []')
    with pytest.raises(BenchError, match=r"mine\.toml: runs is empty"):
        load_experiment(write(tmp_path, without_runs))


def test_missing_folder_is_bad_input(tmp_path):
    with pytest.raises(BenchError, match="nowhere is not a folder"):
        load_experiments(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ('["run", "publised_oa"]', r"layout\.columns\[1\]: unknown column 'publised_oa'; did you mean 'published_oa'"),
        ('["run", "loss_interval"]', r"layout\.columns\[1\]: unknown column 'loss_interval'"),
        ('["run", "oa", "run"]', r"layout\.columns\[2\] repeats 'run'; name each column once"),
        ('["run", "oa"]\ncurves = ["los"]', r"layout\.curves\[0\]: unknown metric 'los'; did you mean 'loss'"),
    ],
)
def test_a_layout_that_cannot_be_drawn_is_refused_when_it_is_read(tmp_path, layout, message):
    with pytest.raises(BenchError, match=rf"mine\.toml: {message}"):
        load_experiment(write(tmp_path, GOOD.replace('["run", "oa"]', layout)))


def test_every_column_has_its_words_and_every_word_its_column():
    assert set(words()) == set(COLUMNS)


def test_record_matches_its_planned_run_by_effective_batch_and_stated_flags():
    experiment = load_experiment(REPOSITORY / "experiments/eurosat_linear.toml")
    first, second = experiment.runs[:2]
    assert matches(experiment, first, make_record())
    assert matches(experiment, first, make_record(batch_size=32, world_size=1))
    assert not matches(experiment, second, make_record())
    # a card that shares its name and version alone: its record is of other data
    assert not matches(experiment, first, make_record(card_sha256="0" * 64))
    assert matches(experiment, first, make_record(card_sha256="0" * 64, card_version=9))
    for other in (
        make_record(lr=0.2),
        make_record(epochs=49),
        make_record(recipe="corrected"),
        make_record(protocol="knn"),
        make_record(split="spatial"),
        make_record(model="vit_base_patch16"),
        make_record(dataset="terramesh_chips"),
    ):
        assert not matches(experiment, first, other)


def test_a_list_of_any_flag_matches_each_of_its_values(tmp_path):
    grid = (
        "flags = { lr = 0.1, batch_size = [16, 32], seed = [1, 2], model = ['vit_small_patch16', 'vit_base_patch16'] }"
    )
    experiment = load_experiment(write(tmp_path, GOOD.replace("flags = { lr = 0.1 }", grid)))
    run = experiment.runs[0]
    assert matches(experiment, run, make_record(seed=1, world_size=1))
    assert matches(experiment, run, make_record(seed=2, batch_size=32, world_size=1, model="vit_base_patch16"))
    assert not matches(experiment, run, make_record(seed=3, world_size=1))
    assert not matches(experiment, run, make_record(seed=1, batch_size=64, world_size=1))


def test_weights_do_not_tell_apart_backbones_that_load_none(tmp_path):
    experiment = load_experiment(write(tmp_path, GOOD.replace("lr = 0.1", "weights = 'random', batch_size = 32")))
    record = make_record()
    assert not matches(experiment, experiment.runs[0], record)
    record["model"]["weights"]["source"] = "none"
    assert matches(experiment, experiment.runs[0], record)
