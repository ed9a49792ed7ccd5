"""Ranks of a pivot's models: over which datasets, when there is none, and what tests of pairs say of the order."""

from __future__ import annotations

import json
import statistics
import sys

import numpy as np
import pytest
from boards import league, record, row, table
from make_records import resealed
from scipy import stats

from fgmae_bench.config.cards import card_names
from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.jackknife import Estimate
from fgmae_bench.report import __main__ as report
from fgmae_bench.report import tested
from fgmae_bench.report.agreement import compared
from fgmae_bench.report.formats.sheets import SHEETS
from fgmae_bench.report.pivot import mean_of, shas
from fgmae_bench.report.pivots import pivots
from fgmae_bench.report.rank_sheets import draw_critical, of_agreement, of_ranking
from fgmae_bench.report.ranking import SCENES, ranking, require
from fgmae_bench.report.table import groups

EIGHT = {name: [0.5 + i / 10 + d % (i + 2) / 40 for d in range(8)] for i, name in enumerate("abc")}


def ranked(*tables, known=None):
    (pivot,) = pivots(tables)
    return ranking(pivot, known or {})


def all_pairs(*tables, error=0.001):
    """Every pair of every column, with one error."""
    (pivot,) = pivots(tables)
    known = {}
    for c in range(len(pivot.places)):
        held = [(cell.row, mean_of(cell.value)) for _, cell in pivot.column(c)]
        for i, (a, x) in enumerate(held):
            for b, y in held[i + 1 :]:
                known["oa", shas(a), shas(b)] = Estimate(value=x - y, error=error, degrees=30.0)
    return known


def test_average_ranks_are_those_of_scipy_and_elo_waits_for_eight_datasets():
    few = ranked(league({name: values[:3] for name, values in EIGHT.items()}))
    expected = stats.rankdata(-np.array([EIGHT[n][:3] for n in "abc"]).T, axis=1).mean(0)
    assert {model.label: model.rank for model in few.models} == dict(zip("abc", expected, strict=True))
    assert all(model.elo is None for model in few.models)
    text = SHEETS["md"](of_ranking(few))
    assert "Elo and critical differences are shown from 8 datasets on." in text
    many = ranked(league(EIGHT))
    assert [model.label for model in many.models] == ["c", "b", "a"]
    assert many.models[0].elo > many.models[1].elo > many.models[2].elo
    assert "critical difference of average ranks" in SHEETS["md"](of_ranking(many))


def test_datasets_cut_from_the_same_scenes_count_as_one():
    rows = [row(m, record(m, d)) for d in ("bigearthnet", "bigearthnet_v2", "eurosat") for m in "ab"]
    assert ranked(table(*rows)).units == ("BigEarthNet", "EuroSAT-SAR")
    alone = ranked(table(*rows[:4]))
    assert "over one dataset (BigEarthNet)" in alone.why
    seven = league({name: values[:7] for name, values in EIGHT.items()}).rows
    more = [row(m, record(m, d)) for d in ("bigearthnet", "bigearthnet_v2") for m in "abc"]
    assert len(ranked(table(*seven, *more)).units) == 8


def test_cards_of_one_source_count_as_one():
    """A card says that it is cut from another's scenes by its name; each of those is listed, and no card is unknown."""
    stems = ("bigearthnet", "eurosat", "dfc2020", "sen12ms", "terramesh", "s1f_")
    for stem in stems:
        of_it = [name for name in card_names() if stem in name]
        assert len({SCENES[name] for name in of_it}) == 1, of_it
    assert SCENES["copernicus_flood"] == SCENES["kuro_siwo"]
    assert SCENES["s1f_chips"] == SCENES["sen1floods11"]
    assert set(SCENES) <= set(card_names())
    both = [row(m, record(m, d)) for d in ("eurosat", "copernicus_eurosat") for m in "ab"]
    assert "over one dataset (EuroSAT-SAR)" in ranked(table(*both)).why


def test_means_that_differ_in_the_last_bits_of_their_sums_are_ties():
    seeds = {"a": (0.6, 0.7, 0.8), "b": (0.7, 0.7, 0.7)}
    assert statistics.fmean(seeds["a"]) != statistics.fmean(seeds["b"])
    rows = [row(m, *(record(m, d, oa=oa, seed=s) for s, oa in enumerate(seeds[m]))) for d in ("d0", "d1") for m in "ab"]
    assert [model.rank for model in ranked(table(*rows)).models] == [1.5, 1.5]


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({"a": [0.5], "b": [0.6]}, "over one dataset"),
        ({"a": [0.5, 0.6], "b": [0.6]}, "one model has a score on each of the 2 datasets"),
    ],
    ids=["one dataset", "one model"],
)
def test_no_rank_over_one_dataset_or_one_model(scores, reason):
    found = ranked(league(scores))
    assert reason in found.why
    with pytest.raises(BenchError, match=reason):
        require(found)
    assert f"No ranking: {found.why}." in SHEETS["md"](of_ranking(found))


def test_models_that_may_stand_in_no_rank_are_left_out_with_the_reason():
    made = [row(m, record(m, d)) for d in ("d0", "d1") for m in "abc"]
    made = [
        row("c", resealed(each.records[0], "model", "contract", {"transductive": True})) if each.label == "c" else each
        for each in made
    ]
    found = ranked(table(*made))
    assert [model.label for model in found.models] == ["a", "b"]
    assert "c: its features of an image depend on the other images" in found.left_out[0]


def test_tests_of_pairs_leave_each_model_its_ranks():
    scores = {"a": [0.5, 0.5], "b": [0.7, 0.7], "c": [0.7, 0.7005]}
    made = league(scores)
    found = ranked(made, known=all_pairs(made))
    assert {model.label: model.possible for model in found.models} == {"a": (3, 3), "b": (1, 2), "c": (1, 2)}
    assert {model.label: model.equal_to for model in found.models} == {"a": (), "b": ("c",), "c": ("b",)}
    untested = ranked(made)
    assert all(model.possible is None for model in untested.models)
    assert "the order may be chance" in SHEETS["md"](of_ranking(untested))


def test_the_diagram_of_critical_differences_is_drawn(tmp_path):
    draw_critical(ranked(league(EIGHT)), tmp_path / "cd.png")
    assert "average rank" in (tmp_path / "cd.svg").read_text()


# Agreement of conditions


def test_protocols_agree_as_scipy_says():
    one = {"a": [0.5, 0.6], "b": [0.7, 0.5], "c": [0.8, 0.9], "d": [0.6, 0.7]}
    other = {"a": [0.5, 0.5], "b": [0.4, 0.6], "c": [0.9, 0.7], "d": [0.3, 0.8]}
    knn = [resealed(each.records[0], "protocol", "knn") for each in league(other).rows]
    tables = [league(one), table(*(row(each["model"]["name"], each) for each in knn), name="u")]
    (found,) = compared(pivots(tables), [])
    means = [[np.mean(values[name]) for name in "abcd"] for values in (one, other)]
    assert found.found.tau == pytest.approx(stats.kendalltau(*means).statistic)
    assert (found.kind, found.a, found.b, found.models) == ("protocols", "linear_probe", "knn", 4)
    assert "| protocols | linear_probe | knn | 4 | d0 (reference), d1 (reference) |" in SHEETS["md"](
        of_agreement([found])
    )


def test_datasets_of_the_same_scenes_give_agreement_no_interval():
    """Two cuts of the same scenes are one draw: an interval over them would be over nothing new."""
    scores = {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.8}
    one = [row(m, record(m, d, oa=oa), title=d) for d in ("EuroSAT-SAR", "EuroSAT-S1") for m, oa in scores.items()]
    again = [
        resealed(record(r.label, r.dataset, oa=1 - r.records[0]["metrics"]["test"]["oa"]), "protocol", "knn")
        for r in one
    ]
    other = [row(each["model"]["name"], each, title=each["dataset"]["name"]) for each in again]
    (found,) = compared(pivots([table(*one), table(*other, name="u")]), [])
    assert (found.found.tau, len(found.units)) == (-1, 2)
    assert np.isnan(found.found.low)


def test_few_labels_leaky_splits_and_stress_are_conditions():
    def models(**more):
        return [record(m, oa=0.5 + i / 10, **more) for i, m in enumerate("abc")]

    def few(each):
        return resealed(each, "config", "data", "shots", 5)

    leaky = [
        resealed(each, "notes", [{"code": "leaky_split", "text": "it leaks"}]) for each in models(split="reference")
    ]
    every = [*leaky, *models(split="spatial"), *map(few, models(split="spatial"))]
    stressed = []
    for each, kept in zip(models(), (0.3, 0.2, 0.1), strict=True):
        made = resealed(each, "protocol", "stress_linear_probe")
        item = {"name": "speckle", "severity": 3.0, "unit": "dB", "metrics": {"oa": kept}}
        clean = {"metric": "oa", "clean": each["metrics"]["test"]["oa"], "unit": "dB"}
        stressed.append({**made, "stress": [item], "metrics": {**made["metrics"], "tolerance": {"speckle": clean}}})
    tables = [table(*(row(each["model"]["name"], each, title="EuroSAT-SAR") for each in every))]
    found = {each.kind: each for each in compared(pivots(tables), stressed)}
    assert set(found) == {"label fractions", "splits", "clean and stressed"}
    assert (found["splits"].a, found["splits"].b) == ("linear_probe, leaky split", "clean split")
    assert (found["label fractions"].a, found["label fractions"].b) == ("linear_probe, all labels", "5 shots")
    assert found["clean and stressed"].found.tau == -1.0
    assert found["splits"].found.tau == 1.0


# The command, and the file of tests


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["report", *map(str, flags)])
    return report.main()


def test_the_command_refuses_a_rank_over_one_dataset(monkeypatch, tmp_path):
    from make_records import make_record, store_all

    store_all([make_record(), make_record(model="vit_base_patch16", batch_size=256)], tmp_path)
    with pytest.raises(BenchError, match="no ranking of linear_probe: it would be over one dataset"):
        run(monkeypatch, "rank", "--results_dir", tmp_path)
    with pytest.raises(BenchError, match="no two measured rows of protocol 'knn'"):
        run(monkeypatch, "rank", "--results_dir", tmp_path, "--protocol", "knn")


def test_the_command_refuses_rows_of_other_pixels(monkeypatch, tmp_path):
    from make_records import make_record, store_all

    made = [make_record(), make_record(model="vit_base_patch16", batch_size=256, content="other")]
    store_all(made, tmp_path)
    with pytest.raises(BenchError, match=r"no column for EuroSAT-SAR.*tested on other pixels"):
        run(monkeypatch, "rank", "--results_dir", tmp_path)


def test_tests_count_while_their_records_are_the_same(tmp_path):
    made = league({"a": [0.5], "b": [0.7]})
    known = all_pairs(made)
    (pivot,) = pivots([made])
    assert [cell.best for _, cell in tested.with_tests(pivot, known).column(0)] == [False, True]
    changed = table(made.rows[0], row("b", record("b", "d0", oa=0.71)))
    (pivot,) = pivots([changed])
    found = tested.with_tests(pivot, known)
    assert [cell.best for _, cell in found.column(0)] == [None, None]
    assert found.places[0].untested == tested.NOT_MADE


@pytest.mark.parametrize(
    "body",
    [
        "{",
        '{"schema": 9, "columns": []}',
        '{"schema": 1, "columns": [{"metric": "oa", "rows": [], "pairs": [[0, 1, 0.1, 0.1, 3]]}]}',
        '{"schema": 1, "columns": [{"metric": "oa", "rows": [["x"], ["y"]], "pairs": [[0, -1, 0.1, 0.1, 3]]}]}',
        '{"schema": 1, "columns": [{"metric": "oa", "rows": [["x"], ["y"]], "pairs": [[0, 1, 0.1, -1, 3]]}]}',
        '{"schema": 1, "columns": [{"metric": "oa", "rows": [["x"], ["y"]], "pairs": [[0, 1, NaN, 1, 3]]}]}',
        "[" * 5000,
    ],
    ids=["cut", "newer", "no rows", "before the first", "negative", "nan", "deep"],
)
def test_a_file_of_tests_that_is_none_is_refused_in_one_line(tmp_path, body):
    path = tmp_path / tested.FILE
    path.write_text(body)
    with pytest.raises(BenchError, match="no tested pairs that can be read") as found:
        tested.read(path)
    assert "\n" not in found.value.what


def test_what_is_written_is_what_is_read(tmp_path):
    made = {"schema": 1, "columns": [{"metric": "oa", "rows": [["x"], ["y"]], "pairs": [[0, 1, 0.1, 0.2, 3.5]]}]}
    tested.write(json.dumps(made), tmp_path)
    assert tested.read(tmp_path / tested.FILE) == {("oa", ("x",), ("y",)): Estimate(value=0.1, error=0.2, degrees=3.5)}
    assert tested.read(tmp_path / "none.json") == {}


@pytest.mark.parametrize(("part", "name"), [("recipe", "epochs"), ("data", "train_frac"), ("recipe", "batch_size")])
def test_a_grid_of_any_number_stands_in_numeric_order(part, name):
    made = record("a")["config"][part]
    values = [100, 5, 20] if part == "recipe" else [1.0, 0.05, 0.5]
    each = [resealed(record("a"), "config", part, {**made, name: value}) for value in values]
    assert [group[0]["config"][part][name] for group in groups(each)] == sorted(values)


def test_records_that_hold_other_settings_have_an_order_too():
    data = record("a")["config"]["data"]
    other = resealed(record("a"), "config", "data", {**data, "a_number_of_another_version": 3})
    assert len(groups([other, record("a")])) == 2
