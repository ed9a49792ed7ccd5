"""What several test files share: a small synthetic EuroSAT, the genuine samples next to the checkout, arrays of both."""

import functools
import gc
import importlib.metadata
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio

from fgmae_bench.config.cards import load_card
from fgmae_bench.data import layouts
from fgmae_bench.data.layouts import build_index
from fgmae_bench.worlds.eurosat import write_eurosat

SHARED = Path(__file__).resolve().parents[2] / "shared"
PER_CLASS = 12

# Helper modules that test files take as plugins: registered before any is imported, so that their assertions say as
# much as a test's.
pytest.register_assert_rewrite(
    "bigearthnet_raw",
    "dataset_worlds",
    "hub_server",
    "linear_runs",
    "pack_files",
    "segment_world",
    "tiny_bank",
    "tiny_checkpoints",
)


def pytest_configure(config):
    """Before torch is loaded: tensors of tests are so small that threads only wait for one another.

    And no file of a test has to outlast the loss of power: waiting for the disk took a run as long as its work.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.fsync = os.fstat
    # nothing is installed while tests run in this process
    found = functools.cache(importlib.metadata.entry_points)
    importlib.metadata.entry_points = layouts.entry_points = found


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """What is imported stays: no collection of garbage looks through it, then or later."""
    gc.disable()
    found = yield
    gc.freeze()
    gc.enable()
    return found


def pytest_unconfigure(config):
    """Libraries would speak of leaks."""
    gc.unfreeze()


def pytest_make_parametrize_id(config, val, argname):
    """Bytes are no name: those of an archive hold the time they were made, and every worker collects for itself."""
    return f"{argname}_{len(val)}_bytes" if isinstance(val, bytes) and not val.isascii() else None


@pytest.fixture(autouse=True)
def level_of_the_log():
    """An entry that runs in this process sets for good how much is logged: as rank 1, only errors."""
    log = logging.getLogger("fgmae_bench")
    before = log.level
    yield
    log.setLevel(before)


def _shared(*parts):
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is absent: it belongs next to the checkout and is not part of the repository")
    return path


@pytest.fixture(scope="session")
def card():
    return load_card("eurosat")


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Root of a synthetic EuroSAT of 12 images a class."""
    root = tmp_path_factory.mktemp("world") / "eurosat"
    write_eurosat(root, per_class=PER_CLASS, seed=0)
    return root


@pytest.fixture(scope="session")
def index(card, world):
    return build_index(card, world)


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the shared tables, or skip."""
    return _shared("data")


@pytest.fixture(scope="session")
def realdata():
    """Folder of the genuine samples, or skip."""
    return _shared("realdata")


@pytest.fixture(scope="session")
def chips_root():
    """43 genuine chips in EuroSAT-SAR's layout, or skip."""
    return _shared("realdata", "eurosat_layout_chips")


@pytest.fixture(scope="session")
def chips(chips_root):
    """The genuine chips (43, 2, 64, 64) dB, in sorted order."""
    return np.stack([_pixels(path) for path in sorted(chips_root.rglob("*.tif"))])


@pytest.fixture(scope="session")
def scenes(realdata):
    """Genuine pixels by origin, each (2, H, W) float32 dB, VV first: BigEarthNet v1 and v2, TerraMesh, SSL4EO-S12."""
    pairs = [
        path
        for root in ("bigearthnet_s1_v1", "bigearthnet_v2_rico_hdl", "ssl4eo_s12_s1")
        for path in (realdata / root).rglob("*VV.tif")
    ]
    found = {
        path.parent.name: np.concatenate([_pixels(path), _pixels(path.with_name(path.name.replace("VV", "VH")))])
        for path in sorted(pairs)
    }
    found |= {path.stem: _pixels(path) for path in sorted((realdata / "terramesh_s1rtc" / "S1RTC").glob("*.tif"))}
    assert len(found) == 4 + 1 + 1 + 3
    return found


@pytest.fixture
def no_pictures(monkeypatch):
    """Reports leave empty files for pictures: drawing them takes most of a report's time and has tests of its own."""
    from fgmae_bench.report import cost_pictures, figures, pictures, rank_sheets

    def save(figure, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for ending in ("png", "svg"):
            path.with_suffix(f".{ending}").write_bytes(b"")

    for room in (figures, pictures, cost_pictures, rank_sheets):
        monkeypatch.setattr(room, "save", save)


@pytest.fixture
def quick_draws(monkeypatch):
    """Random weights without the cost of drawing millions of them: a short draw, repeated."""
    import torch

    short = torch.rand(99_991, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def fill(tensor, scale, shift):
        with torch.no_grad():
            if tensor.device.type == "meta":
                return tensor
            times = -(-tensor.numel() // len(short))
            return tensor.copy_((short.repeat(times)[: tensor.numel()] * scale + shift).view(tensor.shape))

    draw = torch.Tensor
    monkeypatch.setattr(draw, "normal_", lambda t, mean=0.0, std=1.0, generator=None: fill(t, std * 1.7, mean))
    monkeypatch.setattr(
        draw, "uniform_", lambda t, low=0.0, high=1.0, generator=None: fill(t, (high - low) / 2, (high + low) / 2)
    )
    monkeypatch.setattr(draw, "erfinv_", lambda t: t)


def _pixels(path):
    with rasterio.open(path) as source:
        return source.read().astype(np.float32)
