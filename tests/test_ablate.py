"""The ablations: references against counting by hand, pairs that cannot be, kills, shared training, bad input."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from ablate_world import CARD, SHORT, TINY, write_tiles
from commands import REPOSITORY, call, codes, metrics, records, said, stop_once_there_is
from test_label_schemes import DFC10

from fgmae_bench.ablate.engine import used_data
from fgmae_bench.ablate.flags import read_run
from fgmae_bench.ablate.matrix import filled
from fgmae_bench.ablate.references import CODES, LabelCounts, class_counts, confusion, most_frequent, reference
from fgmae_bench.ablate.sides import Cell, Side, grid, sides
from fgmae_bench.config.experiments import Experiment, Layout, PlannedRun, matches
from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.segmentation import segmentation

LEGEND = [1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 6, 8, 9, 10]  # DFC code of IGBP codes 1 to 17
PUBLISHED = {1: 5904112, 2: 3353501, 4: 7655859, 5: 11272496, 6: 8405224, 7: 3517590, 9: 1887823, 10: 22621891}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    return write_tiles(tmp_path_factory)


@pytest.fixture(scope="module")
def counts(tiles, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    flags = {
        "dataset": "dfc2020",
        "data_path": str(tiles),
        "model": "test_vit",
        "weights": "random",
        "cache_dir": str(cache),
    }
    card, run = read_run(flags)
    dataset, cache = used_data(card, run)
    return LabelCounts(dataset, cache)


def labels_of(root, part, kind):
    """Codes of all tiles of a part, by file name: (N, H, W)."""
    found = []
    for path in sorted((root / f"ROIs0000_{part}").glob(f"{kind}_*/*.tif")):
        with rasterio.open(path) as source:
            found.append(source.read(1))
    return np.stack(found)


def by_name(codes_, source, left_out=()):
    """Class names of codes, '' where there is none."""
    names = (
        {code: DFC10[code - 1] for code in range(1, 11)}
        if source == "dfc"
        else {i + 1: DFC10[c - 1] for i, c in enumerate(LEGEND)}
    )
    if source == "twice":
        names = {code: DFC10[LEGEND[code - 1] - 1] for code in range(1, 11)}
    return np.vectorize(lambda code: "" if names[code] in left_out else names[code])(codes_)


def miou_by_name(said_, wanted):
    """Mean IoU over the classes of `wanted`, one class after the other."""
    kept = wanted != ""
    said_, wanted = said_[kept], wanted[kept]
    return float(
        np.mean(
            [
                ((said_ == name) & (wanted == name)).sum() / ((said_ == name) | (wanted == name)).sum()
                for name in set(wanted)
            ]
        )
    )


SIDES = {
    "dfc": (Side(source="dfc", scheme="dfc10"), "dfc", ()),
    "dfc8": (Side(source="dfc", scheme="dfc8"), "dfc", ("Savanna", "Snow/Ice")),
    "igbp": (Side(source="igbp", scheme="dfc10"), "igbp", ()),
    "no savanna": (Side(source="igbp", scheme="dfc10_no_savanna"), "igbp", ("Savanna",)),
    "twice": (Side(source="dfc", scheme="dfc10", double=True), "twice", ()),
}


@pytest.mark.parametrize("evaluated", SIDES)
@pytest.mark.parametrize("train", SIDES)
def test_perfect_and_constant_predictors_equal_counting_by_hand(tiles, counts, train, evaluated):
    (one, kind, out), (other, kind_e, out_e) = SIDES[train], SIDES[evaluated]
    held = reference(CARD, Cell(train=one, evaluated=other), counts)
    folder = {"igbp": "lc"}
    learnt = by_name(
        labels_of(tiles, "test", folder.get(one.source, one.source)), kind, out
    )  # the contest's test tiles train
    names, frequency = np.unique(learnt[learnt != ""], return_counts=True)
    constant = str(names[frequency.argmax()])
    said_ = by_name(labels_of(tiles, "validation", folder.get(one.source, one.source)), kind, out)
    wanted = by_name(labels_of(tiles, "validation", folder.get(other.source, other.source)), kind_e, out_e)
    assert held.constant_class == constant
    assert held.perfect["miou"] == pytest.approx(
        miou_by_name(np.where(said_ == "", constant, said_), wanted), abs=1e-12
    )
    assert held.constant["miou"] == pytest.approx(miou_by_name(np.full(wanted.shape, constant), wanted), abs=1e-12)


def test_labels_mapped_twice_leave_a_perfect_predictor_what_was_published():
    histogram = np.zeros(CODES, np.int64)
    for code, pixels in PUBLISHED.items():
        histogram[code] = pixels
    right, twice = Side(source="dfc", scheme="dfc10"), Side(source="dfc", scheme="dfc10", double=True)
    wrong = Cell(train=right, evaluated=twice)
    scores = segmentation(confusion(CARD, wrong, np.diag(histogram), fill=0))
    assert [round(scores[name], 4) for name in ("miou", "miou_union", "miou_all")] == [0.0524, 0.0233, 0.0209]
    forest = np.zeros((CODES, CODES), np.int64)
    forest[1] = histogram
    assert round(segmentation(confusion(CARD, wrong, forest, fill=0))["miou"], 3) == 0.109
    for side in (right, twice):
        assert (
            segmentation(confusion(CARD, Cell(train=side, evaluated=side), np.diag(histogram), fill=0))["miou"] == 1.0
        )
    assert most_frequent(class_counts(CARD, right, histogram)) == DFC10.index("Water")


def test_a_pair_that_cannot_be_has_its_reason():
    every = sides(CARD, ["dfc", "igbp"], ["dfc10", "igbp17"])
    assert [side.name for side in every if side.double] == ["dfc10 of dfc, mapped twice"]
    reasons = {(cell.train.name, cell.evaluated.name): cell.reason for cell in grid(CARD, every, every)}
    assert "igbp17 is not defined for dfc labels" in reasons["igbp17 of dfc", "dfc10 of dfc"]
    assert reasons["igbp17 of igbp", "dfc10 of dfc"] is None  # Croplands and Barren have the same names
    assert not sides(CARD, ["igbp"], ["dfc10"])[-1].double
    with pytest.raises(BenchError, match="lccs_use"):
        Side(source="lccs_use", scheme="dfc10").map(CARD)


def test_labels_that_the_data_lacks_are_a_reason_and_no_crash(counts, monkeypatch):
    monkeypatch.setattr(type(counts.dataset.index.maps), "has", lambda self, row, source: source != "igbp")
    lacking = Cell(train=Side(source="igbp", scheme="dfc10"), evaluated=Side(source="dfc", scheme="dfc10"))
    assert filled(CARD, lacking, counts).cell.reason == "images that are trained on have no igbp labels here"


def labels(tiles, *flags, cwd, schemes=("dfc10",)):
    return call(
        "ablate",
        "labels",
        "--dataset",
        "dfc2020",
        "--data_path",
        tiles,
        *TINY,
        "--train_schemes",
        *schemes,
        "--eval_schemes",
        *schemes,
        *flags,
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def done(tiles, tmp_path_factory):
    """A finished grid of 3 x 3 cells; (folder, what it printed)."""
    folder = tmp_path_factory.mktemp("grid")
    result = labels(tiles, *SHORT, cwd=folder)
    assert result.code == 0, result.err
    return folder, result


def test_references_are_said_before_the_runs_and_results_lie_in_the_results_folder(done):
    folder, result = done
    assert result.out.index("perfect") < result.out.index("mIoU 0.")
    with open(folder / "results/tables/ablate/labels-dfc2020.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 9
    assert {row["status"] for row in rows} == {"done"}
    assert {row["synthetic"] for row in rows} == {"True"}
    by_id = {record["run_id"]: record for record in records(folder / "results")}
    assert [float(row["miou"]) for row in rows] == [by_id[row["run_id"]]["metrics"]["test"]["miou"] for row in rows]
    text = (folder / "results/tables/ablate/labels-dfc2020.md").read_text()
    assert "synthetic data" in text.splitlines()[0]
    for ending in ("png", "svg"):
        assert (folder / f"results/figures/ablate/labels-dfc2020.{ending}").stat().st_size > 1000
    assert "synthetic data" in (folder / "results/figures/ablate/labels-dfc2020.svg").read_text()


def test_only_cells_with_a_side_mapped_twice_are_marked_as_wrong(done):
    folder, _ = done
    with open(folder / "results/tables/ablate/labels-dfc2020.csv", newline="") as stream:
        wrong = {
            row["run_id"]: "True" in (row["train_mapped_twice"], row["eval_mapped_twice"])
            for row in csv.DictReader(stream)
        }
    for record in records(folder / "results"):
        assert ("defects" in codes(record)) == wrong[record["run_id"]]


def test_a_cell_that_shares_its_training_equals_a_run_of_its_own(done, tiles, tmp_path):
    folder, _ = done
    shared = next(
        record
        for record in records(folder / "results")
        if "shared_training" in codes(record) and "defects" not in codes(record)
    )
    data = shared["config"]["data"]
    given = [
        word
        for name in ("train_labels", "train_scheme", "eval_labels", "eval_scheme")
        for word in (f"--{name}", data[name])
    ]
    alone = call("segment", "--dataset", "dfc2020", "--data_path", tiles, *TINY, *SHORT, *given, cwd=tmp_path)
    assert alone.code == 0, alone.err
    (record,) = records(tmp_path / "results")
    assert record["run_id"] == shared["run_id"]
    assert record["metrics"]["test"] == shared["metrics"]["test"]
    assert record["metrics"]["confusion"] == shared["metrics"]["confusion"]
    assert not list((folder / "out" / shared["run_id"]).glob("*.pth"))


def test_a_finished_grid_is_read_and_gives_the_same_bytes(done, tiles):
    folder, _ = done
    tables = sorted((folder / "results/tables/ablate").iterdir())
    before = {path: path.read_bytes() for path in tables}
    result = labels(tiles, *SHORT, cwd=folder)
    assert result.code == 0
    assert result.err.count("is recorded already") == 9
    assert {path: path.read_bytes() for path in tables} == before


@pytest.mark.slow
def test_a_grid_that_is_stopped_goes_on_to_the_same_records(tiles, tmp_path):
    flags = ("--max_steps", "8", "--eval_every", "4", "--checkpoint_seconds", "0")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert labels(tiles, *flags, cwd=whole).code == 0
    # first in the first training, then in a later one
    stop_once_there_is("out/*/checkpoint-*-*.pth", broken, lambda: labels(tiles, *flags, cwd=broken))
    stop_once_there_is("results/records/*/*/*.json", broken, lambda: labels(tiles, *flags, cwd=broken))
    assert len(records(broken / "results")) < 9
    result = labels(tiles, *flags, cwd=broken)
    assert result.code == 0, result.err
    wanted = {record["run_id"]: record for record in records(whole / "results")}
    found = {record["run_id"]: record for record in records(broken / "results")}
    assert wanted.keys() == found.keys()
    for run_id, record in found.items():
        assert record["metrics"]["test"] == wanted[run_id]["metrics"]["test"]
        if "shared_training" not in codes(record):
            assert metrics(record)["metrics"] == metrics(wanted[run_id])["metrics"]


def test_a_run_that_is_wrong_on_purpose_fills_no_row_of_a_table(done):
    folder, _ = done
    experiment = Experiment(
        title="t",
        module="segment",
        protocol="segmentation_finetune",
        layout=Layout(columns=("run",)),
        runs=(),
        common={
            **{"dataset": "dfc2020", "train_labels": "dfc", "train_scheme": "dfc10", "batch_size": 4},
            **{"model": "test_vit", "weights": "random", "head": "linear", "lr": 1e-3, "warmup_steps": 0},
            **{"layer_decay": 1.0, "drop_path": 0.0, "max_steps": 3, "eval_every": 3},
            **{"eval_labels": ["dfc", "igbp"], "eval_scheme": "dfc10"},
        },
    )
    fitting = [record for record in records(folder / "results") if matches(experiment, PlannedRun(label="a"), record)]
    assert len(fitting) == 2  # scored by dfc and by igbp, not the four with a side mapped twice
    assert all("defects" not in codes(record) for record in fitting)
    assert not any(matches(experiment, PlannedRun(label="a", protocol="frozen_upernet"), record) for record in fitting)


@pytest.mark.parametrize(
    ("command", "flags", "named"),
    [
        ("labels", ("--dataset", "eurosat"), "single_label"),
        ("labels", (), "--dataset is missing"),
        ("labels", ("--dataset", "dfc2020", "--lr", "1e-3", "1e-4"), "2 learning rates"),
        ("labels", ("--dataset", "dfc2020", "--eval"), "--eval"),
        ("labels", ("--dataset", "dfc2020", "--resume", "some.pth"), "some.pth"),
        ("labels", ("--dataset", "dfc2020", "--nb_classes", "10"), "--nb_classes"),
        ("labels", ("--dataset", "dfc2020", "--train_schemes", "dfc9"), "dfc9"),
        ("labels", ("--dataset", "dfc2020", "--eval_labels", "dfc", "dfc"), "twice"),
        ("traps", ("--dataset", "dfc2020", "--normalizer", "clip25"), "clip25"),
        ("traps", ("--dataset", "dfc2020", "--no_augment"), "--no_augment"),
        ("traps", ("--dataset", "dfc2020", "--eval_labels", "igbp"), "cannot be mapped twice"),
        ("traps", ("--dataset", "dfc2020", "--order", "clip25"), "--order"),
        ("traps", ("--dataset", "dfc2020", "--stride", "16"), "--stride"),
    ],
)
def test_bad_input_is_one_line(tmp_path, command, flags, named):
    assert named in said(call("ablate", command, *flags, cwd=tmp_path))
    assert not list(tmp_path.iterdir())


def test_unknown_command_and_list_of_commands(tmp_path):
    assert "did you mean 'labels'" in said(call("ablate", "label", cwd=tmp_path))
    shown = call("ablate", cwd=tmp_path)
    assert shown.code == 0
    assert {"labels", "traps"} <= set(shown.out.split())


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from fgmae_bench.ablate import __main__, labels, traps; import argparse; "
        "[each.add_flags(argparse.ArgumentParser()) for each in (labels, traps)]; print('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
        == "False"
    )


@pytest.mark.slow
def test_where_a_val_split_selects_each_cell_is_trained_itself(tiles, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    names = [path.stem for path in sorted(tiles.glob("ROIs0000_test/s1_0/*.tif"))]
    for part, chosen in {"train": names[:12], "val": names[12:16], "test": names[16:]}.items():
        (lists / f"{part}.txt").write_text("\n".join(chosen))
    given = ("--split", lists, "--train_labels", "dfc", "--eval_labels", "dfc", "igbp", *SHORT)
    result = labels(tiles, *given, cwd=tmp_path)
    assert result.code == 0, result.err
    made = records(tmp_path / "results")
    assert len(made) == 6
    assert {record["dataset"]["n_val"] for record in made} == {4}
    assert not any("shared_training" in codes(record) for record in made)
