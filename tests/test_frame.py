"""`fgmae_bench.results()`: what the frame holds is what the JSON holds, also after parquet and any selection."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import REPOSITORY
from make_records import make_record, resealed, store_all

import fgmae_bench
from fgmae_bench.errors import BenchError
from fgmae_bench.frame import COLUMNS, FRAME_VERSION, STAMP
from fgmae_bench.records import record_path
from fgmae_bench.runs.folder import write_predictions, write_scored


def some_records():
    """Two datasets and protocols, seeds, with intervals, a best epoch, a stress and null scores."""
    bounds = {"over": "groups", "units": 9, "method": "jackknife", "test": {"oa": [0.7, 0.9], "aa": None}}
    first = [make_record(seed=seed, lr=0.01 * seed, test={"oa": 0.5 + 0.1 * seed}) for seed in (1, 2)]
    knn = make_record(dataset="dfc2020", protocol="knn", notes=(("test_is_val", "a"), ("few_groups", "b")))
    stressed = resealed(
        make_record(seed=7, test={"kappa": None}), "stress", [stress(0.5, [-0.2, 0.1]), stress(1, None)]
    )
    best = resealed(make_record(seed=8), "metrics", "best", {"epoch": 3, "oa": 0.83, "loss": 0.5})
    return [*first, knn, stressed, resealed(best, "metrics", "intervals", bounds)]


def stress(severity, interval):
    scores = {"oa": 0.8 - severity / 10, "change": -severity / 10, "change_interval": interval}
    return {"name": "offset", "severity": severity, "unit": "dB", "metrics": scores}


@pytest.fixture
def stored(tmp_path):
    store_all(some_records(), tmp_path / "results")
    return tmp_path / "results"


def by_hand(folder):
    paths = sorted((folder / "records").rglob("*.json"))
    return {json.loads(path.read_text())["run_id"]: json.loads(path.read_text()) for path in paths}


def test_each_row_holds_what_its_json_holds(stored):
    frame, raw = fgmae_bench.results(stored), by_hand(stored)
    assert frame["run_id"].tolist() == list(raw)
    for row in frame.to_dict("records"):
        record = raw[row["run_id"]]
        assert (row["dataset"], row["protocol"]) == (record["dataset"]["name"], record["protocol"])
        assert (row["lr"], row["seed"]) == (record["config"]["recipe"]["lr"], record["config"]["recipe"]["seed"])
        assert row["input_size"] == "224"
        assert row["notes"].split() == [note["code"] for note in record["notes"]]
        assert row["created"] == pd.Timestamp("2025-01-01", tz="UTC")
        for name, value in record["metrics"]["test"].items():
            if name != "epoch":
                held = row[f"test_{name}"]
                assert pd.isna(held) if value is None else held == value
    (last,) = frame.dropna(subset=["test_oa_low"]).to_dict("records")
    assert (last["test_oa_low"], last["test_oa_high"], last["val_oa"], last["best_epoch"]) == (0.7, 0.9, 0.83, 3)
    assert frame["stresses"].sum() == 2


def test_types_are_those_of_the_table_with_and_without_rows(stored, tmp_path):
    (tmp_path / "empty").mkdir()
    for frame in (fgmae_bench.results(stored), fgmae_bench.results(tmp_path / "empty")):
        assert {name: str(frame[name].dtype) for name in COLUMNS} == {name: kind for name, (kind, _) in COLUMNS.items()}
        assert str(frame["epochs"].dtype) == "Int64"
        assert str(frame["lr"].dtype) == "Float64"
        assert str(frame["freeze_backbone"].dtype) == "boolean"
        assert str(frame["submitted_at"].dtype) == "datetime64[ns, UTC]"


def test_filters_take_a_value_or_several_and_name_the_columns_there_are(stored):
    assert len(fgmae_bench.results(stored, protocol="knn")) == 1
    assert len(fgmae_bench.results(stored, dataset=["eurosat", "dfc2020"], seed=(1, 2))) == 2
    with pytest.raises(BenchError, match="unknown column 'protocl'; did you mean 'protocol'"):
        fgmae_bench.results(stored, protocl="knn")
    with pytest.raises(BenchError, match="is not a folder"):
        fgmae_bench.results(stored / "nowhere")


def test_filters_compare_as_the_column_does(stored):
    every = fgmae_bench.results(stored)
    for texts, values in (({"lr": "0.01"}, {"lr": 0.01}), ({"seed": ["1", "2"]}, {"seed": [1, 2]})):
        found = fgmae_bench.results(stored, **texts)
        assert found["run_id"].tolist() == fgmae_bench.results(stored, **values)["run_id"].tolist()
        assert len(found)
    assert len(fgmae_bench.results(stored, input_size=224)) == len(every)
    assert len(fgmae_bench.results(stored, has_predictions="false")) == len(every)
    assert len(fgmae_bench.results(stored, created="2025-01-01")) == len(every)
    assert len(fgmae_bench.results(stored, seed=[None, "1"])) == 1


@pytest.mark.parametrize(
    "filters",
    [{"lr": "fast"}, {"seed": ["1", "one"]}, {"has_predictions": "maybe"}, {"created": "soon"}, {"has_predictions": 7}],
    ids=["lr", "seed", "truth", "time", "number"],
)
def test_a_filter_that_no_row_can_have_is_refused(stored, filters):
    with pytest.raises(BenchError, match="is not a value of a column of") as error:
        fgmae_bench.results(stored, **filters)
    assert "\n" not in str(error.value)


def test_curves_and_stresses_of_any_selection_are_those_of_its_records(stored):
    frame, raw = fgmae_bench.results(stored), by_hand(stored)
    chosen = frame[frame["seed"] < 3].sort_values("seed", ascending=False)
    curves = chosen.curves()
    assert list(dict.fromkeys(curves["run_id"])) == chosen["run_id"].tolist()
    for run_id, rows in curves.groupby("run_id"):
        history = raw[run_id]["history"]
        assert rows["epoch"].tolist() == [entry["epoch"] for entry in history]
        assert rows["val_oa"].tolist() == [entry["val"]["oa"] for entry in history]
        assert rows["train_loss"].tolist() == [entry["train_loss"] for entry in history]
    stressed = frame.stress()
    assert stressed[["name", "severity", "unit", "oa"]].values.tolist() == [
        ["offset", 0.5, "dB", 0.75],
        ["offset", 1.0, "dB", 0.7000000000000001],
    ]
    assert stressed["change_low"].tolist()[0] == -0.2
    assert np.isnan(stressed["change_low"].tolist()[1])
    assert list(frame[:0].curves()) == ["run_id", "epoch"]
    assert list(frame[frame["seed"] == 1].stress()) == ["run_id", "name", "severity", "unit"]


def with_file(record, folder, write):
    """The record of the predictions that `write` puts at a path."""
    from fgmae_bench.hub.checksums import sha256_of

    path = folder / "predictions" / f"{record['run_id']}.safetensors"
    write(path)
    ids = json.dumps(["a", "b", "c"])
    from make_records import sha

    record = resealed(record, "dataset", "sample_ids_sha256", "test", sha("\n".join(json.loads(ids))))
    return resealed(record, "predictions", {"sha256": sha256_of(path), "file": f"predictions/{path.name}"})


def test_predictions_are_a_row_a_sample(tmp_path):
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [np.nan, -1.0]], np.float32)
    confusion = np.array([[[3, 1], [0, 0]], [[0, 0], [0, 0]], [[1, 0], [2, 5]]])
    ids, classes, groups = ["a", "b", "c"], ("Land", "Water"), ["x", "x", "y"]
    hot = np.array([[1, 0], [1, 1], [0, 0]], np.uint8)
    single, multi, pixels, number = (make_record(seed=seed) for seed in (1, 2, 3, 4))
    records = [
        with_file(single, tmp_path, lambda p: write_predictions(p, logits, np.array([0, 0, 1]), ids, classes, groups)),
        with_file(multi, tmp_path, lambda p: write_predictions(p, logits, hot, ids, classes)),
        with_file(pixels, tmp_path, lambda p: write_scored(p, {"confusion": confusion}, ids, classes, groups)),
        with_file(
            number,
            tmp_path,
            lambda p: write_predictions(p, logits[:, 1:], np.array([[0.5], [1.5], [2.5]]), ids, ("height",)),
        ),
        make_record(seed=5),
    ]
    store_all(records, tmp_path)
    frame = fgmae_bench.results(tmp_path).sort_values("seed")
    one, two, three, four = (frame[frame["seed"] == seed].predictions() for seed in (1, 2, 3, 4))
    assert one[["id", "group", "target", "predicted"]].values.tolist() == [
        ["a", "x", "Land", "Land"],
        ["b", "x", "Land", "Water"],
        ["c", "y", "Water", "Water"],
    ]
    assert one["logit_Land"].tolist()[:2] == [2.0, 0.0]
    assert two["target_Water"].tolist() == [False, True, False]
    assert three["pixels"].tolist() == [4, 0, 8]
    assert three["oa"].tolist()[::2] == [3 / 4, 6 / 8]
    assert np.isnan(three["oa"].tolist()[1])
    assert four[["target", "predicted"]].values.tolist() == [[0.5, 1.0], [1.5, 3.0], [2.5, -1.0]]
    assert len(frame.predictions()) == 12
    (tmp_path / "predictions" / f"{single['run_id']}.safetensors").write_bytes(b"other")
    with pytest.raises(BenchError, match="sha256 differs"):
        frame.predictions()


def test_parquet_and_back_is_the_same_frame(stored, tmp_path):
    frame = fgmae_bench.results(stored)
    back = fgmae_bench.results(frame.export(tmp_path / "runs.parquet"))
    pd.testing.assert_frame_equal(pd.DataFrame(frame), pd.DataFrame(back))
    pd.testing.assert_frame_equal(frame.curves(), back.curves())
    assert len(fgmae_bench.results(tmp_path / "runs.parquet", protocol="knn")) == 1


@pytest.mark.parametrize("version", [b"0", b"2", b"\xff"], ids=["older", "newer", "damaged"])
def test_a_frame_of_another_version_is_refused(stored, tmp_path, version):
    path = fgmae_bench.results(stored).export(tmp_path / "runs.parquet")
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, STAMP: version}), path)
    with pytest.raises(BenchError, match=f"a frame of version .*, this one reads {FRAME_VERSION}; export it again"):
        fgmae_bench.results(path)


def test_other_files_are_no_frame(tmp_path):
    pq.write_table(pa.table({"run_id": ["a"]}), tmp_path / "strange.parquet")
    (tmp_path / "text.parquet").write_text("run_id,oa\n")
    for name, words in (("strange", "not an exported frame"), ("text", "no parquet file"), ("gone", "no parquet file")):
        with pytest.raises(BenchError, match=words):
            fgmae_bench.results(tmp_path / f"{name}.parquet")


def test_a_record_that_has_changed_or_is_gone_is_said(stored):
    frame = fgmae_bench.results(stored)
    path = record_path(stored, some_records()[0])
    path.write_text(json.dumps(resealed(some_records()[0], "metrics", "test", "oa", 0.99)))
    with pytest.raises(BenchError, match="another record than this row's"):
        frame.curves()
    with pytest.raises(BenchError, match="needs the column 'path'"):
        frame[["run_id", "sha256"]].curves()
    path.unlink()
    with pytest.raises(BenchError, match="not a readable record"):
        frame.curves()
    assert len(frame[frame["seed"] == 2].curves()) == 3


def test_a_broken_record_is_said_and_left_out(stored, caplog):
    path = record_path(stored, some_records()[0])
    path.write_text(path.read_text().replace('"status": "done"', '"status": "diverged"'))
    assert len(fgmae_bench.results(stored)) == 4
    assert "sha256 does not match the body" in caplog.text


def test_of_one_run_in_several_folders_the_first_counts_and_others_say_whose_they_are(stored, tmp_path):
    own = some_records()[0]
    other, foreign = resealed(own, "metrics", "test", "oa", 0.11), make_record(seed=99)
    store_all([other, foreign], tmp_path / "pulled")
    (tmp_path / "pulled" / "provenance").mkdir()
    said = {"submitted_by": "Ada", "submitted_commit": "c" * 40, "submitted_at": "2026-01-02T03:04:05Z"}
    said["sha256"] = foreign["sha256"]
    (tmp_path / "pulled" / "provenance" / f"{foreign['run_id']}.json").write_text(json.dumps(said))
    frame = fgmae_bench.results(stored, pulled=[tmp_path / "pulled"])
    assert len(frame) == 6
    assert frame.set_index("run_id")["test_oa"][own["run_id"]] == own["metrics"]["test"]["oa"]
    (row,) = frame[frame["submitted_by"].notna()].to_dict("records")
    assert (row["run_id"], row["submitted_by"]) == (foreign["run_id"], "Ada")
    assert row["submitted_at"] == pd.Timestamp("2026-01-02T03:04:05Z")


def test_the_frame_needs_no_torch():
    code = "import sys, fgmae_bench; fgmae_bench.results('results'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("name", ["runs.csv", "runs", "runs.PARQUET"])
def test_an_export_that_could_not_be_read_back_is_refused(stored, name, tmp_path):
    with pytest.raises(BenchError, match=r"give a name that ends in \.parquet"):
        fgmae_bench.results(stored).export(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_one_pulled_folder_may_be_a_text_and_none_is_passed_over(stored, tmp_path):
    (tmp_path / "own" / "records").mkdir(parents=True)
    wanted = fgmae_bench.results(tmp_path / "own", pulled=[stored])
    for one in (stored, str(stored)):
        pd.testing.assert_frame_equal(fgmae_bench.results(tmp_path / "own", pulled=one), wanted)
    path = fgmae_bench.results(stored).export(tmp_path / "runs.parquet")
    with pytest.raises(BenchError, match="is a file among pulled folders"):
        fgmae_bench.results(path, pulled=[stored])


def test_none_is_a_filter_for_missing_values(stored):
    every = fgmae_bench.results(stored)
    column = next(name for name in every if 0 < every[name].isna().sum() < len(every))
    assert len(fgmae_bench.results(stored, **{column: None})) == every[column].isna().sum()
    known = every[column].dropna().iloc[0]
    both = fgmae_bench.results(stored, **{column: [None, known]})
    assert len(both) == every[column].isna().sum() + (every[column] == known).sum()


def test_columns_that_parquet_cannot_hold_are_one_line(stored, tmp_path):
    every = fgmae_bench.results(stored)
    with pytest.raises(BenchError, match="columns that parquet cannot hold"):
        every.assign(mine=[object()] * len(every)).export(tmp_path / "x.parquet")
    assert not list(tmp_path.glob("*.parquet"))
