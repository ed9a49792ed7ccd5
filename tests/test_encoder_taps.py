"""Every encoder of the registry in front of a decoder: four maps of the strides that are stated, or a refusal that says why."""

import dataclasses
import math

import pytest
import timm
import torch
from installed_encoders import HERE, NOT_HERE, needs

from fgmae_bench.config.encoders import ENCODERS
from fgmae_bench.config.run import Model
from fgmae_bench.errors import BenchError
from fgmae_bench.models.architectures import make_module
from fgmae_bench.models.contracts import resolve_contract
from fgmae_bench.models.heads import make_head
from fgmae_bench.models.pooling import TokenPool
from fgmae_bench.models.taps import BlockMaps, OneMap, PyramidMaps, make_taps

# Their code asks for the values of tensors, which the meta device does not hold.
WANT_VALUES = ("galileo", "presto", "croma", "panopticon", "copernicusfm")
QUICK = ("reben-resnet50", "reben-vit-b8", "galileo-nano", "presto", "olmoearth-v1-nano")
NAMES = list({ENCODERS[name].model: name for name in HERE}.values())


def taps_of(name):
    """(taps, images, entry) of an encoder with random weights, on the meta device where that will do."""
    entry = needs(ENCODERS[name])
    model = Model(model=entry.model, weights="random")
    contract = resolve_contract(model)
    size = contract.size or 16
    if name.startswith(WANT_VALUES):
        size = {"croma": 64, "panop": 112}.get(name[:5], size)
        place = torch.device("cpu")
    else:
        place = torch.device("meta")
    with place, torch.no_grad():
        module, _, _ = make_module(model, dataclasses.replace(contract, size=size), 0.0)
        return make_taps(module.eval(), size), torch.zeros(1, 2, size, size), entry


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in sorted(NAMES)])
def test_an_encoder_of_the_registry_gives_four_maps_of_its_strides_or_says_why_not(name):
    entry = ENCODERS[name]
    if entry.maps.startswith("none"):
        with pytest.raises(BenchError, match=r"map for segmentation"):
            taps_of(name)
        return
    taps, images, entry = taps_of(name)
    with torch.no_grad(), images.device:
        maps = taps(images)
        head = make_head("uper", taps.dims, taps.strides, 3, fpn_dim=8).eval()
        out = head(maps, tuple(images.shape[-2:]))
    kind, strides = {
        "4 b": (BlockMaps, (entry.patch,) * 4),
        "4 l": (PyramidMaps, (4, 8, 16, 32)),
    }.get(entry.maps[:3], (OneMap, (entry.patch if entry.patch > 1 else 32,) * 4))  # of a ResNet its last map
    assert isinstance(taps, kind)
    assert taps.strides == strides
    side = images.shape[-1]
    for level, dim, stride in zip(maps, taps.dims, taps.strides, strict=True):
        assert tuple(level.shape) == (1, dim, math.ceil(side / stride), math.ceil(side / stride))
    assert maps[-1].shape[1] == entry.dim
    assert out.shape == (1, 3, side, side)


@pytest.mark.parametrize("name", NOT_HERE)
def test_an_encoder_that_cannot_be_here_says_what_it_needs(name):
    with pytest.raises(BenchError, match=f"the model {ENCODERS[name].model} needs terratorch"):
        taps_of(name)


COLUMNS = {
    "vit_small_patch16_dinov3": {"img_size": 32, "num_heads": 2},
    "eva02_tiny_patch14_224": {"img_size": 28, "num_heads": 2},
    "beit_base_patch16_224": {"img_size": 32, "num_heads": 2},
    "cait_xxs24_224": {"img_size": 32, "num_heads": 2},
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_vit_under_another_class_of_timm_gives_four_even_blocks_and_not_the_last_four(name):
    """DINOv3 and EVA-02 are built as Eva, BEiT as Beit: of eight blocks the maps are those of 1, 3, 5 and 7."""
    torch.manual_seed(0)
    vit = timm.create_model(name, in_chans=2, num_classes=0, depth=8, embed_dim=24, **COLUMNS[name]).eval()
    outputs = []
    for block in vit.blocks:
        block.register_forward_hook(lambda _module, _given, out: outputs.append(out))
    taps = make_taps(TokenPool(vit, "mean"), 32)
    with torch.no_grad():
        maps = taps(torch.randn(2, 2, *vit.patch_embed.img_size))
        expected = [outputs[block] for block in (1, 3, 5, 7)]
        if isinstance(taps, BlockMaps):  # the last is the encoder's output
            expected[-1] = vit.norm(expected[-1])
    assert taps.blocks == (1, 3, 5, 7)
    for found, tokens in zip(maps, expected, strict=True):
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens[:, -4:])


def test_blocks_of_dinov3_can_be_named():
    vit = timm.create_model("vit_small_patch16_dinov3", in_chans=2, num_classes=0, img_size=32, depth=4, embed_dim=24)
    assert make_taps(TokenPool(vit, "cls"), 32, (0, 1, 3)).blocks == (0, 1, 3)
