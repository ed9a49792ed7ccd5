"""Other projects' names of the layers that we have: mmsegmentation's ResNet, ViT, MiT and Swin, Meta's ConvNeXt and
DINOv3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fgmae_bench.checkpoints.scan import Refused, shown

Named = dict[str, Tensor]
UNUSED = "computed."  # what is renamed so is left out by the rule of that name


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """Keys by which a file is known, the rules (pattern, replacement) for the names, and its first convolution in
    timm's; `values` changes what names alone do not.
    """

    words: str
    signs: tuple[str, ...]
    rules: tuple[tuple[str, str], ...]
    first: str
    values: Callable[[Named], Named] = lambda named: named


def _qkv_bias(named: Named) -> Named:
    """DINOv3's bias of q, k and v: that of k is held at 0; where all are 0, timm's model has none."""
    found: Named = {}
    for name, tensor in named.items():
        stacked = tensor.dim() == 1 and len(tensor) % 3 == 0  # the loader refuses another shape by its name
        if not (stacked and re.fullmatch(r"blocks\.\d+\.attn\.qkv\.bias", name)):
            found[name] = tensor
        elif not bool(tensor.any()):
            found[f"{UNUSED}zero.{name}"] = tensor
        else:
            q, _, v = tensor.chunk(3)
            found |= {name.replace("qkv.bias", "q_bias"): q, name.replace("qkv.bias", "v_bias"): v}
    return found


def _flat_grn(named: Named) -> Named:
    """ConvNeXt V2's global response norm holds (1, 1, 1, D), timm's (D,)."""
    return {name: tensor.flatten() if ".grn." in name else tensor for name, tensor in named.items()}


def _split_mit(named: Named) -> Named:
    """mmsegmentation's MiT stacks q, k and v in one matrix, where SegFormer's own has q apart; and has convolutions of
    1 x 1 for its linear layers.
    """
    found: Named = {}
    for name, tensor in named.items():
        start, stacked, kind = name.partition(".attn.attn.in_proj_")
        if stacked and tensor.dim():
            width = len(tensor) // 3
            found |= {f"{start}.attn.q.{kind}": tensor[:width], f"{start}.attn.kv.{kind}": tensor[width:]}
        elif tensor.dim() == 4 and re.search(r"\.ffn\.layers\.[04]\.weight$", name):
            found[name] = tensor.flatten(1)
        else:
            found[name] = tensor
    return found


def _merged_by_columns(named: Named) -> Named:
    """mmsegmentation's Swin merges 2 x 2 patches by `Unfold`, channel by channel, the places of a channel row by row
    (c, row, column); Swin's own takes place by place, column by column (column, row, c).
    """
    found: Named = {}
    for name, tensor in named.items():
        if (
            re.match(r"stages\.\d+\.downsample\.(norm|reduction)\.", name)
            and tensor.dim()
            and tensor.shape[-1] % 4 == 0
        ):
            places = tensor.unflatten(-1, (-1, 2, 2))  # (..., C, row, column)
            found[name] = places.movedim((-1, -2), (-3, -2)).flatten(-3)
        else:
            found[name] = tensor
    return found


DIALECTS = (
    Dialect(
        words="mmsegmentation's ResNetV1c",
        signs=("stem.0.weight", "stem.6.weight", "layer1.0.conv1.weight"),
        rules=((r"stem\.7\.", "bn1."), (r"stem\.", "conv1.")),
        first="conv1.0.weight",
    ),
    Dialect(
        words="mmsegmentation's ViT",
        signs=("patch_embed.projection.weight", "layers.0.attn.attn.in_proj_weight"),
        rules=(
            (r"patch_embed\.projection\.", "patch_embed.proj."),
            (r"layers\.(\d+)\.ln([12])\.", r"blocks.\1.norm\2."),
            (r"layers\.(\d+)\.attn\.attn\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
            (r"layers\.(\d+)\.attn\.attn\.out_proj\.", r"blocks.\1.attn.proj."),
            (r"layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
            (r"layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
            (r"ln1\.", "norm."),
        ),
        first="patch_embed.proj.weight",
    ),
    Dialect(
        words="mmsegmentation's MiT",
        signs=("layers.0.0.projection.weight", "layers.0.1.0.attn.attn.in_proj_weight"),
        rules=tuple(
            (rf"layers\.{level}\.{theirs}", ours.format(level + 1))
            for level in range(4)
            for theirs, ours in (
                (r"0\.projection\.", "patch_embed{}.proj."),
                (r"0\.norm\.", "patch_embed{}.norm."),
                (r"1\.(\d+)\.attn\.attn\.out_proj\.", r"block{}.\1.attn.proj."),
                (r"1\.(\d+)\.ffn\.layers\.0\.", r"block{}.\1.mlp.fc1."),
                (r"1\.(\d+)\.ffn\.layers\.1\.", r"block{}.\1.mlp.dwconv.dwconv."),
                (r"1\.(\d+)\.ffn\.layers\.4\.", r"block{}.\1.mlp.fc2."),
                (r"1\.", "block{}."),
                (r"2\.", "norm{}."),
            )
        ),
        first="patch_embed1.proj.weight",
        values=_split_mit,
    ),
    Dialect(
        words="mmsegmentation's Swin",
        signs=("patch_embed.projection.weight", "stages.0.blocks.0.attn.w_msa.relative_position_bias_table"),
        rules=(
            (r"patch_embed\.projection\.", "patch_embed.proj."),
            (r"(.*\.relative_position_index)", UNUSED + r"\1"),
            (r"stages\.(\d+)\.blocks\.(\d+)\.attn\.w_msa\.", r"layers.\1.blocks.\2.attn."),
            (r"stages\.(\d+)\.blocks\.(\d+)\.ffn\.layers\.0\.0\.", r"layers.\1.blocks.\2.mlp.fc1."),
            (r"stages\.(\d+)\.blocks\.(\d+)\.ffn\.layers\.1\.", r"layers.\1.blocks.\2.mlp.fc2."),
            # timm has what merges patches at the head of the next stage
            *((rf"stages\.{level}\.downsample\.", f"layers.{level + 1}.downsample.") for level in range(3)),
            (r"stages\.(\d+)\.", r"layers.\1."),
            (r"norm3\.", "norm."),
            (r"(norm[0-2]\.)", UNUSED + r"\1"),  # of maps that go to a decode head
        ),
        first="patch_embed.proj.weight",
        values=_merged_by_columns,
    ),
    Dialect(
        words="Meta's DINOv3",
        signs=("storage_tokens", "blocks.0.ls1.gamma", "patch_embed.proj.weight"),
        rules=(
            (r"storage_tokens", "reg_token"),
            (r"blocks\.(\d+)\.ls([12])\.gamma", r"blocks.\1.gamma_\2"),
            (r"(rope_embed\.periods|blocks\.\d+\.attn\.qkv\.bias_mask|mask_token)", UNUSED + r"\1"),
        ),
        first="patch_embed.proj.weight",
        values=_qkv_bias,
    ),
    Dialect(
        words="Meta's ConvNeXt, as Detectron2 has it",
        signs=("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"),
        rules=(
            (r"downsample_layers\.0\.", "stem."),
            (r"downsample_layers\.(\d+)\.(\d+)\.", r"stages.\1.downsample.\2."),
            (r"stages\.(\d+)\.(\d+)\.dwconv\.", r"stages.\1.blocks.\2.conv_dw."),
            (r"stages\.(\d+)\.(\d+)\.pwconv([12])\.", r"stages.\1.blocks.\2.mlp.fc\3."),
            (r"stages\.(\d+)\.(\d+)\.grn\.gamma", r"stages.\1.blocks.\2.mlp.grn.weight"),
            (r"stages\.(\d+)\.(\d+)\.grn\.beta", r"stages.\1.blocks.\2.mlp.grn.bias"),
            (r"stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
            (r"norm\.", "head.norm."),
            (r"(norm[0-3]\.)", UNUSED + r"\1"),  # of maps that go to a detector
        ),
        first="stem.0.weight",
        values=_flat_grn,
    ),
    # its names are those of its model here
    Dialect(
        words="SegFormer's MiT",
        signs=("patch_embed1.proj.weight", "block1.0.attn.kv.weight"),
        rules=(),
        first="patch_embed1.proj.weight",
    ),
)


def translated(tensors: Named) -> tuple[Named, Dialect | None]:
    """(a state dict without prefix under timm's names, the dialect that it was in); as it is where it is in none.

    Raises Refused where two keys would get one name.
    """
    dialect = next((each for each in DIALECTS if all(sign in tensors for sign in each.signs)), None)
    if dialect is None:
        return tensors, None
    found: Named = {}
    for name, tensor in dialect.values(tensors).items():
        new = name
        for pattern, replacement in dialect.rules:
            new, count = re.subn(rf"^{pattern}", replacement, name, count=1)
            if count:
                break
        if new in found:
            raise Refused(f"two of its keys would be named {shown(new)}")
        found[new] = tensor
    return found, dialect


def to_two_channels(weight: Tensor) -> Tensor:
    """A first convolution of three channels (D, 3, k, k) as timm adapts it to two: the first two, times 3 / 2."""
    return weight[:, :2].to(torch.float32) * 1.5
