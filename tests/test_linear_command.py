"""`linear` as a user runs it: what it leaves, that its parts agree, and that the same run gives the same numbers."""

import hashlib
import json
import shutil
import tomllib

import numpy as np
import pytest
import torch
from commands import (
    FOLDERS,
    TINY_VIT,
    call,
    codes,
    genuine,
    linear,
    listing,
    metrics,
    only_record,
    records,
    rewrite_all,
    shared_world,
    small_world,
    spawn,
)
from safetensors import safe_open
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score, confusion_matrix, f1_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from fgmae_bench.cards import load_card
from fgmae_bench.records import body_sha256, problem_of

PARTS = ("train", "val", "test")


class Run:
    """One finished run and where it lies."""

    def __init__(self, folder, *flags, data=None, **more):
        self.folder, self.data = folder, data or shared_world()
        self.said = linear(self.data, *flags, cwd=folder, **more)
        assert self.said.code == 0, self.said.err
        self.record = only_record(folder / "results") if len(records(folder / "results")) == 1 else None

    @property
    def predictions(self):
        return load_file(self.folder / "out" / "predictions-test.safetensors")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The published recipe on the reference split, without val."""
    return Run(tmp_path_factory.mktemp("plain"), backbone=TINY_VIT)


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """A split with val; six epochs, so that the best need not be the last."""
    return Run(tmp_path_factory.mktemp("selected"), "--split", "random_60_20_20", "--epochs", 6, "--lr", 1, backbone=TINY_VIT)


def files(root):
    """The sorted files of a world and their labels, as scikit-learn's call of the reference gets them."""
    classes = load_card("eurosat").classes
    ids = [f"{name}/{path.stem}" for name in sorted(classes) for path in sorted((root / name).glob("*.tif"))]
    return ids, np.array([classes.index(id.split("/")[0]) for id in ids])


def bank(folder):
    """Features (N, D) of the only bank in a cache, in the order of the sorted files."""
    (path,) = (folder / "cache" / "features").glob("*/features.f32")
    ids, _ = files(shared_world())
    return dict(zip(ids, np.fromfile(path, np.float32).reshape(len(ids), -1), strict=True))


def ids_of(folder, name="out/predictions-test.safetensors"):
    with safe_open(folder / name, "np") as stored:
        return json.loads(stored.metadata()["ids"])


# --- what a run leaves


def test_a_run_leaves_exactly_what_the_interface_says(plain):
    found = {path for path, content in listing(plain.folder).items() if content is not None and not path.startswith("cache/")}
    id = plain.record["run_id"]
    (events,) = [path for path in found if path.startswith("log/events.out.tfevents.")]
    assert found == {
        events, "out/record.json", "out/log.jsonl", "out/config.toml", "out/checkpoint-last.pth", "out/predictions-test.safetensors",
        f"results/records/eurosat/linear_probe/{id}.json", f"results/predictions/{id}.safetensors",
    }  # fmt: skip


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
    flags = ("--split", "random_60_20_20", "--epochs", 8, "--warmup_epochs", 8, "--lr", 3000)
    record = Run(tmp_path, *flags, backbone=TINY_VIT).record
    best = record["metrics"]["best"]["epoch"]
    assert best < 7
    last = torch.load(tmp_path / "out" / "checkpoint-last.pth", weights_only=True)["head"]
    targets, logits = (load_file(tmp_path / "out" / "predictions-test.safetensors")[name] for name in ("targets", "logits"))
    features = bank(tmp_path)
    test = np.stack([features[id] for id in ids_of(tmp_path)]).astype(np.float64)
    assert not np.allclose(head_logits(last, test), logits, atol=1e-2)
    assert record["metrics"]["test"]["oa"] == accuracy_score(targets, logits.argmax(1))


def test_a_loss_that_becomes_infinite_is_recorded_as_diverged(tmp_path):
    done = linear(shared_world(5), "--lr", "1e38", "--epochs", 4, cwd=tmp_path)
    assert done.code in (0, 1)
    record = only_record(tmp_path / "results")
    assert record["status"] == "diverged"
    assert "diverged" in codes(record)
    assert problem_of(record) is None


# --- the same run again


def test_a_second_call_computes_nothing_and_says_so(plain):
    before = {path: path.stat().st_mtime_ns for path in plain.folder.rglob("*")}
    again = linear(plain.data, cwd=plain.folder, backbone=TINY_VIT)
    assert again.code == 0
    assert f"{plain.record['run_id']} is recorded already: nothing to do (results/records/" in again.err
    assert again.out == plain.said.out
    assert {path: path.stat().st_mtime_ns for path in plain.folder.rglob("*")} == before


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(plain, tmp_path):
    again = Run(tmp_path, backbone=TINY_VIT)
    assert again.record["run_id"] == plain.record["run_id"]
    assert metrics(again.record) == metrics(plain.record)
    assert again.record["predictions"]["sha256"] == plain.record["predictions"]["sha256"]
    other = Run(tmp_path / "results", "--seed", 43, backbone=TINY_VIT)
    assert other.record["run_id"] != plain.record["run_id"]
    assert metrics(other.record) != metrics(plain.record)


def test_paths_workers_and_spelling_tell_no_runs_apart(plain, tmp_path):
    flags = [flag.replace("_", "-") if flag.startswith("--") else flag for flag in ("--dataset", "eurosat", *TINY_VIT, *FOLDERS)]
    assert "--batch-size" in flags
    flags[flags.index("--weights")] = "--finetune"
    done = call(
        "linear", *flags, "--data-path", plain.data, "--num-workers", 0, "--results-dir", "elsewhere", "--device", "cpu", cwd=tmp_path
    )
    assert done.code == 0, done.err
    record = only_record(tmp_path / "elsewhere")
    assert record["run_id"] == plain.record["run_id"]
    assert metrics(record) == metrics(plain.record)


def test_batch_and_accumulation_count_by_their_product(plain, tmp_path):
    record = Run(tmp_path, "--batch_size", 8, "--accum_iter", 2, backbone=TINY_VIT).record
    assert record["run_id"] == plain.record["run_id"]
    assert record["metrics"]["test"] == plain.record["metrics"]["test"]


@pytest.mark.parametrize("which", ["plain", "selected"])
def test_the_config_it_leaves_runs_it_again(which, request, tmp_path):
    run = request.getfixturevalue(which)
    shutil.copy(run.folder / "out" / "config.toml", tmp_path / "mine.toml")
    done = call("linear", "--config", "mine.toml", cwd=tmp_path)
    assert done.code == 0, done.err
    again = only_record(tmp_path / "results")
    assert again["run_id"] == run.record["run_id"]
    assert metrics(again) == metrics(run.record)
    assert again["config"] == run.record["config"]
    assert (tmp_path / "out" / "config.toml").read_bytes() == (run.folder / "out" / "config.toml").read_bytes()


def test_the_command_line_stands_above_the_config_file(plain, tmp_path):
    shutil.copy(plain.folder / "out" / "config.toml", tmp_path / "mine.toml")
    assert call("linear", "--config", "mine.toml", "--epochs", 1, "--lr", 0.3, cwd=tmp_path).code == 0
    record = only_record(tmp_path / "results")
    assert (record["config"]["recipe"]["epochs"], record["config"]["recipe"]["lr"]) == (1, 0.3)
    assert record["config"]["recipe"]["batch_size"] == 16


def test_every_resolved_value_stands_in_the_record_and_the_config(plain):
    config = plain.record["config"]
    assert (config["recipe"]["lr"], config["recipe"]["blr"], config["recipe"]["weight_decay"]) == (0.1, 1.6, 0.001)
    assert config["data"]["split"] == "reference"
    assert config["recipe"]["features"] == "cached"
    assert config["recipe"]["amp"] in ("off", "bf16")
    written = tomllib.loads((plain.folder / "out" / "config.toml").read_text())
    assert written.pop("resolved") is True
    assert {part: {key: value for key, value in config[part].items() if value is not None} for part in written} == written


# --- a grid


def test_a_grid_is_its_single_runs(plain, tmp_path):
    grid = Run(tmp_path, "--lr", 0.05, 0.1, "--weight_decay", 0, 0.001, backbone=TINY_VIT)
    made = {record["run_id"]: record for record in records(tmp_path / "results")}
    points = {(record["config"]["recipe"]["lr"], record["config"]["recipe"]["weight_decay"]) for record in made.values()}
    assert points == {(0.05, 0), (0.05, 0.001), (0.1, 0), (0.1, 0.001)}
    assert len(grid.said.out.splitlines()) == 4
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in (tmp_path / "log").iterdir()} == set(made)
    for id, record in made.items():
        assert json.loads((tmp_path / "out" / id / "record.json").read_text()) == record
        assert "shared_pass" in codes(record)
    assert_close(made[plain.record["run_id"]], plain.record)
    single = Run(tmp_path / "cache", "--lr", 0.05, "--weight_decay", 0, backbone=TINY_VIT).record
    assert_close(made[single["run_id"]], single)


def assert_close(one, other):
    for name in ("final", "test"):
        assert one["metrics"][name] == pytest.approx(other["metrics"][name], abs=1e-6)
    assert [entry["train_loss"] for entry in one["history"]] == pytest.approx([entry["train_loss"] for entry in other["history"]], abs=1e-6)


def test_the_rest_of_a_grid_goes_beside_what_is_there(tmp_path):
    """One run of a grid is recorded already: the missing one gets its sub-folder all the same."""
    Run(tmp_path, "--lr", 0.1)
    kept = (tmp_path / "out" / "record.json").read_bytes()
    grid = Run(tmp_path, "--lr", 0.1, 0.2)
    assert "is recorded already" in grid.said.err
    (new,) = [record["run_id"] for record in records(tmp_path / "results") if record["config"]["recipe"]["lr"] == 0.2]
    assert (tmp_path / "out" / "record.json").read_bytes() == kept
    assert (tmp_path / "out" / new / "record.json").exists()
    assert (tmp_path / "log" / new).is_dir()


def test_a_run_of_a_grid_repeats_from_its_own_config_into_its_own_folder(tmp_path):
    Run(tmp_path, "--lr", 0.1, 0.2)
    first, _ = sorted((tmp_path / "out").iterdir())
    kept = listing(tmp_path / "out")
    shutil.rmtree(tmp_path / "results")
    assert call("linear", "--config", f"out/{first.name}/config.toml", cwd=tmp_path).code == 0
    assert only_record(tmp_path / "results")["run_id"] == first.name
    assert set(listing(tmp_path / "out")) == set(kept)


# --- modes and probes


def test_few_labels_halve_the_training_split(plain, tmp_path):
    record = Run(tmp_path, "--train_frac", 0.5).record
    assert record["dataset"]["n_train"] == 50  # ceil(9.6 / 2) = 5 of each class
    assert (record["dataset"]["n_test"], record["dataset"]["sample_ids_sha256"]["test"]) == (
        24,
        plain.record["dataset"]["sample_ids_sha256"]["test"],
    )
    assert record["dataset"]["sample_ids_sha256"]["train"] != plain.record["dataset"]["sample_ids_sha256"]["train"]


def of_sklearn(run):
    """((features, labels) of train, of test) of the reference split, from the bank."""
    ids, labels = files(shared_world())
    features = bank(run.folder)
    x = np.stack([features[id] for id in ids]).astype(np.float64)
    train, test = train_test_split(np.arange(len(ids)), train_size=0.8, stratify=labels, random_state=42)
    return (x[train], labels[train]), (x[test], labels[test])


def test_logistic_regression_is_scikit_learns(tmp_path):
    run = Run(tmp_path, "--probe", "lbfgs", "--weight_decay", 0.01)
    (x, y), (x_test, y_test) = of_sklearn(run)
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=1 / (0.01 * len(y)), max_iter=5000, tol=1e-8).fit(scaler.transform(x), y)
    assert run.record["protocol"] == "logistic_regression"
    assert run.record["metrics"]["test"]["oa"] == pytest.approx(model.score(scaler.transform(x_test), y_test), abs=1e-9)
    assert run.record["metrics"]["test"]["loss"] == pytest.approx(log_loss(y_test, model.predict_proba(scaler.transform(x_test))), abs=1e-2)
    assert problem_of(run.record) is None


def test_logistic_regression_chooses_its_penalty_and_says_how(tmp_path):
    flags = ("--probe", "lbfgs", "--weight_decay", 0.1, 0.01)
    texts = [note["text"] for note in Run(tmp_path, *flags).record["notes"] if note["code"] == "penalty_chosen"]
    assert "by 5-fold cross-validation inside train from 2" in texts[0]
    with_val = Run(tmp_path / "cache", *flags, "--split", "random_60_20_20").record
    assert any("by loss on val from 2" in note["text"] for note in with_val["notes"])
    assert with_val["metrics"]["final"] != with_val["metrics"]["test"]


def test_nearest_neighbours_are_scikit_learns(tmp_path):
    run = Run(tmp_path, "--probe", "knn", "--knn_k", 3)
    (x, y), (x_test, y_test) = of_sklearn(run)
    model = KNeighborsClassifier(3, metric="cosine", algorithm="brute").fit(x, y)
    assert run.record["protocol"] == "knn"
    assert run.record["model"]["params_trainable"] == 0
    assert run.predictions["logits"] == pytest.approx(model.predict_proba(x_test), abs=1e-6)
    assert run.record["metrics"]["test"]["oa"] == model.score(x_test, y_test)


def test_what_belongs_to_sgd_tells_no_other_probes_apart(tmp_path):
    one = Run(tmp_path, "--probe", "knn", "--lr", 0.1, 0.2, "--epochs", 3).record
    other = Run(tmp_path / "cache", "--probe", "knn", "--batch_size", 7).record
    assert one["run_id"] == other["run_id"]


def test_several_views_are_cached_and_recorded(plain, tmp_path):
    run = Run(tmp_path, "--views", 3, backbone=TINY_VIT)
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 4  # three views, and the evaluation view
    assert run.record["config"]["recipe"]["views"] == 3
    assert run.record["run_id"] != plain.record["run_id"]
    assert run.record["history"][0]["train_loss"] != plain.record["history"][0]["train_loss"]


def test_streamed_features_are_fresh_views_and_recorded(plain, tmp_path):
    run = Run(tmp_path, "--features", "stream", backbone=TINY_VIT)
    assert run.record["config"]["recipe"]["features"] == "stream"
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 1
    views = Run(tmp_path / "cache", "--views", 2, backbone=TINY_VIT).record
    assert [entry["train_loss"] for entry in run.record["history"]] == pytest.approx(
        [entry["train_loss"] for entry in views["history"]], abs=1e-4
    )
    assert run.record["history"][0]["train_loss"] != plain.record["history"][0]["train_loss"]


def test_streaming_is_the_default_of_the_published_recipe(tmp_path):
    flags = [flag for flag in TINY_VIT if flag not in ("--features", "cached")]
    assert Run(tmp_path, backbone=tuple(flags), data=shared_world(5)).record["config"]["recipe"]["features"] == "stream"
    other = Run(tmp_path / "cache", "--recipe", "corrected", "--split", "reference", backbone=tuple(flags), data=shared_world(5)).record
    assert other["config"]["recipe"]["features"] == "cached"
    assert other["config"]["recipe"]["lr"] == pytest.approx(0.1 * 16 / 256)


def test_a_published_flag_that_means_nothing_here_is_named_and_noted(tmp_path):
    run = Run(tmp_path, "--fine_tune", data=shared_world(5))
    assert run.said.err.count("--fine_tune means nothing for a probe and is ignored") == 1
    assert "ignored_flag" in codes(run.record)


# --- which data it was


def test_synthetic_data_is_said_everywhere(plain):
    assert plain.record["dataset"]["synthetic"] is True
    assert "synthetic" in codes(plain.record)
    assert plain.said.out.endswith("[synthetic data]\n")


def test_a_synthetic_world_without_its_marker_is_known_by_its_files(tmp_path):
    (small_world(tmp_path) / "SYNTHETIC.json").unlink()
    run = Run(tmp_path, "--trust_data", data="world")
    assert run.record["dataset"]["synthetic"] is True
    assert "synthetic" in codes(run.record)


def test_files_without_tag_and_marker_are_genuine(tmp_path):
    (small_world(tmp_path) / "SYNTHETIC.json").unlink()
    rewrite_all(tmp_path / "world", lambda pixels: pixels, tagged=False)
    run = Run(tmp_path, "--trust_data", data="world")
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
        record["dataset"] | {"synthetic": False, "calibration": "gamma0_rtc", "n_train": 34, "n_val": 0, "n_test": 9} == record["dataset"]
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
    helped = spawn(module, "--help", cwd=tmp_path, python=("-X", "importtime"))
    assert helped.code == 0
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in helped.err.splitlines()}
    assert "fgmae_bench" in imported
    assert not imported & {"torch", "timm", "torchvision", "sklearn", "rasterio", "cv2", "matplotlib"}
    assert helped.out.startswith("usage: " if module != "prepare" else "Make datasets ready")


def test_a_process_of_its_own_gives_the_numbers_of_this_one(plain, tmp_path):
    done = spawn("linear", "--dataset", "eurosat", "--data_path", plain.data, *TINY_VIT, *FOLDERS, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    record = only_record(tmp_path / "results")
    assert record["run_id"] == plain.record["run_id"]
    assert record["metrics"]["test"] == pytest.approx(plain.record["metrics"]["test"], abs=1e-6)
    assert record["environment"]["command"].startswith("python -m fgmae_bench.linear --dataset eurosat --data_path ")
