"""What a comparison, a published pair and an interval over seeds come to, by hand."""

import sys

import numpy as np
import pytest
from make_records import make_record
from test_report_compare import IDS, TARGETS, K, N, put

from fgmae_bench.config.cards import load_card
from fgmae_bench.report import __main__ as entry
from fgmae_bench.report import compare
from fgmae_bench.report.columns import COLUMNS, memory_gib
from fgmae_bench.report.predictions import Predictions
from fgmae_bench.report.published import Published, impossible_pair
from fgmae_bench.report.row import Bounds, Row


def wrong_at(places):
    """Logits that are right but at some samples."""
    said = TARGETS.copy()
    said[places] = (said[places] + 1) % K
    return np.eye(K, dtype=np.float32)[said]


@pytest.mark.parametrize(
    ("first", "second", "p", "stars"),
    [
        (5, 12, "0.0963", ""),
        (4, 12, "0.0490", "*"),
        (3, 13, "0.0127", "*"),
        (2, 12, "0.0074", "**"),
        (1, 12, "0.0018", "**"),
        (0, 12, "0.0002", "***"),
    ],
)
def test_stars_of_mcnemars_test_are_given_at_5_1_and_a_tenth_of_a_percent(
    first, second, p, stars, tmp_path, monkeypatch, capsys
):
    """p from the binomial distribution: twice the tail of the smaller count less the count's own probability."""
    records = [
        put(tmp_path, make_record(seed=i), {"logits": wrong_at(places), "targets": TARGETS})
        for i, places in enumerate((np.arange(first), N - 1 - np.arange(second)))
    ]
    names = [record["run_id"] for record in records]
    flags = ["--metric", "oa", "--results_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["report", "compare", *names, *flags])
    assert entry.main() in (0, None)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(names[1]))
    assert line.split().count(p) == 2  # as it is and, of one cell, after Holm
    assert [word for word in line.split() if set(word) == {"*"}] == [stars][: bool(stars)]


def compared(root, places, count=N):
    """OA of two runs on the first `count` samples, wrong at places of each."""
    records = [
        put(root, make_record(seed=i), {"logits": wrong_at(each)[:count], "targets": TARGETS[:count]}, IDS[:count])
        for i, each in enumerate(places)
    ]
    cells, _, _ = compare.compare([compare.find_run(record["run_id"], root) for record in records], ["oa"])
    return cells[0]


def test_fewer_than_five_samples_have_no_test(tmp_path):
    cell = compared(tmp_path, ([], np.arange(4)), 4)
    assert (cell.difference.p, cell.difference.low) == (None, None)
    assert cell.test == "withheld: fewer than 5 groups or samples"


def test_mcnemar_needs_no_spread(tmp_path):
    cell = compared(tmp_path, ([], np.arange(8)), 8)  # all right against all wrong: 2 / 2^8 less half of it twice
    assert (cell.test, cell.difference.low) == (compare.MCNEMAR, None)
    assert cell.difference.p == pytest.approx(2 * 0.5**8 - 0.5**8)


def test_predictions_in_another_order_take_everything_along():
    order = np.random.default_rng(0).permutation(N)
    groups = tuple(f"tile {i // 7}" for i in range(N))
    scores = np.random.default_rng(1).normal(size=(N, K))
    found = Predictions(
        kind="single_label", ids=tuple(IDS), groups=groups, classes=("a", "b", "c"), scores=scores, targets=TARGETS
    ).in_order_of(tuple(IDS[i] for i in order))
    assert found.ids == tuple(IDS[i] for i in order)
    assert found.groups == tuple(groups[i] for i in order)
    np.testing.assert_array_equal(found.scores, scores[order])
    np.testing.assert_array_equal(found.targets, TARGETS[order])


@pytest.mark.parametrize(("beyond", "possible"), [(-0.01, True), (0.0005, True), (0.0015, False), (0.01, False)])
def test_a_pair_is_impossible_from_the_bound_and_a_rounding_on(beyond, possible):
    card = load_card("eurosat")
    counts = list(card.counts.per_class.values())
    bound = sum(max(0.0, count / sum(counts) - 1 / len(counts)) for count in counts)  # all its weight on large classes
    published = Published(
        table="eurosat_linear",
        source="s",
        dataset=card.title,
        protocol="linear_probe",
        metrics=(("oa", 0.5 + bound + beyond), ("aa", 0.5)),
        definition="whole",
        remark="",
    )
    found = impossible_pair(published)
    assert found is None if possible else found == pytest.approx(bound)


def test_memory_is_in_gib_and_the_devices_where_there_is_one():
    timing = {"peak_device_memory_bytes": None, "peak_anonymous_memory_bytes": 3 * 2**30}
    assert memory_gib({"timing": timing}) == 3
    assert memory_gib({"timing": {**timing, "peak_device_memory_bytes": 2**29}}) == 0.5
    assert memory_gib({"timing": dict.fromkeys(timing)}) is None


def test_an_interval_over_seeds_has_the_means_of_their_bounds():
    records = tuple({"metrics": {"intervals": {"test": {"oa": pair}}}} for pair in ([0.2, 0.5], [0.3, 0.7], [0.4, 0.9]))
    found = COLUMNS["oa_interval"].value(Row(label="", dataset="", records=records))
    assert isinstance(found, Bounds)
    assert (found.low, found.high) == pytest.approx((0.3, 0.7))
    missing = (*records, {"metrics": {"intervals": None}})
    assert COLUMNS["oa_interval"].value(Row(label="", dataset="", records=missing)) is None
