"""Checkpoints under other projects' names: inspected, verified, converted and loaded, every key accounted for.

The files are synthetic, with the exact keys of their publishers' code.
"""

import pickle
from argparse import Namespace

import commands
import numpy as np
import pytest
import timm
import torch
from commands import call
from timm.models.convnext import checkpoint_filter_fn as convnext_filter
from timm.models.eva import checkpoint_filter_fn as eva_filter
from tiny_checkpoints import state_of

from fgmae_bench.checkpoints.dialects import translated
from fgmae_bench.checkpoints.load import account, load_backbone
from fgmae_bench.checkpoints.reader import read_state
from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.taps import PyramidMaps, make_taps

commands.MAIN.setdefault("weights", "fgmae_bench.weights.__main__")


def drawn(model):
    """A model without its initial values."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1)
    return model.eval()


def metas(state):
    """The names of Meta's ConvNeXt for timm's, as facebookresearch/ConvNeXt writes them."""
    return {metas_name(name): tensor for name, tensor in state.items()}


def metas_name(name):
    parts = name.split(".")
    if parts[0] == "stem":
        return f"downsample_layers.0.{'.'.join(parts[1:])}"
    if parts[2:3] == ["downsample"]:
        return f"downsample_layers.{parts[1]}.{'.'.join(parts[3:])}"
    if parts[2:3] == ["blocks"]:
        return replaced(
            ".".join(["stages", parts[1], *parts[3:]]),
            [("conv_dw", "dwconv"), ("mlp.fc1", "pwconv1"), ("mlp.fc2", "pwconv2")],
        )
    return name.replace("head.norm", "norm")


def replaced(name, pairs):
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def convnext(channels=2):
    return drawn(
        timm.create_model("convnext_tiny", in_chans=channels, num_classes=0, depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
    )


def dinov3(channels=2, depth=2):
    return drawn(
        timm.create_model(
            "vit_small_patch16_dinov3",
            in_chans=channels,
            num_classes=0,
            img_size=64,
            depth=depth,
            embed_dim=48,
            num_heads=3,
        )
    )


def metas_dinov3(state, dim=48, depth=2):
    """Meta's keys of DINOv3: storage tokens, layer scale, a bias that is 0, its mask, the periods of the rotation."""
    found = {"mask_token": torch.zeros(1, dim), "rope_embed.periods": torch.rand(8)}
    pairs = [("reg_token", "storage_tokens"), ("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma")]
    found |= {replaced(name, pairs): tensor for name, tensor in state.items()}
    for block in range(depth):
        found[f"blocks.{block}.attn.qkv.bias"] = torch.zeros(3 * dim)
        found[f"blocks.{block}.attn.qkv.bias_mask"] = torch.ones(3 * dim)
    return found


def said(*words, cwd):
    done = call("weights", *words, cwd=cwd)
    assert done.code == 0, done.out + done.err
    return done.out


def verified(path, *words, cwd):
    """Outcomes of `weights verify` by the check, of a file that it finds fit."""
    head, row = said("verify", path, *words, "--cache_dir", "none", cwd=cwd).splitlines()[:2]
    return dict(zip(head.split(), row.split(), strict=False))


def test_a_detectron2_pickle_of_convnext_is_inspected_converted_and_loaded(tmp_path):
    source = convnext()
    state = {k: v for k, v in metas(source.state_dict()).items() if not k.startswith("norm.")}
    state |= {f"norm{i}.weight": torch.ones(8 << i) for i in range(4)}  # of the maps that a detector sees
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    path = tmp_path / "convnext_tiny.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "convnext", "matching_heuristics": True}))
    assert "names of Meta's ConvNeXt, as Detectron2 has it" in said("inspect", path, cwd=tmp_path)
    assert verified(path, cwd=tmp_path).items() >= {("opens", "ok"), ("trained", "ok")}
    assert f"{len(state) - 4} tensors" in said("convert", path, "out.pth", "--repair", cwd=tmp_path)
    for file in (path, tmp_path / "out.pth"):
        model = convnext()
        torch.nn.init.zeros_(model.stem[0].weight)
        report = load_backbone(model, file)
        dropped = {"computed": 4} if file == path else {}
        assert (report.used, report.dropped, report.missing) == (len(state) - 4, dropped, 2)
        images = torch.rand(1, 2, 64, 64)
        torch.testing.assert_close(model.forward_features(images), source.forward_features(images))
    theirs = convnext_filter(dict(state), source)
    ours, _ = translated(state)
    assert {name for name in ours if not name.startswith("computed.")} == {n for n in theirs if n[:4] != "norm"}


def test_an_optical_file_is_adapted_to_two_bands_as_timm_does_and_says_so(tmp_path):
    rgb = dinov3(channels=3)
    torch.save(metas_dinov3(rgb.state_dict()), tmp_path / "dinov3.pth")
    model = dinov3()
    report = load_backbone(model, tmp_path / "dinov3.pth")
    weight = rgb.state_dict()["patch_embed.proj.weight"]
    expected = timm.models.adapt_input_conv(2, weight)
    torch.testing.assert_close(model.patch_embed.proj.weight, expected)
    assert "patch_embed.proj.weight adapted from 3 channels to 2" in " ".join(report.notes)
    torch.save(rgb.state_dict(), tmp_path / "timms.pth")  # not in another's names: nothing is adapted in silence
    with pytest.raises(Exception, match="takes 3 channels, the model 2"):
        load_backbone(dinov3(), tmp_path / "timms.pth")


@pytest.mark.parametrize("biased", [False, True])
def test_dinov3_by_metas_keys_is_what_timms_own_reader_makes_of_it(tmp_path, biased):
    name = "vit_small_patch16_dinov3_qkvb" if biased else "vit_small_patch16_dinov3"
    more = {"in_chans": 2, "num_classes": 0, "img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3}
    source = drawn(timm.create_model(name, **more))
    kept = {k: v for k, v in source.state_dict().items() if not k.endswith(("q_bias", "v_bias", "k_bias"))}
    state = metas_dinov3(kept)
    if biased:
        for block in range(2):
            state[f"blocks.{block}.attn.qkv.bias"] = torch.cat([torch.rand(48), torch.zeros(48), torch.rand(48)])
    path = tmp_path / "dinov3_vits16_pretrain.pth"
    torch.save(state, path)
    assert "names of Meta's DINOv3" in said("inspect", path, cwd=tmp_path)
    assert verified(path, cwd=tmp_path).items() >= {("opens", "ok"), ("trained", "ok")}
    said("convert", path, "out.safetensors", cwd=tmp_path)
    converted, model = (timm.create_model(name, **more).eval() for _ in range(2))
    held = load_backbone(converted, tmp_path / "out.safetensors")
    report = load_backbone(model, path)
    assert (held.used, held.dropped, held.missing) == (report.used, {}, 0)
    assert all(tensor.equal(converted.state_dict()[name]) for name, tensor in model.state_dict().items())
    theirs = eva_filter(dict(state), model)
    own = {k: v for k, v in model.state_dict().items() if k in theirs}
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[k], theirs[k]) for k in theirs)
    assert report.dropped == {"computed": 4 if biased else 6}  # mask token, periods, two masks, two biases of 0
    reference = timm.create_model(name, **more).eval()
    reference.load_state_dict(theirs, strict=False)
    images = torch.rand(1, 2, 64, 64)
    torch.testing.assert_close(model.forward_features(images), reference.forward_features(images))


def test_dinov3_vit_l16_satellite_is_accounted_for_key_by_key(tmp_path):
    """Its exact keys and shapes, without memory; 50 of Meta's keys timm's model computes or has no place for."""
    with torch.device("meta"):
        model = timm.create_model("vit_large_patch16_dinov3", in_chans=2, num_classes=0)
    zeros = {k: torch.zeros(1).expand(v.shape) for k, v in model.state_dict().items()}
    zeros["patch_embed.proj.weight"] = torch.zeros(1).expand(1024, 3, 16, 16)
    tensors, dialect = translated(metas_dinov3(zeros, dim=1024, depth=24))
    _, report = account(model, state_of(tmp_path, tensors, optical=dialect.first))
    assert (report.used, report.dropped, report.missing) == (len(zeros), {"computed": 50}, 0)


def mmseg_vit(state):
    pairs = [
        ("patch_embed.proj.", "patch_embed.projection."),
        ("blocks", "layers"),
        (".norm1.", ".ln1."),
        (".norm2.", ".ln2."),
        ("attn.qkv.", "attn.attn.in_proj_"),
        ("attn.proj.", "attn.attn.out_proj."),
        ("mlp.fc1.", "ffn.layers.0.0."),
        ("mlp.fc2.", "ffn.layers.1."),
    ]
    found = {replaced(name, pairs): tensor for name, tensor in state.items()}
    return {name.replace("norm.", "ln1.") if name.startswith("norm.") else name: v for name, v in found.items()}


def mmseg_resnet(state):
    return {
        (name.replace("bn1.", "stem.7.") if name.startswith("bn1.") else name.replace("conv1.", "stem.", 1))
        if not name.startswith("layer")
        else name: tensor
        for name, tensor in state.items()
    }


class HistoryBuffer:
    """As mmengine leaves beside the weights: it is skipped, never made."""

    def __init__(self):
        self.values = np.arange(3)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_an_mmsegmentation_checkpoint_gives_its_backbone_and_drops_its_heads(tmp_path, kind):
    if kind == "vit":
        more = {"in_chans": 2, "num_classes": 0, "img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3}
        source, rename = timm.create_model("vit_tiny_patch16_224", **more), mmseg_vit
        model = timm.create_model("vit_tiny_patch16_224", **more)
    else:
        source, model = (
            timm.create_model("resnet50c", in_chans=2, num_classes=0, layers=(1, 1, 1, 1)) for _ in range(2)
        )
        rename = mmseg_resnet
    state = rename(drawn(source).state_dict())
    content = {
        "meta": {"mmseg_version": "1.2.2", "hooks": Namespace(a=1)},
        "message_hub": {"log_scalars": {"loss": HistoryBuffer()}},
        "state_dict": {f"backbone.{k}": v for k, v in state.items()}
        | {
            "decode_head.conv_seg.weight": torch.rand(5, 8, 1, 1),
            "auxiliary_head.conv_seg.weight": torch.rand(5, 8, 1, 1),
        },
        "optimizer": {"param_groups": [{"lr": 0.01}]},
    }
    path = tmp_path / "iter_80000.pth"
    torch.save(content, path)
    shown = said("inspect", path, cwd=tmp_path)
    assert "HistoryBuffer" in shown
    assert "names of mmsegmentation's" in shown
    assert verified(path, cwd=tmp_path).items() >= {("opens", "ok"), ("trained", "ok")}
    said("convert", path, "out.safetensors", cwd=tmp_path)
    for file, dropped in ((path, {"head": 2}), (tmp_path / "out.safetensors", {})):
        report = load_backbone(model, file)
        assert (report.used, report.dropped, report.missing) == (len(state), dropped, 0)
        images = torch.rand(1, 2, 64, 64)
        torch.testing.assert_close(model.eval().forward_features(images), source.forward_features(images))


def test_mit_b2_loads_by_name_and_is_a_pyramid(tmp_path):
    """The keys of NVIDIA's mit_b2.pth, classifier included; B0 is built, B2 accounted for."""
    pytest.importorskip("segmentation_models_pytorch")
    from fgmae_bench.models.encoders import mit

    source = drawn(mit.make("mit_b0").network)
    state = dict(source.state_dict())
    state["patch_embed1.proj.weight"] = torch.rand(32, 3, 7, 7)
    torch.save(state | {"head.weight": torch.rand(10, 256), "head.bias": torch.rand(10)}, tmp_path / "mit_b0.pth")
    outcomes = verified("mit_b0.pth", "--model", "mit_b0", cwd=tmp_path)
    assert outcomes.items() >= {("opens", "ok"), ("keys", "ok"), ("trained", "ok")}
    backbone = build_backbone(Model(model="mit_b0", weights=str(tmp_path / "mit_b0.pth"), input_size=64), seed=0)
    assert (backbone.weights.used, backbone.weights.dropped, backbone.weights.missing) == (len(state), 2, 0)
    assert any("adapted from 3 channels" in note["text"] for note in backbone.notes)
    taps = make_taps(backbone.module, 64)
    assert isinstance(taps, PyramidMaps)
    assert (taps.dims, taps.strides) == ((32, 64, 160, 256), (4, 8, 16, 32))
    assert [tuple(m.shape[1:]) for m in taps(torch.rand(1, 2, 64, 64))] == [
        (32, 16, 16),
        (64, 8, 8),
        (160, 4, 4),
        (256, 2, 2),
    ]
    b2 = mit.make("mit_b2").network
    zeros = {k: torch.zeros(1).expand(v.shape) for k, v in b2.state_dict().items()}
    _, report = account(b2, state_of(tmp_path, zeros))
    assert (report.used, report.missing) == (len(b2.state_dict()), 0)
    assert (
        sum(p.numel() for p in b2.parameters()) == 24_761_686 - 565_398 - 64 * 49
    )  # of mmsegmentation, less its head and a band


@pytest.mark.slow
def test_mit_b2_is_inspected_verified_converted_and_loaded(tmp_path):
    """Whole, with its 24.8 million parameters in half precision, under the keys of NVIDIA's file."""
    pytest.importorskip("segmentation_models_pytorch")
    from fgmae_bench.models.encoders import mit

    source = drawn(mit.make("mit_b2").network).half()
    state = dict(source.state_dict())
    torch.save(state | {"head.weight": torch.rand(10, 512), "head.bias": torch.rand(10)}, tmp_path / "mit_b2.pth")
    assert "mit_b2.pth" in said("inspect", "mit_b2.pth", "--model", "mit_b2", cwd=tmp_path)
    outcomes = verified("mit_b2.pth", "--model", "mit_b2", cwd=tmp_path)
    assert outcomes.items() >= {("opens", "ok"), ("keys", "ok"), ("trained", "ok")}
    said("convert", "mit_b2.pth", "out.safetensors", "--repair", cwd=tmp_path)
    for name, dropped in (("mit_b2.pth", {"head": 2}), ("out.safetensors", {})):
        model = mit.make("mit_b2").network
        report = load_backbone(model, tmp_path / name)
        assert (report.used, report.dropped, report.missing) == (len(state), dropped, 0)
        assert all(tensor.equal(state[key].float()) for key, tensor in model.state_dict().items())


def test_a_file_of_ours_is_in_no_dialect(tmp_path):
    torch.save(dinov3().state_dict(), tmp_path / "w.pth")
    assert read_state(tmp_path / "w.pth").optical == ""
