"""A tiny backbone over the small synthetic EuroSAT, its extractor and bank.

A test file takes the fixtures with `pytest_plugins = ("tiny_bank",)`.
"""

import time

import numpy as np
import pytest
import torch
from torch import nn

from fgmae_bench.config.compose import compose
from fgmae_bench.config.run import Model
from fgmae_bench.data.dataset import open_dataset
from fgmae_bench.data.raster import read_chip
from fgmae_bench.features.bank import fill_bank
from fgmae_bench.features.extract import Extractor, Spent
from fgmae_bench.models.build import build_backbone, wrap_module
from fgmae_bench.system.distributed import World
from fgmae_bench.views.classification import make_view
from fgmae_bench.worlds.eurosat import write_eurosat

SIZE = 32


class Tiny(nn.Module):
    """A convolution that counts the images of the batches it sees (a single one may be how a module of the user's is
    recognised).
    """

    def __init__(self, seed=0, delay=0.0):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 8, stride=8)
        nn.init.normal_(self.conv.weight, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.conv.bias)
        self.seen, self.delay = 0, delay

    def forward(self, images):
        self.seen += len(images) if len(images) > 1 else 0
        time.sleep(self.delay)
        return self.conv(images).tanh()


def make_extractor(card, root, cache, module=None, workers=2, known=None, **model):
    """An extractor over the files in `root` as the probe engine builds it; `known`: where these files are audited."""
    (run,) = compose("linear", {"dataset": "eurosat", "data_path": str(root)}, card)
    dataset = open_dataset(card, run, known or cache)
    described = Model(**{"model": "tiny", "weights": "module", "input_size": SIZE, "normalizer": "fgmae"} | model)
    backbone = wrap_module(module, described) if module is not None else build_backbone(described, 0)
    if module is not None:
        module.seen = 0
    return Extractor(
        dataset=dataset,
        backbone=backbone,
        view=make_view(card, backbone.contract, None),
        device=torch.device("cpu"),
        amp="off",
        workers=workers,
        world=World(),
    )


def fill(extractor, rows, cache, augmentation=None):
    """(bank, images computed, numbers given to the progress bar)."""
    spent, steps = Spent(), []
    bank = fill_bank(extractor, np.asarray(rows, np.int64), cache, augmentation, spent, steps.append)
    return bank, spent.images, steps


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def module():
    return Tiny()


@pytest.fixture(scope="session")
def known(tmp_path_factory):
    """A cache folder for what is known of the files of the shared world."""
    return tmp_path_factory.mktemp("known")


@pytest.fixture
def extractor(card, world, cache, module, known):
    return make_extractor(card, world, cache, module, known=known)


@pytest.fixture
def own_world(tmp_path):
    """A world of this test alone, to be changed."""
    write_eurosat(tmp_path / "own", per_class=5, seed=1)
    return tmp_path / "own"


def banks(cache):
    return sorted(path.name for path in (cache / "features").iterdir())


def features_by_hand(extractor, rows):
    """One image at a time through cv2's view and the module itself."""
    index, card = extractor.dataset.index, extractor.dataset.card
    values = []
    for row in rows:
        pixels = extractor.view.batch([read_chip(index.path(row), card)], [index.ids[row]])
        with torch.inference_mode():
            values.append(
                extractor.backbone.module.inner(torch.from_numpy(pixels.astype(np.float32) / 255))
                .mean((2, 3))[0]
                .numpy()
            )
    return np.stack(values)
