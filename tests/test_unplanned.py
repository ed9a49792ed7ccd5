"""Reports without experiment files: seeds and draws of one configuration are one row under a name that can be read."""

import re

import numpy as np
import pytest
from commands import call
from make_records import make_record, resealed, store_all
from test_report_labels import changed, drawn, few, shown

from fgmae_bench.report.all_tables import make_tables
from fgmae_bench.report.pivots import pivots
from fgmae_bench.report.table import unplanned

SHOTS = {1: [0.4, 0.5, 0.45], 5: [0.6, 0.66, 0.6], 20: [0.7, 0.72, 0.77]}


def as_null(record):
    """The record of a row of backscatter statistics that scores less by a tenth."""
    record = changed(record, model__name="backscatter_stats", model__weights__source="none")
    return changed(record, metrics__test__oa=record["metrics"]["test"]["oa"] - 0.1)


def test_draws_of_few_labels_are_one_line_and_their_mean_is_the_null(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [*drawn(), *map(as_null, drawn())]
    (table,) = make_tables(None, tmp_path, None, records)
    (pivot,) = pivots([table])
    assert [(line.label, line.over) for line in pivot.lines] == [
        ("backscatter_stats (none)", "3 draws"),
        ("vit_small_patch16 (fgmae)", "3 draws"),
    ]
    assert [dict(place.every)["shots"] for place in pivot.places] == [1, 5, 20]
    for cell, values in zip(pivot.lines[1].cells, SHOTS.values(), strict=True):
        assert cell.value.mean == pytest.approx(np.mean(values))
        assert cell.value.std == pytest.approx(np.std(values, ddof=1))
        assert cell.delta == pytest.approx(0.1)  # from the mean of all draws of the null
    assert all(place.null.label == "backscatter_stats (none)" for place in pivot.places)


def test_rows_say_what_they_are_of_and_settings_tell_them_apart():
    rows = unplanned([make_record(seed=seed, lr=lr) for seed in (1, 2) for lr in (0.1, 0.03)])
    assert [(row.label, len(row.records)) for row in rows] == [
        ("vit_small_patch16 (fgmae) (lr 0.03)", 2),
        ("vit_small_patch16 (fgmae) (lr 0.1)", 2),
    ]
    assert re.fullmatch(r"vit_small_patch16-\S+ and 1 more", shown(rows[0], "run_id"))
    val = [resealed(make_record(lr=lr), "dataset", "n_val", 500) for lr in (0.1, 0.03)]
    labels = [row.label for row in unplanned([resealed(each, "metrics", "final", "oa", 0.9) for each in val])]
    assert labels[-1] == "vit_small_patch16 (fgmae) (lr 0.03), selected on val"
    two = [make_record(), make_record(dataset="dfc2020"), make_record(synthetic=True)]
    assert {row.label for row in unplanned(two)} == {"vit_small_patch16 (fgmae)"}


@pytest.mark.parametrize(
    ("chances", "words"),
    [
        ([(1, 0), (2, 0)], 2),
        ([(1, 0), (1, 1), (1, 2)], "3 draws"),
        ([(1, 0), (1, 1), (2, 0), (2, 1)], "2 seeds x 2 draws"),
        ([(1, 0), (1, 1), (2, 1)], "3 runs of 2 seeds x 2 draws"),
        ([(1, 4)], 1),
    ],
    ids=["seeds", "draws", "both", "lacking", "one"],
)
def test_the_column_of_seeds_names_draws_of_labels(chances, words):
    (row,) = unplanned([few(5, draw, 0.5, seed=seed) for seed, draw in chances])
    assert shown(row, "seeds") == words
    assert len(row.records) == len(chances)


def test_the_report_of_a_folder_without_experiments_pools_draws(tmp_path):
    store_all([*drawn(), make_record(seed=3)], tmp_path / "results")
    done = call("report", "--print", cwd=tmp_path)
    assert done.code == 0, done.err
    text = (tmp_path / "results" / "tables" / "other_runs.md").read_text()
    assert sum(line.count("| 3 draws |") for line in text.splitlines()) == 3
    assert "| vit_small_patch16 (fgmae) | 3 draws, one seed |" in done.out
