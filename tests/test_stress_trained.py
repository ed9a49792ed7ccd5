"""Stress of trained checkpoints, of segmentation and of heads that are fitted on stressed images; the null beside."""

import json

import numpy as np
import pytest
import rasterio
import torch
from commands import FOLDERS, STATISTICS, call, codes, refused, said, shared_world
from segment_world import FROZEN, opened
from sklearn.metrics import jaccard_score

from fgmae_bench.config.cards import load_card
from fgmae_bench.models.pooling import BackscatterStats
from fgmae_bench.probe.closed import fit_logistic
from fgmae_bench.probe.fitted import Part
from fgmae_bench.stress.reading import of_pixels, pixel_row
from fgmae_bench.views.segmentation import mask_invalid
from fgmae_bench.views.stress import Scene
from fgmae_bench.views.stress_table import apply
from fgmae_bench.worlds.dfc import write_dfc

pytest_plugins = ("segment_world",)

SPLIT = ("--split", "random_60_20_20")
FINETUNE = ("--model", "test_vit", "--input_size", "32", "--weights", "random", "--epochs", "2", "--batch_size", "16")
LBFGS = (*STATISTICS[2:4], "--probe", "lbfgs", "--penalties", "0.001", *SPLIT)


def stress(*flags, cwd, data=None, dataset="eurosat"):
    data = shared_world() if data is None else data
    return call("stress.__main__", "--dataset", dataset, "--data_path", data, *FOLDERS, *flags, cwd=cwd)


def stored(folder, protocol):
    """(record of the stress, record of the run as fitted) by protocol."""
    root = folder / "results" / "records"
    (one,), (clean,) = (list(root.glob(f"*/{prefix}{protocol}/*.json")) for prefix in ("stress_", ""))
    return json.loads(one.read_text()), json.loads(clean.read_text())


@pytest.fixture(scope="module")
def segmented(tiles, tmp_path_factory):
    """A frozen backbone's head under three stresses, its maps kept in the bank."""
    folder = tmp_path_factory.mktemp("segmented")
    flags = (*FROZEN, "--features", "cached", "--head", "linear")
    done = [
        stress(*flags, "--stress", name, "--severities", *levels, cwd=folder, data=tiles, dataset="dfc2020")
        for name, levels in (("offset", (1, 3)), ("border", (0.25,)))
    ]
    assert [each.code for each in done] == [0, 0], done[0].err + done[1].err
    job = opened(
        tiles, folder, backbone=FROZEN[:-1], freeze_backbone=True, features="cached", head="linear", num_workers=0
    ).job
    job.kept.load_state_dict(torch.load(folder / "out" / "checkpoint-last.pth", weights_only=True)["model"])
    job.model.eval()
    records = [json.loads(path.read_text()) for path in sorted((folder / "results").rglob("stress_*/*.json"))]
    return done, {record["stress"][0]["name"]: record for record in records}, job


def looked_at(job, change):
    """(class numbers of clean and of changed images, labels, 255 under what the change made invalid) by test image."""
    found = []
    model = job.under(job.view).model
    for row in job.dataset.parts.test:
        chip, label = job.dataset.samples.chip(int(row)), job.mask(int(row))
        db, valid = change(chip.db, job.dataset.index.ids[row])
        maps = []
        for pixels, kept in ((chip.db, chip.valid), (db, valid)):
            image = job.view.before_geometry([type(chip)(db=pixels, valid=kept, synthetic=True)])
            with torch.inference_mode():
                scaled = torch.from_numpy(image).float() / (255 if image.dtype == np.uint8 else 1)
                maps.append(model(scaled, label.shape)[0].argmax(0).numpy())
        found.append((*maps, mask_invalid(mask_invalid(label, chip.valid), valid)))
    return [np.concatenate([each[k].ravel() for each in found]) for k in range(3)]


def test_segmentation_is_scored_as_by_hand_on_images_three_decibels_up(segmented):
    _, records, job = segmented
    clean, up, labels = looked_at(job, lambda db, id: (db + np.float32(3), None))
    kept = labels != 255
    held = np.unique(labels[kept])
    (item,) = (item for item in records["offset"]["stress"] if item["severity"] == 3)
    wanted = jaccard_score(labels[kept], up[kept], labels=held, average="macro")
    assert item["metrics"]["miou"] == pytest.approx(wanted, abs=1e-9)
    assert item["metrics"]["flip_rate"] == pytest.approx((clean != up)[kept].mean(), abs=1e-12)
    before = jaccard_score(labels[kept], clean[kept], labels=held, average="macro")
    assert records["offset"]["metrics"]["test"]["miou"] == pytest.approx(before, abs=1e-9)
    assert item["metrics"]["change"] == pytest.approx(wanted - before, abs=1e-9)
    share = np.bincount(labels[kept]).max() / kept.sum() / len(held)
    assert records["offset"]["metrics"]["tolerance"]["offset"]["chance"] == pytest.approx(share)


def test_the_share_of_changed_decisions_is_of_scored_pixels():
    """Three of eight pixels are unlabelled; of the others two changed, and of a second image none of four."""
    masks = np.array([[0, 1, 255, 255], [1, 0, 0, 255]], np.uint8), np.array([[0, 1], [1, 1]], np.uint8)
    tables = [np.bincount(mask[mask < 2], minlength=2) for mask in masks]
    rows = np.stack(
        [pixel_row(mask, np.diag(t), np.diag(t), n) for mask, t, n in zip(masks, tables, (2, 0), strict=True)]
    )
    assert of_pixels(rows, 2, 2, None).flips(rows) == pytest.approx(2 / 9)


def test_pixels_without_measurement_are_left_out_on_both_sides(segmented):
    """A strip that is gone costs no score by itself: the clean maps are scored on the pixels that are left."""
    _, records, job = segmented
    (item,) = records["border"]["stress"]
    wanted = []
    for draw in range(3):

        def strip(db, id, draw=draw):
            return apply("border", db, None, 0.25, Scene(sample=id, draw=draw))

        clean, now, labels = looked_at(job, strip)
        kept = labels != 255
        assert kept.mean() < 0.8
        held = np.unique(labels[kept])
        now, before = (jaccard_score(labels[kept], each[kept], labels=held, average="macro") for each in (now, clean))
        wanted.append((now, now - before))
    assert item["metrics"]["miou"] == pytest.approx(np.mean(wanted, 0)[0], abs=1e-9)
    assert item["metrics"]["change"] == pytest.approx(np.mean(wanted, 0)[1], abs=1e-9)
    assert records["border"]["protocol"] == "stress_frozen_linear"


def test_a_fine_tuned_classifier_has_a_card(tmp_path):
    flags = ("--entry", "finetune", *FINETUNE, *SPLIT, "--stress", "offset", "--severities", 1, 3)
    done = stress(*flags, cwd=tmp_path)
    assert done.code == 0, done.err
    record, clean = stored(tmp_path, "finetune")
    assert record["metrics"]["test"] == clean["metrics"]["test"]
    assert record["metrics"]["tolerance"]["offset"]["null"]["clean"] > 0  # statistics stand beside it
    again = stress(*flags, cwd=tmp_path)
    assert again.out == done.out
    other = stress(*flags, "--seed", 7, "--resume", tmp_path / "out" / "checkpoint-last.pth", cwd=tmp_path)
    assert "this is" in said(other)


@pytest.mark.parametrize("entry", ["finetune", "segment"])
def test_a_checkpoint_of_another_dataset_is_refused(entry, tiles, tmp_path):
    path = tmp_path / "checkpoint-best.pth"
    content = {"format": 1, "kind": "train", "run_id": "test_vit-published-0123456789", "step": 3, "threads": 1}
    curve = json.dumps({"best": None, "history": [], "legacy": [], "period": {}, "spent": {}})
    torch.save({**content, "curve": curve, "model": {}, "optimizer": {}, "scaler": {}, "best_model": {}}, path)
    if entry == "segment":
        how = {"data": tiles, "dataset": "dfc2020", "run": stress, "cache_filled": True}
        line = refused(*FROZEN, "--resume", path, "--stress", "offset", cwd=tmp_path, **how)
    else:
        how = {"run": stress, "cache_filled": True}
        line = refused(
            "--entry", entry, "--no_null", *FINETUNE, "--resume", path, "--stress", "offset", cwd=tmp_path, **how
        )
    assert "belongs to test_vit-published-0123456789" in line


def test_the_null_stands_beside_a_model_on_the_same_resamples(tmp_path):
    flags = (
        "--model",
        "patch_means:mapping",
        "--normalizer",
        "two_sigma",
        "--input_size",
        64,
        "--mean",
        -12.59,
        -20.26,
    )
    done = stress(*flags, "--std", 5.26, 5.91, *LBFGS, "--stress", "offset", cwd=tmp_path)
    assert done.code == 0, done.err
    root = tmp_path / "results" / "records" / "eurosat" / "stress_logistic_regression"
    records = {record["model"]["name"]: record for record in map(json.loads, (p.read_text() for p in root.iterdir()))}
    null, record = records.pop("backscatter_stats"), records.popitem()[1]
    assert "no_null" not in codes(record)
    assert "null" not in null["metrics"]["tolerance"]["offset"]
    for item, other in zip(record["stress"], null["stress"], strict=True):
        wanted = item["metrics"]["change"] - other["metrics"]["change"]
        assert item["metrics"]["beyond_null"] == pytest.approx(wanted, abs=1e-12)
        low, high = item["metrics"]["beyond_null_interval"]
        assert low <= wanted <= high
    for name in ("value", "area", "clean"):
        assert record["metrics"]["tolerance"]["offset"]["null"][name] == null["metrics"]["tolerance"]["offset"][name]


def test_a_head_fitted_on_offset_images_too_is_that_of_all_of_them_together(tmp_path):
    flags = ("--model", "backscatter_stats", *LBFGS, "--stress", "offset", "--severities", 1, 3)
    assert stress(*flags, cwd=tmp_path).code == 0
    done = stress(*flags, "--train_stress", "offset:3", "offset:1", cwd=tmp_path)
    assert done.code == 0, done.err
    root = tmp_path / "results" / "records" / "eurosat"
    (path,) = (root / "stress_augmented_logistic_regression").iterdir()
    record, (plain, clean) = json.loads(path.read_text()), stored(tmp_path, "logistic_regression")
    assert "train_stress" in codes(record)
    assert record["config"]["facts"]["stress"]["train"] == [["offset", 3.0], ["offset", 1.0]]
    assert record["predictions"] is None
    at3 = [each["stress"][1]["metrics"]["oa"] for each in (plain, record)]
    assert at3[1] > at3[0] + 0.2
    assert record["metrics"]["test"] != clean["metrics"]["test"]
    assert at3[1] == pytest.approx(_by_hand(clean), abs=1e-9)


def _by_hand(clean):
    """OA at 3 dB of a head on clean features with those 3 and 1 dB up, from the files."""
    card = load_card("eurosat")
    from fgmae_bench.config.run import Data
    from fgmae_bench.data.layouts import build_index
    from fgmae_bench.data.splits import make_split

    index = build_index(card, shared_world())
    parts = make_split(card, index, Data(dataset="eurosat", split="random_60_20_20"), shared_world())

    def features(rows, up):
        pixels = []
        for row in rows:
            with rasterio.open(index.path(int(row))) as source:
                pixels.append(source.read() + np.float32(up))
        return BackscatterStats()(torch.from_numpy(np.stack(pixels))).numpy()

    train = np.concatenate([features(parts.train, up) for up in (0, 3, 1)])
    labels = index.labels[parts.train]
    fitted = fit_logistic(
        Part(train, np.concatenate([labels] * 3)),
        {"test": Part(features(parts.test, 3), index.labels[parts.test])},
        len(card.classes),
        (0.001,),
        42,
    )
    return (fitted.logits["test"].argmax(1) == index.labels[parts.test]).mean()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--train_stress", "offset"), "give a stress and its severity"),
        (("--train_stress", "speckel:1"), "unknown stress 'speckel'"),
        (("--train_stress", "speckle:-1"), "severity from 0 to 10"),
        (("--train_stress", "offset:0"), "changes nothing"),
        (("--train_stress", "offset:1", "--probe", "sgd"), "choose --probe lbfgs"),
        (("--train_stress", "offset:1", "--entry", "finetune"), "--train_stress with --entry finetune"),
        (("--entry", "sagment"), "unknown entry 'sagment'"),
    ],
)
def test_bad_flags_of_fitting_are_refused_in_one_line(tmp_path, flags, words):
    assert words in refused("--stress", "offset", *flags, cwd=tmp_path, run=stress)


def test_a_baseline_that_is_fitted_at_once_has_a_card(tmp_path):
    root = tmp_path / "world"
    write_dfc(root, tiles=12, size=32)
    flags = ("--head", "random_forest", "--model", "backscatter_stats", "--weights", "random")
    done = stress(*flags, "--stress", "offset", "--severities", 1, 6, cwd=tmp_path, data=root, dataset="dfc2020")
    assert done.code == 0, done.err
    record, clean = stored(tmp_path, "random_forest")
    assert record["metrics"]["test"] == clean["metrics"]["test"]
    changes = [item["metrics"]["change"] for item in record["stress"]]
    assert changes[1] < changes[0] < 0.05
    assert 0 < record["stress"][0]["metrics"]["flip_rate"] < record["stress"][1]["metrics"]["flip_rate"] <= 1
