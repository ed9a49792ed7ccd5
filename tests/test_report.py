"""The report: what shares a row, what is compared with what, what it says of broken records, and that its bytes depend
on nothing else.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from make_records import make_record, resealed, store_all

from fgmae_bench.config.experiments import Layout, load_experiment
from fgmae_bench.errors import BenchError
from fgmae_bench.report import __main__ as entry
from fgmae_bench.report import figures, published
from fgmae_bench.report.columns import COLUMNS
from fgmae_bench.report.deltas import statement
from fgmae_bench.report.figures import literal
from fgmae_bench.report.formats.markdown import markdown
from fgmae_bench.report.formats.spreadsheet import comma_separated
from fgmae_bench.report.row import Row, Table
from fgmae_bench.report.table import build, planned

REPOSITORY = Path(__file__).resolve().parent.parent
EXPERIMENTS = REPOSITORY / "experiments"
PUBLISHED = REPOSITORY / "results/published/published_results.csv"
LEGACY = {"batch_size": 16, "oa": 0.8, "aa": 0.65}


def table_of(records, published_csv=PUBLISHED, **grid) -> Table:
    """The table of the shipped experiment, whose rows are grids over more values where some are given."""
    experiment = load_experiment(EXPERIMENTS / "eurosat_linear.toml")
    experiment = dataclasses.replace(experiment, common=experiment.common | grid)
    return build(experiment, records, published.for_runs(experiment, published.read_rows(published_csv)))


def measured(table: Table) -> list[Row]:
    return [row for row in table.rows if row.records]


def parsed(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(comma_separated(table))))


def codes(row: Row) -> set[str]:
    return {note.code for note in row.notes}


def report(monkeypatch, tmp_path, *flags) -> int:
    command = ["report", "--results_dir", str(tmp_path), "--experiments", str(EXPERIMENTS), *flags]
    monkeypatch.setattr(sys, "argv", command)
    return entry.main()


# What may be compared


def test_per_batch_number_is_held_against_legacy_and_nothing_else():
    (row,) = measured(table_of([make_record(legacy=LEGACY)]))
    assert row.deltas == pytest.approx({"oa": 0.8 - 0.795, "aa": 0.65 - 0.644})
    assert "legacy_compared" in codes(row)
    (row,) = measured(table_of([make_record(legacy={**LEGACY, "batch_size": 64})]))
    assert row.deltas == {}, "per-batch averages over batches of another size are another metric"
    assert "other_batch" in codes(row)
    (row,) = measured(table_of([make_record(legacy=None)]))
    assert row.deltas == {}
    assert "no_legacy" in codes(row)
    assert "--legacy_metrics" in markdown(table_of([make_record()]))


def test_whole_set_number_is_held_against_test_metrics(tmp_path):
    own = tmp_path / "own.csv"
    own.write_text(PUBLISHED.read_text().replace("per-batch average for AA, AP, F1", "whole set"))
    (row,) = measured(table_of([make_record(legacy=LEGACY)], own))
    assert row.deltas == pytest.approx({"oa": 0.8 - 0.795, "aa": 0.79 - 0.644})
    own.write_text(PUBLISHED.read_text().replace("per-batch average for AA, AP, F1", "unstated"))
    (row,) = measured(table_of([make_record(legacy=LEGACY)], own))
    assert row.deltas == {}
    assert "other_definition" in codes(row)


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (make_record(legacy=LEGACY, synthetic=True), None),
        (make_record(legacy=LEGACY, split_seed=7), "other_split"),
        (make_record(legacy=LEGACY, train_frac=0.1), "other_split"),
    ],
)
def test_no_difference_where_the_data_differs(record, code):
    (row,) = measured(table_of([record], split_seed=[42, 7], train_frac=[1.0, 0.1]))
    assert row.deltas == {}
    assert code is None or code in codes(row)


def test_no_difference_where_split_dataset_or_protocol_differs():
    experiment = load_experiment(EXPERIMENTS / "eurosat_linear.toml")
    rows = published.read_rows(PUBLISHED)
    record = make_record(legacy=LEGACY)
    for change, code in (
        ({"dataset": "EuroSAT-S1"}, "other_dataset"),
        ({"protocol": "knn"}, "other_protocol"),
        ({"table": "x"}, "other_split"),
    ):
        beside = published.for_runs(experiment, rows)
        beside[0] = [dataclasses.replace(beside[0][0], **change)]
        (row,) = measured(build(experiment, [record], beside))
        assert row.deltas == {}
        assert code in codes(row)
    spatial = dataclasses.replace(experiment, common={**experiment.common, "split": "spatial"})
    (row,) = measured(
        build(spatial, [make_record(legacy=LEGACY, split="spatial")], published.for_runs(experiment, rows))
    )
    assert row.deltas == {}
    assert "other_split" in codes(row)


def test_synthetic_row_is_marked_and_shares_no_line_with_a_published_number():
    table = table_of([make_record(synthetic=True, legacy=LEGACY)])
    (row,) = measured(table)
    assert row.published is None
    assert table.rows[0].published.value("oa") == 0.795, "the published number keeps a line of its own"
    line = next(line for line in markdown(table).splitlines() if line.startswith("|") and "(synthetic)" in line)
    assert line.startswith("| EuroSAT-SAR (synthetic) | ViT-S, batch 16 |")
    assert "Synthetic data" in markdown(table)
    assert [cells["synthetic"] for cells in parsed(table) if cells["oa"]] == ["true"]
    assert {cells["synthetic"] for cells in parsed(table) if not cells["oa"]} == {"false"}


def test_impossible_pairs_are_exactly_the_two_rows_of_the_notes():
    flagged = [
        (one.value("oa"), one.value("aa"))
        for one in (published.to_published(row, "csv") for row in published.read_rows(PUBLISHED))
        if any(note.code == "impossible_pair" for note in statement(one))
    ]
    assert flagged == [(0.795, 0.644), (0.755, 0.431)]


# What may share a row


def test_seeds_share_a_row_with_mean_and_sample_deviation():
    scores = [0.80, 0.81, 0.835]
    table = table_of([make_record(seed=i, test={"oa": oa}) for i, oa in enumerate(scores)])
    (row,) = measured(table)
    value = COLUMNS["oa"].value(row)
    assert (value.mean, value.std) == pytest.approx((np.mean(scores), np.std(scores, ddof=1)), abs=1e-15)
    assert COLUMNS["seeds"].value(row) == 3
    assert f"| {np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f} |" in markdown(table)
    cells = next(cells for cells in parsed(table) if cells["oa"])
    assert float(cells["oa"]) == value.mean
    assert float(cells["oa_std"]) == value.std
    assert cells["seeds"] == "3"


def test_a_seed_without_a_value_leaves_no_mean():
    records = [make_record(seed=1), make_record(seed=2, test={"kappa": None})]
    (row,) = measured(table_of(records))
    assert COLUMNS["kappa"].value(row) is None
    assert COLUMNS["oa"].value(row).n == 2


@pytest.mark.parametrize(
    "other",
    [
        make_record(seed=1, weight_decay=0.0),
        make_record(seed=1, amp="bf16"),
        make_record(seed=1, features="cached"),
        make_record(seed=1, features="cached", views=4),
        make_record(seed=1, split_seed=1),
        make_record(seed=1, train_frac=0.5),
        make_record(seed=1, synthetic=True),
        make_record(seed=1, card_version=2),
        make_record(seed=1, batch_size=32, world_size=1),
        make_record(seed=1, status="diverged"),
        resealed(make_record(seed=1), "dataset", "sample_ids_sha256", "train", "0" * 64),
        resealed(make_record(seed=1), "model", "weights", "sha256", "0" * 64),
    ],
    ids=[
        "weight_decay",
        "amp",
        "features",
        "views",
        "split_seed",
        "train_frac",
        "synthetic",
        "card",
        "batch",
        "status",
        "ids",
        "weights",
    ],
)
def test_what_can_change_a_number_never_shares_a_row(other):
    grid = {"weight_decay": [0.001, 0.0], "features": ["stream", "cached"], "views": [1, 4], "split_seed": [42, 1]}
    rows = measured(table_of([make_record(seed=0), other], **grid, train_frac=[1.0, 0.5], crop_scale=[0.08, 1.0]))
    assert [len(row.records) for row in rows] == [1, 1]
    assert rows[0].synthetic or rows[1].synthetic or rows[0].label != rows[1].label, "labels tell the rows apart"


def test_a_seed_that_comes_twice_stands_alone_with_its_run_id():
    twin = resealed(make_record(), "run_id", "vit_small_patch16-published-0123456789")
    rows = measured(table_of([make_record(), twin, make_record(seed=1)]))
    assert [len(row.records) for row in rows] == [1, 1, 1]
    assert "ViT-S, batch 16 0123456789" in [row.label for row in rows]


def test_recipes_never_share_a_table_row():
    (row,) = measured(table_of([make_record(seed=0), make_record(seed=1, recipe="corrected")]))
    assert row.records[0]["recipe"] == "published"


def test_rows_come_in_order_of_run_then_lr_then_weight_decay():
    experiment = load_experiment(EXPERIMENTS / "eurosat_linear.toml")
    grid = {"lr": [1.0, 0.01, 0.1, 0.001], "weight_decay": [0.5, 0.0, 0.001]}
    free = dataclasses.replace(experiment, common=experiment.common | grid)
    records = [make_record(lr=lr, weight_decay=wd) for lr in (1.0, 0.01, 0.1) for wd in (0.5, 0.0)]
    records.append(make_record(model="vit_base_patch16", batch_size=256, lr=0.001))
    rows = measured(build(free, records, published.for_runs(experiment, published.read_rows(PUBLISHED))))
    settings = [
        (row.label.split(" (")[0], COLUMNS["lr"].value(row), COLUMNS["weight_decay"].value(row)) for row in rows
    ]
    grid = [("ViT-S, batch 16", lr, wd) for lr in (0.01, 0.1, 1.0) for wd in (0.0, 0.5)]
    assert settings == [*grid, ("ViT-B, batch 256", 0.001, 0.001)]


# Tables on disk


def test_without_records_tables_are_folded_into_one_list_and_exit_0(monkeypatch, tmp_path, capsys):
    assert report(monkeypatch, tmp_path, "--print") == 0
    printed = capsys.readouterr().out
    assert "| 0.795 | 0.644 | – | notes |" in printed
    assert "No records yet" in printed
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["README.md"]
    listed = (tmp_path / "tables/README.md").read_text()
    assert "Planned, nothing measured yet: " in listed
    assert "EuroSAT-SAR, linear probe (7 runs)" in listed
    assert not (tmp_path / "figures").exists()


@pytest.mark.usefixtures("no_pictures")
def test_same_records_same_bytes_and_a_changed_record_changes_its_row_alone(monkeypatch, tmp_path):
    records = [make_record(), make_record(model="vit_base_patch16", batch_size=256)]
    contents = []
    for name, change in (("a", None), ("b", None), ("c", 0.9)):
        stored = list(reversed(records)) if name == "b" else records
        stored = stored if change is None else [resealed(stored[0], "metrics", "test", "oa", change), stored[1]]
        store_all(stored, tmp_path / name)
        assert report(monkeypatch, tmp_path / name) == 0
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name / "tables").iterdir()})
    assert contents[0] == contents[1]
    written = ("eurosat_linear", "pivot-linear_probe")  # tables without records are not
    assert set(contents[0]) == {
        "README.md",
        *(f"{name}.{ending}" for name in written for ending in ("csv", "md", "tex", "html")),
    }
    for name in ("eurosat_linear.csv", "eurosat_linear.md", "eurosat_linear.html", "eurosat_linear.tex"):
        before, after = (content[name].decode().splitlines() for content in (contents[0], contents[2]))
        assert len(before) == len(after)
        assert ["ViT-S, batch 16" in line for line in before] == [
            old != new for old, new in zip(before, after, strict=True)
        ]


@pytest.mark.usefixtures("no_pictures")
def test_check_names_stale_files_and_writes_nothing(monkeypatch, tmp_path, capsys):
    store_all([make_record()], tmp_path)
    assert report(monkeypatch, tmp_path) == 0
    assert report(monkeypatch, tmp_path, "--check") == 0
    store_all([make_record(seed=1)], tmp_path)
    before = (tmp_path / "tables/eurosat_linear.md").read_bytes()
    capsys.readouterr()
    assert report(monkeypatch, tmp_path, "--check") == 1
    assert "stale: " + str(tmp_path / "tables/eurosat_linear.md") in capsys.readouterr().err
    assert (tmp_path / "tables/eurosat_linear.md").read_bytes() == before
    report(monkeypatch, tmp_path)
    (tmp_path / "tables/gone.csv").write_text("a\n")
    assert report(monkeypatch, tmp_path, "--check") == 1
    assert "gone.csv belongs to no experiment" in capsys.readouterr().err


def spoil_edit(path: Path) -> Path:
    path.write_text(path.read_text().replace('"oa": 0.8,', '"oa": 0.99,'))
    return path


def spoil_truncate(path: Path) -> Path:
    path.write_text(path.read_text()[:500])
    return path


def spoil_schema(path: Path) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 3}))
    return path


def spoil_name(path: Path) -> Path:
    return path.rename(path.with_name("vit_small_patch16-published-0123456789.json"))


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("spoil", [spoil_edit, spoil_truncate, spoil_schema, spoil_name])
def test_broken_record_is_named_and_left_out_and_exit_1(monkeypatch, tmp_path, capsys, spoil):
    good, bad = store_all([make_record(model="vit_base_patch16", batch_size=256), make_record()], tmp_path)
    assert report(monkeypatch, tmp_path, "--validate") == 0
    bad = spoil(bad)
    capsys.readouterr()
    assert report(monkeypatch, tmp_path) == 1
    error = capsys.readouterr().err
    assert str(bad) in error
    assert str(good) not in error
    rows = list(csv.DictReader((tmp_path / "tables/eurosat_linear.csv").open()))
    assert [row["run"] for row in rows if row["oa"]] == ["ViT-B, batch 256"]
    assert report(monkeypatch, tmp_path, "--check") == 1
    assert report(monkeypatch, tmp_path, "--validate") == 1
    assert str(bad) in capsys.readouterr().err


@pytest.mark.usefixtures("no_pictures")
def test_records_of_no_table_are_named_in_the_index(monkeypatch, tmp_path):
    stray = make_record(lr=0.3)
    store_all([stray], tmp_path)
    assert report(monkeypatch, tmp_path) == 0
    assert stray["run_id"] in (tmp_path / "tables/README.md").read_text()


def test_bad_flags_and_unclear_published_rows_are_bad_input(monkeypatch, tmp_path):
    with pytest.raises(BenchError, match=r"unknown format 'mdd'; did you mean 'md'"):
        report(monkeypatch, tmp_path, "--formats", "mdd")
    with pytest.raises(BenchError, match=r"nothing\.csv"):
        report(monkeypatch, tmp_path, "--published", str(tmp_path / "nothing.csv"))
    text = (EXPERIMENTS / "eurosat_linear.toml").read_text().replace(", batch_per_process = 16", "")
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(BenchError, match=r"mine\.toml: runs\[0\]\.published\[0\] selects 2 published rows"):
        report(monkeypatch, tmp_path, "--experiments", str(tmp_path))
    (tmp_path / "mine.toml").write_text(text.replace("source =", "sauce ="))
    with pytest.raises(
        BenchError, match=r"mine\.toml: runs\[0\]\.published\[0\]\.where: unknown column 'sauce'; did you mean 'source'"
    ):
        report(monkeypatch, tmp_path, "--experiments", str(tmp_path))
    assert not (tmp_path / "tables").exists()


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "run,oa\n", PUBLISHED.read_text().splitlines()[0] + "\n"])
def test_a_file_without_published_rows_is_named_itself(monkeypatch, tmp_path, content):
    """The experiment was blamed, with an empty list of choices."""
    own = tmp_path / "own.csv"
    own.write_text(content)
    with pytest.raises(BenchError) as caught:
        report(monkeypatch, tmp_path, "--published", str(own))
    assert caught.value.what.startswith(
        f"{own} holds no published rows with the columns table, source, dataset, method, metric_1, "
    )
    assert caught.value.todo == "give a table like results/published/published_results.csv"


def test_a_published_file_that_is_missing_is_bad_input_though_no_experiment_needs_it(monkeypatch, tmp_path):
    needs_none = 'title = "T"\nmodule = "linear"\nprotocol = "linear_probe"\n[layout]\ncolumns = ["run"]\n[[runs]]\nlabel = "a"\n'
    (tmp_path / "mine.toml").write_text(needs_none + 'flags = { dataset = "eurosat" }\n')
    with pytest.raises(BenchError, match=r"nothing\.csv: published numbers cannot be read"):
        report(monkeypatch, tmp_path, "--experiments", str(tmp_path), "--published", str(tmp_path / "nothing.csv"))
    assert report(monkeypatch, tmp_path, "--experiments", str(tmp_path)) == 0


@pytest.mark.parametrize("flags", [(), ("--check",), ("--validate",)])
def test_a_mistyped_results_folder_is_refused_and_not_made(monkeypatch, tmp_path, flags):
    with pytest.raises(BenchError, match=r"resluts is not a folder; give the folder of the results with --results_dir"):
        report(monkeypatch, tmp_path / "resluts", *flags)
    assert not list(tmp_path.iterdir())


def test_the_default_results_folder_is_made(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", "--experiments", str(EXPERIMENTS)])
    assert entry.main() == 0
    assert (tmp_path / "results/tables/README.md").is_file()


def test_own_published_numbers_stand_before_the_repository_copy(tmp_path):
    assert published.default_path(tmp_path) == PUBLISHED
    own = tmp_path / "published/published_results.csv"
    own.parent.mkdir()
    own.write_text("x")
    assert published.default_path(tmp_path) == own


def test_command_needs_no_torch_and_ends_with_the_exit_codes_of_the_interface(tmp_path):
    code = (
        "import sys, runpy\n"
        "try: runpy.run_module('fgmae_bench.report', run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "assert not {'torch', 'matplotlib', 'pandas'} & set(sys.modules), 'heavy imports'\n"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "--results-dir", str(tmp_path), "--experiments"]
    done = subprocess.run([*command, str(EXPERIMENTS)], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")
    failed = subprocess.run([*command, str(tmp_path / "no")], capture_output=True, text=True, cwd=REPOSITORY)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1


# Pictures


def test_figures_are_drawn_for_metrics_with_a_history_and_removed_without(monkeypatch, tmp_path):
    (path,) = store_all([make_record()], tmp_path)
    assert report(monkeypatch, tmp_path) == 0
    names = [*(f"eurosat_linear-{metric}" for metric in ("aa", "loss", "lr", "oa")), "models-across-datasets"]
    wanted = sorted(f"{name}.{ending}" for name in names for ending in ("png", "svg"))
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == wanted
    first = {file.name: file.read_bytes() for file in (tmp_path / "figures").iterdir()}
    assert report(monkeypatch, tmp_path) == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "figures").iterdir()} == first
    assert (tmp_path / "figures/eurosat_linear-oa.png").read_bytes().startswith(b"\x89PNG")
    assert "../figures/eurosat_linear-oa.png" in (tmp_path / "tables/eurosat_linear.md").read_text()
    path.unlink()
    store_all([make_record(history_epochs=0)], tmp_path)
    assert report(monkeypatch, tmp_path) == 0
    assert {file.stem for file in (tmp_path / "figures").iterdir()} == {"models-across-datasets"}


def test_curves_say_what_is_synthetic_and_what_is_left_out():
    table = table_of([make_record(seed=i, synthetic=i == 0) for i in range(14)])
    every = figures.curves(table, "oa")
    assert sum(curve.synthetic for curve in every) == sum(curve.label.endswith("(synthetic)") for curve in every) == 1
    assert len({curve.label for curve in every}) == 14
    title = figures._title(table, every, every[: figures.MAX_CURVES])
    assert title.endswith("2 of 14 runs left out")
    synthetic = figures.curves(table_of([make_record(synthetic=True)]), "loss")
    assert figures._title(table, synthetic, synthetic).endswith("synthetic data")
    assert len(synthetic[0].train) == 3


def test_curve_labels_are_shown_as_they_are(tmp_path):
    table = table_of([make_record()])
    row = dataclasses.replace(measured(table)[0], label="_$x^2$ <b> `a`\nend")
    figures.draw(dataclasses.replace(table, rows=(row,)), "loss", tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
    assert literal(row.label) == r" _\$x^2\$ <b> `a` end"


def test_default_curves_of_a_layout_can_be_drawn():
    assert set(Layout(columns=()).curves) <= set(figures.AXES)


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ({"batch_size": 8}, 32),
        ({"batch_size": [8, 16]}, "32, 64"),
        ({"batch_size": [8, 16], "accum_iter": [1, 2]}, "16, 32, 64"),
    ],
)
def test_a_planned_grid_shows_each_effective_batch_once(flags, shown):
    run = SimpleNamespace(flags={"accum_iter": 2} | flags, nproc_per_node=2)
    assert planned(SimpleNamespace(common={}), run)["effective_batch"] == shown
