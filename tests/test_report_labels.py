"""Tables of few labels, rows that val selects, penalty paths and calibration, from records and stored predictions."""

import dataclasses
import json

import numpy as np
import pytest
from commands import call
from make_records import make_record, resealed, sha, store_all
from scipy.stats import t as student

from fgmae_bench.config.experiments import load_experiment
from fgmae_bench.errors import BenchError
from fgmae_bench.hub.checksums import sha256_of
from fgmae_bench.metrics.calibration import calibration, pixel_confidence, softmax
from fgmae_bench.metrics.label_curves import area_on_log
from fgmae_bench.report import confidence_pictures, pictures
from fgmae_bench.report.calibration import with_calibration
from fgmae_bench.report.columns import CALIBRATION, COLUMNS
from fgmae_bench.report.row import Spread
from fgmae_bench.report.table import build, groups
from fgmae_bench.runs.folder import ordered, write_predictions

EXPERIMENT = """
title = "few labels"
module = "linear"
protocol = "linear_probe"
[common]
dataset = "eurosat"
split = "reference"
batch_size = [16, 256]
lr = [0.1, 0.2, 0.3, 0.01, 1.0]
weight_decay = [0.001, 0.0]
[layout]
columns = ["dataset", "run", "shots", "labels", "seeds", "oa", "draws_interval", "label_area", "candidates", "ece", "remarks"]
curves = []
[[runs]]
label = "small"
nproc_per_node = 2
flags = {{ model = "vit_small_patch16"{small} }}
[[runs]]
label = "base"
nproc_per_node = 2
flags = {{ model = "vit_base_patch16"{base} }}
"""


def changed(record, **places):
    """A record with values set at dotted key paths, under a run id of its own."""
    body = record
    for path, value in places.items():
        body = resealed(body, *path.split("__"), value)
    return resealed(body, "run_id", body["run_id"][:-10] + body["sha256"][:10])


def few(shots, draw, oa, seed=42, model="vit_small_patch16", pool="pool"):
    record = make_record(seed=seed, model=model, test={"oa": oa})
    return changed(
        record,
        config__data__shots=shots,
        config__data__draw=draw,
        config__facts__few_labels={"pool": sha(pool)},
        dataset__sample_ids_sha256__train=sha(f"{shots} {draw} {seed}"),
        dataset__n_train=10 * shots,
    )


def table(tmp_path, records, small="", base=""):
    path = tmp_path / "few.toml"
    path.write_text(EXPERIMENT.format(small=small, base=base))
    return build(load_experiment(path), records, [[], []])


def shown(row, name):
    return COLUMNS[name].value(row)


SCORES = {1: (0.4, 0.5, 0.45), 5: (0.6, 0.66, 0.6), 20: (0.7, 0.72, 0.77)}


def drawn(model="vit_small_patch16", plus=0.0):
    return [few(k, d, oa + plus, model=model) for k, values in SCORES.items() for d, oa in enumerate(values)]


def test_draws_share_a_row_and_sizes_have_rows_of_their_own_in_order(tmp_path):
    found = table(tmp_path, drawn(), small=", shots = [1, 5, 20]")
    rows = [row for row in found.rows if row.records]
    assert [(row.label, shown(row, "shots"), shown(row, "labels"), shown(row, "seeds")) for row in rows] == [
        (f"small (shots {k})", k, 10 * k, "3 draws") for k in SCORES
    ]
    value = shown(rows[0], "oa")
    assert (value.mean, value.std) == (pytest.approx(0.45), pytest.approx(np.std(SCORES[1], ddof=1)))
    low, high = student.interval(0.95, 2, loc=0.45, scale=np.std(SCORES[1], ddof=1) / np.sqrt(3))
    bounds = shown(rows[0], "draws_interval")
    assert (bounds.low, bounds.high) == (pytest.approx(low), pytest.approx(high))


def test_the_area_is_that_of_each_draw_over_all_sizes(tmp_path):
    records = [*drawn(), few(1, 6, 0.9), few(5, 7, 0.9)]  # a draw that other sizes lack is of no curve
    found = table(tmp_path, records, small=", shots = [1, 5, 20]")
    expected = [area_on_log((10, 50, 200), [values[d] for values in SCORES.values()]) for d in range(3)]
    for row in (row for row in found.rows if row.records):
        area = shown(row, "label_area")
        assert isinstance(area, Spread)
        assert (area.mean, area.n) == (pytest.approx(np.mean(expected)), 3)
    one = table(tmp_path, drawn()[:3], small=", shots = 1")
    assert shown(one.rows[0], "label_area") is None


def test_curves_of_two_models_have_areas_of_their_own(tmp_path):
    records = [*drawn(), *drawn("vit_base_patch16", 0.1)]
    records = [changed(record, config__recipe__batch_size=256, config__recipe__lr=0.1) for record in records]
    found = table(tmp_path, records, small=", shots = [1, 5, 20]", base=", shots = [1, 5, 20]")
    areas = sorted({round(shown(row, "label_area").mean, 9) for row in found.rows if row.records})
    assert len(areas) == 2
    assert areas[1] - areas[0] == pytest.approx(0.1)


def test_few_labels_belong_to_rows_that_ask_for_them(tmp_path):
    assert not any(row.records for row in table(tmp_path, drawn()).rows)


def test_seeds_and_draws_are_pooled_and_other_pools_are_not():
    records = [few(5, d, 0.5, seed=s) for s in (1, 2) for d in (0, 1)]
    assert [len(group) for group in groups(records)] == [4]
    other = few(5, 0, 0.5, seed=1, pool="other")
    assert sorted(len(group) for group in groups([*records, other])) == [1, 4]
    assert sorted(len(group) for group in groups([*records, records[0]])) == [1] * 5  # a draw that comes twice


def test_fractions_drawn_by_run_seed_are_pooled_and_older_ones_stay_apart():
    new = [
        changed(
            make_record(train_frac=0.1, seed=seed),
            config__facts__few_labels={"pool": sha("pool")},
            dataset__sample_ids_sha256__train=sha(f"{seed}"),
        )
        for seed in (1, 2, 3)
    ]
    old = []
    for seed in (4, 5):
        record = json.loads(json.dumps(make_record(train_frac=0.1, seed=seed)))
        del record["config"]["data"]["draw"], record["config"]["data"]["shots"]
        old.append(resealed(record, "created", "2025-01-01T00:00:00Z"))
    assert sorted(len(group) for group in groups([*new, *old])) == [2, 3]


def test_records_before_there_were_shots_share_rows_with_those_since():
    old = json.loads(json.dumps(make_record(seed=1)))
    del old["config"]["data"]["draw"], old["config"]["data"]["shots"]
    old = resealed(old, "created", "2025-01-01T00:00:00Z")
    assert [len(group) for group in groups([old, make_record(seed=2)])] == [2]


def test_curves_over_shots_and_their_bands(tmp_path):
    found = table(tmp_path, drawn(), small=", shots = [1, 5, 20]")
    (points,) = pictures.few_label_lines(found, shots=True).values()
    assert [x for x, *_ in points] == [1, 5, 20]
    half = student.ppf(0.975, 2) * np.std(SCORES[5], ddof=1) / np.sqrt(3)
    assert points[1][1:] == (pytest.approx(np.mean(SCORES[5])), pytest.approx(half))
    assert pictures.few_label_lines(found) == {}
    assert pictures.available(found)["k-shot curves"] == "few-shots.png"
    pictures.draw(found, "k-shot curves", tmp_path / "few-shots.png")
    assert (tmp_path / "few-shots.svg").stat().st_size > 1000


# --- selected on val


def selecting(lr, val, test, seed=42, model="vit_small_patch16", decay=0.001, last=None):
    record = make_record(lr=lr, seed=seed, model=model, weight_decay=decay, batch_size=256, test={"oa": test})
    final = {**record["metrics"]["final"], "oa": val - 0.01 if last is None else last}
    return changed(
        record,
        dataset__n_val=100,
        dataset__eval_split="val",
        metrics__best={**final, "oa": val, "epoch": 3},
        metrics__final=final,
    )


def test_val_selects_a_row_of_a_grid_and_says_of_how_many(tmp_path):
    """The best on test is another one."""
    records = [selecting(lr, val, test) for lr, val, test in ((0.01, 0.6, 0.9), (0.1, 0.8, 0.7), (1.0, 0.7, 0.8))]
    rows = [row for row in table(tmp_path, records).rows if row.records]
    assert [row.label for row in rows][-1] == "small (lr 0.1), selected on val"
    assert (shown(rows[-1], "oa"), shown(rows[-1], "candidates")) == (0.7, 3)
    assert rows[-1].notes[0].text == "selected on val: the best of 3 settings by oa on val"
    assert [shown(row, "candidates") for row in rows[:-1]] == [None] * 3


def test_val_selects_by_the_epoch_that_was_kept_not_by_the_last(tmp_path):
    records = [selecting(0.1, 0.8, 0.7, last=0.3), selecting(0.3, 0.7, 0.6, last=0.69)]
    assert [row for row in table(tmp_path, records).rows if row.records][-1].label == "small (lr 0.1), selected on val"


def test_the_best_on_val_may_be_at_the_edge_and_ties_go_to_the_first(tmp_path):
    records = [selecting(lr, 0.8, test) for lr, test in ((0.01, 0.5), (0.1, 0.7), (1.0, 0.6))]
    row = table(tmp_path, records).rows[3]
    assert (row.label, shown(row, "oa")) == ("small (lr 0.01), selected on val", 0.5)
    assert row.notes[0].text.endswith("; lr 0.01 at the edge of the grid")


def test_selection_is_by_the_mean_over_seeds(tmp_path):
    records = [selecting(0.1, v, 0.6, seed=s) for s, v in ((1, 0.9), (2, 0.5))]
    records += [selecting(0.3, v, 0.7, seed=s) for s, v in ((1, 0.75), (2, 0.75))]
    row = table(tmp_path, records).rows[2]
    assert (row.label, shown(row, "oa").mean) == ("small (lr 0.3), selected on val", pytest.approx(0.7))


def test_nothing_is_selected_without_val_and_of_one_setting(tmp_path):
    records = [make_record(lr=lr, batch_size=256) for lr in (0.1, 0.2)]
    assert all(row.candidates is None for row in table(tmp_path, records).rows)
    assert all(row.candidates is None for row in table(tmp_path, [selecting(0.1, 0.5, 0.5)]).rows)


def test_unequal_budgets_are_noted_and_equal_ones_are_not(tmp_path):
    small = [selecting(lr, 0.5 + lr, 0.6) for lr in (0.1, 0.2, 0.3)]
    base = [selecting(lr, 0.5 + lr, 0.6, model="vit_base_patch16") for lr in (0.1, 0.2)]
    found = [row for row in table(tmp_path, [*small, *base]).rows if row.candidates]
    texts = [next(note.text for note in row.notes if note.code == "unequal_budgets") for row in found]
    assert texts == [
        "unequal budgets: chosen from 3 settings, where other rows were from 2",
        "unequal budgets: chosen from 2 settings, where other rows were from 3",
    ]
    one = [row for row in table(tmp_path, [*small, base[0]]).rows if row.candidates]
    assert any("where other rows were from 1" in note.text for note in one[0].notes)
    base.append(selecting(0.3, 0.1, 0.6, model="vit_base_patch16"))
    rows = table(tmp_path, [*small, *base]).rows
    assert all(note.code != "unequal_budgets" for row in rows for note in row.notes)


def test_a_selected_row_is_no_second_record(tmp_path):
    records = [selecting(lr, 0.5 + lr, 0.6) for lr in (0.1, 0.2)]
    found = table(tmp_path, records)
    assert len(found.records) == 2
    assert len(pictures.across([found])) == 2


# --- penalty paths

PATH = {"penalty": [0.1, 1.0, 10.0], "loss": [0.6, 0.5, 0.7], "error": [0.1, 0.1, 0.2], "units": 5, "chosen": 1.0}


def with_path(path):
    body = json.loads(json.dumps(make_record(batch_size=256)))
    body["selection"] = {"on": "folds", "budget": 3, "path": path}
    return resealed(body, "created", "2025-01-01T00:00:00Z")


def test_a_penalty_path_is_drawn_with_what_was_chosen(tmp_path):
    found = table(tmp_path, [with_path(PATH)])
    assert confidence_pictures.paths(found)[0][1:] == (PATH["penalty"], PATH["loss"], PATH["error"], 1.0)
    assert (shown(found.rows[0], "penalty"), shown(found.rows[0], "candidates")) == (1.0, 3)
    pictures.draw(found, "penalty paths", tmp_path / "few-penalty.png")
    assert (tmp_path / "few-penalty.png").exists()


@pytest.mark.parametrize(
    "path",
    [
        None,
        [],
        [1],
        {},
        PATH | {"loss": [1.0]},
        PATH | {"penalty": 3},
        PATH | {"error": ["x"] * 3},
        PATH | {"chosen": "x"},
    ],
    ids=["none", "empty", "list", "no_columns", "lengths", "number", "texts", "chosen"],
)
def test_a_path_of_another_kind_is_not_drawn(tmp_path, path):
    found = table(tmp_path, [with_path(path)])
    assert confidence_pictures.paths(found) == []
    assert "penalty paths" not in pictures.available(found)
    assert shown(found.rows[0], "penalty") in (None, 1.0)


# --- calibration from stored predictions


def stored(tmp_path, val=True, classes=3, n=400):
    """(record, logits, targets, val) of a run whose predictions are stored in `tmp_path`."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2, n, classes)).astype(np.float32)
    targets = np.array([[rng.choice(classes, p=p) for p in softmax(each / 2)] for each in logits])
    record = make_record(batch_size=256)
    path = tmp_path / "predictions" / f"{record['run_id']}.safetensors"
    held = (logits[1], targets[1]) if val else None
    write_predictions(path, logits[0], targets[0], [f"s{i}" for i in range(n)], tuple("abcdef"[:classes]), None, held)
    digest = sha("\n".join(f"s{i}" for i in range(n)))
    predictions = {"sha256": sha256_of(path), "file": f"predictions/{path.name}"}
    record = resealed(resealed(record, "predictions", predictions), "dataset", "sample_ids_sha256", "test", digest)
    return record, logits[0], targets[0], held


def test_calibration_is_derived_and_the_record_stays_as_it_is(tmp_path):
    record, logits, targets, val = stored(tmp_path)
    before = json.dumps(record)
    found = with_calibration(record, tmp_path)
    assert json.dumps(record) == before
    expected = calibration("single_label", logits, targets, val)
    assert found["calibration"] == expected
    row = table(tmp_path, [found]).rows[0]
    assert {name: shown(row, name) for name in CALIBRATION} == {name: expected[name] for name in CALIBRATION}
    assert expected["temperature"] == pytest.approx(2, abs=0.5)


def test_a_calibration_without_val_says_so(tmp_path):
    record = stored(tmp_path, val=False)[0]
    found = with_calibration(record, tmp_path)
    assert found["calibration"]["temperature"] is None
    (text,) = [note["text"] for note in found["notes"] if note["code"] == "no_val_calibration"]
    assert text.startswith("calibration without val: there is no val split")
    kept = with_calibration(resealed(record, "dataset", "n_val", 50), tmp_path)
    assert "the run kept no logits of val" in kept["notes"][-1]["text"]


def test_the_report_shows_calibration_when_asked(tmp_path):
    store_all([stored(tmp_path)[0]], tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "few.toml").write_text(EXPERIMENT.format(small="", base=""))
    flags = ("--results_dir", tmp_path, "--experiments", tmp_path / "experiments", "--formats", "csv", "md")
    assert call("report", *flags, cwd=tmp_path).code == 0
    assert not (tmp_path / "figures" / "few-reliability.png").exists()
    done = call("report", *flags, "--calibration", cwd=tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / "figures" / "few-reliability.png").exists()
    assert "reliability and selective risk" in (tmp_path / "tables" / "few.md").read_text()


def test_predictions_that_are_gone_are_said_and_the_row_stays(tmp_path):
    record = stored(tmp_path)[0]
    store_all([record], tmp_path)
    (tmp_path / "predictions" / f"{record['run_id']}.safetensors").unlink()
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "few.toml").write_text(EXPERIMENT.format(small="", base=""))
    flags = ("--results_dir", tmp_path, "--experiments", tmp_path / "experiments", "--formats", "csv")
    done = call("report", *flags, "--calibration", cwd=tmp_path)
    assert done.code == 1
    assert f"calibration of {record['run_id']}" in done.err


def rewritten(tmp_path, classes=("a", "b", "c"), **tensors):
    """The stored run with other tensors in its file, and its record of their hash."""
    from safetensors.numpy import load_file, save

    record, *_ = stored(tmp_path)
    path = tmp_path / "predictions" / f"{record['run_id']}.safetensors"
    held = load_file(path) | tensors
    ids = json.dumps([f"s{i}" for i in range(400)])
    path.write_bytes(ordered(save(held, {"ids": ids, "classes": json.dumps(classes)})))
    return resealed(record, "predictions", "sha256", sha256_of(path))


@pytest.mark.parametrize(
    "tensors",
    [
        {"val_logits": np.zeros((5, 2), np.float32), "val_targets": np.zeros(5, np.int64)},
        {"val_logits": np.zeros((5, 3), np.float32), "val_targets": np.zeros(4, np.int64)},
        {"val_logits": np.zeros((5, 3), np.float32), "val_targets": np.full(5, 7)},
        {"val_logits": np.zeros((5, 3), np.float32), "val_targets": np.zeros((5, 3), np.int64)},
        {"confidence": np.zeros((3, 60, 5))},
        {"confidence": np.full((400, 60, 5), np.nan)},
        {"confidence": np.tile([1.0, 2.0, 0, 0, 0], (400, 60, 1))},
    ],
    ids=["classes", "lengths", "targets", "kind", "images", "nan", "sums"],
)
def test_stored_numbers_that_no_run_gives_are_refused(tmp_path, tensors):
    with pytest.raises(BenchError, match="no predictions that can be read"):
        with_calibration(rewritten(tmp_path, **tensors), tmp_path)


def test_a_regression_states_no_confidence(tmp_path):
    numbers = {"logits": np.ones((400, 1), np.float32), "targets": np.linspace(0, 1, 400)[:, None]}
    held = {"val_logits": np.ones((5, 1), np.float32), "val_targets": np.linspace(0, 1, 5)[:, None]}
    record = rewritten(tmp_path, ("height",), **numbers, **held)
    assert with_calibration(record, tmp_path) is record


def test_pixels_are_calibrated_from_their_bins(tmp_path):
    from safetensors.numpy import save

    rng = np.random.default_rng(1)
    p = softmax(rng.normal(0, 1, (900, 3)))
    targets = rng.integers(0, 3, 900)
    kept = np.stack([pixel_confidence(p[i : i + 300], targets[i : i + 300]) for i in (0, 300, 600)])
    record = make_record(batch_size=256)
    path = tmp_path / "predictions" / f"{record['run_id']}.safetensors"
    path.parent.mkdir()
    names = {"ids": json.dumps(["a", "b", "c"]), "classes": json.dumps(["x", "y", "z"])}
    path.write_bytes(save({"confusion": np.ones((3, 3, 3), np.int64), "confidence": kept}, names))
    record = resealed(record, "predictions", {"sha256": sha256_of(path), "file": f"predictions/{path.name}"})
    record = resealed(record, "dataset", "sample_ids_sha256", "test", sha("a\nb\nc"))
    found = with_calibration(record, tmp_path)
    exact = calibration("single_label", np.log(p), targets)
    assert found["calibration"]["ece"] == pytest.approx(exact["ece"])
    assert all(note["code"] != "no_val_calibration" for note in found["notes"])
    path.write_bytes(save({"confusion": np.ones((3, 3, 3), np.int64)}, names))
    without = resealed(record, "predictions", "sha256", sha256_of(path))
    assert "calibration" not in with_calibration(without, tmp_path)


def test_a_run_without_predictions_has_no_calibration(tmp_path):
    record = make_record()
    assert with_calibration(record, tmp_path) is record
    row = dataclasses.replace(table(tmp_path, [make_record(batch_size=256)]).rows[0])
    assert shown(row, "ece") is None
