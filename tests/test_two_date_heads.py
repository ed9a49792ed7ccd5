"""A decode head on two dates: what is joined, one geometry for both, and the published inputs of flood datasets."""

import dataclasses
import shlex

import numpy as np
import pytest
import torch
from commands import FOLDERS, call, only_record, said
from test_two_dates import folder  # noqa: F401  # a fixture
from torch import nn

import fgmae_bench.train.segment as engine
from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.config.run import counted
from fgmae_bench.data.index import Index
from fgmae_bench.models.cost import cost_of
from fgmae_bench.models.heads.outputs import Learnt
from fgmae_bench.models.two_dates import TwoDates, joined, joined_dims
from fgmae_bench.system.distributed import World
from fgmae_bench.views.chip import Chip
from fgmae_bench.views.classification import make_view
from fgmae_bench.views.normalizers import NORMALIZERS, normalize
from fgmae_bench.views.segmentation import JointAugmentation, segmentation_batch

DECODER = shlex.split(
    "--model vit_tiny_patch16_224 --weights random --recipe corrected --freeze_backbone --head linear --epochs 1 "
    "--warmup_epochs 0 --batch_size 4 --lr 0.01 --panels 1"
)


class Levels(nn.Module):
    """Two maps of an image of two bands, by hand."""

    def forward(self, images):
        return [images * 2, images[:, :1] + 1]


@pytest.mark.parametrize("dates", ["concat", "difference", "both"])
def test_maps_of_two_dates_are_joined_level_by_level(dates):
    later, earlier = torch.rand(3, 2, 4, 4), torch.rand(3, 2, 4, 4)
    found = TwoDates(Levels(), dates)(torch.cat([later, earlier], dim=1))
    for level, (a, b) in zip(found, zip(Levels()(later), Levels()(earlier), strict=True), strict=True):
        wanted = {"concat": [a, b], "difference": [a - b], "both": [a, b, a - b]}[dates]
        assert torch.equal(level, torch.cat(wanted, dim=1))
    assert joined_dims((2, 1), dates) == tuple(level.shape[1] for level in found)


def test_the_later_date_alone_is_the_taps_themselves():
    taps = Levels()
    assert joined(taps, "after") is taps
    assert joined_dims([3, 4], "after") == (3, 4)


def test_the_flag_at_its_default_changes_no_run():
    card = load_card("kuro_siwo")
    (run,) = compose("segment", {"dataset": "kuro_siwo"}, card)
    assert run.recipe.dates == "after"
    assert "dates" not in counted(run.recipe)
    (other,) = compose("segment", {"dataset": "kuro_siwo", "dates": "both"}, card)
    assert counted(other.recipe)["dates"] == "both"


def test_one_geometry_for_both_dates():
    """An earlier image equal to the later one stays equal under crops and flips."""
    view = dataclasses.replace(
        make_view(
            load_card("sen1floods11"),
            dataclasses.replace(FGMAE_CONTRACT, size=24, normalizer="zscore"),
            None,
            whole=True,
        )
    )
    db = np.random.default_rng(0).normal(-14, 3, (2, 40, 40)).astype(np.float32)
    chips = [Chip(db=db, valid=None, synthetic=False)] * 2
    mask = np.zeros((40, 40), np.uint8)
    augmentation = JointAugmentation(seed=1, epoch=2, crop_scale=0.3, vflip=True)
    images, _ = segmentation_batch(view, chips, [mask] * 2, ["a", "b"], augmentation, earlier=chips)
    assert images.shape == (2, 4, 24, 24)
    assert np.array_equal(images[:, :2], images[:, 2:])
    alone, _ = segmentation_batch(view, chips, [mask] * 2, ["a", "b"], augmentation)
    assert np.array_equal(alone, images[:, :2])
    whole, _ = segmentation_batch(
        view, chips, [mask] * 2, ["a", "b"], earlier=[dataclasses.replace(chips[0], db=db - 3)] * 2
    )
    np.testing.assert_allclose(
        whole[:, 2:], whole[:, :2] - 3 / np.array(FGMAE_CONTRACT.std)[:, None, None], rtol=1e-5, atol=1e-4
    )


POWER = np.array([[0.05, 0.14, 0.151, 7.0]])
# mean and deviation, VV and VH, as their publishers' files have them
PUBLISHED = {
    "kuro_siwo": ((0.0953, 0.0264), (0.0427, 0.0215)),
    "flood_s1": ((0.0981, 0.0253), (0.0981, 0.0253)),
    "flood_s1_corrected": ((0.0981, 0.0253), (0.0430, 0.0174)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_floods_are_clamped_and_filled_as_published(name):
    """Power clamped to [0, .15] and NaN made .15 before z-scores, in the publishers' own order of steps."""
    power = np.stack([POWER, POWER / 5])[None]  # (1, 2, 1, 4)
    broken = power.copy()
    broken[0, :, 0, 2] = np.nan
    mean, std = (np.array(values)[None, :, None, None] for values in PUBLISHED[name])
    wanted = (np.nan_to_num(np.clip(broken, 0, 0.15), nan=0.15) - mean) / std
    db = (10 * np.log10(power)).astype(np.float32)
    valid = np.isfinite(broken)
    contract = dataclasses.replace(FGMAE_CONTRACT, normalizer=name)
    np.testing.assert_allclose(normalize(db, valid, contract), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(normalize(np.where(valid, db, np.nan), None, contract), wanted, rtol=1e-5, atol=1e-6)


def test_sen1floods11s_own_input():
    """nan_to_num, clip, [0, 1], z-scores, as in its notebook."""
    db = np.array([[[[-60.0, -12.5, 0.5, 9.0, np.nan]], [[-51, -20, -3, 1, np.nan]]]], np.float32)
    wanted = (np.clip(np.nan_to_num(db), -50, 1) + 50) / 51
    wanted = (wanted - np.array([0.6851, 0.5235])[None, :, None, None]) / np.array([0.0820, 0.1102])[
        None, :, None, None
    ]
    contract = dataclasses.replace(FGMAE_CONTRACT, normalizer="sen1floods11")
    np.testing.assert_allclose(normalize(db, np.isfinite(db), contract), wanted, rtol=1e-5)


def test_the_published_deviations_are_of_the_later_date_alone():
    contract = dataclasses.replace(FGMAE_CONTRACT, normalizer="flood_s1")
    view = make_view(load_card("copernicus_flood"), contract, None, whole=True)
    assert view.earlier.contract.normalizer == "flood_s1_corrected"
    for name in set(NORMALIZERS) - {"flood_s1"}:
        other = dataclasses.replace(view, contract=dataclasses.replace(contract, normalizer=name))
        assert other.earlier.contract.normalizer == name


def test_recipes_of_flood_s1_are_published_and_corrected_beside():
    card = load_card("copernicus_flood")
    made = {
        name: compose("segment", {"dataset": "copernicus_flood", "recipe": name}, card)[0]
        for name in ("published", "corrected")
    }
    assert [run.recipe.dates for run in made.values()] == ["difference"] * 2
    assert [run.model.normalizer for run in made.values()] == ["flood_s1", "flood_s1_corrected"]
    (baseline,) = compose(
        "segment", {"dataset": "copernicus_flood", "head": "otsu_vh", "model": "backscatter_stats"}, card
    )
    assert (baseline.recipe.dates, baseline.model.normalizer) == ("after", None)  # what a card says of networks


@pytest.fixture
def segment(folder):  # noqa: F811
    def run(*flags, data="data", out="out"):
        flags = (*DECODER, *FOLDERS, "--output_dir", out, "--results_dir", f"{out}-results", *flags)
        return call("segment", "--dataset", "card.toml", "--data_path", data, *flags, cwd=folder)

    return run


@pytest.mark.slow
def test_frozen_maps_of_two_dates_are_the_same_streamed_and_cached(segment, folder):  # noqa: F811
    found = {}
    for features in ("cached", "stream"):
        more = ("--no_augment",) if features == "stream" else ()
        done = segment("--dates", "both", "--features", features, *more, out=features)
        assert done.code == 0, done.err
        found[features] = only_record(folder / f"{features}-results")
        assert found[features]["config"]["recipe"]["dates"] == "both"
    losses = [record["history"][0]["val"]["loss"] for record in found.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    trained = [record["model"]["params_trainable"] for record in found.values()]
    assert trained == [(3 * 192 + 1) * 2] * 2


def test_what_cannot_be_is_refused_in_one_line(segment, folder):  # noqa: F811
    assert "--dates concat with --head otsu_vv" in said(
        segment("--dates", "concat", "--head", "otsu_vv", "--model", "backscatter_stats")
    )
    done = call("prepare", "pack", "card.toml", "--data_path", "data", "--out", "p.lmdb", "--workers", "0", cwd=folder)
    assert done.code == 0, done.err
    done = segment("--dates", "difference", data="p.lmdb")
    assert done.code == 2
    assert "holds one date a sample; name the earlier images under [before]" in done.err


def opened(folder, **flags):  # noqa: F811
    """A run of a tiny ViT on two dates made definite, not trained."""
    card = load_card(str(folder / "card.toml"))
    given = {
        "dataset": str(folder / "card.toml"),
        "data_path": str(folder / "data"),
        "cache_dir": str(folder / "cache"),
        "model": "test_vit",
        "weights": "random",
        "recipe": "corrected",
        "freeze_backbone": True,
        "batch_size": 4,
        "fpn_dim": 8,
        "input_size": 16,
        "amp": "off",
        "num_workers": 0,
        "dates": "both",
    }
    (run,) = compose("segment", {**given, **flags}, card)
    return engine.prepare(run, card, [], World(), torch.device("cpu"), 1).job


def test_earlier_images_are_hashed_once_for_the_run_id_and_the_bank(folder, monkeypatch):  # noqa: F811
    read, real = [], Index.read_before
    monkeypatch.setattr(Index, "read_before", lambda self, row, card: (read.append(row), real(self, row, card))[1])
    parts = opened(folder, features="cached", head="linear").dataset.parts
    assert sorted(read) == sorted([*parts.train, *parts.val, *parts.test])


@pytest.mark.parametrize("stride", [16, 8])
def test_windows_of_two_dates_from_the_bank_are_those_that_are_computed(stride, folder):  # noqa: F811
    cached, stream = (opened(folder, features=kind, stride=stride, head="fcn") for kind in ("cached", "stream"))
    stream.model.head.load_state_dict(cached.model.head.state_dict())
    for job in (cached, stream):
        job.model.eval()
    rows = cached.dataset.parts.test
    banked, computed = (job._logits(*job._prepare(rows)) for job in (cached, stream))
    for mine, theirs in zip(banked, computed, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    # looked at anew through a view, images are no rows of maps
    again = cached.under(cached.view)
    for mine, theirs in zip(again._logits(*again._prepare(rows)), computed, strict=True):
        torch.testing.assert_close(mine, theirs)
    # training takes one window of each scene: its maps on both dates, the later one first
    train, count = cached.train[:4], len(cached.windows.places)
    images, masks = cached.read(train, 0)
    assert masks.shape == (4, 16, 16)
    for row, features in zip(train, images, strict=True):
        dates = (np.split(held.features[row], count) for held in (cached.bank.later, cached.bank.earlier))
        pieces = [np.concatenate(both) for both in zip(*dates, strict=True)]
        assert any(np.array_equal(features, piece) for piece in pieces)
        assert np.array_equal([cached.bank.piece(row, k, count) for k in range(count)], pieces)


@pytest.mark.parametrize("head", ["upernet", "segformer", "segmenter", "psp"])
@pytest.mark.parametrize("features", ["cached", "stream"])
def test_heads_and_what_stands_around_them_see_both_dates(head, features, folder):  # noqa: F811
    job = opened(folder, head=head, features=features, auxiliary=True, neck="multilevel", head_dropout=0.1)
    images, masks = job.read(job.train[:4], 0)
    job.model.head.train()
    learnt = job.model(torch.from_numpy(np.array(images)).float(), masks.shape[1:])
    assert isinstance(learnt, Learnt)
    loss = job.loss(learnt, torch.from_numpy(masks).long())
    loss.backward()
    assert torch.isfinite(loss)
    assert job.model.head.auxiliary is not None
    assert all(p.grad is None for p in job.model.taps.parameters())


@pytest.mark.parametrize("features", ["cached", "stream"])
def test_two_dates_cost_a_pass_each(features, folder):  # noqa: F811
    """Of one linear layer on features side by side, the second date doubles every operation."""
    alone, both = (opened(folder, head="linear", features=features, dates=dates) for dates in ("after", "concat"))
    assert cost_of(both.model)["gflops"] == 2 * cost_of(alone.model)["gflops"] > 0
