"""A run is repeated by the `config.toml` that it leaves: the same id and the same scores, whatever kind of model it is."""

import tomllib

import numpy as np
import pytest
import torch
from commands import FOLDERS, REPOSITORY, call, codes, genuine, metrics, only_record, shared_world
from torch import nn

WORLD = ("--dataset", "eurosat")
CACHED = ("--features", "cached", "--epochs", "2", "--batch_size", "16", "--device", "cpu")
SGD = (*WORLD, *CACHED)
LBFGS = (*WORLD, "--probe", "lbfgs", "--recipe", "corrected", "--split", "random_60_20_20", "--device", "cpu")
STATED = ("--normalizer", "zscore", "--mean", "-12.3456789012", "-19.1", "--std", "4.7", "5.3")
STEPS = ("--max_steps", "2", "--batch_size", "8", "--device", "cpu")


def make():
    """A factory, as a user has one."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(2, 8, 8, 8), nn.GELU())


MODELS = {
    "registry": ("linear", (*SGD, "--model", "vit_small_patch16", "--weights", "random", "--input_size", "32")),
    "timm": ("linear", (*SGD, "--model", "test_vit", "--weights", "random", "--input_size", "32", "--pool", "mean")),
    "timm, stated": (
        "linear",
        (*SGD, "--model", "test_vit", "--weights", "random", "--input_size", "32", *STATED),
    ),
    "factory, assumed": ("linear", (*SGD, "--model", "test_run_again:make", "--input_size", "32")),
    "factory, its statistics": ("linear", (*LBFGS, "--model", "test_run_again:make", "--normalizer", "zscore")),
    "factory, fine-tuned": (
        "finetune",
        (*WORLD, "--model", "test_run_again:make", "--input_size", "32", "--normalizer", "two_sigma", *STEPS),
    ),
    "file": ("linear", (*SGD, "--model", "test_vit", "--weights", "mine.pth", "--input_size", "32")),
    "statistics": ("linear", (*LBFGS, "--model", "backscatter_stats", "--weights", "random")),
    "statistics, few labels": (
        "linear",
        (*WORLD, "--probe", "knn", "--shots", "3", "--draw", "2", "--model", "backscatter_stats", "--device", "cpu"),
    ),
    "embeddings": ("linear", (*LBFGS, "--model", "embeddings", "--weights", "vectors.npz")),
    "place": ("linear", ("--probe", "knn", "--model", "place_and_month", "--inputs", "location", "--device", "cpu")),
    "library": ("linear", (*SGD, "--model", "presto", "--weights", "random", "--patch_size", "8")),
}
SLOW = ("registry", "library", "place", "timm, stated", "statistics, few labels", "factory, its statistics")


@pytest.fixture
def ingredients(tmp_path, monkeypatch):
    """What the runs name by file: a checkpoint, vectors, this module as a package."""
    import timm

    monkeypatch.syspath_prepend(REPOSITORY / "tests")
    torch.manual_seed(1)
    torch.save(
        timm.create_model("test_vit", in_chans=2, num_classes=0, img_size=32).state_dict(), tmp_path / "mine.pth"
    )
    root = shared_world(5)
    ids = [f"{path.parent.name}/{path.stem}" for path in sorted(root.glob("*/*.tif"))]
    vectors = np.random.default_rng(0).normal(size=(len(ids), 8)).astype(np.float32)
    np.savez(tmp_path / "vectors.npz", id=ids, vector=vectors)
    return tmp_path


def elsewhere(name):
    return tuple(f"{name}-{word}" if not word.startswith("--") else word for word in FOLDERS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [], id=name) for name in MODELS]
)
def test_a_run_is_repeated_by_its_own_configuration(ingredients, name):
    module, flags = MODELS[name]
    if name == "library":
        pytest.importorskip("rslearn")
    if name == "place":
        flags = ("--dataset", genuine("s1f_chips", "card.toml"), *flags)
    else:
        flags = (*flags, "--data_path", shared_world(5))
    assert (first := call(module, *flags, *elsewhere("first"), cwd=ingredients)).code == 0, first.err
    record = only_record(ingredients / "first-results")
    config = ingredients / "first-out" / "config.toml"
    assert tomllib.loads(config.read_text())["model"]["model"] == record["config"]["model"]["model"]
    again = call(module, "--config", config, *elsewhere("again"), cwd=ingredients)
    assert again.code == 0, again.err
    assert "recorded already" not in again.err
    repeated = only_record(ingredients / "again-results")
    assert repeated["run_id"] == record["run_id"]
    assert metrics(repeated) == metrics(record)
    for part in ("data", "model", "recipe", "facts"):
        assert repeated["config"][part] == record["config"][part], part
    assert repeated["config"].get("departs") == record["config"].get("departs")
    assert codes(repeated) == codes(record)
    assert repeated["dataset"] == record["dataset"]


def test_every_kind_of_model_is_repeated():
    kinds = {"timm", "registry", "factory", "file", "statistics", "embeddings", "place", "library"}
    assert {name.split(",")[0] for name in MODELS} == kinds
