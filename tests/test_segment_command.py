"""Segmentation as a user runs it: the published command line, what a run leaves, frozen backbones, bad input, killed and resumed."""

import dataclasses
import importlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from commands import FOLDERS, call, codes, listing, only_record, records, rewrite, said, shared_world
from safetensors import safe_open
from safetensors.numpy import load_file
from same_run import essence
from sklearn.metrics import jaccard_score

from fgmae_bench.backbones import build_backbone
from fgmae_bench.cards import load_card
from fgmae_bench.checkpoints.shapes import ARCHITECTURES
from fgmae_bench.checkpoints.synth import write_synthetic
from fgmae_bench.config import Model, compose
from fgmae_bench.data.layouts import build_index
from fgmae_bench.distributed import World
from fgmae_bench.errors import BenchError
from fgmae_bench.label_cards import card_map
from fgmae_bench.records import problem_of
from fgmae_bench.runs.setup import _at_data_size
from fgmae_bench.train import segment as engine
from fgmae_bench.worlds import dfc

SIDE, TILES = 64, 24
TINY = (
    "--model", "test_vit", "--weights", "random", "--fpn_dim", "16", "--epochs", "2", "--warmup_epochs", "0", "--batch_size", "4",
    "--lr", "1e-3", "--amp", "off", "--panels", "2",
)  # fmt: skip
FROZEN = (*TINY, "--freeze_backbone")
FIFTH = (
    "--batch_size 128 --model seg_fgmae_s --finetune B2_vits16_fgmae_ep99.pth --data_path DIR --nb_classes 11 --train_frac 1.0 "
    "--num_workers 10 --epochs 20 --warmup_epochs 3 --weight_decay 0.05 --accum_iter 2 --blr 1e-3 --layer_decay 0.75 --drop_path 0.2 "
    "--mixup 0.8 --seed 42 --fine_tune"
)
CARD = load_card("dfc2020")
TRAINED, TESTED = ("ROIs0000_test", "0"), ("ROIs0000_validation", "validation")


def segment(data, *flags, cwd, backbone=TINY, dataset="dfc2020"):
    return call("segment", "--dataset", dataset, "--data_path", data, *backbone, *FOLDERS, *flags, cwd=cwd)


def file(root, kind, patch, place=TRAINED):
    collection, folder = place
    return root / collection / f"{kind}_{folder}" / f"{collection}_{kind}_0_p{patch}.tif"


def confusions(record, folder):
    """The file of predictions: (N, K, C) and its metadata."""
    path = folder / record["predictions"]["file"]
    with safe_open(path, "np") as stored:
        return load_file(path)["confusion"], stored.metadata()


def weights_of(path):
    return torch.load(path, weights_only=True)["model"]


def opened(data, place, *, backbone=TINY, **flags):
    """A run made definite without training it."""
    given = dict(zip((name[2:] for name in backbone[::2]), backbone[1::2], strict=True))
    numbers = {"fpn_dim": 16, "epochs": 2, "warmup_epochs": 0.0, "batch_size": 4, "lr": 1e-3, "panels": 2}
    values = {**given, **numbers, "data_path": str(data), "cache_dir": str(place / "cache"), "dataset": "dfc2020", **flags}
    (run,) = compose("segment", values, CARD)
    return engine.prepare(run, CARD, [], World(), torch.device("cpu"), 1)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """24 tiles of 64 pixels: 20 train, 4 test in the split `community`. Not to be changed."""
    root = tmp_path_factory.mktemp("segment") / "dfc2020"
    dfc.write_dfc(root, tiles=TILES, size=SIDE)
    return root


@pytest.fixture
def spoilt(tiles, tmp_path):
    """A copy, to be spoilt."""
    return shutil.copytree(tiles, tmp_path / "world")


@pytest.fixture(scope="module")
def frozen(tiles, tmp_path_factory):
    """(folder, record) of a frozen run on features computed once."""
    place = tmp_path_factory.mktemp("frozen")
    done = segment(tiles, "--features", "cached", "--norm", "group", cwd=place, backbone=FROZEN)
    assert done.code == 0, done.err
    return place, only_record(place / "results")


def test_command_line_5_verbatim(tmp_path):
    """The notes' flags; world, input side and number of steps are small, so that it ends."""
    write_synthetic(tmp_path / "B2_vits16_fgmae_ep99.pth", ARCHITECTURES["vit_small_patch16"], "full")
    dfc.write_dfc(tmp_path / "w", tiles=156, size=32)
    flags = shlex.split(FIFTH.replace("DIR", "w"))
    done = call("segment", "--dataset", "dfc2020", *flags, "--input_size", "32", "--max_steps", "4", *FOLDERS, cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert problem_of(record) is None
    assert record["protocol"] == "segmentation_finetune"
    assert "--nb_classes 11 counts a class 0 that dfc10 does not have: 10 outputs are used" in done.err
    assert "--mixup, --fine_tune means nothing for segmentation and is ignored" in done.err
    assert [n["text"] for n in record["notes"] if n["code"] == "ignored_flag"] == [
        f"--{flag} means nothing for segmentation and was ignored" for flag in ("mixup", "fine_tune")
    ]
    assert {"nb_classes", "test_is_val", "synthetic"} <= set(codes(record))
    assert record["model"]["name"] == "vit_small_patch16"
    recipe, weights = record["config"]["recipe"], record["model"]["weights"]
    assert recipe["lr"] == pytest.approx(1e-3 * 256 / 256)
    assert (recipe["drop_path"], recipe["layer_decay"], recipe["optimizer"], recipe["head"]) == (0.2, 0.75, "adamw", "upernet")
    assert (weights["used"], weights["missing"]) == (150, 0)
    assert np.shape(record["metrics"]["confusion"]) == (10, 10)
    head = weights_of(tmp_path / "out" / "checkpoint-last.pth")["head.classify.weight"]
    assert head.shape[0] == 10


def test_what_a_run_leaves(tiles, tmp_path):
    done = segment(tiles, "--epochs", "3", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert problem_of(record) is None
    assert record == json.loads((tmp_path / "out" / "record.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert len({tuple(line) for line in lines}) == 1
    assert set(record["metrics"]["test"]) == {"loss", "miou", "miou_union", "miou_all", "oa", "aa", "fwiou"}
    assert record["metrics"]["final"] == record["metrics"]["test"] == record["history"][-1]["val"]
    assert record["dataset"]["label_scheme"] == {"train": "dfc10 of dfc", "eval": "dfc10 of dfc"}
    assert record["model"]["params_total"] == record["model"]["params_trainable"]
    counts, stated = confusions(record, tmp_path / "results")
    assert (counts.dtype, counts.shape) == (np.int64, (4, 10, 10))
    assert json.loads(stated["ids"]) == [f"ROIs0000_validation/s1_validation/ROIs0000_validation_s1_0_p{n}" for n in range(4)]
    assert json.loads(stated["groups"]) == ["ROIs0000_validation/s1_validation"] * 4
    assert (tmp_path / "out" / "predictions-test.safetensors").read_bytes() == (
        tmp_path / "results" / record["predictions"]["file"]
    ).read_bytes()
    assert (tmp_path / "out" / "panels.png").read_bytes()[:4] == b"\x89PNG"
    assert torch.load(tmp_path / "out" / "checkpoint-last.pth", weights_only=True)["step"] == 15
    assert not (tmp_path / "out" / "checkpoint-best.pth").exists()
    assert list((tmp_path / "log").glob("events*"))
    before = listing(tmp_path)
    again = segment(tiles, "--config", "out/config.toml", cwd=tmp_path, backbone=())
    assert again.code == 0
    assert "is recorded already: nothing to do" in again.err
    assert listing(tmp_path) == before


def test_metrics_are_those_of_the_pixels(tiles, tmp_path):
    """mIoU, IoU, AA and OA of the record against scikit-learn and numpy on the pixels that the saved model predicts."""
    done = segment(tiles, "--eval_scheme", "dfc8", "--train_scheme", "dfc8", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    prepared = opened(tiles, tmp_path, train_scheme="dfc8")
    job = prepared.job
    job.model.load_state_dict(weights_of(tmp_path / "out" / "checkpoint-last.pth"))
    job.model.eval()
    rows = job.dataset.parts.test
    predicted, places = np.stack(job.predict(rows)), {1: 0, 2: 1, 4: 2, 5: 3, 6: 4, 7: 5, 9: 6, 10: 7}
    reference = []
    for n in range(4):
        with rasterio.open(file(tiles, "dfc", n, TESTED)) as source:
            reference.append(np.vectorize(lambda code: places.get(code, 255))(source.read(1)))
    reference = np.stack(reference)
    kept = reference != 255
    truth, seen = reference[kept], predicted[kept]
    present = np.unique(truth)
    test, per_class = record["metrics"]["test"], record["metrics"]["per_class"]
    names = list(per_class)
    assert test["miou"] == pytest.approx(jaccard_score(truth, seen, labels=present, average="macro"), abs=1e-12)
    assert test["oa"] == pytest.approx((truth == seen).mean(), abs=1e-12)
    assert test["aa"] == pytest.approx(np.mean([(seen[truth == k] == k).mean() for k in present]), abs=1e-12)
    assert test["miou_all"] == pytest.approx(test["miou"] * len(present) / 8, abs=1e-12)
    assert record["metrics"]["classes_scored"] == [names[k] for k in present]
    for k in present:
        union = ((truth == k) | (seen == k)).sum()
        assert per_class[names[k]]["iou"] == pytest.approx(((truth == k) & (seen == k)).sum() / union, abs=1e-12)
    counts, _ = confusions(record, tmp_path / "results")
    assert counts.sum() == kept.sum()
    assert counts.sum(0).tolist() == record["metrics"]["confusion"]


def test_a_val_split_selects_and_test_is_scored_once(tiles, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    names = {part: [f"ROIs0000_test_s1_0_p{n}" for n in numbers] for part, numbers in
             {"train": range(12), "val": range(12, 16), "test": range(16, 20)}.items()}  # fmt: skip
    for part, held in names.items():
        (lists / f"{part}.txt").write_text("\n".join(held) + "\n")
    done = segment(tiles, "--split", lists, "--epochs", "3", "--lr", "3e-3", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    curve = [entry["val"]["miou"] for entry in record["history"]]
    assert record["metrics"]["best"]["miou"] == max(curve)
    assert torch.load(tmp_path / "out" / "checkpoint-best.pth", weights_only=True)["epoch"] == record["metrics"]["best"]["epoch"]
    scored = segment(tiles, "--config", "out/config.toml", "--eval", "--resume", "auto", cwd=tmp_path, backbone=())
    assert f"miou {record['metrics']['test']['miou']:.4f}" in scored.out
    assert "test_is_val" not in codes(record)


def test_a_frozen_backbone_keeps_its_bits_and_the_head_alone_is_saved(frozen):
    place, record = frozen
    assert record["protocol"] == "frozen_upernet"
    assert problem_of(record) is None
    held = weights_of(place / "out" / "checkpoint-last.pth")
    assert held
    assert all(name.startswith(("neck.", "pooling.", "laterals.", "smooth.", "fuse.", "classify.")) for name in held)
    assert record["model"]["params_trainable"] == sum(v.numel() for k, v in held.items() if not k.endswith(("running_mean", "running_var")))
    assert record["model"]["params_total"] > record["model"]["params_trainable"]
    assert (record["config"]["recipe"]["features"], record["config"]["recipe"]["augment"]) == ("cached", False)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_training_a_head_leaves_the_backbone_alone(norm, tiles, tmp_path):
    prepared = opened(tiles, tmp_path, freeze_backbone=True, norm=norm, features="stream", num_workers=0)
    before = build_backbone(Model(model="test_vit", weights="random", input_size=SIDE), prepared.run.recipe.seed).module.state_dict()
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
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "fgmae_bench.segment")
    arguments = [*launch, "--dataset", "dfc2020", "--data_path", data, *FROZEN, *FOLDERS, *flags, "--batch_size", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def test_one_process_scores_as_two(frozen, tiles):
    place, record = frozen
    flags = ("--features", "cached", "--norm", "group", "--eval", "--resume", "out/checkpoint-last.pth")
    alone = segment(tiles, *flags, cwd=place, backbone=FROZEN)
    assert alone.code == 0, alone.err
    done = on_two(tiles, *flags, cwd=place)
    assert done.stdout == alone.out
    assert f"miou {record['metrics']['test']['miou']:.4f}" in done.stdout


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


def test_labels_of_another_kind_in_training_are_matched_by_name(tiles, tmp_path):
    flags = ("--train_labels", "igbp", "--train_scheme", "dfc10", "--eval_labels", "dfc", "--eval_scheme", "dfc8")
    done = segment(tiles, *flags, "--epochs", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert problem_of(record) is None
    (text,) = [n["text"] for n in record["notes"] if n["code"] == "label_scheme_mismatch"]
    assert "trained on igbp labels as dfc10, scored by dfc as dfc8" in text
    assert record["metrics"]["test"]["loss"] is None
    assert record["dataset"]["label_scheme"] == {"train": "dfc10 of igbp", "eval": "dfc8 of dfc"}
    counts, stated = confusions(record, tmp_path / "results")
    assert counts.shape == (4, 8, 9)
    assert len(json.loads(stated["classes"])) == 8
    assert np.shape(record["metrics"]["confusion"]) == (8, 9)
    assert (tmp_path / "out" / "panels.png").exists()


def test_the_same_classes_of_another_source_keep_their_loss(tiles, tmp_path):
    done = segment(tiles, "--train_labels", "igbp", "--eval_labels", "dfc", "--epochs", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert "label_scheme_mismatch" in codes(record)
    assert record["metrics"]["test"]["loss"] is not None
    assert np.shape(record["metrics"]["confusion"]) == (10, 10)


def _identical_pairs():
    pairs = []
    for source in CARD.label_sources:
        for scheme in CARD.label_schemes:
            try:
                card_map(CARD, source, scheme)
            except BenchError:
                continue
            pairs.append((source, scheme))
    return pairs


@pytest.mark.parametrize(("source", "scheme"), _identical_pairs())
def test_a_perfect_predictor_scores_one(source, scheme, tiles, tmp_path_factory):
    shared = tmp_path_factory.getbasetemp()
    job = opened(tiles, shared, train_labels=source, train_scheme=scheme, num_workers=0).job
    inputs, masks = job._prepare(job.dataset.parts.test)
    known = {image.tobytes(): mask for image, mask in zip(inputs, masks, strict=True)}
    classes = len(job.eval_labels.classes)

    def perfect(images, size):
        seen = [known[(image * 255).round().to(torch.uint8).numpy().tobytes()] for image in images]
        ids = torch.from_numpy(np.stack(seen)).long()
        return torch.nn.functional.one_hot(torch.where(ids == 255, 0, ids), classes).permute(0, 3, 1, 2).float()

    job.model = perfect
    scores = job.evaluate("test").metrics
    assert [scores[name] for name in ("miou", "miou_union", "oa", "aa", "fwiou")] == [1.0] * 5


def test_seven_pairs_are_valid():
    assert len(_identical_pairs()) == 7


def test_killed_and_resumed_it_is_the_undisturbed_run(tiles, tmp_path):
    flags = ("--epochs", "8", "--checkpoint_seconds", "0", "--drop_path", "0.2", "--resume", "auto")
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    torn.mkdir()
    assert segment(tiles, *flags[:-2], cwd=whole).code == 0
    arguments = [sys.executable, "-m", "fgmae_bench.segment", "--dataset", "dfc2020", "--data_path", tiles, *TINY, *FOLDERS, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*map(str, arguments)], cwd=torn, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not (torn / "out" / "checkpoint-last.pth").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert not list((torn / "results").rglob("*.json"))
    done = segment(tiles, *flags, cwd=torn)
    assert done.code == 0, done.err
    assert "goes on after step" in done.err
    one, other = (only_record(place / "results") for place in (torn, whole))
    assert essence(one) == essence(other)
    kept = [weights_of(place / "out" / "checkpoint-last.pth") for place in (torn, whole)]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[1])


def test_windows_over_tiles_larger_than_the_input(tiles, tmp_path):
    done = segment(tiles, "--input_size", "32", "--stride", "16", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert record["model"]["contract"]["size"] == 32
    assert np.sum(record["metrics"]["confusion"]) == 4 * SIDE**2
    job = opened(tiles, tmp_path, input_size=32, stride=16).job
    job.model.load_state_dict(weights_of(tmp_path / "out" / "checkpoint-last.pth"))
    job.model.eval()
    row = job.dataset.parts.test[:1]
    (image,), _ = job._prepare(row)
    total, visits = np.zeros((10, SIDE, SIDE)), np.zeros((SIDE, SIDE))
    for top in (0, 16, 32):
        for left in (0, 16, 32):
            piece = torch.from_numpy(image[None, :, top : top + 32, left : left + 32]).float() / 255
            with torch.inference_mode():
                total[:, top : top + 32, left : left + 32] += job.model(piece)[0].numpy()
            visits[top : top + 32, left : left + 32] += 1
    assert (job.predict(row)[0] == (total / visits).argmax(0)).mean() > 0.999


@pytest.mark.parametrize(("norm", "head"), [("batch", "upernet"), ("group", "upernet"), ("batch", "linear")])
def test_batches_of_one(norm, head, tiles, tmp_path):
    done = segment(tiles, "--batch_size", "1", "--max_steps", "2", "--norm", norm, "--head", head, cwd=tmp_path)
    assert done.code == 0, done.err
    assert np.isfinite(only_record(tmp_path / "results")["metrics"]["test"]["loss"])


def test_patches_of_14_pixels_take_the_next_smaller_size(tiles, tmp_path):
    """256 to 252, 64 to 56; masks keep their own size."""
    large = _at_data_size(Model(model="vit_huge_patch14"), SimpleNamespace(index=SimpleNamespace(size=(256, 256))))
    assert large.input_size == 252
    prepared = opened(tiles, tmp_path, model="vit_small_patch14_dinov2", freeze_backbone=True, features="stream")
    assert prepared.backbone.contract.size == 56
    job = prepared.job
    assert job.evaluate("test").outputs.sum() == 4 * SIDE**2


def test_an_image_of_ignore_alone_is_left_out_and_counted(spoilt, tmp_path):
    rewrite(file(spoilt, "dfc", 3), np.zeros_like)
    done = segment(spoilt, "--epochs", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert record["dataset"]["n_train"] == 19
    assert "1 images without a pixel of any class were left out" in [n["text"] for n in record["notes"]]


def test_pixels_without_backscatter_are_neither_learnt_nor_scored(spoilt, tmp_path):
    def hole(pixels):
        pixels[0, :10, :10] = np.nan
        return pixels

    rewrite(file(spoilt, "s1", 0, TESTED), hole)
    rewrite(file(spoilt, "s1", 5), lambda pixels: np.where(np.arange(SIDE) < 50, np.nan, pixels))
    done = segment(spoilt, "--epochs", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    counts, _ = confusions(record, tmp_path / "results")
    assert counts.sum(axis=(1, 2)).tolist() == [SIDE**2 - 100, *[SIDE**2] * 3]
    assert record["dataset"]["n_train"] == 19  # more than half of tile 5 is void
    assert "invalid_left_out" in codes(record)


def test_packs_of_both_kinds_score_as_the_files(spoilt, tmp_path):
    rewrite(file(spoilt, "s1", 0, TESTED), lambda pixels: np.where(np.arange(SIDE) < 9, np.nan, pixels))
    found = []
    for kind in ("files", "float32", "uint8"):
        data, cwd = tmp_path / kind, tmp_path / f"cwd-{kind}"
        cwd.mkdir()
        if kind == "files":
            data = spoilt
        else:
            flags = ("--data_path", spoilt, "--out", data, "--dtype", kind, "--workers", "0")
            assert call("prepare", "pack", "dfc2020", *flags, cwd=tmp_path).code == 0
        done = segment(data, "--epochs", "1", cwd=cwd)
        assert done.code == 0, done.err
        found.append(only_record(cwd / "results"))
    assert np.sum(found[0]["metrics"]["confusion"]) == 4 * SIDE**2 - 9 * SIDE
    for other in found[1:]:
        assert (other["run_id"], other["metrics"]) == (found[0]["run_id"], found[0]["metrics"])


def test_overlapping_parts_are_named_and_refused_under_strict(spoilt, tmp_path):
    shutil.copy(file(spoilt, "s1", 7), file(spoilt, "s1", 2, TESTED))
    done = segment(spoilt, "--epochs", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    (text,) = [n["text"] for n in only_record(tmp_path / "results")["notes"] if n["code"] == "overlapping_splits"]
    assert "ROIs0000_test_s1_0_p7" in text
    assert "ROIs0000_validation_s1_0_p2" in text
    assert text in done.err
    line = said(segment(spoilt, "--epochs", "1", "--seed", "1", "--strict", cwd=tmp_path))
    assert text in line


def without_label(root):
    file(root, "dfc", 4).unlink()


def smaller_label(root):
    rewrite(file(root, "dfc", 4), lambda pixels: pixels[:, :32, :32])


def smaller_image(root):
    rewrite(file(root, "s1", 4), lambda pixels: pixels[:, :32, :32])


def unknown_code(root):
    rewrite(file(root, "dfc", 4), lambda pixels: np.where(np.arange(SIDE) < 5, 77, pixels).astype(pixels.dtype))


def three_bands(root):
    rewrite(file(root, "s1", 4), lambda pixels: np.concatenate([pixels, pixels[:1]]))


def nothing_but_nan(root):
    rewrite(file(root, "s1", 4), lambda pixels: np.full_like(pixels, np.nan))


def nothing_labelled(root):
    for n in range(20):
        rewrite(file(root, "dfc", n), np.zeros_like)


def untouched(root):
    """The world as it is."""


BAD = [
    (without_label, (), ("ROIs0000_test_s1_0_p4.tif has no label ROIs0000_test_dfc_0_p4.tif",)),
    (smaller_label, (), ("ROIs0000_test_dfc_0_p4.tif is 32x32 pixels, its image 64x64",)),
    (smaller_image, (), ("ROIs0000_test_s1_0_p4.tif is 32x32 pixels",)),
    (unknown_code, (), ("ROIs0000_test_dfc_0_p4.tif: 77 is no code of DFC2020", "found", "77 ? 7.8%")),
    (three_bands, (), ("ROIs0000_test_s1_0_p4.tif has 3 bands, DFC2020 has 2",)),
    (nothing_but_nan, (), ("ROIs0000_test_s1_0_p4.tif: band 1 has no valid pixel",)),
    (nothing_labelled, (), ("no image of the train split has a dfc label of a class of dfc10",)),
    (untouched, ("--train_scheme", "igbp17"), ("label scheme igbp17 is not defined for dfc labels",)),
    (untouched, ("--train_labels", "igbp", "--eval_labels", "dfc", "--train_scheme", "igbp17"), ("igbp17 is not defined for dfc",)),
    (untouched, ("--train_labels", "s2"), ("label source", "'s2'", "igbp")),
    (untouched, ("--train_scheme", "dfc9"), ("'dfc9'", "dfc8")),
    (untouched, ("--nb_classes", "7"), ("--nb_classes is 7, label scheme dfc10 has 10",)),
    (untouched, ("--head", "fcn"), ("fcn", "upernet")),
    (untouched, ("--fpn_dim", "4"), ("--fpn_dim 4",)),
    (untouched, ("--blocks", "1", "2", "3", "9"), ("give rising indices from 0 to 5",)),
    (untouched, ("--stride", "100", "--input_size", "32"), ("--stride 100",)),
    (untouched, ("--features", "cached"), ("--features cached without --freeze_backbone",)),
    (untouched, ("--features", "cached", "--freeze_backbone", "--stride", "32"), ("--features cached with --stride",)),
    (untouched, ("--stride", "16", "--input_size", "32", "--no_augment"), ("--stride with --no_augment",)),
    (untouched, ("--panels", "40"), ("--panels is 40; give 12 or less",)),
    (untouched, ("--batch_size", "21"), ("larger than the training split (20 images)",)),
    (untouched, ("--model", "backscatter_stats"), ("backscatter_stats",)),
    (untouched, ("--eval", "--resume", "nowhere.pth"), ("no checkpoint at nowhere.pth",)),
]


@pytest.mark.parametrize(("spoil", "flags", "told"), BAD, ids=[f"{spoil.__name__}-{'_'.join(flags)[2:24]}" for spoil, flags, _ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(spoil, flags, told, spoilt, tmp_path):
    spoil(spoilt)
    before = listing(tmp_path)
    line = said(segment(spoilt, *flags, cwd=tmp_path))
    assert all(part in line for part in told), line
    assert {path: content for path, content in listing(tmp_path).items() if not path.startswith("cache")} == before


@pytest.mark.parametrize("flags", [("--train_labels", "igbp", "--train_scheme", "dfc10"), ()], ids=["dfc said to be igbp", "reverse"])
def test_labels_that_look_like_another_kind_are_refused_with_the_histogram(flags, tmp_path):
    root, cwd = tmp_path / "w", tmp_path / "cwd"
    cwd.mkdir()
    dfc.write_dfc(root, tiles=32, size=32)
    for place, count in ((TRAINED, 27), (TESTED, 5)):
        for n in range(count):
            with rasterio.open(file(root, "dfc", n, place)) as fine, rasterio.open(file(root, "lc", n, place)) as coarse:
                labels, modis = fine.read(1), coarse.read(1)
            if flags:
                rewrite(file(root, "lc", n, place), lambda pixels, labels=labels: np.concatenate([labels[None], pixels[1:]]).astype("u2"))
            else:
                rewrite(file(root, "dfc", n, place), lambda pixels, modis=modis: np.where(modis > 10, 8, modis)[None].astype(pixels.dtype))
    line = said(segment(root, *flags, cwd=cwd))
    assert ("look like DFC2020" if flags else "look like IGBP") in line
    assert "pass --trust_data" in line
    assert "found" in line
    assert not [path for path in listing(cwd) if not path.startswith("cache")]
    trusted = segment(root, *flags, "--trust_data", "--epochs", "1", cwd=cwd)
    assert trusted.code == 0, trusted.err
    assert "data_trusted" in codes(only_record(cwd / "results"))


def test_codes_of_modis_in_a_file_said_to_be_dfc_are_refused_where_they_are_read(spoilt, tmp_path):
    with rasterio.open(file(spoilt, "lc", 4)) as source:
        modis = source.read(1)
    modis[:8] = 17
    rewrite(file(spoilt, "dfc", 4), lambda pixels: modis[None].astype(pixels.dtype))
    line = said(segment(spoilt, cwd=tmp_path))
    assert "ROIs0000_test_dfc_0_p4.tif" in line
    assert "17" in line


def test_each_entry_takes_its_own_kind_of_dataset(tiles, tmp_path):
    for module in ("linear", "finetune"):
        line = said(call(module, "--dataset", "dfc2020", "--data_path", tiles, "--model", "test_vit", "--weights", "random", cwd=tmp_path))
        assert "DFC2020 is a segmentation dataset; use fgmae_bench.segment" in line
    line = said(segment(shared_world(5), cwd=tmp_path, dataset="eurosat"))
    assert "is a single_label dataset; use fgmae_bench.linear or fgmae_bench.finetune" in line
    assert not listing(tmp_path)


def test_a_grid_of_rates_is_one_run_each(tiles, tmp_path):
    done = segment(tiles, "--lr", "1e-3", "1e-2", "--epochs", "1", cwd=tmp_path, backbone=(*FROZEN, "--features", "cached"))
    assert done.code == 0, done.err
    assert sorted(record["config"]["recipe"]["lr"] for record in records(tmp_path / "results")) == [0.001, 0.01]
    assert len(list((tmp_path / "out").glob("*/panels.png"))) == 2


def test_panels_are_left_out_on_request(tiles, tmp_path):
    assert segment(tiles, "--max_steps", "1", "--panels", "0", cwd=tmp_path).code == 0
    assert not (tmp_path / "out" / "panels.png").exists()


def test_every_tile_of_the_world_is_read(tiles):
    index = build_index(CARD, tiles)
    assert len(index.ids) == TILES
    assert dataclasses.is_dataclass(index)


@pytest.mark.parametrize("model", ["croma_base", "dofa_base_patch16_224", "copernicusfm_base"])
def test_torchgeo_models_take_a_decoder_under_our_contract(model, tiles, tmp_path):
    pytest.importorskip("torchgeo", reason="the extra torchgeo is not installed")
    flags = ("--model", model, "--weights", "random", "--freeze_backbone", "--max_steps", "1", "--warmup_steps", "0", "--fpn_dim", "8")
    done = segment(tiles, *flags, "--batch_size", "2", "--panels", "0", backbone=(), cwd=tmp_path)
    assert done.code == 0, done.err
    assert only_record(tmp_path / "results")["protocol"] == "frozen_upernet"
