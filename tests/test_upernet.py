"""Decode heads and the taps beneath them: shapes, every parameter trained, batch 1, and features that are the blocks'
own.
"""

import math

import pytest
import timm
import torch
from torch import nn

from fgmae_bench.config.run import Model
from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import build_backbone, wrap_module
from fgmae_bench.models.heads import make_head
from fgmae_bench.models.heads.upernet import HalfScale, pooled
from fgmae_bench.models.pooling import TokenPool
from fgmae_bench.models.segmenter import SegmentationModel
from fgmae_bench.models.taps import BlockMaps, OneMap, PyramidMaps, even_blocks, fitting_size, make_taps

DIM, CLASSES = 48, 5
FIRST = ("linear", "upernet")  # all heads: test_heads.py


def tiny(size=64, **more):
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", in_chans=2, num_classes=0, img_size=size, depth=4, embed_dim=DIM, num_heads=3, **more
    )


def maps(batch=2, grid=4, dims=(DIM,) * 4, scales=(1, 1, 1, 1)):
    return [
        torch.randn(batch, dim, math.ceil(grid * s), math.ceil(grid * s)) for dim, s in zip(dims, scales, strict=True)
    ]


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("grid", [2, 4, 7, 14])
def test_heads_give_logits_of_any_size(name, norm, grid):
    head = make_head(name, (DIM,) * 4, (16,) * 4, CLASSES, fpn_dim=32, norm=norm)
    for size in ((grid * 16, grid * 16), (50, 70)):
        out = head(maps(grid=grid), size)
        assert out.shape == (2, CLASSES, *size)
        assert out.isfinite().all()


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_every_parameter_of_a_head_is_trained(name, norm):
    """No frozen random layer, and none that the loss does not reach."""
    head = make_head(name, (DIM,) * 4, (16,) * 4, CLASSES, fpn_dim=32, norm=norm)
    head(maps(), (64, 64)).square().sum().backward()
    for key, parameter in head.named_parameters():
        assert parameter.requires_grad, key
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", FIRST)
def test_batch_1_trains(name, norm):
    head = make_head(name, (DIM,) * 4, (16,) * 4, CLASSES, fpn_dim=32, norm=norm).train()
    out = head(maps(batch=1), (64, 64))
    out.square().mean().backward()
    assert out.isfinite().all()


def test_batch_1_on_a_grid_of_2_trains_with_group_norm_and_is_explained_with_batch_norm():
    make_head("upernet", (DIM,) * 4, (16,) * 4, CLASSES, fpn_dim=32, norm="group").train()(
        maps(batch=1, grid=2), (32, 32)
    )
    with pytest.raises(BenchError, match="use group norm"):
        make_head("upernet", (DIM,) * 4, (16,) * 4, CLASSES, fpn_dim=32, norm="batch").train()(
            maps(batch=1, grid=2), (32, 32)
        )


def test_group_norm_heads_treat_each_image_by_itself():
    torch.manual_seed(0)
    head = make_head("upernet", (DIM,) * 4, (16,) * 4, CLASSES, fpn_dim=32, norm="group").train()
    levels = maps(batch=3)
    alone = torch.cat([head([level[i : i + 1] for level in levels], (64, 64)) for i in range(3)])
    torch.testing.assert_close(head(levels, (64, 64)), alone, rtol=1e-4, atol=1e-5)


def test_pooling_and_halving_are_torchs():
    for grid in (1, 2, 5, 7, 16):
        x = torch.randn(2, 3, grid, grid + 1)
        for bins in (1, 2, 3, 6):
            torch.testing.assert_close(pooled(x, bins), nn.functional.adaptive_avg_pool2d(x, bins))
        assert torch.equal(HalfScale()(x), nn.functional.max_pool2d(x, 2, ceil_mode=True))


def test_the_decoders_size_is_as_stated():
    """ViT-S, fpn_dim 256, 10 classes: the number of the README, part by part."""
    head = make_head("upernet", (384,) * 4, (16,) * 4, 10)
    d, f = 384, 256
    neck = 3 * (4 * d * d + d) + 2 * d
    pooling = 4 * (d * f + 2 * f) + (d + 4 * f) * f * 9 + 2 * f
    fusion = 3 * (d * f + 2 * f) + 3 * (f * f * 9 + 2 * f) + 4 * f * f * 9 + 2 * f
    assert sum(p.numel() for p in head.parameters()) == neck + pooling + fusion + f * 10 + 10 == 9_841_034


def test_upernet_sees_position_and_context():
    """Logits depend on each of the four maps."""
    torch.manual_seed(0)
    head = make_head("upernet", (DIM,) * 4, (16,) * 4, CLASSES, fpn_dim=32, norm="group").eval()
    levels = maps()
    base = head(levels, (64, 64))
    for i in range(4):
        changed = [level + (j == i) * torch.randn_like(level) for j, level in enumerate(levels)]
        assert (head(changed, (64, 64)) - base).abs().max() > 1e-4


def test_linear_probe_is_linear_in_standardised_features():
    head = make_head("linear", (DIM,) * 4, (16,) * 4, CLASSES)
    assert sum(p.numel() for p in head.parameters()) == DIM * CLASSES + CLASSES
    levels = maps(batch=3)
    out = head.train()(levels, (4, 4))
    features = levels[-1].movedim(1, -1).reshape(-1, DIM)
    z = (features - features.mean(0)) / (features.var(0, correction=0) + 1e-6).sqrt()
    expected = z @ head.classify.weight[:, :, 0, 0].T + head.classify.bias
    torch.testing.assert_close(out.movedim(1, -1).reshape(-1, CLASSES), expected, rtol=1e-4, atol=1e-6)


def test_unknown_heads_norms_and_numbers_are_named():
    with pytest.raises(BenchError, match="did you mean 'upernet'"):
        make_head("upernt", (DIM,) * 4, (16,) * 4, CLASSES)
    with pytest.raises(BenchError, match="unknown norm 'layer'"):
        make_head("upernet", (DIM,) * 4, (16,) * 4, CLASSES, norm="layer")
    with pytest.raises(BenchError, match="UPerNet on 3 maps"):
        make_head("upernet", (DIM,) * 3, (16,) * 3, CLASSES)
    with pytest.raises(BenchError, match="--fpn_dim 4"):
        make_head("upernet", (DIM,) * 4, (16,) * 4, CLASSES, fpn_dim=4)
    with pytest.raises(BenchError, match="0 classes"):
        make_head("linear", (DIM,) * 4, (16,) * 4, 0)


def test_even_blocks():
    assert even_blocks(12) == (2, 5, 8, 11)
    assert even_blocks(24) == (5, 11, 17, 23)
    assert even_blocks(32) == (7, 15, 23, 31)
    assert even_blocks(4) == (0, 1, 2, 3)
    with pytest.raises(BenchError, match="3 blocks"):
        even_blocks(3)


@pytest.mark.parametrize("more", [{}, {"reg_tokens": 4}, {"class_token": False, "global_pool": "avg"}])
def test_block_maps_are_the_blocks_own_outputs_without_prefix_tokens(more):
    vit = tiny(**more).eval()
    caught = []
    for block in vit.blocks:
        block.register_forward_hook(lambda module, inputs, out: caught.append(out))
    taps = BlockMaps(vit)
    assert taps.dims == (DIM,) * 4
    assert taps.strides == (16,) * 4
    got = taps(torch.randn(2, 2, 64, 64))
    for i, (level, out) in enumerate(zip(got, caught, strict=True)):
        tokens = out[:, vit.num_prefix_tokens :]
        tokens = vit.norm(tokens) if i == 3 else tokens  # the encoder's output, as documented
        for row in range(4):
            for column in range(4):
                torch.testing.assert_close(level[:, :, row, column], tokens[:, 4 * row + column])


def test_the_last_map_averages_to_the_mean_pooled_feature():
    vit = tiny().eval()
    images = torch.randn(2, 2, 64, 64)
    torch.testing.assert_close(BlockMaps(vit)(images)[-1].mean((2, 3)), TokenPool(vit, "mean")(images))


def test_chosen_blocks_and_wrong_ones():
    assert BlockMaps(tiny(), (1, 2)).blocks == (1, 2)
    assert len(BlockMaps(tiny(), (1, 2))(torch.zeros(1, 2, 64, 64))) == 2
    for wrong in ((0, 1, 2, 4), (-1, 0, 1, 2), (2, 1), (1, 1), ()):
        with pytest.raises(BenchError, match="rising indices from 0 to 3"):
            BlockMaps(tiny(), wrong)
    with pytest.raises(BenchError, match="80x80 px for a backbone built at 64x64; give input_size 64"):
        BlockMaps(tiny())(torch.zeros(1, 2, 80, 80))


def test_patches_of_14_take_252_of_256_pixels():
    assert fitting_size(256, 14) == 252
    assert fitting_size(256, 16) == 256
    with pytest.raises(BenchError, match="smaller than a patch"):
        fitting_size(8, 16)
    with pytest.raises(BenchError, match="use --input_size 252"):
        build_backbone(Model(model="vit_small_patch14_dinov2", weights="random", input_size=256), seed=0)


def test_a_backbone_built_at_the_datas_size_has_taps():
    backbone = build_backbone(Model(model="vit_tiny_patch16_224", weights="random", input_size=96), seed=0)
    taps = make_taps(backbone.module, 96)
    assert isinstance(taps, BlockMaps)
    assert taps.blocks == (2, 5, 8, 11)
    head = make_head("upernet", taps.dims, taps.strides, CLASSES, fpn_dim=32)
    assert SegmentationModel(taps, head, (96, 96))(torch.zeros(2, 2, 96, 96)).shape == (2, CLASSES, 96, 96)
    assert SegmentationModel(taps, head, (96, 96))(torch.zeros(2, 2, 96, 96), (100, 90)).shape == (2, CLASSES, 100, 90)


def test_a_pyramid_needs_no_neck():
    backbone = build_backbone(Model(model="resnet18", weights="random", input_size=64), seed=0)
    taps = make_taps(backbone.module, 64)
    assert isinstance(taps, PyramidMaps)
    assert (taps.dims, taps.strides) == ((64, 128, 256, 512), (4, 8, 16, 32))
    head = make_head("upernet", taps.dims, taps.strides, CLASSES, fpn_dim=32)
    assert isinstance(head.neck, nn.Identity)
    images = torch.randn(2, 2, 64, 64)
    assert [tuple(level.shape[1:]) for level in taps(images)] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert SegmentationModel(taps, head, (64, 64))(images).shape == (2, CLASSES, 64, 64)
    with pytest.raises(BenchError, match="is not a ViT: it has no blocks"):
        make_taps(backbone.module, 64, blocks=(0, 1, 2, 3))


def test_a_users_map_serves_and_a_users_vector_does_not():
    mapper = nn.Conv2d(2, 7, 8, 8)
    taps = make_taps(wrap_module(mapper, Model(model="custom", input_size=32)).module, 32)
    assert isinstance(taps, OneMap)
    assert (taps.dims, taps.strides) == ((7,) * 4, (8,) * 4)
    for name in FIRST:
        head = make_head(name, taps.dims, taps.strides, CLASSES, fpn_dim=32, norm="group")
        assert SegmentationModel(taps, head, (32, 32))(torch.randn(1, 2, 32, 32)).shape == (1, CLASSES, 32, 32)
    with pytest.raises(BenchError, match="map for segmentation"):
        make_taps(nn.Sequential(nn.Flatten(), nn.Linear(2 * 32 * 32, 4)), 32)


def test_a_small_segmenter_learns_the_masks_of_a_batch():
    """Backbone and head trained together fit four images with a square of their own each."""
    torch.manual_seed(0)
    taps = BlockMaps(tiny())
    model = SegmentationModel(taps, make_head("upernet", taps.dims, taps.strides, 2, fpn_dim=32), (64, 64)).train()
    masks = torch.zeros(4, 64, 64, dtype=torch.long)
    for i, mask in enumerate(masks):
        mask[8 * i : 8 * i + 24, 30 - 8 * i : 54 - 8 * i] = 1
    images = torch.stack([masks, 1 - masks], 1) + 0.3 * torch.randn(4, 2, 64, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), masks).backward()
        optimizer.step()
    assert (model(images).argmax(1) == masks).float().mean() > 0.95
