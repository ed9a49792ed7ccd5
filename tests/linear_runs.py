"""Finished runs of `linear` on the small synthetic EuroSAT: features, predictions, the order of the files.

A test file takes the fixtures with `pytest_plugins = ("linear_runs",)`.
"""

import json

import numpy as np
import pytest
from commands import TINY_VIT, linear, only_record, records, shared_world
from safetensors import safe_open
from safetensors.numpy import load_file

from fgmae_bench.config.cards import load_card


class Run:
    """One finished run and its folder."""

    def __init__(self, folder, *flags, data=None, **more):
        self.folder, self.data = folder, data or shared_world()
        self.said = linear(self.data, *flags, cwd=folder, **more)
        assert self.said.code == 0, self.said.err
        self.record = only_record(folder / "results") if len(records(folder / "results")) == 1 else None

    @property
    def predictions(self):
        return load_file(self.folder / "out" / "predictions-test.safetensors")


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """The published recipe on the reference split, without val."""
    return Run(tmp_path_factory.mktemp("plain"), backbone=TINY_VIT)


@pytest.fixture(scope="session")
def selected(tmp_path_factory):
    """A split with val; six epochs, so that the best need not be the last."""
    return Run(
        tmp_path_factory.mktemp("selected"), "--split", "random_60_20_20", "--epochs", 6, "--lr", 1, backbone=TINY_VIT
    )


def files(root):
    """The sorted files of a world and their labels, as scikit-learn's call of the reference gets them."""
    classes = load_card("eurosat").classes
    ids = [f"{name}/{path.stem}" for name in sorted(classes) for path in sorted((root / name).glob("*.tif"))]
    return ids, np.array([classes.index(id.split("/")[0]) for id in ids])


def bank(folder):
    """Features (N, D) of the only bank in a cache, in the order of the sorted files."""
    (path,) = (folder / "cache" / "features").glob("*/features.f32")
    ids, _ = files(shared_world())
    return dict(zip(ids, np.fromfile(path, np.float32).reshape(len(ids), -1), strict=True))


def ids_of(folder, name="out/predictions-test.safetensors"):
    with safe_open(folder / name, "np") as stored:
        return json.loads(stored.metadata()["ids"])
