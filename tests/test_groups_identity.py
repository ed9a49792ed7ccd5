"""What intervals, folds and splits go over is part of a run where sample ids do not tell it: no id stands for two."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from commands import FOLDERS, call, only_record, records, said, shared_world
from dataset_worlds import opened as index_of
from layout_worlds import COUNT, LAYOUTS, referenced, rows
from test_content_layouts import facts
from test_layouts import CLASSES, make_card, pixels

from fgmae_bench.config.cards import Groups, load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.data_files import data_files, held_by_data, held_by_model, model_files
from fgmae_bench.config.experiments import load_experiment
from fgmae_bench.data.groups import groups_sha256, told_by_ids
from fgmae_bench.data.index import Index
from fgmae_bench.suite.expand import expand

pytest_plugins = ("dataset_worlds",)
MODEL = ("--model", "backscatter_stats", "--weights", "random", "--probe", "knn", "--knn_k", "3")


def placed(folder, shift=0.0):
    """Class folders of referenced chips, two in each block; `shift` degrees move every second one out of it."""
    for n in range(COUNT):
        path = folder / "data" / ("Ice", "Water")[n % 2] / f"a{n}.tif"
        referenced(path, pixels(n), 10 + n // 2 + shift * (n % 2), 50.05)
    return make_card(folder / "card.toml", 'layout = "class_folders"', top=CLASSES)


def run(tmp_path, **more):
    words = [word for key, value in more.items() for word in (f"--{key}", value)]
    done = call(
        "linear", "--dataset", tmp_path / "card.toml", *MODEL, *FOLDERS, "--data_path", "data", *words, cwd=tmp_path
    )
    assert done.code == 0, done.err
    return done.err


def plan(tmp_path):
    common = {
        "dataset": str(tmp_path / "card.toml"),
        "data_path": "data",
        "model": "backscatter_stats",
        "weights": "random",
        "probe": "knn",
        "knn_k": 3,
        "results_dir": "results",
        "cache_dir": "cache",
    }
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in common.items())
    (tmp_path / "mine.toml").write_text(
        f'title = "T"\nmodule = "linear"\nprotocol = "knn"\n[layout]\ncolumns = ["run"]\n[common]\n{lines}'
        '[[runs]]\nlabel = "one"\n'
    )
    return call("suite.__main__", "plan", "mine.toml", cwd=tmp_path).out


def test_equal_pixels_in_other_places_are_another_run(tmp_path):
    """The blocks of the georeference are what intervals go over."""
    placed(tmp_path)
    run(tmp_path)
    first = only_record(tmp_path / "results")
    assert first["dataset"]["groups"]["kind"] == "20 km block"
    assert "1 recorded, 0 to do" in plan(tmp_path)
    placed(tmp_path, shift=0.5)
    assert "0 recorded, 1 to do" in plan(tmp_path)
    assert "recorded already" not in run(tmp_path)
    second = next(each for each in records(tmp_path / "results") if each["run_id"] != first["run_id"])
    assert second["dataset"]["content_sha256"] == first["dataset"]["content_sha256"]
    assert second["dataset"]["groups"] != first["dataset"]["groups"]
    line = said(call("report", "compare", first["run_id"], second["run_id"], cwd=tmp_path))
    assert "hold different groups for the same samples" in line
    assert "1 recorded, 0 to do" in plan(tmp_path)
    next((tmp_path / "results").rglob(f"{second['run_id']}.json")).unlink()
    assert "0 recorded, 1 to do" in plan(tmp_path)  # the record of the other places does not stand in for it
    placed(tmp_path)
    assert "recorded already" in run(tmp_path)


def regrouped_csv(folder):
    with open(folder / "data" / "labels.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows(0).keys())
        writer.writeheader()
        writer.writerows(rows(n) | {"site": f"s{n}"} for n in range(COUNT))


def regrouped_store(folder):
    import zarr

    zarr.open_group(folder / "data")["scene"][0] = 7


REGROUPED = {
    "table csv": regrouped_csv,
    "table geoparquet": lambda folder: LAYOUTS["table geoparquet"](folder, shift=0.5),
    "zarr 2": regrouped_store,
    "zarr 3": regrouped_store,
}


@pytest.mark.parametrize("name", REGROUPED)
def test_other_groups_of_equal_samples_are_another_run_on_every_layout_that_states_them(name, tmp_path):
    card, root, _ = LAYOUTS[name](tmp_path)
    before = facts(card, root, tmp_path / "cache")
    REGROUPED[name](tmp_path)
    after = facts(card, root, tmp_path / "cache")
    differ = {key for key in before if before[key] != after[key]}
    assert differ == {"groups_sha256"}


@pytest.mark.parametrize("name", ["kuro_siwo", "sen12ms_scenes", "sen1floods11", "copernicus_bigearthnet"])
def test_groups_that_sample_ids_tell_add_nothing_to_a_run(name, worlds, tmp_path):
    card, index = index_of(name, worlds(name), tmp_path)
    assert index.groups is not None
    assert told_by_ids(card, index) == (groups_sha256(card, index, range(len(index.ids))) is None)
    other = dataclasses.replace(index, groups=index.groups[1:] + index.groups[:1])
    stated = card.groups is not None and bool(card.groups.pattern)  # then they are found in the ids whatever is held
    assert stated or other.groups == index.groups or groups_sha256(card, other, range(len(index.ids))) is not None


def index_with(ids, groups, tmp_path):
    return Index(
        root=tmp_path,
        files=tuple(f"{name}.tif" for name in ids),
        labels=np.zeros(len(ids), np.int64),
        stamps=np.zeros(len(ids), np.uint64),
        synthetic=None,
        groups=groups,
    )


@pytest.mark.parametrize(
    ("ids", "groups", "told"),
    [
        (("a/x_r0c0", "a/x_r0c1", "b/y_r0c0"), ("x", "x", "y"), True),
        (("a/x_r0c0", "a/x_r0c1", "b/y_r0c0"), ("x", "y", "y"), False),
        (("s1_4/p1", "s1_4/p2", "s1_5/p1"), ("s1_4", "s1_4", "s1_5"), True),
        (("s1_4/p1", "s1_4/p2", "s1_5/p1"), ("s1_4", "s1_5", "s1_5"), False),
        (("a", "b"), ("20 km block 1 1", "20 km block 1 2"), False),
        (("a", "b"), None, True),
    ],
)
def test_whether_ids_tell_the_groups(ids, groups, told, tmp_path):
    card = load_card("eurosat")
    assert told_by_ids(card, index_with(ids, groups, tmp_path)) == told
    for stated in ({"file": "g.csv", "column": "g"}, {"block_km": 5.0}):
        given = dataclasses.replace(card, groups=Groups(**stated))
        assert not groups or not told_by_ids(given, index_with(ids, groups, tmp_path))


def test_draws_of_few_labels_have_the_groups_of_one_pool(tmp_path):
    card, root, _ = LAYOUTS["table csv"](tmp_path)
    held = [facts(card, root, tmp_path / "cache", shots=1, draw=draw) for draw in range(4)]
    assert len({json.dumps(each["samples_sha256"]) for each in held}) > 1
    assert len({each["groups_sha256"] for each in held}) == 1


def test_a_suite_sees_lists_and_tables_of_groups_beside_the_data(tmp_path):
    shutil.copytree(shared_world(5), tmp_path / "data")
    names = [f"{path.parent.name}/{path.stem}" for path in sorted((tmp_path / "data").rglob("*.tif"))]
    classes = sorted({name.partition("/")[0] for name in names})
    lists = tmp_path / "lists"
    lists.mkdir()

    def divide(first):
        train = [name for name in names if names.index(name) % 5 < 3 or name == first]
        (lists / "train.txt").write_text("\n".join(train) + "\n")
        (lists / "test.txt").write_text("\n".join(sorted({*names} - {*train})) + "\n")

    divide(None)
    assert len(classes) == 10
    common = ("--dataset", "eurosat", "--split", "lists", *MODEL, *FOLDERS, "--data_path", "data")
    assert call("linear", *common, cwd=tmp_path).code == 0
    lines = (
        'dataset = "eurosat"\nsplit = "lists"\ndata_path = "data"\nmodel = "backscatter_stats"\nweights = "random"\n'
    )
    (tmp_path / "mine.toml").write_text(
        f'title = "T"\nmodule = "linear"\nprotocol = "knn"\n[layout]\ncolumns = ["run"]\n[common]\n{lines}'
        'probe = "knn"\nknn_k = 3\nresults_dir = "results"\ncache_dir = "cache"\n[[runs]]\nlabel = "one"\n'
    )
    assert "1 recorded, 0 to do" in call("suite.__main__", "plan", "mine.toml", cwd=tmp_path).out
    divide(next(name for name in names if names.index(name) % 5 == 3))
    assert "0 recorded, 1 to do" in call("suite.__main__", "plan", "mine.toml", cwd=tmp_path).out


def test_which_files_decide_what_a_run_is(tmp_path):
    card = load_card("eurosat")
    root = tmp_path / "data"
    root.mkdir()
    plain = compose("linear", {"dataset": "eurosat", "probe": "zero_shot", "class_text": "t.safetensors"}, card)[0]
    assert data_files(card, plain, root) == root
    assert [str(path) for path in model_files(plain)] == ["t.safetensors"]
    (tmp_path / "g.csv").write_text("id,g\n")
    grouped = dataclasses.replace(card, groups=Groups(file="g.csv", column="g"))
    assert data_files(grouped, plain, root) == (root, tmp_path / "g.csv")
    held = {"groups_sha256": "g", "before_sha256": "b", "permanent_water_sha256": "p", "inputs_sha256": {"month": "m"}}
    assert held_by_data({"test": "t"}, held | {"other": 1}) == {"test": "t", **held}
    assert held_by_model("w", {"head_weights": "h", "class_text": "c"}) == {
        "sha256": "w",
        "head_weights": "h",
        "class_text": "c",
    }


def test_two_files_of_class_texts_are_two_runs_of_a_suite(tmp_path):
    text = (
        'title = "T"\nmodule = "linear"\nprotocol = "zero_shot"\n[layout]\ncolumns = ["run"]\n[common]\n'
        'dataset = "eurosat"\nprobe = "zero_shot"\nmodel = "closp-vit-s16"\nweights = "w.safetensors"\n'
    )
    for name in ("a", "b"):
        text += f'[[runs]]\nlabel = "{name}"\nflags = {{ class_text = "{name}.safetensors" }}\n'
    (tmp_path / "mine.toml").write_text(text)
    commands = expand([load_experiment(tmp_path / "mine.toml")])
    assert [command.label for command in commands] == ["a", "b"]
    assert len({point.key for command in commands for point in command.points}) == 2
