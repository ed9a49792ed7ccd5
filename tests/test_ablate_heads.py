"""ablate heads: one frozen pass for every head, its cost recorded, rankings of encoders compared; windows in the bank."""

import csv
import math
import re
import shlex

import commands
import numpy as np
import pytest
import scipy.stats
import torch
from commands import FOLDERS, call, records, said
from segment_world import SIDE, TILES, opened

from fgmae_bench.ablate.head_tables import agreements, by_group, miou
from fgmae_bench.ablate.heads import _heads, _models
from fgmae_bench.config.names import HEADS
from fgmae_bench.config.run import Model
from fgmae_bench.data.samples import Samples
from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.segmentation import segmentation
from fgmae_bench.models.cost import cost_of
from fgmae_bench.models.segmenter import FlatMaps
from fgmae_bench.models.sliding import Windows, sliding_window
from fgmae_bench.records import problem_of
from fgmae_bench.system.randomness import generator

pytest_plugins = ("segment_world",)
commands.MAIN.setdefault("ablate", "fgmae_bench.ablate.__main__")
FLAGS = shlex.split(
    "--model test_vit --weights random --fpn_dim 16 --max_steps 2 --warmup_steps 0 --batch_size 4 --lr 1e-3 --amp "
    "off --panels 0 --device cpu --recipe corrected --num_workers 1"
)


def ablate(data, *flags, cwd):
    return call("ablate", "heads", "--dataset", "dfc2020", "--data_path", data, *FLAGS, *FOLDERS, *flags, cwd=cwd)


def test_heads_share_one_frozen_pass_and_each_is_a_record_with_its_cost(tiles, tmp_path, monkeypatch):
    """The backbone sees every image once, whatever the number of heads; images are decoded once."""
    passed, read = [], []
    forward, chip = FlatMaps.forward, Samples.take_chip
    monkeypatch.setattr(FlatMaps, "forward", lambda self, x: (passed.append(len(x)), forward(self, x))[1])
    monkeypatch.setattr(Samples, "take_chip", lambda self, row: (read.append(int(row)), chip(self, row))[1])
    done = ablate(tiles, "--heads", "linear", "fcn", "segformer", cwd=tmp_path)
    assert done.code == 0, done.err
    assert sum(passed) - passed.count(1) == TILES  # one image at a time only to measure shapes
    assert sorted(set(read)) == sorted(read) or len(read) == 0
    found = {record["protocol"]: record for record in records(tmp_path / "results")}
    assert set(found) == {"frozen_linear", "frozen_fcn", "frozen_segformer"}
    for record in found.values():
        assert problem_of(record) is None
        assert record["cost"]["params"] == record["model"]["params_total"]
        assert record["cost"]["gflops"] > 0
    assert found["frozen_fcn"]["cost"]["gflops"] > found["frozen_linear"]["cost"]["gflops"]
    with open(tmp_path / "results/tables/ablate/heads-dfc2020-test_vit.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["head"] for row in rows] == ["linear", "fcn", "segformer"]
    for row in rows:
        record = found[f"frozen_{row['head']}"]
        assert float(row["miou"]) == record["metrics"]["test"]["miou"]
        assert int(row["params_head"]) == record["model"]["params_trainable"]
        assert row["run_id"] in done.out
    assert (tmp_path / "results/figures/ablate/heads-dfc2020-test_vit.png").read_bytes()[:4] == b"\x89PNG"
    passed.clear()
    again = ablate(tiles, "--heads", "linear", "fcn", "segformer", cwd=tmp_path)
    assert again.code == 0
    assert sum(passed) == passed.count(1)


@pytest.mark.slow
def test_genuine_scenes_are_decoded_and_passed_once_for_all_heads(realdata, tmp_path, monkeypatch):
    """13 scenes of Sen1Floods11 as published, 16 windows each: 11 are used, whatever the number of heads."""
    pytest.importorskip("rslearn")
    windows, read = [], []
    forward, chip = FlatMaps.forward, Samples.take_chip
    monkeypatch.setattr(
        FlatMaps, "forward", lambda self, x: (windows.extend(x.shape[-1:] * len(x)), forward(self, x))[1]
    )
    monkeypatch.setattr(Samples, "take_chip", lambda self, row: (read.append(int(row)), chip(self, row))[1])
    flags = shlex.split(
        "--dataset s1f_scenes --model galileo-nano --patch_size 8 --input_size 128 --stride 128 --batch_size 6 "
        "--eval_every 2 --heads linear fcn segmenter"
    )
    held = ("--weights", str(realdata / "weights" / "galileo_nano_encoder.pt"))
    done = ablate(realdata / "sen1floods11_hand", *flags, *held, cwd=tmp_path)
    assert done.code == 0, done.err
    assert windows.count(512) == 11
    assert len(read) == len(set(read))
    found = records(tmp_path / "results")
    assert len(found) == 3
    for record in found:
        assert (record["dataset"]["n_train"], record["dataset"]["n_test"]) == (6, 5)
        assert record["dataset"]["groups"]["test"] == 5
        low, high = record["metrics"]["intervals"]["test"]["miou"]
        assert low <= record["metrics"]["test"]["miou"] <= high
        texts = " ".join(note["text"] for note in record["notes"])
        assert "Paraguay_34417" in texts
        assert "Ghana_83483" in texts


@pytest.mark.slow
def test_rankings_of_two_encoders_are_compared_by_points(tiles, tmp_path):
    flags = ("--encoders", "test_vit=random", "test_resnet=random", "--heads", "linear", "fcn")
    done = ablate(tiles, *flags, "--input_size", "64", cwd=tmp_path)
    assert done.code == 0, done.err
    text = (tmp_path / "results/tables/ablate/heads-dfc2020-2-encoders.md").read_text()
    assert "points only: fewer than 8 encoders" in text
    scores = {(r["model"]["name"], r["protocol"]): r["metrics"]["test"]["miou"] for r in records(tmp_path / "results")}
    by_head = [[scores[m, f"frozen_{h}"] for m in ("test_vit", "test_resnet")] for h in ("linear", "fcn")]
    tau = scipy.stats.kendalltau(*by_head).statistic
    assert re.search(rf"linear and fcn +tau-b {tau:.3f}", done.out)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--heads", "fnc"), "unknown head 'fnc'; did you mean 'fcn'"),
        (("--heads", "fcn", "fcn"), "--heads fcn fcn holds a name twice"),
        (("--encoders", "nobody"), "--encoders nobody"),
        (("--head", "fcn"), "--head with ablate heads"),
        (("--model", "backscatter_stats"), "backscatter_stats gives no feature map"),
    ],
)
def test_bad_input_is_one_line(tiles, tmp_path, flags, part):
    assert part in said(ablate(tiles, *flags, cwd=tmp_path))


def test_all_heads_are_taken_by_default_and_encoders_by_their_names():
    assert set(_heads(None)) == set(HEADS)
    named = _models(Model(model="x", input_size=128), ["galileo-nano", "resnet18=random"])
    assert [(m.model, m.weights, m.input_size) for m in named] == [
        ("galileo-nano", "galileo", 128),
        ("resnet18", "random", 128),
    ]
    with pytest.raises(BenchError, match="holds an encoder twice"):
        _models(Model(model="x"), ["galileo-nano", "galileo-nano=galileo"])


def test_miou_of_many_confusions_is_that_of_each():
    random = np.random.default_rng(0)
    counts = random.integers(0, 9, (5, 3, 4, 4)).astype(float)
    counts[0, 0, 2] = 0  # a class without reference
    found = miou(counts)
    for place in np.ndindex(5, 3):
        assert found[place] == pytest.approx(segmentation(counts[place][None].astype(np.int64))["miou"])
    assert math.isnan(miou(np.zeros((4, 4))))


def test_taus_are_scipys_and_intervals_come_with_eight_encoders():
    random = np.random.default_rng(1)
    held = {head: random.integers(1, 50, (8, 6, 3, 3)).astype(float) for head in ("a", "b", "c")}
    found = agreements(held)
    assert [each.heads for each in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    for each in found:
        scores = [[segmentation(c.sum(0)[None].astype(np.int64))["miou"] for c in held[head]] for head in each.heads]
        assert each.tau == pytest.approx(scipy.stats.kendalltau(*scores).statistic)
        assert -1 <= each.interval[0] <= each.tau <= each.interval[1] <= 1
    assert all(each.interval is None for each in agreements({head: c[:7] for head, c in held.items()}))
    assert all(each.interval is None for each in agreements({head: c[:, :1] for head, c in held.items()}))
    same = agreements({"a": held["a"], "b": held["a"]})[0]
    assert (same.tau, same.interval) == (1.0, (1.0, 1.0))


def test_an_interval_of_a_tau_holds_the_middle_95_percent_of_drawn_scenes():
    """By scipy's tau of each draw; the mean IoU written out, 2.5 % cut off at each end."""
    random = np.random.default_rng(2)
    held = {head: random.integers(1, 50, (8, 5, 2, 2)).astype(float) for head in ("a", "b")}
    taus = []
    for rows in generator(0, "heads", 5).integers(0, 5, (1000, 5)):
        scores = []
        for each in held.values():
            table = each[:, rows].sum(1)  # (8, 2, 2)
            right = np.einsum("mii->mi", table)
            scores.append((right / (table.sum(1) + table.sum(2) - right)).mean(1))
        taus.append(scipy.stats.kendalltau(*scores).statistic)
    (found,) = agreements(held)
    assert found.interval == pytest.approx(np.percentile(taus, [2.5, 97.5]))


def test_images_are_summed_by_scene():
    counts = np.arange(3 * 4).reshape(3, 2, 2)
    assert by_group(counts, ["b", "a", "b"]).tolist() == [counts[1].tolist(), (counts[0] + counts[2]).tolist()]
    assert by_group(counts, None).tolist() == counts.tolist()


def test_operations_are_counted_by_hand(tiles, tmp_path):
    """A per-pixel linear layer on patches of 16 px: D x K multiplications and additions a patch, beside the backbone's."""
    both = [opened(tiles, tmp_path, head=head, freeze_backbone=True, features="stream") for head in ("linear", "fcn")]
    linear, fcn = (cost_of(prepared.job.model) for prepared in both)
    model, grid = both[0].job.model, 4
    with torch.no_grad():
        dim = model.taps(torch.zeros(1, 2, 64, 64))[-1].shape[1]
    convolutions = 9 * (dim * 16 + 16 * 16 + (dim + 16) * 16) + 16 * 10
    difference = (convolutions - dim * 10) * 2 * grid**2 / 1e9
    assert fcn["gflops"] - linear["gflops"] == pytest.approx(difference)


@pytest.mark.parametrize("stride", [32, 16])
def test_windows_from_the_bank_are_stitched_as_windows_that_are_computed(stride, tiles, tmp_path):
    more = {"freeze_backbone": True, "input_size": 32, "stride": stride, "head": "fcn", "recipe": "corrected"}
    cached, stream = (opened(tiles, tmp_path, features=kind, **more).job for kind in ("cached", "stream"))
    stream.model.head.load_state_dict(cached.model.head.state_dict())
    rows = cached.dataset.parts.test[:2]
    for job in (cached, stream):
        job.model.eval()
    banked, computed = (job._logits(*job._prepare(rows)) for job in (cached, stream))
    for mine, theirs in zip(banked, computed, strict=True):
        assert mine.shape == (10, SIDE, SIDE)
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    # training takes one window of each scene, with its labels, another one in another epoch
    images, masks = cached.read(cached.train[:8], 0)
    assert masks.shape == (8, 32, 32)
    assert images.shape[1] * len(cached.windows.places) == cached.bank.features.shape[1]
    for row, features, mask in zip(cached.train[:8], images, masks, strict=True):
        fitting = [
            k
            for k in range(len(cached.windows.places))
            if np.array_equal(features, cached.bank.features[row, k * len(features) : (k + 1) * len(features)])
        ]
        whole = cached._mask(row, cached.train_labels)
        cuts = [whole[t : t + 32, left : left + 32] for t, left in (cached.windows.places[k] for k in fitting)]
        assert any(np.array_equal(mask, cut) for cut in cuts)
    again, _ = cached.read(cached.train[:8], 1)
    assert not np.array_equal(images, again)
    same, _ = cached.read(cached.train[:8], 0)
    assert np.array_equal(images, same)


def test_stitching_is_the_sliding_windows_mean():
    torch.manual_seed(0)
    scene, windows = torch.randn(1, 3, 12, 12), Windows(12, 5, 3)
    expected = sliding_window(lambda x: x.cumsum(-1), scene, window=5, stride=3)[0]
    torch.testing.assert_close(windows.stitched([piece[0].cumsum(-1) for piece in windows.cut(scene)]), expected)
