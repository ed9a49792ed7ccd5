"""What a bank of features keeps, forgets and is known by, without a backbone."""

import dataclasses
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.contract import FGMAE_CONTRACT, RAW_CONTRACT
from fgmae_bench.data.labels import Source
from fgmae_bench.features import bank as banks
from fgmae_bench.features.label_bank import label_key
from fgmae_bench.views.classification import Augmentation

ABSENT, LEFT_OUT = banks.ABSENT, banks.LEFT_OUT


def empty_bank(folder, count=6, dim=3):
    """A bank of nothing."""
    np.zeros((count, dim), np.float32).tofile(folder / "features.f32")
    np.zeros(count, np.uint32).tofile(folder / "marks.u32")
    np.zeros(count, np.uint64).tofile(folder / "stamps.u64")
    return banks.Bank(folder, count, dim)


def filled(folder):
    """Rows 1, 3, 4, of which 3 was left out."""
    bank, rows = empty_bank(folder), np.array([1, 3, 4])
    features = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    bank.put(rows, features, np.array([True, False, True]), np.array([11, 13, 14], np.uint64))
    return bank, features


def test_rows_are_stored_with_their_checksums_and_left_out_ones_as_zeros(tmp_path):
    bank, features = filled(tmp_path)
    np.testing.assert_array_equal(bank.features[[1, 3, 4]], features * [[1], [0], [1]])
    assert bank.marks[1] == zlib.crc32(features[0].tobytes())
    assert (bank.marks == ABSENT).tolist() == [True, False, True, False, False, True]
    assert bank.marks[3] == LEFT_OUT
    assert bank.usable(np.array([4, 3, 1])).tolist() == [4, 1]


def test_rows_of_other_files_and_damaged_rows_are_absent(tmp_path):
    bank, _ = filled(tmp_path)
    bank.forget(np.array([0, 11, 0, 13, 99, 0], np.uint64))
    assert bank.marks[4] == ABSENT
    bank.features[1, 2] += 1e-6
    bank.forget(np.array([0, 11, 0, 13, 14, 0], np.uint64))
    assert bank.marks[1] == ABSENT
    assert bank.marks[3] == LEFT_OUT


@pytest.mark.parametrize("checksum", [0, 1, 2])
def test_a_small_checksum_is_not_taken_for_absent_or_left_out(checksum, tmp_path, monkeypatch):
    monkeypatch.setattr(banks.zlib, "crc32", lambda content: checksum)
    bank, _ = filled(tmp_path)
    bank.forget(np.array([0, 11, 0, 13, 14, 0], np.uint64))
    assert (bank.marks[1], bank.marks[4]) == (2, 2)


def key_of(augmentation=None, **changes):
    """The key of a bank whose facts are given outright."""
    facts = {
        "fingerprint": "f",
        "behaviour": None,
        "contract": FGMAE_CONTRACT,
        "order": (0, 1),
        "input_resize": None,
        "ids": ("a", "b"),
        "root": Path("/data"),
        "most_invalid": 0.5,
        "nodata": (),
        "amp": "off",
        "compiled": False,
        "device": "cpu",
        "extra": {},
        "statistics": {},
        "inputs": {},
        "shift": (0.0, 0.0),
        "name": "tiny",
    } | changes
    signal = SimpleNamespace(max_invalid_fraction=facts["most_invalid"], nodata=facts["nodata"])
    index = SimpleNamespace(ids=facts["ids"], root=facts["root"])
    extractor = SimpleNamespace(
        dataset=SimpleNamespace(index=index, card=SimpleNamespace(signal=signal)),
        backbone=SimpleNamespace(
            fingerprint=lambda: facts["fingerprint"],
            behaviour=lambda: facts["behaviour"],
            inputs=facts["inputs"],
            name=facts["name"],
        ),
        view=SimpleNamespace(
            **{name: facts[name] for name in ("order", "input_resize", "statistics", "contract", "shift")}
        ),
        extra=facts["extra"],
        amp=facts["amp"],
        compiled=facts["compiled"],
        device=torch.device(facts["device"]),
    )
    return banks.bank_key(extractor, augmentation)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": {"patch_size": 8}},
        {"fingerprint": "g"},
        {"behaviour": ["1.00e+00"]},
        {"contract": RAW_CONTRACT},
        {"contract": dataclasses.replace(FGMAE_CONTRACT, missing_band="mask")},
        {"shift": (0.0, -7.7)},
        {"name": "presto"},  # whose code has a version of its own
        {"order": (1, 0)},
        {"input_resize": 128},
        {"ids": ("a", "c")},
        {"ids": ("b", "a")},
        {"most_invalid": 0.1},
        {"nodata": (-99.0,)},
        {"amp": "bf16"},
        {"compiled": True},
        {"device": "cuda"},
        {"extra": {"month": np.array([5, 6])}},
        {"statistics": {"a": ((-12.0, -19.0), (5.0, 5.0))}},
        {"augmentation": Augmentation(seed=0, epoch=0, crop_scale=0.2)},
    ],
    ids="-".join,
)
def test_whatever_may_change_a_feature_changes_the_key(change):
    assert key_of(**change) != key_of()


def test_views_of_two_epochs_have_two_banks():
    first, second = (key_of(Augmentation(seed=0, epoch=epoch, crop_scale=0.2)) for epoch in (0, 1))
    assert first != second


def test_labels_of_other_codes_or_files_have_another_bank():
    card, index = load_card("dfc2020"), SimpleNamespace(signature="abc", maps=None)
    source = Source(name="s", title="some", codes={1: "Wood"}, unlabelled=(0,))
    others = [
        label_key(card, index, dataclasses.replace(source, **change))
        for change in ({"codes": {1: "Wood", 2: "Water"}}, {"unlabelled": (0, 9)}, {"name": "t"})
    ]
    keys = [
        label_key(card, index, source),
        *others,
        label_key(card, SimpleNamespace(signature="abd", maps=None), source),
    ]
    assert len(set(keys)) == 5


def test_whatever_makes_pixels_invalid_or_names_other_maps_gives_labels_another_bank():
    card, source = load_card("dfc2020"), Source(name="dfc", title="some", codes={1: "Wood"}, unlabelled=(0,))

    def index(files=("a.tif",), **change):
        stated = dataclasses.replace(card.label_sources["dfc"], **change)
        return SimpleNamespace(
            signature="abc", maps=SimpleNamespace(stated={"dfc": stated}, files={stated.folder: files})
        )

    signals = [
        {"fill": ((-99.0, -50.0),)},
        {"zeros": "measured"},
        {"units": "amplitude"},
        {"nodata": (-1.0,)},
        {"scale": 2.0},
    ]
    changed = [dataclasses.replace(card, signal=dataclasses.replace(card.signal, **change)) for change in signals]
    changed += [dataclasses.replace(card, arrangement=dataclasses.replace(card.arrangement, valid="M_*.tif"))]
    keys = [label_key(each, index(), source) for each in (card, *changed)]
    keys += [label_key(card, each, source) for each in (index(files=("b.tif",)), index(band=2), index(ignore=(7.0,)))]
    assert len(set(keys)) == len(keys) == 10
