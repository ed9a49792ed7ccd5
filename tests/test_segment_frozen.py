"""Segmentation on a frozen backbone: its bits stay, features computed once are those of the stream, one process is as
good as two.
"""

import importlib
import sys

import numpy as np
import preloaded
import pytest
import torch
from commands import FOLDERS, only_record
from segment_world import FROZEN, SIDE, opened, segment, weights_of

from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone
from fgmae_bench.records import problem_of

pytest_plugins = ("segment_world",)


@pytest.fixture(scope="module")
def frozen(tiles, tmp_path_factory):
    """(folder, record) of a frozen run on features computed once."""
    place = tmp_path_factory.mktemp("frozen")
    done = segment(tiles, "--features", "cached", "--norm", "group", cwd=place, backbone=FROZEN)
    assert done.code == 0, done.err
    return place, only_record(place / "results")


def test_a_frozen_backbone_keeps_its_bits_and_the_head_alone_is_saved(frozen):
    place, record = frozen
    assert record["protocol"] == "frozen_upernet"
    assert problem_of(record) is None
    held = weights_of(place / "out" / "checkpoint-last.pth")
    assert held
    assert all(name.startswith(("neck.", "pooling.", "laterals.", "smooth.", "fuse.", "classify.")) for name in held)
    assert record["model"]["params_trainable"] == sum(
        v.numel() for k, v in held.items() if not k.endswith(("running_mean", "running_var"))
    )
    assert record["model"]["params_total"] > record["model"]["params_trainable"]
    assert (record["config"]["recipe"]["features"], record["config"]["recipe"]["augment"]) == ("cached", False)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_training_a_head_leaves_the_backbone_alone(norm, tiles, tmp_path):
    prepared = opened(tiles, tmp_path, freeze_backbone=True, norm=norm, features="stream", num_workers=0)
    before = build_backbone(
        Model(model="test_vit", weights="random", input_size=SIDE), prepared.run.recipe.seed
    ).module.state_dict()
    job = prepared.job
    optimizer = torch.optim.SGD([p for p in job.model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    job.model.train()
    images, masks = job.read(job.train[:4], 0)
    job.loss(job.model(torch.from_numpy(images).float() / 255), torch.from_numpy(masks)).backward()
    optimizer.step()
    after = prepared.backbone.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad for p in prepared.backbone.module.parameters())


def test_features_cached_are_those_of_the_stream_without_augmentation(frozen, tiles, tmp_path):
    _, cached = frozen
    done = segment(tiles, "--features", "stream", "--no_augment", "--norm", "group", cwd=tmp_path, backbone=FROZEN)
    assert done.code == 0, done.err
    stream = only_record(tmp_path / "results")
    for one, other in zip(cached["history"], stream["history"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert one["val"]["miou"] == pytest.approx(other["val"]["miou"], abs=2e-3)
    assert cached["model"]["params_total"] == stream["model"]["params_total"]


def test_other_blocks_are_other_features(tiles, tmp_path):
    """A bank is known by the blocks that it holds, not by the backbone alone."""
    flags = {"freeze_backbone": True, "features": "cached"}
    maps = [opened(tiles, tmp_path, **flags, blocks=blocks).job for blocks in ((0, 1, 2, 3), (2, 3, 4, 5))]
    held = [np.array(job.bank.features[job.train]) for job in maps]
    assert not np.array_equal(*held)
    again = opened(tiles, tmp_path, **flags, blocks=(0, 1, 2, 3)).job
    assert np.array_equal(again.bank.features[again.train], held[0])


def test_a_backbone_of_the_users_whose_code_changed_is_another(tiles, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    held = []
    for factor in (1, 2):
        code = f"import torch\nclass Maps(torch.nn.Module):\n    def forward(self, x): return x[:, :, ::16, ::16] * {factor}\n"
        (tmp_path / "my_maps.py").write_text(code + "def make(): return Maps()\n")
        importlib.invalidate_caches()
        sys.modules.pop("my_maps", None)
        sys.dont_write_bytecode, kept = True, sys.dont_write_bytecode
        job = opened(tiles, tmp_path, model="my_maps:make", freeze_backbone=True, features="cached", num_workers=0).job
        sys.dont_write_bytecode = kept
        held.append(np.array(job.bank.features[job.train]))
    assert np.array_equal(held[0] * 2, held[1])


def test_a_linear_head_on_each_pixel(tiles, tmp_path):
    done = segment(tiles, "--head", "linear", "--recipe", "corrected", cwd=tmp_path, backbone=FROZEN)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert record["protocol"] == "frozen_linear"
    assert record["model"]["params_trainable"] == 64 * 10 + 10
    assert record["config"]["recipe"]["features"] == "cached"  # on a CPU


def on_two(data, *flags, cwd):
    """The command on two processes, with batches of half the size, so that it is the same run."""
    flags = ("--dataset", "dfc2020", "--data_path", data, *FROZEN, *FOLDERS, *flags, "--batch_size", "2")
    done = preloaded.run_ranks(2, ["-m", "fgmae_bench.segment", *flags], cwd=cwd)
    assert [rank.returncode for rank in done] == [0, 0], done
    return done[0]


@pytest.mark.slow
def test_one_process_scores_as_two(frozen, tiles):
    place, record = frozen
    flags = ("--features", "cached", "--norm", "group", "--eval", "--resume", "out/checkpoint-last.pth")
    alone = segment(tiles, *flags, cwd=place, backbone=FROZEN)
    assert alone.code == 0, alone.err
    done = on_two(tiles, *flags, cwd=place)
    assert done.stdout == alone.out
    assert f"miou {record['metrics']['test']['miou']:.4f}" in done.stdout


@pytest.mark.slow
def test_one_process_trains_as_two(frozen, tiles, tmp_path):
    _, alone = frozen
    on_two(tiles, "--features", "cached", "--norm", "group", cwd=tmp_path)
    together = only_record(tmp_path / "results")
    assert together["run_id"] == alone["run_id"]
    assert together["environment"]["world_size"] == 2
    for one, two in zip(alone["history"], together["history"], strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-6)
    moved = np.abs(np.subtract(alone["metrics"]["confusion"], together["metrics"]["confusion"])).sum()
    assert moved <= 0.001 * np.sum(alone["metrics"]["confusion"])  # pixels between two classes
    assert np.sum(together["metrics"]["confusion"]) == 4 * SIDE**2


@pytest.mark.parametrize(
    "model",
    [
        "croma_base",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("dofa_base_patch16_224", "copernicusfm_base")),
    ],
)
def test_torchgeo_models_take_a_decoder_under_our_contract(model, tiles, tmp_path, quick_draws):
    pytest.importorskip("torchgeo", reason="the extra torchgeo is not installed")
    flags = (
        "--model",
        model,
        "--input_size",
        224 if model.startswith("dofa") else 32,  # CROMA's bias takes ten seconds at 120
        "--weights",
        "random",
        "--freeze_backbone",
        "--max_steps",
        "1",
        "--warmup_steps",
        "0",
        "--fpn_dim",
        "8",
    )
    done = segment(tiles, *flags, "--batch_size", "2", "--panels", "0", backbone=(), cwd=tmp_path)
    assert done.code == 0, done.err
    assert only_record(tmp_path / "results")["protocol"] == "frozen_upernet"
