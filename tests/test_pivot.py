"""Models x datasets: which rows share a line, what a cell says, and which rows may not share a column."""

from __future__ import annotations

import csv
import io
import re

import pytest
from boards import league, record, row, table
from make_records import make_record, resealed

from fgmae_bench.report.formats.sheets import SHEETS
from fgmae_bench.report.pivots import other_content, pivots
from fgmae_bench.report.row import Spread
from fgmae_bench.report.sheet import of_pivot


def sheet(*tables):
    (pivot,) = pivots(tables)
    return of_pivot(pivot, {})


def cells(*tables):
    return list(csv.DictReader(io.StringIO(SHEETS["csv"](sheet(*tables)))))


def test_a_line_is_a_model_and_a_column_a_dataset_in_the_order_of_the_files():
    one = table(row("EuroSAT: zeta", record("z", oa=0.7)), row("EuroSAT: alpha", record("a", oa=0.9)))
    other = table(row("BigEarth: alpha", record("a", "bigearthnet", oa=0.5)), name="u")
    (pivot,) = pivots([one, other])
    assert [line.label for line in pivot.lines] == ["zeta", "alpha"]
    assert [place.dataset for place in pivot.places] == ["eurosat", "bigearthnet"]
    assert [cell and cell.value for cell in pivot.lines[0].cells] == [0.7, None]
    assert [cell and cell.value for cell in pivot.lines[1].cells] == [0.9, 0.5]


def test_a_row_of_two_tables_stands_once():
    shared = row("a", record("a"))
    (pivot,) = pivots([table(shared, row("b", record("b"))), table(shared, name="u")])
    assert len(pivot.lines) == 2


def test_a_cell_has_mean_spread_interval_and_distance_to_the_null():
    seeds = [record("a", oa=0.8 + s / 100, seed=s) for s in range(3)]
    bounds = {"level": 0.95, "over": "groups", "units": 40, "replicates": 1000, "test": {"oa": [0.7, 0.9]}}
    seeds = [resealed(each, "metrics", "intervals", bounds) for each in seeds]
    null = row("statistics", record("backscatter_stats", oa=0.75, source="none"))
    (pivot,) = pivots([table(row("a", *seeds), null)])
    cell = pivot.lines[0].cells[0]
    assert cell.value == Spread(mean=pytest.approx(0.81), std=pytest.approx(0.01), n=3)
    assert (cell.bounds.low, cell.bounds.high) == pytest.approx((0.7, 0.9))
    assert cell.delta == pytest.approx(0.06)
    assert pivot.lines[1].cells[0].delta is None
    found = cells(table(row("a", *seeds), null))[0]
    stem = "eurosat_oa"
    assert float(found[f"{stem}_std"]) == pytest.approx(0.01)
    assert [found[f"{stem}{end}"] for end in ("_runs", "_low", "_high", "_may_be_best")] == [
        "3",
        "0.6999999999999998",
        "0.9",
        "",
    ]
    text = SHEETS["md"](sheet(table(row("a", *seeds), null)))
    assert "| a | 3 seeds | 0.810 ± 0.010<br>0.700 to 0.900; +0.060 |" in text
    assert "distances to the null baseline: statistics" in text


@pytest.mark.parametrize(
    ("source", "protocol", "count", "draws", "told"),
    [
        ("fgmae", "linear_probe", 1, 0, "one seed"),
        ("fgmae", "linear_probe", 3, 0, "3 seeds"),
        ("fgmae", "logistic_regression", 1, 0, "no seed"),
        ("random", "logistic_regression", 1, 0, "one seed"),
        ("fgmae", "linear_probe", 2, 2, "2 seeds x 2 draws"),
        ("fgmae", "linear_probe", 1, 3, "3 draws"),
    ],
    ids=["one", "seeds", "lbfgs", "random weights", "both", "draws"],
)
def test_what_a_spread_is_over_is_said(source, protocol, count, draws, told):
    made = []
    for seed in range(count):
        for draw in range(max(1, draws)):
            each = resealed(record("a", source=source, protocol=protocol, seed=seed), "config", "data", "draw", draw)
            made.append(resealed(each, "config", "data", "shots", 5 if draws else None))
    (pivot,) = pivots([table(row("a", *made), row("b", record("b", protocol=protocol)))])
    assert next(line for line in pivot.lines if line.label == "a").over == told


def test_grids_stand_in_numeric_order_as_lines_of_their_own():
    rows = [row("a", record("a", lr=lr)) for lr in (0.03, 0.1, 1.0)]
    (pivot,) = pivots([table(*rows)])
    assert [line.label for line in pivot.lines] == ["a (lr 0.03)", "a (lr 0.1)", "a (lr 1.0)"]
    assert [line.model for line in pivot.lines] == [""] * 3


def test_of_a_grid_that_val_chose_from_the_chosen_row_stands_alone():
    grid = [row("a", record("a", lr=lr, oa=0.7 + lr), grid=2) for lr in (0.1, 0.2)]
    chosen = row("a, selected on val", *grid[1].records, candidates=2)
    (pivot,) = pivots([table(*grid, chosen, row("b", record("b")))])
    assert [line.label for line in pivot.lines] == ["a, selected on val", "b"]


def test_the_heading_says_how_many_groups_were_tested_on():
    groups = {"kind": "scene", "train": 6, "val": 0, "test": 5}
    made = [resealed(record(name), "dataset", "groups", groups) for name in "ab"]
    (pivot,) = pivots([table(*(row(each["model"]["name"], each) for each in made))])
    assert pivot.places[0].heading == "eurosat, OA, 5 scenes"
    (pivot,) = pivots([table(row("a", record("a")), row("b", record("b")))])
    assert pivot.places[0].heading == "eurosat, OA, 5,400 samples, groups unknown"


def test_splits_and_few_labels_are_columns_of_their_own():
    few = resealed(record("a"), "config", "data", "shots", 5)
    (pivot,) = pivots([table(row("a", record("a")), row("a", few), row("a", record("a", split="spatial")))])
    assert [place.facts for place in pivot.places] == [
        ("split reference", "all labels"),
        ("split reference", "shots 5"),
        ("split spatial", "all labels"),
    ]
    assert len(pivot.lines) == 1


def test_synthetic_columns_stand_last_and_say_so():
    rows = [row(name, record(name, synthetic=flag)) for flag in (True, False) for name in "ab"]
    (pivot,) = pivots([table(*rows)])
    assert [place.synthetic for place in pivot.places] == [False, True]
    for ending in ("md", "tex", "html"):
        assert "synthetic" in SHEETS[ending](of_pivot(pivot, {}))


def test_rows_of_other_pixels_share_no_column():
    rows = [row("a", record("a", content="one")), row("b", record("b", content="two"))]
    (pivot,) = pivots([table(*rows, *league({"a": [0.1, 0.2], "b": [0.2, 0.1]}).rows)])
    assert [place.dataset for place in pivot.places] == ["d0", "d1"]
    assert "tested on other pixels or labels" in pivot.refused[0]
    assert "No column for eurosat, OA" in SHEETS["md"](of_pivot(pivot, {}))
    assert "tested on other pixels or labels" in (other_content(rows) or "")


def test_a_pack_of_eight_bits_counts_as_what_it_was_made_of():
    float32, eight = record("a", content="float"), record("b", content="uint8")
    whole = {part: float32["dataset"]["content_sha256"][part] for part in ("train", "val", "test")}
    packed = resealed(eight, "dataset", "source_content_sha256", whole)
    assert other_content([row("a", float32), row("b", packed)]) is None
    assert other_content([row("a", float32), row("b", eight)]) is not None


def test_a_record_that_does_not_say_of_which_pixels_it_is_shares_no_column():
    old = row("old", make_record(schema=1, model="vit_base_patch16"))
    assert "does not say of which pixels" in other_content([row("a", make_record()), old])


def test_stress_records_are_in_no_pivot():
    stressed = [resealed(record(name), "protocol", "stress_linear_probe") for name in "ab"]
    assert pivots([table(*(row(each["model"]["name"], each) for each in stressed))]) == []


@pytest.mark.parametrize("ending", sorted(SHEETS))
def test_names_stay_text_in_every_format(ending):
    hostile = "<script>x</script> \\input{y} =1 | *b*"
    text = SHEETS[ending](sheet(table(row(hostile, record("a")), row("=1+1", record("b")))))
    assert "<script>" not in text or ending in ("csv", "tex")
    if ending == "csv":
        assert [line["model"] for line in csv.DictReader(io.StringIO(text))] == [hostile, "'=1+1"]
    if ending == "tex":
        assert not re.search(r"(?<!\\)\\input", text)
    assert text == SHEETS[ending](sheet(table(row(hostile, record("a")), row("=1+1", record("b")))))
