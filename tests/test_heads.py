"""Every decode head: logits of any size from maps of any grid, every parameter trained, sizes as stated, batches of one."""

import math
from types import SimpleNamespace

import preloaded
import pytest
import torch
from torch import nn

from fgmae_bench.config.names import HEADS, HEADS_OF_CLASSES
from fgmae_bench.config.recipes import SegmentRecipe
from fgmae_bench.config.run import Model
from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import wrap_module
from fgmae_bench.models.heads import attention, jpu, library, make_head, necks, pointrend, semantic_fpn, setr, upernet
from fgmae_bench.models.heads.layers import Decoder, sampled
from fgmae_bench.models.heads.outputs import PIXELS, Extra, Learnt
from fgmae_bench.models.segmenter import build_segmenter
from fgmae_bench.system.distributed import World
from fgmae_bench.train.head_losses import loss_of

DIM, CLASSES, WIDTH = 24, 5, 32
FLAT, PYRAMID = (16,) * 4, (4, 8, 16, 32)
SLOW = ("maskformer", "mask2former")  # to import their library takes seconds
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in sorted(HEADS)]
# What nothing reaches by construction: MaskFormer's queries begin as zeros, so its first self-attention sees nothing; a
# softmax over all places does not change with a bias.
UNREACHED = {"maskformer": "transformer.decoder.layers.0.self_attn.", "dnl": "conv_mask.bias", "gc": "conv_mask.bias"}
# Heads that use several maps.
SEVERAL = {
    "deeplabv3plus",
    "uper",
    "upernet",
    "segformer",
    "lightham",
    "semantic_fpn",
    "pointrend",
    "knet_uper",
    "setr_mla",
    "jpu_psp",
    "jpu_deeplabv3",
    "jpu_enc",
    "maskformer",
    "mask2former",
    *(n for n in HEADS if n.startswith("smp_")),
} - {"smp_pspnet"}


def made(name, strides=FLAT, dims=(DIM,) * 4, seed=0, **more):
    torch.manual_seed(seed)
    return make_head(name, dims, strides, CLASSES, **{"fpn_dim": WIDTH, **more})


def maps(grid=(4, 4), batch=2, strides=FLAT, dims=(DIM,) * 4):
    """Maps of a grid of patches; of a pyramid, each half of the one before, rounded up."""
    scales = [strides[0] / stride for stride in strides]
    return [
        torch.randn(batch, dim, *(math.ceil(side * scale) for side in grid))
        for dim, scale in zip(dims, scales, strict=True)
    ]


def stirred(head):
    """No parameter at its initial 0 or 1."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return head


def labels(batch, size):
    found = torch.randint(0, CLASSES, (batch, *size), dtype=torch.uint8)
    found[:, :3] = 255
    return found


def vector():
    """A backbone without maps, for the command line."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 4))


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_of_any_size_from_a_vits_maps_and_from_a_pyramids(name, norm):
    flat, pyramid = made(name, norm=norm).eval(), made(name, PYRAMID, (8, 16, 24, 32), norm=norm).eval()
    with torch.no_grad():
        grids = ((7, 5), (50, 70)), ((8, 8), (64, 64)), ((2, 2), (28, 28))  # patches of 10, 8 and 14 px
        for grid, size in grids if norm == "batch" else grids[:1]:
            out = flat(maps(grid), size)
            assert out.shape == (2, CLASSES, *size)
            assert out.isfinite().all()
        out = pyramid(maps((13, 10), strides=PYRAMID, dims=(8, 16, 24, 32)), (50, 37))
    assert out.shape == (2, CLASSES, 50, 37)
    assert out.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_trained_in_a_batch_of_one(name):
    """The loss reaches each of them: 10x9 patches, so that ISA has more than one cell; a ReLU may be shut by chance."""
    waiting = None
    for seed in range(12):
        head = stirred(made(name, seed=seed, auxiliary=True)).train()
        if waiting is None:
            waiting = {key for key, _ in head.named_parameters() if UNREACHED.get(name, "?") not in key}
        out = head(maps((10, 9), batch=1), (40, 36))
        loss_of(out, labels(1, (40, 36)), World()).backward()
        for key, parameter in head.named_parameters():
            assert parameter.requires_grad, key
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            if float(parameter.grad.abs().sum()) > 0:
                waiting.discard(key)
        if not waiting:
            break
    assert not waiting


@pytest.mark.parametrize("name", NAMES)
def test_a_head_learns_beside_its_logits_only_where_it_is_said_to(name):
    """What a regression refuses is what learns of classes; Segmenter normalises over them."""
    out = made(name).train()(maps(), (32, 32))
    assert isinstance(out, Learnt) == (name in HEADS_OF_CLASSES and name != "segmenter")


# Parameters at 4 x 768 channels and 8 classes, a pyramid: of mmsegmentation's and transformers' own modules.
COUNTS = {
    "fcn": (512, 11_803_656),
    "psp": (512, 14_558_216),
    "deeplabv3": (512, 23_209_992),
    "deeplabv3plus": (512, 14_397_816),
    "uper": (512, 32_260_104),
    "upernet": (512, 32_260_104),
    "gc": (512, 11_936_137),
    "isa": (512, 5_911_560),
    "nonlocal": (512, 12_329_736),
    "dnl": (512, 12_330_249),
    "psa": (512, 18_820_616),
    "dm": (512, 16_137_224),
    "enc": (512, 4_090_480),
    "segformer": (256, 1_053_192),
    "segmenter": (768, 15_953_680),
    "setr_pup": (256, 3_544_584),
    "setr_naive": (256, 200_712),
    "setr_mla": (256, 3_155_968 + 1_775_624),
    "lightham": (256, 790_280),
}


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_parameters_are_as_many_as_the_references(name):
    width, count = COUNTS[name]
    with torch.device("meta"):
        head = make_head(name, (768,) * 4, PYRAMID, 8, fpn_dim=width)
    assert parameters(head) == count


def test_parameters_of_parts_are_as_many_as_the_references():
    with torch.device("meta"):
        ocr = attention.OCR((768,) * 4, FLAT, 8, fpn_dim=512)
        assert parameters(ocr) - parameters(ocr.coarse) == 4_728_328
        assert parameters(make_head("segformer", (768,) * 4, PYRAMID, 8, fpn_dim=768)) == 4_732_424
        assert parameters(semantic_fpn.FPNHead(256, 8, 128, "batch")) == 1_624_840
        # PointRend as published has no norm in its point head: 373,626 of 150 classes is without. 206,408 of 8 classes is
        # the same head built with batch norm: three layers lose a bias of 256 and gain a weight and a bias of 256.
        assert parameters(pointrend.PointHead(256, 150, 256)) == 373_626
        points = pointrend.PointHead(256, 8, 256)
        assert parameters(points) == 205_640
        assert [len(layer.conv.bias) for layer in points.fcs] == [256] * 3
        assert parameters(points) - 3 * 256 + 3 * 2 * 256 == 206_408
        assert parameters(upernet.ScaleNeck((768,) * 4, "batch")) == 7_081_728
        assert parameters(necks.MultiLevelNeck((768,) * 4, 768)) == 23_599_104
        assert parameters(jpu.JPU((768,) * 3, 512, "batch")) == 13_837_312
        assert parameters(setr.MLANeck((768,) * 4, 256, "batch")) == 3_155_968
        # of a ResNet-50: the neck of Semantic FPN and PointRend, K-Net's three stages, JPU
        assert parameters(necks.FPN((256, 512, 1024, 2048), 256)) == 3_344_384
        assert parameters(jpu.JPU((512, 1024, 2048), 512, "batch")) == 19_735_552


def test_psa_is_its_definition():
    """By a loop over all pairs of places: no outside oracle was there to be had."""
    torch.manual_seed(0)
    head = made("psa", fpn_dim=8).eval()
    x = torch.randn(1, DIM, 6, 4)
    half = (3, 2)
    with torch.no_grad():
        sides = []
        for reduce, attention_of, collect in (
            (head.reduce, head.attention, True),
            (head.reduce_p, head.attention_p, False),
        ):
            small = nn.functional.interpolate(reduce(x), half, mode="bilinear")
            every = attention_of(small)[0].unflatten(0, (97, 97))
            out = torch.zeros(8, *half)
            scores = torch.zeros(*half, *half)  # what place (a, b) says of place (c, d)
            for a, b, c, d in torch.cartesian_prod(*(torch.arange(n) for n in (*half, *half))).tolist():
                scores[a, b, c, d] = every[48 + c - a, 48 + d - b, a, b]
            table = scores.flatten(2).flatten(0, 1)  # (from, about)
            # collected: place p weighs all places by its own word; distributed: place t is weighed by the others'
            weights = table.softmax(1) if collect else table.softmax(0).T
            for place in range(6):
                share = (small[0].flatten(1) * weights[place]).sum(1)
                out[:, place // half[1], place % half[1]] = share
            sides.append(out)
        context = nn.functional.interpolate(head.proj(torch.cat(sides)[None]), (6, 4), mode="bilinear")
        expected = head.bottleneck(torch.cat([x, context], 1))
        torch.testing.assert_close(head.features([x]), expected)
    with pytest.raises(BenchError, match="PSA on a map of 100x4 places"):
        head.features([torch.randn(1, DIM, 100, 4)])


def test_pointrend_draws_the_same_points_for_every_image_and_refines_where_it_is_least_certain():
    head = made("pointrend").train()
    first, second = (head.chosen(torch.zeros(2, CLASSES, 8, 8)) for _ in range(2))
    assert first.shape == (2, 2048, 2)
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    fine, coarse = torch.randn(1, WIDTH, 8, 8), torch.randn(1, CLASSES, 8, 8)
    with torch.no_grad():
        refined = head.eval().refined(fine, coarse)
        places = torch.stack(torch.meshgrid(*[(torch.arange(32) + 0.5) / 32] * 2, indexing="xy"), -1).view(1, -1, 2)
        everywhere = head.points(sampled(fine, places), sampled(coarse, places))
    assert refined.shape == (1, CLASSES, 32, 32)
    torch.testing.assert_close(refined.flatten(2), everywhere)  # 1024 places: all are among the 8196 least certain


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n != "pointrend" else n for n in sorted(set(HEADS) - set(SLOW))]
)
def test_one_class_and_images_of_ignore_alone_train_in_half_precision(name):
    """5x3 patches of 14 px, one image: the loss and every gradient are finite."""
    for classes, label in ((1, 0), (1, 255), (3, 255)):
        torch.manual_seed(0)
        head = make_head(name, (DIM,) * 4, (14,) * 4, classes, fpn_dim=WIDTH).train()
        targets = torch.full((1, 70, 42), label, dtype=torch.uint8)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(head(maps((5, 3), batch=1), (70, 42)), targets, World())
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["fcn", "uper", "knet_fcn"])
def test_the_auxiliary_head_and_dropout_are_there_when_asked_for(name):
    plain, both = made(name), made(name, auxiliary=True, dropout=0.5)
    extra = parameters(both) - parameters(plain)
    assert extra == DIM * 256 * 9 + 2 * 256 + 256 * CLASSES + CLASSES
    levels = maps((8, 8))
    with torch.no_grad():
        assert not both.eval()(levels, (32, 32)).equal(torch.zeros(()))
        out = both.train()(levels, (32, 32))
        again = both(levels, (32, 32))
        assert out.extra[-1].weight == 0.4
        assert not out.logits.equal(again.logits)
        fresh = plain.train()(levels, (32, 32))
        again = plain(levels, (32, 32))
        logits = [o if isinstance(o, torch.Tensor) else o.logits for o in (fresh, again)]
        torch.testing.assert_close(*logits)


def test_the_auxiliary_head_of_the_reference_has_as_many_parameters():
    with torch.device("meta"):
        pair = [make_head("fcn", (768,) * 4, FLAT, 8, fpn_dim=512, auxiliary=flag) for flag in (True, False)]
    assert parameters(pair[0]) - parameters(pair[1]) == 1_772_040


def test_a_multi_level_neck_brings_a_vits_maps_to_a_pyramid_and_leaves_a_pyramid_alone():
    head = made("uper", neck="multilevel")
    assert [tuple(level.shape[-2:]) for level in head.neck(maps((5, 4)))] == [(20, 16), (10, 8), (5, 4), (2, 2)]
    assert head(maps((5, 4)), (40, 32)).shape == (2, CLASSES, 40, 32)
    assert isinstance(made("uper", PYRAMID, neck="multilevel"), Decoder)
    with pytest.raises(BenchError, match="unknown neck 'scale'; did you mean 'scales'"):
        made("uper", neck="scale")


@pytest.mark.parametrize("name", NAMES)
def test_heads_that_want_four_maps_say_so(name):
    if name not in SEVERAL:
        assert make_head(name, (DIM,) * 2, (16,) * 2, CLASSES, fpn_dim=WIDTH)
        return
    with pytest.raises(BenchError, match="on 2 maps; name four blocks"):
        make_head(name, (DIM,) * 2, (16,) * 2, CLASSES, fpn_dim=WIDTH)


@pytest.mark.parametrize(
    ("name", "package"), [("smp_unet", "segmentation_models_pytorch"), ("maskformer", "transformers")]
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(name, package, monkeypatch):
    def absent(module):
        raise ModuleNotFoundError(f"No module named '{package}'")

    monkeypatch.setattr(library, "importlib", SimpleNamespace(import_module=absent))
    with pytest.raises(BenchError) as caught:
        made(name)
    assert "\n" not in str(caught.value)
    assert f"the head {name} needs {package}" in str(caught.value)
    assert "pip install 'fgmae-bench[heads]'" in str(caught.value)


PACKAGE = """
from torch import nn
from torch.nn.functional import interpolate
class Theirs(nn.Module):
    def __init__(self, dims, strides, num_classes, *, fpn_dim, norm):
        super().__init__()
        self.classify = nn.Conv2d(dims[-1], num_classes, 1)
    def forward(self, maps, size):
        return interpolate(self.classify(maps[-1]), size=size)
"""
ASKED = """
import torch
from fgmae_bench.config.recipes import PROTOCOLS
from fgmae_bench.errors import BenchError
from fgmae_bench.models.heads import make_head
print("frozen_theirs" in PROTOCOLS, tuple(make_head("theirs", (3,), (4,), 2)([torch.zeros(1, 3, 2, 2)], (8, 8)).shape))
for name in ("fcn", "broken"):
    try:
        make_head(name, (3,), (4,), 2)
    except BenchError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_package_adds_heads_by_an_entry_point(tmp_path):
    (tmp_path / "their_package.py").write_text(PACKAGE)
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fgmae_bench.heads]\ntheirs = their_package:Theirs\nfcn = their_package:Theirs\nbroken = their_package:Gone\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{ASKED}"
    done = preloaded.run(["-c", code])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "True (1, 2, 8, 8)",
        "the head fcn is defined twice; rename the entry point",
        "the head broken cannot be imported (AttributeError: module 'their_package' has no attribute 'Gone'); repair or uninstall its package",
    ]


class Theirs(nn.Module):
    """A head of another package; subclasses go wrong."""

    def __init__(self, dims, strides, num_classes, *, fpn_dim, norm):
        super().__init__()
        self.classify = nn.Conv2d(dims[-1], num_classes, 1)

    def forward(self, maps, size):
        return self.learnt(self.classify(maps[-1])) if self.training else self.decoded(self.classify(maps[-1]), size)

    def learnt(self, logits):
        return Learnt(logits, (Extra(PIXELS, 0.4, (logits,)),))

    def decoded(self, logits, size):
        return nn.functional.interpolate(logits, size)


class NotBuilt(Theirs):
    def __init__(self, *given, **more):
        raise KeyError("dims")


class Raises(Theirs):
    def decoded(self, logits, size):
        raise ZeroDivisionError("by\nzero")


class RaisesInTraining(Theirs):
    def learnt(self, logits):
        raise SystemExit(0)


class Small(Theirs):
    def decoded(self, logits, size):
        return logits


class Nothing(Theirs):
    def learnt(self, logits):
        return None


class OneClassLess(Theirs):
    def learnt(self, logits):
        return logits[:, 1:]


class AnotherLoss(Theirs):
    def learnt(self, logits):
        return Learnt(None, (Extra("points ", 1.0, (logits,)),))


def of_a_package(kind, monkeypatch):
    """A segmentation model on four maps of 24 channels with such a head."""
    monkeypatch.setitem(HEADS, "theirs", f"{__name__}:{kind.__name__}")
    backbone = wrap_module(nn.Conv2d(2, DIM, 4, 4), Model(model="conv", weights="module", input_size=32))
    return build_segmenter(backbone, SegmentRecipe(head="theirs", fpn_dim=WIDTH), CLASSES)[0]


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (NotBuilt, "cannot be built (KeyError: 'dims', tests/test_heads.py:"),
        (Raises, "cannot be used (ZeroDivisionError: by zero, tests/test_heads.py:"),
        (RaisesInTraining, "cannot be used (SystemExit: 0, tests/test_heads.py:"),
        (Small, "gives (2, 5, 8, 8), not (2, 5, 32, 32)"),
        (Nothing, "gives NoneType, not logits (B, K, H, W)"),
        (OneClassLess, "gives (2, 4, 8, 8), not (2, 5, 32, 32)"),
        (AnotherLoss, "gives the loss 'points ', not one of pixels, points, presence, masks, point_masks"),
    ],
)
def test_a_head_of_a_package_that_goes_wrong_is_one_line_before_anything_is_trained(kind, line, monkeypatch):
    with pytest.raises(BenchError) as caught:
        of_a_package(kind, monkeypatch)
    assert str(caught.value).startswith(f"the head theirs {line}")
    assert str(caught.value).endswith("; repair or uninstall its package")
    assert "\n" not in str(caught.value)


def test_a_head_of_a_package_is_not_changed_by_the_trial(monkeypatch):
    model = of_a_package(Theirs, monkeypatch)
    assert model.head.training
    assert all(parameter.grad is None for parameter in model.head.parameters())
    assert model.eval()(torch.zeros(1, 2, 32, 32)).shape == (1, CLASSES, 32, 32)
