"""mmsegmentation's Swin and MiT under its own key names: each held against its definition, written out here.

The files are synthetic: random tensors under the keys that mmsegmentation 1.2.2 gives them.
"""

import commands
import numpy as np
import pytest
import timm
import torch
from commands import call
from torch import nn
from torch.nn import functional as F

from fgmae_bench.checkpoints.dialects import translated
from fgmae_bench.checkpoints.load import load_backbone

commands.MAIN.setdefault("weights", "fgmae_bench.weights.__main__")
WINDOW, DIM, STAGES = 4, 8, 4


def filled(shapes, seed=0):
    """Random tensors, those of one dimension near 1."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=rng) * (0.1 if len(shape) == 1 else 0.3) + (len(shape) == 1)
        for name, shape in shapes.items()
    }


def layer(name, outs, ins, *kernel):
    return {f"{name}.weight": (outs, ins, *kernel), f"{name}.bias": (outs,)}


def norm(name, dim):
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def normed(state, name, x):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)


def linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def saved(state, path):
    """A file of mmsegmentation: the backbone beside a decode head."""
    held = {f"backbone.{name}": tensor for name, tensor in state.items()}
    torch.save({"meta": {}, "state_dict": held | {"decode_head.conv_seg.weight": torch.rand(5, 8, 1, 1)}}, path)
    return path


def said(*words, cwd):
    done = call("weights", *words, cwd=cwd)
    assert done.code == 0, done.err
    return done.out


# --- Swin


def swin_shapes():
    found = {**layer("patch_embed.projection", DIM, 2, 4, 4), **norm("patch_embed.norm", DIM)}
    for i in range(STAGES):
        dim, block = DIM << i, f"stages.{i}.blocks.0"
        found |= norm(f"{block}.norm1", dim) | norm(f"{block}.norm2", dim)
        found |= layer(f"{block}.attn.w_msa.qkv", 3 * dim, dim) | layer(f"{block}.attn.w_msa.proj", dim, dim)
        found |= {f"{block}.attn.w_msa.relative_position_bias_table": ((2 * WINDOW - 1) ** 2, 2)}
        found |= layer(f"{block}.ffn.layers.0.0", 4 * dim, dim) | layer(f"{block}.ffn.layers.1", dim, 4 * dim)
        if i < STAGES - 1:
            found |= norm(f"stages.{i}.downsample.norm", 4 * dim)
            found |= {f"stages.{i}.downsample.reduction.weight": (2 * dim, 4 * dim)}
        found |= norm(f"norm{i}", dim)
    return found


def bias_index():
    """WindowMSA's: the index of a pair of places is the sum of theirs, one of them counted from the end."""
    rows, columns = np.arange(0, (2 * WINDOW - 1) * WINDOW, 2 * WINDOW - 1), np.arange(WINDOW)
    one = (rows[:, None] + columns[None, :]).reshape(1, -1)
    return torch.from_numpy(np.flip(one + one.T, 1).copy())


def window_attention(state, name, x):
    """(B, H, W, C): attention of two heads within windows, none of them shifted."""
    batch, high, wide, dim = x.shape
    parts = x.unflatten(1, (-1, WINDOW)).unflatten(3, (-1, WINDOW)).transpose(2, 3).reshape(-1, WINDOW**2, dim)
    q, k, v = linear(state, f"{name}.qkv", parts).reshape(len(parts), WINDOW**2, 3, 2, dim // 2).permute(2, 0, 3, 1, 4)
    bias = state[f"{name}.relative_position_bias_table"][bias_index().flatten()].view(WINDOW**2, WINDOW**2, 2)
    scores = q @ k.transpose(-2, -1) * (dim // 2) ** -0.5 + bias.permute(2, 0, 1)
    out = linear(state, f"{name}.proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    grid = out.view(batch, high // WINDOW, wide // WINDOW, WINDOW, WINDOW, dim)
    return grid.transpose(2, 3).reshape(batch, high, wide, dim)


def swin_maps(state, images):
    """mmsegmentation's SwinTransformer of one block a stage, before the norms of its outputs; merging by nn.Unfold."""
    x = F.conv2d(images, state["patch_embed.projection.weight"], state["patch_embed.projection.bias"], stride=4)
    x, found = normed(state, "patch_embed.norm", x.permute(0, 2, 3, 1)), []
    for i in range(STAGES):
        block = f"stages.{i}.blocks.0"
        x = x + window_attention(state, f"{block}.attn.w_msa", normed(state, f"{block}.norm1", x))
        hidden = F.gelu(linear(state, f"{block}.ffn.layers.0.0", normed(state, f"{block}.norm2", x)))
        x = x + linear(state, f"{block}.ffn.layers.1", hidden)
        found.append(x.permute(0, 3, 1, 2))
        if i < STAGES - 1:
            high, wide = x.shape[1] // 2, x.shape[2] // 2
            merged = nn.Unfold(kernel_size=2, stride=2)(x.permute(0, 3, 1, 2)).transpose(1, 2)  # (B, L, 4C)
            merged = linear(
                state, f"stages.{i}.downsample.reduction", normed(state, f"stages.{i}.downsample.norm", merged)
            )
            x = merged.view(len(x), high, wide, -1)
    return found


def small_swin():
    torch.manual_seed(1)
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        in_chans=2,
        num_classes=0,
        img_size=128,
        window_size=WINDOW,
        embed_dim=DIM,
        depths=(1,) * STAGES,
        num_heads=(2,) * STAGES,
    ).eval()


def test_mmsegmentations_swin_gives_the_maps_of_its_definition(tmp_path):
    """Patches are merged channel by channel there, place by place in timm: columns of the reduction change places."""
    state = filled(swin_shapes())
    index = {f"stages.{i}.blocks.0.attn.w_msa.relative_position_index": bias_index() for i in range(STAGES)}
    path = saved(state | index, tmp_path / "swin.pth")
    assert "names of mmsegmentation's Swin" in said("inspect", path, cwd=tmp_path)
    said("verify", path, "--cache_dir", "none", cwd=tmp_path)
    said("convert", path, "out.safetensors", cwd=tmp_path)
    images = torch.randn(2, 2, 128, 128)
    for file, dropped in ((path, {"head": 1, "computed": 6 + STAGES}), (tmp_path / "out.safetensors", {})):
        model = small_swin()
        report = load_backbone(model, file)
        assert (report.used, report.dropped, report.missing) == (len(state) - 6, dropped, 0)
        with torch.no_grad():
            maps = model.forward_intermediates(images, intermediates_only=True)
        for mine, theirs in zip(maps, swin_maps(state, images), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert model.norm.weight.equal(state["norm3.weight"])


# --- MiT


def mit_shapes(dims=(32, 64, 160, 256), depths=(2, 2, 2, 2), reductions=(8, 4, 2, 1)):
    """Of MiT-B0."""
    found, before = {}, 2
    for i, (dim, depth, reduction) in enumerate(zip(dims, depths, reductions, strict=True)):
        side = 3 if i else 7
        found |= layer(f"layers.{i}.0.projection", dim, before, side, side) | norm(f"layers.{i}.0.norm", dim)
        for j in range(depth):
            block = f"layers.{i}.1.{j}"
            found |= norm(f"{block}.norm1", dim) | norm(f"{block}.norm2", dim)
            found |= {
                f"{block}.attn.attn.in_proj_weight": (3 * dim, dim),
                f"{block}.attn.attn.in_proj_bias": (3 * dim,),
            }
            found |= layer(f"{block}.attn.attn.out_proj", dim, dim)
            if reduction > 1:
                found |= layer(f"{block}.attn.sr", dim, dim, reduction, reduction) | norm(f"{block}.attn.norm", dim)
            found |= layer(f"{block}.ffn.layers.0", 4 * dim, dim, 1, 1) | layer(
                f"{block}.ffn.layers.1", 4 * dim, 1, 3, 3
            )
            found |= layer(f"{block}.ffn.layers.4", dim, 4 * dim, 1, 1)
        found |= norm(f"layers.{i}.2", dim)
        before = dim
    return found


def convolved(state, name, x, **more):
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **more)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def mit_maps(state, images):
    """mmsegmentation's MixVisionTransformer: torch's own MultiheadAttention on reduced keys, convolutions of 1 x 1."""
    x, found = images, []
    for i, (dim, heads, reduction) in enumerate(zip((32, 64, 160, 256), (1, 2, 5, 8), (8, 4, 2, 1), strict=True)):
        x = convolved(state, f"layers.{i}.0.projection", x, stride=2 if i else 4, padding=1 if i else 3)
        size = x.shape[-2:]
        x = normed(state, f"layers.{i}.0.norm", tokens(x))
        for j in range(2):
            block = f"layers.{i}.1.{j}"
            query = keys = normed(state, f"{block}.norm1", x)
            if reduction > 1:
                grid = convolved(state, f"{block}.attn.sr", keys.transpose(1, 2).unflatten(2, size), stride=reduction)
                keys = normed(state, f"{block}.attn.norm", tokens(grid))
            attention = nn.MultiheadAttention(dim, heads, batch_first=True)
            start = f"{block}.attn.attn."
            attention.load_state_dict({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})
            x = x + attention(query, keys, keys, need_weights=False)[0]
            hidden = normed(state, f"{block}.norm2", x).transpose(1, 2).unflatten(2, size)
            hidden = convolved(state, f"{block}.ffn.layers.0", hidden)
            hidden = F.gelu(convolved(state, f"{block}.ffn.layers.1", hidden, padding=1, groups=4 * dim))
            x = x + tokens(convolved(state, f"{block}.ffn.layers.4", hidden))
        x = normed(state, f"layers.{i}.2", x).transpose(1, 2).unflatten(2, size)
        found.append(x)
    return found


def test_mmsegmentations_mit_gives_the_maps_of_its_definition(tmp_path):
    """q, k and v are stacked there, q apart in SegFormer's own names; linear layers are convolutions there."""
    pytest.importorskip("segmentation_models_pytorch")
    from fgmae_bench.models.encoders import mit

    state = filled(mit_shapes())
    path = saved(state, tmp_path / "mit.pth")
    assert "names of mmsegmentation's MiT" in said("inspect", path, "--model", "mit_b0", cwd=tmp_path)
    said("verify", path, "--model", "mit_b0", "--cache_dir", "none", cwd=tmp_path)
    said("convert", path, "out.pth", cwd=tmp_path)
    images = torch.randn(1, 2, 64, 64)
    for file, dropped in ((path, {"head": 1}), (tmp_path / "out.pth", {})):
        made = mit.make("mit_b0").eval()
        report = load_backbone(made.network, file)
        assert (report.used, report.dropped, report.missing) == (
            len(state) + 16,
            dropped,
            0,
        )  # weight and bias of 8 blocks, cut
        with torch.no_grad():
            for mine, theirs in zip(made.forward_intermediates(images), mit_maps(state, images), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


DINOV3 = ("storage_tokens", "blocks.0.ls1.gamma", "patch_embed.proj.weight", "blocks.0.attn.qkv.bias")


@pytest.mark.parametrize("names", [tuple(swin_shapes()), tuple(mit_shapes()), DINOV3], ids=["swin", "mit", "dinov3"])
@pytest.mark.parametrize("shape", [(), (2,), (0,)], ids=["number", "two", "none"])
def test_tensors_of_odd_shapes_are_left_for_the_loader_to_refuse(names, shape):
    """Whatever shapes a stranger's file has, names are translated; it is the loader that names the one that differs."""
    found, dialect = translated({name: torch.ones(shape) for name in names})
    assert dialect is not None
    assert len(found) >= len(names)
