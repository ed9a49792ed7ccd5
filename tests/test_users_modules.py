"""Modules of the user that stand on another device, or raise on a later batch: one line with the module and the batch."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from commands import PLACES, shared_world
from torch import nn

import fgmae_bench
from fgmae_bench.config.run import Model
from fgmae_bench.errors import BenchError
from fgmae_bench.features import extract as extraction
from fgmae_bench.models.architectures import measured_dim
from fgmae_bench.models.backbone import _fixed_images
from fgmae_bench.models.build import wrap_module
from fgmae_bench.models.contracts import resolve_contract
from fgmae_bench.models.pooling import PooledMap
from fgmae_bench.models.segmenter import map_shapes
from fgmae_bench.models.taps import OneMap
from fgmae_bench.system.distributed import World

pytest_plugins = ("segment_world",)

MINE = Model(model="mine", weights="module", input_size=16, normalizer="zscore")
HERE = {**PLACES, "device": "cpu", "amp": "off"}
TRAINED = {"max_steps": 4, "batch_size": 4, "num_workers": 0}
SEGMENTED = {**TRAINED, "warmup_steps": 0, "panels": 0}


class Buffered(nn.Module):
    """A module without parameters, whose one tensor is a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kernel", torch.ones(3, 2, 4, 4))

    def forward(self, images):
        assert images.device == self.kernel.device
        return nn.functional.conv2d(images, self.kernel, stride=4)


class Plain(nn.Module):
    def forward(self, images):
        assert images.device.type == "cpu"
        return images


@pytest.mark.parametrize(
    ("kind", "dim"),
    [(partial(nn.Conv2d, 2, 3, 4, 4), 3), (Buffered, 3), (Plain, 2)],
    ids=["parameters", "buffers", "neither"],
)
@pytest.mark.parametrize("place", ["meta", "cpu"])
def test_a_module_is_measured_where_it_is(kind, dim, place):
    """`meta` stands for a GPU: torch refuses an operation on tensors of two devices alike."""
    module = kind().to(place)
    assert measured_dim(PooledMap(module), resolve_contract(MINE)) == dim
    taps = OneMap(module, 16)
    assert (taps.dims[0], map_shapes(taps, 16)[0][0]) == (dim, dim)


def test_its_behaviour_is_taken_where_its_buffers_are(monkeypatch):
    given = []
    module = Buffered()
    module.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].device.type))
    wrap_module(module, MINE)
    assert given == ["cpu"] * (1 + SHOWN_IMAGES)


SHOWN_IMAGES = 1 + len(_fixed_images(32))  # what a module is shown so that its behaviour is known


class Raising(nn.Module):
    """A map of images, until `after` images were seen in whole batches."""

    def __init__(self, after, error=KeyError):
        super().__init__()
        self.conv, self.after, self.error, self.seen = nn.Conv2d(2, 4, 8, 8), after, error, 0

    def forward(self, images):
        self.seen += len(images)
        if self.seen > self.after:
            raise self.error("later")
        return self.conv(images)


def failure(module, dataset, protocol, data, **flags):
    with pytest.raises(BenchError) as raised:
        fgmae_bench.evaluate(module, dataset, protocol, name="mine", data_path=data, input_size=32, **HERE, **flags)
    return str(raised.value)


WHERE = r"\(KeyError: 'later', .*test_users_modules.py:\d+\); correct the module"


def test_a_probe_names_the_module_the_batch_and_its_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extraction, "images_a_pass", lambda size: 8)
    text = failure(
        Raising(2 + 2 * SHOWN_IMAGES + 20), "eurosat", "knn", shared_world(5), features="cached", normalizer="zscore"
    )
    assert re.fullmatch(rf"mine failed on batch 3 of 7 \(\w+/\w+ to \w+/\w+\) {WHERE}", text), text
    assert list((tmp_path / "results").rglob("*.json")) == []


@pytest.mark.parametrize(
    ("after", "place"),
    [
        (2 + SHOWN_IMAGES + 10, "batch 1 of 1 in step 3"),
        (2 + SHOWN_IMAGES + 20, r"batch 1 of 1 of test"),
        (0, r"does not take"),
    ],
    ids=["training", "evaluation", "first"],
)
def test_fine_tuning_names_the_step_or_the_batch(after, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = failure(Raising(after), "eurosat", "finetune", shared_world(5), normalizer="zscore", eval_every=4, **TRAINED)
    assert re.search(rf"{place} .*KeyError: 'later', .*test_users_modules.py:\d+", text), text


@pytest.mark.parametrize(
    ("after", "place"),
    [(9 + SHOWN_IMAGES, r"batch 1 of 1 in step \d"), (20 + SHOWN_IMAGES, "batch 1 of 1 of test")],
    ids=["training", "evaluation"],
)
def test_segmentation_names_them_too(after, place, tiles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = {**SEGMENTED, "eval_every": 4, "layer_decay": 1.0, "fpn_dim": 8, "normalizer": "zscore"}
    text = failure(Raising(after), "dfc2020", "segmentation_finetune", tiles, **flags)
    assert re.search(rf"mine failed on {place} {WHERE}", text), text


def test_what_is_no_fault_of_the_module_passes():
    backbone = wrap_module(Raising(100), MINE)
    with pytest.raises(MemoryError), backbone.guarded("batch 1"):
        raise MemoryError
    with pytest.raises(torch.OutOfMemoryError), backbone.guarded("batch 1"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(KeyboardInterrupt), backbone.guarded("batch 1"):
        raise KeyboardInterrupt
    with (
        pytest.raises(BenchError, match=r"mine failed on batch 1 \(SystemExit: 3, .*\); correct the module"),
        backbone.guarded("batch 1"),
    ):
        raise SystemExit(3)
    with pytest.raises(BenchError, match=r"^stated; $"), backbone.guarded("batch 1"):
        raise BenchError("stated", "")


def test_on_several_processes_every_one_gets_the_line(monkeypatch):
    """By what is asked of the world: a process that raised alone would leave the others in an exchange."""
    asked = []

    class Seen(World):
        def raise_together(self, work):
            asked.append(work)
            return work()

    backbone = wrap_module(Raising(3), MINE)
    index = type("Index", (), {"ids": ["a", "b"]})()
    dataset = type("Dataset", (), {"index": index})()
    extractor = type("E", (), {"backbone": backbone, "dataset": dataset, "world": Seen(), "amp": "off", "extra": {}})()
    extractor.device = torch.device("cpu")
    with pytest.raises(BenchError, match=r"mine failed on batch 1 of 1 \(a to b\) "):
        extraction._guarded_forward(extractor, np.zeros((2, 2, 16, 16), np.float32), np.array([0, 1]), "1 of 1")
    assert len(asked) == 1
