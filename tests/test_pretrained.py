"""The demo's small pre-trained ViT: whole, made by its script, better than random weights elsewhere, and bound to its
input contract.
"""

from __future__ import annotations

import json
import runpy
import statistics

import pytest
import timm
import torch
from commands import REPOSITORY, codes, linear, only_record, shared_world
from safetensors import safe_open

from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone
from fgmae_bench.worlds.eurosat import write_eurosat

PRETRAIN = runpy.run_path(str(REPOSITORY / "experiments" / "demo" / "pretrain.py"), run_name="pretrain")
TRANSFER = runpy.run_path(str(REPOSITORY / "experiments" / "demo" / "transfer.py"), run_name="transfer")
CHECKPOINT = TRANSFER["CHECKPOINT"]
SEEDS = range(3)


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """Test OA by seed of linear probes on a small EuroSAT world: (weights, normalizer) -> list, each computed once."""
    scratch = tmp_path_factory.mktemp("transfer")
    write_eurosat(scratch / "world", per_class=80, seed=TRANSFER["WORLD_SEED"])
    known = {}

    def accuracies(weights, normalizer="fgmae"):
        if (weights, normalizer) not in known:
            flags = {
                "normalizer": normalizer,
                "output_dir": str(scratch / "out" / f"{weights == 'random'}-{normalizer}"),
            }
            setting = TRANSFER["Setting"](world=scratch / "world", scratch=scratch, train_frac=0.25, flags=flags)
            known[weights, normalizer] = [TRANSFER["accuracy"]("linear", weights, seed, setting) for seed in SEEDS]
        return known[weights, normalizer]

    return accuracies


def test_every_key_of_the_checkpoint_is_a_key_of_the_plain_timm_vit_and_used():
    backbone = build_backbone(Model(model="test_vit", weights=str(CHECKPOINT), input_size=64), seed=0)
    plain = timm.create_model("test_vit", in_chans=2, num_classes=0, img_size=64).state_dict()
    weights = backbone.weights
    assert (weights.used, weights.dropped, weights.missing) == (len(plain), 0, 0)
    with safe_open(CHECKPOINT, "pt") as file:
        names = list(file.keys())
        assert {name: file.get_tensor(name).shape for name in names} == {name: t.shape for name, t in plain.items()}
        assert {file.get_tensor(name).dtype for name in plain} == {torch.float32}
        held = {name: file.get_tensor(name) for name in plain}
    assert all(torch.equal(tensor, held[name]) for name, tensor in backbone.module.vit.state_dict().items())
    assert CHECKPOINT.stat().st_size < 1.5e6


def test_the_checkpoint_says_that_it_is_synthetic_and_how_it_was_made():
    with safe_open(CHECKPOINT, "pt") as file:
        made = json.loads(file.metadata()["synthetic"])
    settings = PRETRAIN["asdict"](PRETRAIN["Pretraining"]())
    expected = settings | PRETRAIN["RECIPE"] | {"model": "test_vit", "input_size": 64, "normalizer": "fgmae"}
    assert {name: made[name] for name in expected} == expected


@pytest.mark.slow
def test_the_same_settings_make_the_same_bytes(tmp_path):
    settings = PRETRAIN["Pretraining"](patches=75, epochs=1)
    made = []
    for attempt in ("one", "two"):
        record, weights = PRETRAIN["train"](settings, tmp_path / attempt)
        made.append(PRETRAIN["packed"](weights, settings, record))
    assert made[0] == made[1]
    assert made[0] != CHECKPOINT.read_bytes()


@pytest.mark.slow
def test_pretrained_weights_beat_random_ones_on_another_world_with_other_classes(probed):
    mean, low, _ = TRANSFER["interval"]([a - b for a, b in zip(probed(str(CHECKPOINT)), probed("random"), strict=True)])
    assert mean > 0.12
    assert low > 0


@pytest.mark.slow
@pytest.mark.parametrize("normalizer", ["zscore", "clip25"])
def test_a_foreign_normaliser_costs_the_pretrained_weights_accuracy(probed, normalizer):
    own, foreign = probed(str(CHECKPOINT)), probed(str(CHECKPOINT), normalizer)
    assert statistics.fmean(own) - statistics.fmean(foreign) > 0.02


def test_the_interval_is_students():
    mean, low, high = TRANSFER["interval"]([0.1, 0.2, 0.3, 0.4, 0.5])
    assert mean == pytest.approx(0.3)
    assert (low, high) == pytest.approx(
        (0.3 - 2.776445 * 0.158114 / 5**0.5, 0.3 + 2.776445 * 0.158114 / 5**0.5), abs=1e-6
    )


def test_a_foreign_normaliser_is_told_before_the_run_and_noted(tmp_path):
    flags = (
        "--model",
        "test_vit",
        "--input_size",
        "64",
        "--weights",
        CHECKPOINT,
        "--normalizer",
        "zscore",
        "--epochs",
        "1",
    )
    done = linear(shared_world(12), *flags, cwd=tmp_path, backbone=("--features", "cached", "--batch_size", "16"))
    assert done.code == 0, done.err
    assert "were trained on fgmae: expect worse features" in done.err
    assert "contract_mismatch" in codes(only_record(tmp_path / "results"))
