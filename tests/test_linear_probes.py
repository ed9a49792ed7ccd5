"""`linear` in its modes: few labels, logistic regression and neighbours against scikit-learn, views cached and
streamed.
"""

import numpy as np
import pytest
from commands import TINY_VIT, codes, shared_world
from linear_runs import Run, bank, files
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from fgmae_bench.records import problem_of

pytest_plugins = ("linear_runs",)


DIM, DEPTH, PATCH, SIDE, CLASSES = 192, 12, 16, 32, 10  # of TINY_VIT on EuroSAT
TOKENS = (SIDE // PATCH) ** 2 + 1
VIT = (
    2 * (TOKENS - 1) * DIM * 2 * PATCH**2  # patches of two bands
    + DEPTH * 2 * TOKENS * DIM * (3 * DIM + DIM + 4 * DIM + 4 * DIM)  # q, k and v, their join, the two layers
    + DEPTH * 2 * 2 * TOKENS**2 * DIM  # scores of tokens, and their sums
)


def test_operations_of_a_vit_are_those_counted_by_hand(plain):
    cost = plain.record["cost"]
    assert cost["gflops"] * 1e9 == pytest.approx(VIT + 2 * DIM * CLASSES, rel=1e-12)
    assert cost["params"] == plain.record["model"]["params_total"]
    assert cost["energy_joules"] is None or "energy" in codes(plain.record)


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
    assert run.record["metrics"]["test"]["loss"] == pytest.approx(
        log_loss(y_test, model.predict_proba(scaler.transform(x_test))), abs=1e-2
    )
    assert problem_of(run.record) is None


def test_logistic_regression_chooses_its_penalty_and_says_how(tmp_path):
    flags = ("--probe", "lbfgs", "--weight_decay", 0.1, 0.01)
    texts = [note["text"] for note in Run(tmp_path, *flags).record["notes"] if note["code"] == "penalty_chosen"]
    assert "by 5 folds of whole groups of train from 2" in texts[0]
    with_val = Run(tmp_path / "cache", *flags, "--split", "random_60_20_20").record
    assert any("by loss on val from 2" in note["text"] for note in with_val["notes"])
    assert with_val["metrics"]["final"] != with_val["metrics"]["test"]


def test_nearest_neighbours_are_scikit_learns(tmp_path):
    run = Run(tmp_path, "--probe", "knn", "--knn_k", 3)
    (x, y), (x_test, y_test) = of_sklearn(run)
    model = KNeighborsClassifier(3, metric="cosine", algorithm="brute").fit(x, y)
    assert run.record["protocol"] == "knn"
    assert run.record["model"]["params_trainable"] == 0
    assert softmax(run.predictions["logits"], axis=1) == pytest.approx(model.predict_proba(x_test), abs=1e-5)
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
    corrected = ("--recipe", "corrected", "--warmup_epochs", 0, "--split", "reference")
    other = Run(tmp_path / "cache", *corrected, backbone=tuple(flags), data=shared_world(5)).record
    assert other["config"]["recipe"]["features"] == "cached"
    assert other["config"]["recipe"]["lr"] == pytest.approx(0.1 * 16 / 256)


def test_a_published_flag_that_means_nothing_here_is_named_and_noted(tmp_path):
    run = Run(tmp_path, "--fine_tune", data=shared_world(5))
    assert run.said.err.count("--fine_tune means nothing for a probe and is ignored") == 1
    assert "ignored_flag" in codes(run.record)
