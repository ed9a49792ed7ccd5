"""Models that are no ViTs at sizes that their strides do not divide: said in a line and a note, with a size that fits."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone, wrap_module
from fgmae_bench.models.pooling import PooledMap
from fgmae_bench.models.unread import unread_notes

SMALL = {"swin_tiny_patch4_window7_224": {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}}


def unread(name, size):
    backbone = build_backbone(Model(model=name, weights="random", input_size=size), 0)
    return [note["text"] for note in backbone.notes if note["code"] == "unread_pixels"]


@pytest.mark.parametrize(
    ("name", "size", "pixels", "good"),
    [
        ("test_convnext", 65, 1, 64),
        ("test_convnext", 120, 17, 96),  # its map of 7 cells at stride 16 is read to the sixth
        ("convmixer_768_32", 16, 2, 14),
    ],
)
def test_what_strides_leave_out_is_said_with_a_size_that_fits(name, size, pixels, good, caplog):
    (text,) = unread(name, size)
    said = f"{name} at {size} px: its strides leave out the last {pixels} px of each side, in whole or in part"
    assert text == f"{said}; {good} px are read whole"
    assert caplog.messages.count(text) == 1
    assert unread(name, good) == []


@pytest.mark.parametrize("name", ["resnet18", "test_resnet", "efficientnet_lite0", "mobilenetv3_small_050"])
@pytest.mark.parametrize("size", [33, 47, 64])
def test_padded_strides_read_every_size(name, size):
    assert unread(name, size) == []


@pytest.mark.parametrize(("name", "size"), [("test_convnext", 65), ("swin_tiny_patch4_window7_224", 67)])
def test_by_gradients_the_pixels_said_are_those_that_no_feature_sees(name, size):
    """Independent of how layers are counted: where the derivative of every feature is zero."""
    model = timm.create_model(
        name, in_chans=2, num_classes=0, **({"img_size": size} | SMALL[name] if name in SMALL else {})
    )
    images = torch.randn(1, 2, size, size, requires_grad=True)
    model.eval()(images).square().sum().backward()
    seen = images.grad[0].abs().amax((0, 1)).numpy() > 0
    assert int(np.flatnonzero(seen).max()) + 1 == size - size % 4


def test_a_size_of_whole_strides_is_not_offered_as_its_own_cure():
    """Inception's strides leave pixels out of any size, 224 among them."""
    module = PooledMap(nn.Identity())
    module.inner.feature_info, module.unread = [{"reduction": 32}], 19.0
    assert unread_notes("x", module, 224)[0]["text"].endswith("in whole or in part")
    assert unread_notes("x", module, 225)[0]["text"].endswith("; 224 px are read whole")


def test_of_a_module_of_the_user_it_is_said_without_a_size():
    module = nn.Sequential(nn.Conv2d(2, 4, 8, 8), nn.MaxPool2d(2))
    model = Model(model="mine", weights="module", input_size=44, normalizer="zscore")
    (note,) = [note for note in wrap_module(module, model).notes if note["code"] == "unread_pixels"]
    assert note["text"] == "mine at 44 px: its strides leave out the last 9 px of each side, in whole or in part"


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(2, 4, 3, 2, 1),
        nn.Conv2d(2, 4, 1, 2),
        nn.Conv2d(2, 4, 3, padding="same"),
    ],
    ids=["ceil", "padded", "shortcut", "same"],
)
def test_layers_that_reach_the_side_say_nothing(layer):
    model = Model(model="mine", weights="module", input_size=33, normalizer="zscore")
    assert "unread_pixels" not in {note["code"] for note in wrap_module(layer, model).notes}
