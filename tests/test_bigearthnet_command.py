"""BigEarthNet through whole commands: the published command line, its parameters, one process and two."""

from __future__ import annotations

import json
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import FOLDERS, only_record
from preloaded import run_ranks
from safetensors import safe_open
from sklearn.metrics import average_precision_score, f1_score

from fgmae_bench.checkpoints.shapes import ARCHITECTURES
from fgmae_bench.checkpoints.synth import write_synthetic
from fgmae_bench.config.cards import load_card
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.config.run import Model
from fgmae_bench.models.architectures import make_module
from fgmae_bench.probe.heads import HeadGrid
from fgmae_bench.worlds.bigearthnet import patch_of, write_bigearthnet

SIZES = {
    "train": 128,
    "val": 7,
    "test": 9,
}  # two processes of 64 images a batch need 128 to train; nothing else divides
# The notes' own flags, underscores included, after the launcher and the dataset.
PUBLISHED = (
    "--model vit_small_patch16 --nb_classes 19 --train_frac 1.0 --num_workers 10 --batch_size 64 --epochs 50 --lr 0.5 "
    "--warmup_epochs 0 --seed 42"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """The least world that the command runs on; its lists divide it."""
    root = tmp_path_factory.mktemp("world") / "bigearthnet"
    write_bigearthnet(root, patches=156)
    names = [patch.s1_name for patch in islice((patch_of(0, number) for number in count()), 156) if patch.in_19]
    assert len(names) >= sum(SIZES.values())
    order = np.random.default_rng(0).permutation(names)
    bounds = np.cumsum([0, *SIZES.values()])
    for (part, _), first, last in zip(SIZES.items(), bounds, bounds[1:], strict=False):
        (root / "splits" / f"{part}.csv").write_text("".join(f"{name}\n" for name in order[first:last]))
    return root


def ranks(processes: int, *flags: object, cwd: Path) -> dict:
    """`torchrun --nproc_per_node=N -m fgmae_bench.linear` with the folders of the run; its record."""
    done = run_ranks(processes, ["-m", "fgmae_bench.linear", *flags, *FOLDERS], cwd=cwd)
    assert [rank.returncode for rank in done] == [0] * processes, done
    return only_record(cwd / "results")


def predictions(cwd: Path) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    (path,) = (cwd / "results" / "predictions").iterdir()
    with safe_open(path, "numpy") as file:
        facts = file.metadata()
        return (
            file.get_tensor("logits"),
            file.get_tensor("targets"),
            json.loads(facts["ids"]),
            json.loads(facts["groups"]),
        )


@pytest.mark.slow
def test_the_published_command_line_runs_as_it_stands(world, tmp_path):
    checkpoint = tmp_path / "B2_vits16_fgmae_ep99_enc.pth"
    write_synthetic(checkpoint, ARCHITECTURES["vit_small_patch16"], "encoder")
    flags = ["--dataset", "bigearthnet", *PUBLISHED.split(), "--finetune", checkpoint, "--data_path", world]
    # 50 passes of a ViT-S on a CPU would take an hour, and images of 224 pixels most of the rest
    small = ("--features", "cached", "--input_size", "32")
    record = ranks(2, *flags, *small, cwd=tmp_path)
    assert record["model"]["params_trainable"] == 7315
    assert (record["model"]["name"], record["model"]["feature_dim"]) == ("vit_small_patch16", 384)
    assert record["recipe"] == "published"
    assert (record["environment"]["world_size"], len(record["history"])) == (2, 50)
    recipe = record["config"]["recipe"]
    assert (recipe["lr"], recipe["batch_size"], recipe["epochs"], recipe["warmup_epochs"]) == (0.5, 64, 50, 0)
    assert [record["dataset"][f"n_{part}"] for part in SIZES] == list(SIZES.values())
    assert record["dataset"]["split"] == "official"
    assert {"leaky_split", "synthetic"} <= {note["code"] for note in record["notes"]}
    assert set(record["metrics"]["test"]) >= {"map_micro", "map_macro", "f1_micro", "f1_macro", "loss"}
    scored = set(record["metrics"]["classes_scored"])
    per_class = record["metrics"]["per_class"]
    assert set(per_class) == set(load_card("bigearthnet").classes)
    assert {name for name, values in per_class.items() if values["ap"] is not None} == scored
    logits, targets, ids, groups = predictions(tmp_path)
    assert logits.shape == targets.shape == (SIZES["test"], 19)
    assert (world / "splits" / "test.csv").read_text().split() == ids
    assert groups == [
        "_".join(name.split("_")[:5]) for name in ids
    ]  # the scene: as far as the start of its acquisition


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("vit_small_patch16", 7315),
        ("vit_base_patch16", 14611),
        ("vit_large_patch16", 19475),
        ("vit_huge_patch14", 24339),
    ],
)
def test_trained_parameters_are_those_of_the_published_probes(name, trained):
    with torch.device("meta"):
        _, _, dim = make_module(Model(model=name), FGMAE_CONTRACT, 0.0)
    head = HeadGrid.start(dim, len(load_card("bigearthnet").classes), 1, 0).head(0)
    assert head["weight"].numel() + head["bias"].numel() == trained


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["cached", "stream"])
def test_scores_are_the_same_at_one_and_two_processes_and_scikit_learns(world, tmp_path, mode):
    found = []
    for processes in (1, 2):
        cwd = tmp_path / str(processes)
        cwd.mkdir()
        flags = {
            "--dataset": "bigearthnet",
            "--data_path": world,
            "--model": "vit_tiny_patch16_224",
            "--input_size": 32,
            "--weights": "random",
            "--epochs": 3,
            "--batch_size": 32 // processes,
            "--amp": "off",
            "--device": "cpu",
            "--features": mode,
        }
        record = ranks(processes, *(part for pair in flags.items() for part in pair), cwd=cwd)
        found.append((record, *predictions(cwd)))
    (one, logits, targets, ids, _), (two, other_logits, other_targets, other_ids, _) = found
    assert (ids, targets.tolist(), one["run_id"]) == (other_ids, other_targets.tolist(), two["run_id"])
    assert len(ids) == SIZES["test"]
    np.testing.assert_allclose(other_logits, logits, atol=1e-6, rtol=0)
    for part in ("test", "final"):
        assert two["metrics"][part] == pytest.approx(one["metrics"][part], abs=1e-6)
    p, scored = 1 / (1 + np.exp(-logits.astype(np.float64))), targets.sum(axis=0) > 0
    for record in (one, two):
        test = record["metrics"]["test"]
        assert test["map_micro"] == pytest.approx(average_precision_score(targets, p, average="micro"), abs=1e-6)
        assert test["map_macro"] == pytest.approx(
            average_precision_score(targets[:, scored], p[:, scored], average="macro"), abs=1e-6
        )
        assert test["f1_micro"] == pytest.approx(f1_score(targets, p >= 0.5, average="micro"), abs=1e-6)
        assert test["f1_macro"] == pytest.approx(
            f1_score(targets[:, scored], p[:, scored] >= 0.5, average="macro"), abs=1e-6
        )
