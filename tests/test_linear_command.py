"""`linear` as a user runs it: what it leaves, that its parts agree, which epoch is reported, and which data it says it
was.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import (
    REPOSITORY,
    TINY_VIT,
    call,
    codes,
    genuine,
    linear,
    listing,
    only_record,
    records,
    rewrite_all,
    shared_world,
    small_world,
)
from linear_runs import Run, bank, files, ids_of
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score, confusion_matrix, f1_score
from sklearn.model_selection import train_test_split

from fgmae_bench.records import body_sha256, problem_of

pytest_plugins = ("linear_runs",)


# --- what a run leaves


def test_a_run_leaves_exactly_what_the_interface_says(plain):
    found = {
        path for path, content in listing(plain.folder).items() if content is not None and not path.startswith("cache/")
    }
    id = plain.record["run_id"]
    (events,) = [path for path in found if path.startswith("log/events.out.tfevents.")]
    assert found == {
        events,
        "out/record.json",
        "out/log.jsonl",
        "out/config.toml",
        "out/checkpoint-last.pth",
        "out/predictions-test.safetensors",
        f"results/records/eurosat/linear_probe/{id}.json",
        f"results/predictions/{id}.safetensors",
    }


def test_a_split_with_val_leaves_the_best_head_as_well(selected):
    assert (selected.folder / "out" / "checkpoint-best.pth").exists()


def test_the_record_is_valid_and_the_same_in_both_places(plain):
    stored = plain.folder / "results" / "records" / "eurosat" / "linear_probe" / f"{plain.record['run_id']}.json"
    assert stored.read_bytes() == (plain.folder / "out" / "record.json").read_bytes()
    assert problem_of(plain.record) is None
    assert plain.record["sha256"] == body_sha256(plain.record)
    assert plain.record["run_id"].startswith("vit_tiny_patch16_224-published-")
    assert plain.record["status"] == "done"


def test_report_accepts_the_record_and_finds_an_edited_one(plain, tmp_path):
    shutil.copytree(plain.folder / "results", tmp_path / "results")
    assert call("report", "--results_dir", "results", "--validate", cwd=tmp_path).code == 0
    (path,) = (tmp_path / "results" / "records").rglob("*.json")
    path.write_text(path.read_text().replace('"n_test": 24', '"n_test": 25'))
    assert call("report", "--results_dir", "results", "--validate", cwd=tmp_path).code == 1


def test_the_log_holds_one_line_an_epoch_with_the_values_of_the_record(plain):
    lines = [json.loads(line) for line in (plain.folder / "out" / "log.jsonl").read_text().splitlines()]
    history = plain.record["history"]
    assert [line["epoch"] for line in lines] == [entry["epoch"] for entry in history] == [0, 1]
    for line, entry in zip(lines, history, strict=True):
        assert line == {key: value for key, value in entry.items() if key != "val"} | {
            f"val_{key}": value for key, value in entry["val"].items()
        }
        assert set(entry["val"]) == {"loss", "oa", "aa", "kappa", "f1_macro"}
    assert history[0]["val"] != history[1]["val"]


def test_tensorboard_reads_the_values_of_the_record(plain):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(plain.folder / "log"))
    events.Reload()
    history = plain.record["history"]
    named = {"lr": "lr", "train/loss": "train_loss", "seconds": "seconds", "images_per_second": "images_per_second"}
    assert set(events.Tags()["scalars"]) == {*named, *(f"val/{key}" for key in history[0]["val"])}
    for tag in events.Tags()["scalars"]:
        wanted = [entry["val"][tag[4:]] if tag.startswith("val/") else entry[named[tag]] for entry in history]
        assert [event.value for event in events.Scalars(tag)] == pytest.approx(wanted, rel=1e-6)
        assert [event.step for event in events.Scalars(tag)] == [0, 1]


def head_logits(head, features):
    """The head in float64 numpy: standardisation by running statistics (eps 1e-6), then a linear layer."""
    head = {name: np.asarray(tensor, np.float64) for name, tensor in head.items()}
    x = (features - head["running_mean"]) / np.sqrt(head["running_var"] + 1e-6)
    return x @ head["weight"].T + head["bias"]


def test_the_last_checkpoint_gives_the_test_logits(plain):
    checkpoint = torch.load(plain.folder / "out" / "checkpoint-last.pth", weights_only=True)
    features = bank(plain.folder)
    test = np.stack([features[id] for id in ids_of(plain.folder)]).astype(np.float64)
    assert head_logits(checkpoint["head"], test) == pytest.approx(plain.predictions["logits"], abs=1e-4)
    assert checkpoint["run_id"] == plain.record["run_id"]


def test_the_best_checkpoint_gives_the_test_logits_where_val_selects(selected):
    checkpoint = torch.load(selected.folder / "out" / "checkpoint-best.pth", weights_only=True)
    features = bank(selected.folder)
    test = np.stack([features[id] for id in ids_of(selected.folder)]).astype(np.float64)
    assert head_logits(checkpoint["head"], test) == pytest.approx(selected.predictions["logits"], abs=1e-4)


def test_predictions_stand_in_the_order_of_the_split_with_their_targets(plain):
    ids, labels = files(shared_world())
    rows = train_test_split(np.arange(len(ids)), train_size=0.8, stratify=labels, random_state=42)[1]
    stored = plain.folder / "results" / plain.record["predictions"]["file"]
    assert stored.read_bytes() == (plain.folder / "out" / "predictions-test.safetensors").read_bytes()
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == plain.record["predictions"]["sha256"]
    assert ids_of(plain.folder) == [ids[row] for row in rows]
    assert plain.predictions["targets"].tolist() == labels[rows].tolist()
    assert plain.predictions["logits"].dtype == np.float32
    assert plain.predictions["logits"].shape == (24, 10)
    assert plain.predictions["targets"].dtype == np.int64
    hashed = hashlib.sha256("\n".join(ids_of(plain.folder)).encode()).hexdigest()
    assert plain.record["dataset"]["sample_ids_sha256"]["test"] == hashed


@pytest.mark.parametrize("which", ["plain", "selected"])
def test_scores_of_the_predictions_are_scikit_learns(which, request):
    """The loss is torch's: scikit-learn's log_loss clips probabilities at the machine's epsilon."""
    run = request.getfixturevalue(which)
    targets, logits = run.predictions["targets"], run.predictions["logits"].astype(np.float64)
    predicted = logits.argmax(1)
    expected = {
        "loss": float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets))),
        "oa": accuracy_score(targets, predicted),
        "aa": balanced_accuracy_score(targets, predicted),
        "kappa": cohen_kappa_score(targets, predicted),
        "f1_macro": f1_score(targets, predicted, average="macro", labels=np.unique(targets), zero_division=0),
    }
    test = {name: value for name, value in run.record["metrics"]["test"].items() if name != "epoch"}
    assert test == pytest.approx(expected, abs=1e-6)
    assert run.record["metrics"]["confusion"] == confusion_matrix(targets, predicted, labels=range(10)).tolist()


# --- which epoch is reported


def test_without_val_nothing_is_selected(plain):
    record = plain.record
    assert "test_is_val" in codes(record)
    assert (record["dataset"]["n_val"], record["dataset"]["eval_split"]) == (0, "test")
    assert record["metrics"]["best"] is None
    assert record["metrics"]["final"] == record["history"][-1]["val"]
    assert record["metrics"]["test"] == pytest.approx(record["metrics"]["final"], abs=1e-6)


def test_with_val_the_best_epoch_is_tested_once_and_the_last_reported_on_val(selected):
    record = selected.record
    assert "test_is_val" not in codes(record)
    assert (record["dataset"]["n_train"], record["dataset"]["n_val"], record["dataset"]["n_test"]) == (72, 24, 24)
    assert record["dataset"]["eval_split"] == "val"
    best, history = record["metrics"]["best"], record["history"]
    assert best["oa"] == max(entry["val"]["oa"] for entry in history)
    assert {key: value for key, value in best.items() if key != "epoch"} == history[best["epoch"]]["val"]
    assert record["metrics"]["final"] == history[-1]["val"]
    assert sum(map(sum, record["metrics"]["confusion"])) == 24


def test_a_best_epoch_before_the_last_is_the_one_that_is_tested(tmp_path):
    """A rate that grows to nonsense: the first epochs are best, and the test scores are theirs, not the last epoch's."""
    flags = ("--split", "random_60_20_20", "--epochs", 8, "--warmup_epochs", 7, "--lr", 3000)
    record = Run(tmp_path, *flags, backbone=TINY_VIT).record
    best = record["metrics"]["best"]["epoch"]
    assert best < 7
    last = torch.load(tmp_path / "out" / "checkpoint-last.pth", weights_only=True)["head"]
    targets, logits = (
        load_file(tmp_path / "out" / "predictions-test.safetensors")[name] for name in ("targets", "logits")
    )
    features = bank(tmp_path)
    test = np.stack([features[id] for id in ids_of(tmp_path)]).astype(np.float64)
    assert not np.allclose(head_logits(last, test), logits, atol=1e-2)
    assert record["metrics"]["test"]["oa"] == accuracy_score(targets, logits.argmax(1))


def test_a_loss_that_becomes_infinite_is_recorded_as_diverged(tmp_path):
    done = linear(shared_world(5), "--lr", "1e38", "--epochs", 4, cwd=tmp_path)
    record = only_record(tmp_path / "results")
    assert (done.code, done.out) == (1, f"{record['run_id']}  diverged: no scores  [synthetic data]\n")
    assert done.err.endswith(f"error: {record['run_id']}: the loss became non-finite in epoch 0; give a smaller --lr\n")
    assert record["status"] == "diverged"
    assert "diverged" in codes(record)
    assert problem_of(record) is None
    again = linear(shared_world(5), "--lr", "1e38", "--epochs", 4, cwd=tmp_path)
    assert again.code == 0
    assert f"{record['run_id']} is recorded already as diverged: nothing to do" in again.err


def test_a_grid_with_a_rate_that_diverges_tells_the_scores_of_the_others(tmp_path):
    done = linear(shared_world(5), "--lr", 0.1, "1e38", "--epochs", 4, cwd=tmp_path)
    good, bad = sorted(records(tmp_path / "results"), key=lambda record: record["config"]["recipe"]["lr"])
    assert (done.code, good["status"], bad["status"]) == (1, "done", "diverged")
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{good['run_id']}  loss ")
    assert lines[1].startswith(f"{bad['run_id']}  diverged: no scores")


def test_a_rate_far_from_the_recipes_rule_is_noted(tmp_path, plain):
    assert "lr_off_rule" in codes(plain.record)  # .1 at a batch of 16, where the recipe's batch is 256
    by_rule = Run(tmp_path, "--lr", 0.1 * 16 / 256, data=shared_world(5)).record
    assert "lr_off_rule" not in codes(by_rule)


# --- which data it was


def test_synthetic_data_is_said_everywhere(plain):
    assert plain.record["dataset"]["synthetic"] is True
    assert "synthetic" in codes(plain.record)
    assert plain.said.out.endswith("[synthetic data]\n")


def test_a_synthetic_world_without_its_marker_is_known_by_its_files(tmp_path):
    (small_world(tmp_path) / "SYNTHETIC.json").unlink()
    run = Run(tmp_path, "--partial", data="world")
    assert run.record["dataset"]["synthetic"] is True
    assert "synthetic" in codes(run.record)


def test_files_without_tag_and_marker_are_genuine(tmp_path):
    (small_world(tmp_path) / "SYNTHETIC.json").unlink()
    rewrite_all(tmp_path / "world", lambda pixels: pixels, tagged=False)
    run = Run(tmp_path, "--partial", data="world")
    assert run.record["dataset"]["synthetic"] is False
    assert not run.said.out.endswith("[synthetic data]\n")


def test_another_world_is_another_run(tmp_path):
    one = Run(tmp_path, data=shared_world(5)).record
    other = Run(tmp_path / "cache", data=shared_world(8)).record
    assert one["run_id"] != other["run_id"]


def test_genuine_chips_run_under_their_own_card(tmp_path):
    chips = genuine("eurosat_layout_chips")
    record = Run(tmp_path, data=chips, dataset="terramesh_chips", backbone=TINY_VIT).record
    assert (
        record["dataset"] | {"synthetic": False, "calibration": "gamma0_rtc", "n_train": 34, "n_val": 0, "n_test": 9}
        == record["dataset"]
    )
    assert {"leaky_split", "test_is_val"} <= set(codes(record))
    assert "synthetic" not in codes(record)
    assert len(record["metrics"]["confusion"]) == 4
    assert (tmp_path / "results" / "records" / "terramesh_chips" / "linear_probe" / f"{record['run_id']}.json").exists()


def test_genuine_chips_are_no_eurosat(tmp_path):
    done = linear(genuine("eurosat_layout_chips"), cwd=tmp_path)
    assert done.code == 2
    assert "none of the class folders of EuroSAT-SAR is there" in done.err


# --- the process


@pytest.mark.parametrize("module", ["linear", "prepare", "report"])
def test_help_does_not_wait_for_torch(tmp_path, module):
    command = [sys.executable, "-X", "importtime", "-m", f"fgmae_bench.{module}", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    helped = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert helped.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in helped.stderr.splitlines()}
    assert "fgmae_bench" in imported
    assert not imported & {"torch", "timm", "torchvision", "sklearn", "rasterio", "cv2", "matplotlib"}
    assert helped.stdout.startswith("usage: " if module != "prepare" else "Make datasets ready")
