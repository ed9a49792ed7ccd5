"""The card from its record: Markdown, data, picture, columns of tables; and suites that make cards."""

import dataclasses
import json

import numpy as np
import pytest
from make_records import make_record, resealed, store_all
from scipy import stats

from fgmae_bench.config.experiments import load_experiment, matches
from fgmae_bench.config.layout import Layout, check_layout, heading
from fgmae_bench.config.stress import as_plain, stress_options
from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.ranks import kendall_tau_b, rank_against
from fgmae_bench.report import regions
from fgmae_bench.report.columns import COLUMNS
from fgmae_bench.report.pictures import available
from fgmae_bench.report.row import Row, Table
from fgmae_bench.report.stress_card import _apart, _at_tolerance, card_data, draw_card, markdown_card
from fgmae_bench.stress.summary import p_of
from fgmae_bench.suite.command import argv
from fgmae_bench.suite.expand import expand
from fgmae_bench.suite.identity import Shelf
from fgmae_bench.views.stress_table import STRESSES

NULL = {"value": 0.5, "censored": False, "withheld": None, "area": 0.7, "clean": 0.6}


def levels(name, severities, scores, unit="dB"):
    return [
        {
            "name": name,
            "severity": severity,
            "unit": unit,
            "metrics": {
                "oa": score,
                "change": score - 0.8,
                "change_interval": [score - 0.82, score - 0.78],
                "flip_rate": 0.05 if severity == severities[0] else 0.1,
                "beyond_null": 0.05,
                "beyond_null_interval": [-0.01, 0.11],
            },
        }
        for severity, score in zip(severities, scores, strict=True)
    ]


def found(value, interval, positions, **more):
    return {
        "value": value,
        "censored": value is None,
        "interval": interval,
        "area": 0.9,
        "chance": 0.1,
        "withheld": None,
        "metric": "oa",
        "clean": 0.8,
        "unit": "dB",
        "budget": None,
        "positions": positions,
        "null": NULL,
        **more,
    }


def card_record(**values):
    """A card of three stresses: one reached, one never, one withheld."""
    record = make_record(protocol="stress_knn", **values)
    tolerance = {
        "offset": found(1.25, [0.5, None], [1, 2, 3], budget=[1.0, "absolute accuracy, 3 sigma"]),
        "speckle": found(None, [5.0, None], [1, 3.4]),
        "swapped": found(None, None, [1], withheld="it has one severity", area=None),
    }
    items = levels("offset", (1, 2, 3), (0.79, 0.7, 0.6)) + levels("speckle", (1, 3.4), (0.8, 0.8))
    record = resealed(record, "metrics", "tolerance", tolerance)
    facts = {**record["config"]["facts"], "stress": as_plain(stress_options({}))}
    return resealed(resealed(record, "config", "facts", facts), "stress", items + levels("swapped", (1,), (0.5,)))


def test_markdown_states_tolerances_beside_the_clean_score_and_the_null():
    lines = markdown_card(card_record()).splitlines()
    assert "oa 0.800 on clean data" in lines[0]
    assert lines[1] == "chance 0.100, backscatter statistics 0.600; stresses are simulated: unvalidated"
    offset, speckle, swapped = lines[5:]
    assert "| 1.25 dB | 0.50 to > 3 | 0.900 | +0.050 (-0.010 to +0.110) | 0.100 | 1 (absolute accuracy" in offset
    assert "| > 3.4 dB | 5.00 to > 3.4 |" in speckle
    assert "withheld: it has one severity" in swapped


def test_data_of_the_card_is_json_and_says_that_nothing_validates_it():
    card = json.loads(json.dumps(card_data(card_record()), allow_nan=False))
    assert card["validated"] is None
    assert [each["name"] for each in card["stresses"]] == ["offset", "speckle", "swapped"]
    assert card["stresses"][0]["severities"][1] == {
        "severity": 2,
        "position": 2,
        "score": 0.7,
        "change": pytest.approx(-0.1),
        "flip_rate": 0.1,
        "change_interval": pytest.approx([-0.12, -0.08]),
        "beyond_null": 0.05,
        "beyond_null_interval": [-0.01, 0.11],
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("offset", value) for value in (0.1, 0.3, 0.71, 3)),
        *(("border_low", value) for value in (0.0, 0.05, 0.3)),
        *(("resolution", value) for value in (1.2, 2, 3.5)),
        *(("noise", value) for value in (-36, -28, -23.5)),
        ("eight_bit", -40),
    ],
)
def test_the_line_of_a_tolerance_stands_where_the_stress_puts_that_severity(name, value):
    """Below the first severity too, and between levels in dB, whose axis is their power."""
    stress = STRESSES[name]
    of_levels = [{"severity": severity, "position": stress.position(severity)} for severity in stress.ladder]
    assert _at_tolerance({"tolerance": {"value": value}, "severities": of_levels}) == pytest.approx(
        stress.position(value), abs=1e-12
    )


def test_what_is_assumed_stands_on_the_card_and_its_picture(tmp_path):
    said = {
        "theta_assumed": "the incidence angle is not in the data: 38",
        "calibration_assumed": "the card states no calibration: sigma nought is taken for granted",
        "acquisitions_assumed": "each 20 km block is taken for an acquisition of its own",
    }
    record = card_record()
    record = resealed(record, "notes", [*record["notes"], *({"code": c, "text": t} for c, t in said.items())])
    lines = markdown_card(record).splitlines()
    assert lines[2:5] == [f"assumed: {text}" for text in said.values()]
    draw_card(record, tmp_path / "card.png")
    assert "angle assumed, calibration assumed, acquisitions assumed" in (tmp_path / "card.svg").read_text()


def test_the_picture_of_a_card_is_drawn(tmp_path):
    draw_card(card_record(), tmp_path / "card.png")
    assert (tmp_path / "card.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "card.svg").read_text()
    assert "offset: 1.25 dB" in text
    assert "simulated, unvalidated" in text
    assert "synthetic" not in text


def test_words_of_ticks_do_not_run_into_one_another():
    assert _apart([0, 0.3, 0.5, 1, 2, 3], ["clean", "0.3", "0.5", "1", "2", "3"]) == ["clean", "", "0.5", "1", "2", "3"]
    assert _apart([0, 1], ["clean", "1"]) == ["clean", "1"]


def test_tables_have_columns_of_tolerances_and_pictures_of_cards():
    record = card_record()
    row = Row(label="one", dataset="EuroSAT", records=(record,))
    values = {
        name: COLUMNS[name].value(row)
        for name in (
            "tolerance:offset",
            "tolerance:speckle",
            "tolerance:swapped",
            "area:offset",
            "beyond_null:speckle",
            "flips:offset",
        )
    }
    assert list(values.values()) == [1.25, "> 3.4", None, 0.9, 0.05, 0.1]
    assert heading("tolerance:noise_denoised")[0] == "tolerates noise denoised"
    plain = Row(label="none", dataset="EuroSAT", records=(make_record(),))
    assert COLUMNS["tolerance:offset"].value(plain) is None
    table = Table(name="t", title="t", protocol="", expect="", columns=(), rows=(row,), planned_runs=1, measured_runs=1)
    assert f"card-{record['run_id']}.png" in available(table).values()
    with pytest.raises(BenchError, match=r"unknown column 'tolerance:speckel'.*tolerance:speckle"):
        check_layout(Layout(columns=("oa", "tolerance:speckel"), curves=()), __import__("pathlib").Path("x.toml"))


CARDS = """
title = "Cards"
module = "linear"
protocol = "stress_knn"
[common]
dataset = "eurosat"
probe = "knn"
model = "backscatter_stats"
weights = "random"
[stress]
draws = 2
[layout]
columns = ["run", "oa", "tolerance:offset"]
curves = []
[[runs]]
label = "one"
stress = { stress = ["offset", "speckle"], rungs = 2, null = false, train_stress = ["offset:1"] }
protocol = "stress_augmented_knn"
[[runs]]
label = "two"
"""


def test_suites_start_the_stress_command_with_what_the_file_says(tmp_path):
    path = tmp_path / "cards.toml"
    path.write_text(CARDS)
    one, two = (" ".join(argv(command, "python")) for command in expand([load_experiment(path)]))
    assert one.startswith("python -m fgmae_bench.stress --dataset eurosat --probe knn")
    end = "--entry linear --draws 2 --stress offset speckle --rungs 2 --no_null --train_stress offset:1"
    assert one.endswith(end)
    assert two.endswith("--entry linear --draws 2")


def test_a_card_fills_the_row_that_asks_for_it_and_no_other(tmp_path):
    path = tmp_path / "cards.toml"
    text = CARDS.replace("draws = 2", "draws = 3").replace('model = "backscatter_stats"\nweights = "random"', "")
    text = text.replace('probe = "knn"\n', "").replace("knn", "linear_probe")
    path.write_text(text + "flags = { batch_size = 16 }\nnproc_per_node = 2\n")
    experiment = load_experiment(path)
    record = resealed(card_record(), "protocol", "stress_linear_probe")
    assert [matches(experiment, run, record) for run in experiment.runs] == [False, True]
    facts = {**record["config"]["facts"], "stress": as_plain(stress_options({"draws": 5}))}
    assert not matches(experiment, experiment.runs[1], resealed(record, "config", "facts", facts))
    store_all([record], tmp_path)
    shelf = Shelf(tmp_path)
    shelf.refresh()
    assert shelf.broken == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[stress]\ndraws = 2\n", "", "a card has"),
        ('protocol = "stress_knn"', 'protocol = "knn"', "a card has"),
        ("draws = 2", "drawz = 2", "unknown key 'drawz'"),
        ("draws = 2", "draws = 0", "--draws 0"),
        ("rungs = 2", "severities = [1.0]", "without one --stress"),
        ('"speckle"]', '"speckel"]', "unknown stress 'speckel'"),
    ],
)
def test_files_with_mistakes_of_cards_are_refused(tmp_path, old, new, words):
    path = tmp_path / "cards.toml"
    assert old in CARDS
    text = CARDS.replace(old, new)
    if old.startswith("[stress]"):  # the second row is left without any
        text = text.replace('stress = { stress = ["offset"', '# { stress = ["offset"')
    path.write_text(text)
    with pytest.raises(BenchError, match=words):
        load_experiment(path)


def test_p_of_a_difference_is_that_of_t_over_the_resamples():
    drawn = np.random.default_rng(0).normal(0.1, 0.05, 1000)
    error = drawn.std(ddof=1) * np.sqrt(11 / 10)
    assert p_of(0.1, drawn, 11) == pytest.approx(2 * stats.t.sf(0.1 / error, 10))
    assert p_of(0.1, drawn, 4) is None
    assert p_of(0.0, np.zeros(1000), 11) is None


def region_records():
    """Two models: inside .8, outside .6 and .7, and .7 and .68."""
    records = []
    for seed, scores in ((1, (0.8, 0.6, 0.7)), (2, (0.7, 0.7, 0.66))):
        for i, (split, oa) in enumerate(zip(("leaky", "leave_out@Ghana", "leave_out@Spain"), scores, strict=True)):
            values = {"split": split, "seed": seed, "split_seed": i, "test": {"oa": oa}}
            records.append(make_record(protocol="knn", probe="knn", **values))
            weights = records[-1]["model"]["weights"] | {"source": "random", "sha256": None}
            records[-1] = resealed(records[-1], "model", "weights", weights)
    card = resealed(card_record(probe="knn", seed=1, split="leaky"), "model", "weights", weights)
    return [*records, card]


def test_models_are_points_of_what_they_lose_elsewhere_and_keep_under_stress(tmp_path):
    one, two = sorted(regions.points_of(region_records(), "leaky", "leave_out", "offset"), key=lambda p: p.inside)
    assert (two.drop, two.area) == (pytest.approx(0.15), 0.9)
    assert (one.drop, one.area) == (pytest.approx(0.02), None)
    store_all(region_records(), tmp_path)
    flags = ["--results_dir", str(tmp_path), "--stress", "offset", "--out", str(tmp_path / "points.png")]
    text = regions.main(flags)
    assert "no correlation of ranks below 8" in text
    assert text.index("+0.150") < text.index("+0.020")
    assert (tmp_path / "points.png").exists()
    with pytest.raises(BenchError, match="unknown stress"):
        regions.main(["--stress", "ofset"])
    with pytest.raises(BenchError, match="no model has records"):
        regions.main(["--results_dir", str(tmp_path), "--reference", "official"])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("place", [("protocol",), ("dataset", "split")])
def test_cards_of_heads_fitted_on_stressed_views_or_of_other_splits_are_not_those_of_the_points(place, first):
    *plain, card = region_records()
    other = resealed(card, *place, "stress_augmented_knn" if place == ("protocol",) else "country")
    tolerance = {**card["metrics"]["tolerance"], "offset": found(1.0, None, [1, 2, 3], area=0.1)}
    other = resealed(other, "metrics", "tolerance", tolerance)
    cards = [other, card] if first else [card, other]
    points = regions.points_of([*plain, *cards], "leaky", "leave_out", "offset")
    assert {point.area for point in points} == {0.9, None}
    points = regions.points_of([*plain, other], "leaky", "leave_out", "offset")
    assert {point.area for point in points} == {None}


def test_areas_of_points_are_over_the_same_severities():
    """Of two cards of a model the first by its file was taken, whatever the severities of the others' were."""
    *plain, card = region_records()
    other = resealed(plain[-1], "protocol", "knn")
    second = resealed(card, "config", "recipe", other["config"]["recipe"])
    longer = [
        *levels("offset", (1, 2, 3, 4), (0.79, 0.7, 0.6, 0.5)),
        *(i for i in card["stress"] if i["name"] != "offset"),
    ]
    wide = resealed(
        resealed(card, "stress", longer), "metrics", "tolerance", {"offset": found(1.0, None, [1, 2, 3, 4], area=0.1)}
    )
    for order in ([wide, card, second], [card, second, wide]):
        areas = {point.area for point in regions.points_of([*plain, *order], "leaky", "leave_out", "offset")}
        assert areas == {0.9}


def test_a_model_of_segmentation_is_a_point_by_its_mean_iou():
    found = []
    for i, (split, miou) in enumerate((("leaky", 0.5), ("leave_out@Ghana", 0.3))):
        test = {"oa": 0.9, "miou": miou}
        found.append(make_record(protocol="knn", probe="knn", split=split, split_seed=i, test=test))
    (point,) = regions.points_of(found, "leaky", "leave_out", "offset")
    assert (point.metric, point.drop) == ("miou", pytest.approx(0.2))


def test_ranks_of_eight_models_have_a_ceiling():
    random = np.random.default_rng(0)
    truth = np.arange(8.0)
    scores = truth + random.normal(0, 1.5, (10, 8))
    agreed = rank_against(truth, scores)
    assert agreed.tau == pytest.approx(stats.kendalltau(truth, scores.mean(0)).statistic)
    assert agreed.low <= agreed.tau <= agreed.high
    halves = kendall_tau_b(scores[:5].mean(0), scores[5:].mean(0))
    assert abs(agreed.ceiling - halves) < 0.5
    assert agreed.ceiling < 1
    same = dataclasses.astuple(rank_against(truth, np.tile(truth, (10, 1))))
    assert same == (1.0, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="from 8 on"):
        rank_against(truth[:7], scores[:, :7])
