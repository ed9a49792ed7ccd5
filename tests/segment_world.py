"""The segmentation command on a small synthetic DFC2020: its flags and files, and a run opened without training.

A test file takes the fixture with `pytest_plugins = ("segment_world",)`.
"""

import shlex

import pytest
import torch
from commands import FOLDERS, call
from safetensors import safe_open
from safetensors.numpy import load_file

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.system.distributed import World
from fgmae_bench.train import segment as engine
from fgmae_bench.worlds import dfc

SIDE, TILES = 64, 24
# No panels: a picture takes as long as the rest of such a run.
TINY = shlex.split(
    "--model test_vit --weights random --fpn_dim 16 --epochs 2 --warmup_epochs 0 --batch_size 4 --lr 1e-3 --amp "
    "off --panels 0"
)
FROZEN = (*TINY, "--freeze_backbone")
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
    numbers = {"fpn_dim": 16, "epochs": 2, "warmup_epochs": 0.0, "batch_size": 4, "lr": 1e-3, "panels": 0}
    values = {
        **given,
        **numbers,
        "data_path": str(data),
        "cache_dir": str(place / "cache"),
        "dataset": "dfc2020",
        **flags,
    }
    (run,) = compose("segment", values, CARD)
    return engine.prepare(run, CARD, [], World(), torch.device("cpu"), 1)


@pytest.fixture(scope="session")
def tiles(tmp_path_factory):
    """24 tiles of 64 pixels: 20 train, 4 test in the split `community`. Not to be changed."""
    root = tmp_path_factory.mktemp("segment") / "dfc2020"
    dfc.write_dfc(root, tiles=TILES, size=SIDE)
    return root
