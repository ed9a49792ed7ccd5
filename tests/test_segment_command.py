"""Segmentation as a user runs it: the published command line, what a run leaves, labels of several kinds, killed and
resumed.
"""

import dataclasses
import json
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from commands import FOLDERS, call, codes, listing, only_record, records, stop_once_there_is
from same_run import essence
from segment_world import CARD, FROZEN, SIDE, TESTED, TILES, confusions, file, opened, segment, weights_of
from sklearn.metrics import jaccard_score

from fgmae_bench.checkpoints.shapes import ARCHITECTURES
from fgmae_bench.checkpoints.synth import write_synthetic
from fgmae_bench.config.run import Model
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.schemes import card_map
from fgmae_bench.errors import BenchError
from fgmae_bench.records import problem_of
from fgmae_bench.runs.setup import _at_data_size
from fgmae_bench.worlds import dfc

pytest_plugins = ("segment_world",)

FIFTH = (
    "--batch_size 128 --model seg_fgmae_s --finetune B2_vits16_fgmae_ep99.pth --data_path DIR --nb_classes 11 --train_frac 1.0 "
    "--num_workers 10 --epochs 20 --warmup_epochs 3 --weight_decay 0.05 --accum_iter 2 --blr 1e-3 --layer_decay 0.75 --drop_path 0.2 "
    "--mixup 0.8 --seed 42 --fine_tune"
)


# --- what a run leaves


@pytest.mark.slow
def test_command_line_5_verbatim(tmp_path):
    """The notes' flags; world, input side and number of steps are small, so that it ends."""
    write_synthetic(tmp_path / "B2_vits16_fgmae_ep99.pth", ARCHITECTURES["vit_small_patch16"], "full")
    dfc.write_dfc(tmp_path / "w", tiles=156, size=32)
    flags = shlex.split(FIFTH.replace("DIR", "w"))
    done = call(
        "segment", "--dataset", "dfc2020", *flags, "--input_size", "32", "--max_steps", "4", *FOLDERS, cwd=tmp_path
    )
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert problem_of(record) is None
    assert record["protocol"] == "segmentation_finetune"
    assert "--nb_classes 11 counts a class 0 that dfc10 does not have: 10 outputs are used" in done.err
    assert "--mixup, --fine_tune mean nothing for segmentation and are ignored" in done.err
    assert [n["text"] for n in record["notes"] if n["code"] == "ignored_flag"] == [
        f"--{flag} means nothing for segmentation and was ignored" for flag in ("mixup", "fine_tune")
    ]
    assert {"nb_classes", "test_is_val", "synthetic"} <= set(codes(record))
    assert record["model"]["name"] == "vit_small_patch16"
    recipe, weights = record["config"]["recipe"], record["model"]["weights"]
    assert recipe["lr"] == pytest.approx(1e-3 * 256 / 256)
    assert (recipe["drop_path"], recipe["layer_decay"], recipe["optimizer"], recipe["head"]) == (
        0.2,
        0.75,
        "adamw",
        "upernet",
    )
    assert (weights["used"], weights["missing"]) == (150, 0)
    assert np.shape(record["metrics"]["confusion"]) == (10, 10)
    head = weights_of(tmp_path / "out" / "checkpoint-last.pth")["head.classify.weight"]
    assert head.shape[0] == 10


def test_what_a_run_leaves(tiles, tmp_path):
    done = segment(tiles, "--epochs", "3", "--panels", "2", cwd=tmp_path)
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
    assert json.loads(stated["ids"]) == [
        f"ROIs0000_validation/s1_validation/ROIs0000_validation_s1_0_p{n}" for n in range(4)
    ]
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
    names = {
        part: [f"ROIs0000_test_s1_0_p{n}" for n in numbers]
        for part, numbers in {"train": range(12), "val": range(12, 16), "test": range(16, 20)}.items()
    }
    for part, held in names.items():
        (lists / f"{part}.txt").write_text("\n".join(held) + "\n")
    done = segment(tiles, "--split", lists, "--epochs", "3", "--lr", "3e-3", cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    curve = [entry["val"]["miou"] for entry in record["history"]]
    assert record["metrics"]["best"]["miou"] == max(curve)
    assert (
        torch.load(tmp_path / "out" / "checkpoint-best.pth", weights_only=True)["epoch"]
        == record["metrics"]["best"]["epoch"]
    )
    scored = segment(tiles, "--config", "out/config.toml", "--eval", "--resume", "auto", cwd=tmp_path, backbone=())
    assert f"miou {record['metrics']['test']['miou']:.4f}" in scored.out
    assert "test_is_val" not in codes(record)


def test_a_grid_of_rates_is_one_run_each(tiles, tmp_path):
    flags = (*FROZEN, "--features", "cached", "--panels", "1")
    done = segment(tiles, "--lr", "1e-3", "1e-2", "--epochs", "1", cwd=tmp_path, backbone=flags)
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


# --- labels of several kinds


def test_labels_of_another_kind_in_training_are_matched_by_name(tiles, tmp_path):
    flags = ("--train_labels", "igbp", "--train_scheme", "dfc10", "--eval_labels", "dfc", "--eval_scheme", "dfc8")
    done = segment(tiles, *flags, "--epochs", "1", "--panels", "1", cwd=tmp_path)
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


# --- stopped and resumed; windows, batches and patches of other sizes


@pytest.mark.slow
@pytest.mark.parametrize("head", ["upernet", "pointrend", "mask2former"])
def test_stopped_and_resumed_it_is_the_undisturbed_run(tiles, tmp_path, head):
    """Also of heads that draw points in training: PointRend by its own count of batches, Mask2Former in its loss."""
    more = (
        ("--head", head)
        if head == "upernet"
        else ("--head", head, "--fpn_dim", "32", "--max_steps", "3", "--batch_size", "2")
    )
    if head == "mask2former":
        pytest.importorskip("transformers")
    flags = ("--epochs", "8", "--checkpoint_seconds", "0", "--drop_path", "0.2", *more, "--resume", "auto")
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    torn.mkdir()
    assert segment(tiles, *flags[:-2], cwd=whole).code == 0
    stop_once_there_is("out/checkpoint-last.pth", torn, lambda: segment(tiles, *flags, cwd=torn))
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
    large = _at_data_size(
        Model(model="vit_huge_patch14"), SimpleNamespace(index=SimpleNamespace(size=(256, 256))), None
    )
    assert large.input_size == 252
    prepared = opened(tiles, tmp_path, model="vit_small_patch14_dinov2", freeze_backbone=True, features="stream")
    assert prepared.backbone.contract.size == 56
    job = prepared.job
    assert job.evaluate("test").outputs.sum() == 4 * SIDE**2
