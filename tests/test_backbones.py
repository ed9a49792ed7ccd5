"""Backbones against plain timm, numpy and the published checkpoints' keys: same features, same names, same weights for
a seed.
"""

import json

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fgmae_bench.config.contract import FGMAE_CONTRACT, RAW_CONTRACT
from fgmae_bench.config.run import Model
from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import (
    FGMAE_ARCHITECTURES,
    BackscatterStats,
    TokenPool,
    build_backbone,
    patch_side,
    wrap_module,
)

TINY = "test_vit"  # timm's own: 64 wide, CLS token, patch 16
AVERAGED = "test_vit2"  # 64 wide, one register, no CLS token, fc_norm after the mean instead of norm
STATE_DICTS = {
    "vit_small_patch16": "mae_vit_small_patch16",
    "vit_base_patch16": "mae_vit_base_patch16",
    "vit_large_patch16": "mae_vit_large_patch16",
    "vit_huge_patch14": "mae_vit_huge_patch14",
}
GEOMETRY = {  # embedding, depth, heads, patch: arXiv 2310.18653 and MAE
    "vit_small_patch16": (384, 12, 6, 16),
    "vit_base_patch16": (768, 12, 12, 16),
    "vit_large_patch16": (1024, 24, 16, 16),
    "vit_huge_patch14": (1280, 32, 16, 14),
}


def build(model=TINY, seed=0, size=32, **changes):
    return build_backbone(Model(**{"model": model, "weights": "random", "input_size": size} | changes), seed)


def images(size=32, count=3):
    return torch.from_numpy(np.random.default_rng(0).random((count, 2, size, size), np.float32))


def plain_timm(backbone, pool, name=TINY, size=32):
    """timm's own model with the backbone's weights."""
    model = timm.create_model(name, in_chans=2, num_classes=0, global_pool=pool, img_size=size).eval()
    missing, unexpected = model.load_state_dict(backbone.module.vit.state_dict(), strict=False)
    assert not unexpected
    return model, missing


@pytest.mark.parametrize("model", [TINY, "vit_small_patch16"])
def test_cls_features_are_timms(model):
    backbone = build(model)
    theirs, missing = plain_timm(backbone, "token", FGMAE_ARCHITECTURES.get(model, model))
    assert not missing
    with torch.inference_mode():
        got, expected = backbone.module(images()), theirs(images())
    assert got.shape == (3, backbone.feature_dim)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert (backbone.pool, got.std().item() > 0.1) == ("cls", True)


def test_features_of_a_seed_are_those_of_timm_under_that_seed():
    backbone = build(seed=11)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        theirs = timm.create_model(TINY, in_chans=2, num_classes=0, global_pool="token", img_size=32).eval()
    with torch.inference_mode():
        torch.testing.assert_close(backbone.module(images()), theirs(images()), atol=1e-5, rtol=1e-5)


def test_mean_features_are_the_mean_of_the_normalised_patch_tokens():
    backbone = build(pool="mean")
    theirs, _ = plain_timm(backbone, "token")
    with torch.inference_mode():
        x = theirs.patch_embed(images()).reshape(3, 4, 64)
        x = torch.cat([theirs.cls_token.expand(3, -1, -1), x], dim=1) + theirs.pos_embed
        for block in theirs.blocks:
            x = block(x)
        tokens = nn.functional.layer_norm(x, x.shape[-1:], theirs.norm.weight, theirs.norm.bias, eps=1e-6)
        got = backbone.module(images())
    assert tokens.shape == (3, 5, 64)
    torch.testing.assert_close(got, tokens[:, 1:].mean(1), atol=1e-5, rtol=1e-5)
    assert (got - tokens.mean(1)).abs().max() > 1e-3  # the CLS token is not a patch
    assert (got - tokens[:, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("class_token", [True, False])
def test_register_tokens_are_no_patches(class_token):
    vit = VisionTransformer(
        img_size=32,
        in_chans=2,
        embed_dim=32,
        depth=1,
        num_heads=2,
        reg_tokens=3,
        class_token=class_token,
        num_classes=0,
        global_pool="",
    ).eval()
    prefix = 3 + class_token
    with torch.inference_mode():
        tokens = vit.forward_features(images())
        features = TokenPool(vit, "mean")(images())
        assert tokens.shape == (3, prefix + 4, 32)
        torch.testing.assert_close(features, tokens[:, prefix:].mean(1))
        if class_token:
            torch.testing.assert_close(TokenPool(vit, "cls")(images()), tokens[:, 0])


def test_mean_features_of_an_average_pooled_vit_are_normalised():
    backbone = build(AVERAGED, pool="mean")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = timm.create_model(AVERAGED, in_chans=2, num_classes=0, img_size=32).eval()
    with torch.inference_mode():
        torch.testing.assert_close(backbone.module(images()), theirs(images()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(FGMAE_ARCHITECTURES))
def test_geometry_is_the_papers(name):
    with torch.device("meta"):
        vit = build_backbone(Model(model=name, weights="random"), 0).module.vit
    embedding, depth, heads, patch = GEOMETRY[name]
    assert (vit.embed_dim, len(vit.blocks), vit.blocks[0].attn.num_heads, vit.patch_embed.patch_size) == (
        embedding,
        depth,
        heads,
        (patch, patch),
    )
    assert tuple(vit.patch_embed.proj.weight.shape) == (embedding, 2, patch, patch)
    assert vit.blocks[0].norm1.eps == vit.norm.eps == 1e-6
    assert vit.blocks[0].attn.qkv.bias is not None
    assert vit.blocks[0].mlp.fc1.out_features == 4 * embedding


@pytest.mark.parametrize("name", sorted(FGMAE_ARCHITECTURES))
def test_keys_and_shapes_are_those_of_the_published_checkpoints(shared_data, name):
    """Everything but the decoder's keys is used: none missing, none left over, none of another shape."""
    published = json.loads((shared_data / "fgmae_s1_state_dict_shapes.json").read_text())[STATE_DICTS[name]]
    encoder = {
        k: tuple(v) for k, v in published.items() if k != "mask_token" and not k.startswith(("decoder_", "hog."))
    }
    with torch.device("meta"):
        vit = build_backbone(Model(model=name, weights="random"), 0).module.vit
    ours = {key: tuple(value.shape) for key, value in vit.state_dict().items()}
    assert ours == encoder
    assert len(published) - len(encoder) >= 8


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vit_small_patch16", 21571210),
        ("vit_base_patch16", 85609738),
        ("vit_large_patch16", 303049738),
        ("vit_huge_patch14", 630526730),
    ],
)
def test_parameters_with_a_head_of_ten_are_the_published_count(name, count):
    with torch.device("meta"):
        backbone = build_backbone(Model(model=name, weights="random"), 0)
    assert backbone.params + (backbone.feature_dim + 1) * 10 == count


# --- randomness


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    a, again, other = build(seed=1), build(seed=1), build(seed=2)
    weights = [backbone.module.state_dict() for backbone in (a, again, other)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert not torch.equal(weights[0]["vit.patch_embed.proj.weight"], weights[2]["vit.patch_embed.proj.weight"])
    assert a.fingerprint() == again.fingerprint() != other.fingerprint()


def test_building_leaves_torchs_own_generator_alone_and_does_not_depend_on_it():
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    first = build(seed=1).fingerprint()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(456)
    assert build(seed=1).fingerprint() == first


def test_fingerprint_changes_with_a_single_weight_the_pool_and_the_name():
    backbone = build()
    before = backbone.fingerprint()
    assert build(pool="mean").fingerprint() != before
    assert build("test_vit3", pool="mean").fingerprint() != before
    with torch.no_grad():
        backbone.module.vit.blocks[3].mlp.fc2.bias[7] += 1e-3
    assert backbone.fingerprint() != before


def test_backbone_is_frozen_and_in_evaluation_mode():
    backbone = build("test_resnet")
    assert not any(module.training for module in backbone.module.modules())
    assert not any(p.requires_grad for p in backbone.module.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(
            backbone.module(images(count=1))[0], backbone.module(images())[0], atol=1e-5, rtol=1e-4
        )


# --- other models


def test_convolutional_model_gives_its_pooled_map():
    backbone = build("test_resnet", pool="mean")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = timm.create_model("test_resnet", in_chans=2, num_classes=0).eval()
    with torch.inference_mode():
        torch.testing.assert_close(
            backbone.module(images()), theirs.forward_features(images()).mean((2, 3)), atol=1e-5, rtol=1e-5
        )
    assert (backbone.pool, backbone.feature_dim) == ("mean", theirs.num_features)
    assert build("test_resnet").pool == "mean"


def test_convolutional_model_has_no_cls_token():
    with pytest.raises(BenchError, match="test_resnet has no CLS token; use --pool mean"):
        build("test_resnet", pool="cls")


def test_vit_without_cls_token_says_so():
    with pytest.raises(BenchError, match="no CLS token; use --pool mean"):
        build(AVERAGED)


@pytest.mark.parametrize(
    ("model", "size", "good"),
    [
        (TINY, 33, 32),
        (TINY, 250, 240),
        ("vit_huge_patch14", 256, 252),
        (TINY, 8, 16),
        ("beit_base_patch16_224", 65, 64),
        ("vit_small_patch16_dinov3", 65, 64),
        ("eva02_tiny_patch14_224", 65, 56),
    ],
)
@pytest.mark.parametrize("pool", [None, "mean"])
def test_size_that_the_patches_do_not_divide_is_refused_with_the_good_one(model, size, good, pool):
    """At 256 px timm silently ignores the last 4 pixels of patch 14; data of that size is seen at the good one."""
    with (
        torch.device("meta"),
        pytest.raises(BenchError, match=rf"{size} is not divisible by the patch of \d+ px; use --input_size {good}$"),
    ):
        build(model, size=size, pool=pool)
    assert max(size // patch_side(model), 1) * patch_side(model) == good


def test_unknown_model_offers_the_closest():
    with pytest.raises(BenchError, match="unknown model 'vit_small_patch61'; did you mean 'vit_small_patch16"):
        build("vit_small_patch61")


def test_weights_that_cannot_be_read_are_refused_and_never_replaced_by_random_ones():
    with pytest.raises(BenchError, match="absent"):
        build(weights="absent.pth")


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def as_map(): return nn.Conv2d(2, 6, 4, stride=4)\n"
        "def as_vector(): return nn.Sequential(nn.Flatten(), nn.Linear(2 * 32 * 32, 5))\n"
        "def three_bands(): return nn.Conv2d(3, 6, 4)\n"
        "def number(): return 7\n"
        "class Pair(nn.Module):\n    def forward(self, x): return x, x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_factory_of_the_user_makes_a_backbone(factories):
    backbone = build("my_models:as_map", seed=4)
    with torch.inference_mode():
        inner = backbone.module.inner(images())
        torch.testing.assert_close(backbone.module(images()), inner.flatten(2).mean(-1))
    assert inner.shape == (3, 6, 8, 8)
    assert (backbone.feature_dim, backbone.pool) == (6, None)
    assert build("my_models:as_vector").feature_dim == 5
    assert (
        backbone.fingerprint()
        == build("my_models:as_map", seed=4).fingerprint()
        != build("my_models:as_map", seed=5).fingerprint()
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_models:absent", "absent"),
        ("no_such_module:f", "no_such_module"),
        ("my_models:number", "made int, not an nn.Module"),
        ("my_models:three_bands", r"does not take \(B, 2, 32, 32\)"),
        ("my_models:Pair", "Pair returned tuple"),
    ],
)
def test_factory_that_makes_no_backbone_is_refused_in_words(factories, spec, message):
    with pytest.raises(BenchError, match=message):
        build(spec)


def test_module_of_the_user_keeps_its_weights():
    module = nn.Conv2d(2, 6, 4, stride=4)
    weight = module.weight.detach().clone()
    backbone = wrap_module(module, Model(model="mine", weights="module", input_size=32, normalizer="zscore"))
    with torch.inference_mode():
        expected = nn.functional.conv2d(images(), weight, module.bias, stride=4).mean((2, 3))
        torch.testing.assert_close(backbone.module(images()), expected)
    assert (backbone.contract.normalizer, backbone.contract.size, backbone.weights.source) == ("zscore", 32, "module")
    assert len(backbone.weights.sha256) == 64


# --- contracts


def test_contract_is_fgmaes_with_the_flags_laid_over_it():
    assert build_backbone(Model(model=TINY, weights="random"), 0).contract == FGMAE_CONTRACT
    contract = build(normalizer="zscore", size=64).contract
    assert (contract.normalizer, contract.size, contract.mean) == ("zscore", 64, FGMAE_CONTRACT.mean)
    with pytest.raises(BenchError, match="unknown normalizer 'zsore'; did you mean 'zscore'"):
        build(normalizer="zsore")


# --- backscatter statistics


def statistics(image):
    """Mean, population deviation and quantiles of VV, VH and VV - VH of one image (2, H, W), NaN left out, in float64."""
    image = image.astype(np.float64)
    values = []
    for channel in (image[0], image[1], image[0] - image[1]):
        kept = channel[~np.isnan(channel)]
        values += [kept.mean(), kept.std(), *np.quantile(kept, (0.05, 0.25, 0.5, 0.75, 0.95))]
    return values


@pytest.mark.parametrize("share", [0, 0.2])
def test_backscatter_statistics_are_numpys(share):
    rng = np.random.default_rng(0)
    batch = rng.normal(-15, 4, (4, 2, 33, 40)).astype(np.float32)
    batch[rng.random(batch.shape) < share] = np.nan
    backbone = build("backscatter_stats", size=None)
    got = backbone.module(torch.from_numpy(batch)).numpy()
    assert got.shape == (4, 21) == (4, BackscatterStats.feature_dim)
    np.testing.assert_allclose(got, [statistics(image) for image in batch], rtol=1e-5, atol=1e-5)


def test_backscatter_statistics_of_genuine_chips(chips):
    got = BackscatterStats()(torch.from_numpy(chips)).numpy()
    np.testing.assert_allclose(got, [statistics(image) for image in chips], rtol=1e-5, atol=1e-5)


def test_backscatter_statistics_take_raw_db_only():
    backbone = build("backscatter_stats", size=None)
    assert (backbone.contract, backbone.params, backbone.lowers_precision, backbone.weights.source) == (
        RAW_CONTRACT,
        0,
        False,
        "none",
    )
    for changes in ({"size": 224}, {"size": None, "normalizer": "fgmae"}):
        with pytest.raises(BenchError, match="raw dB"):
            build("backscatter_stats", **changes)


def test_one_image_more_in_the_batch_changes_no_other_images_statistics():
    batch = torch.from_numpy(np.random.default_rng(0).normal(-15, 4, (3, 2, 16, 16)).astype(np.float32))
    torch.testing.assert_close(BackscatterStats()(batch)[:1], BackscatterStats()(batch[:1]), atol=0, rtol=0)
