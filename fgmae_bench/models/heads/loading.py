"""A decode head's weights from a checkpoint of mmsegmentation into ours, where the layers are the same."""

from __future__ import annotations

import re

import torch
from torch import nn

from fgmae_bench.checkpoints.reader import State
from fgmae_bench.checkpoints.scan import shown
from fgmae_bench.errors import BenchError
from fgmae_bench.models.heads import WithAuxiliary
from fgmae_bench.models.heads.attention import OCR
from fgmae_bench.models.heads.jpu import FastFCN
from fgmae_bench.models.heads.pointrend import PointRend
from fgmae_bench.models.heads.semantic_fpn import SemanticFPN
from fgmae_bench.models.heads.setr import MLA

PARTS = r"(decode_head|auxiliary_head|neck)\."
Rules = tuple[tuple[str, str], ...]
# mmsegmentation's names -> ours, where they differ; the first that fits counts.
RULES: tuple[tuple[type[nn.Module], Rules], ...] = (
    (
        OCR,
        (
            (r"decode_head\.0\.convs\.0\.", "coarse.0."),
            (r"decode_head\.0\.conv_seg\.", "coarse.1."),
            (r"decode_head\.1\.", ""),
        ),
    ),
    (PointRend, ((r"decode_head\.0\.", ""), (r"decode_head\.1\.", "points."), (r"neck\.", "neck.1."))),
    (SemanticFPN, ((r"neck\.", "neck.1."),)),
    (MLA, ((r"neck\.mla\.", "neck."),)),
    (FastFCN, ((r"decode_head\.", "head."),)),
)
USUAL: Rules = (
    (r"neck\.upsample_4x\.", "neck.scales.0."),
    (r"neck\.upsample_2x\.0\.", "neck.scales.1."),
    (r"decode_head\.", ""),
)
OURS = r"(neck|scales)\..*|hamburger\.ham\.bases|drawn|(.*\.)?num_batches_tracked"  # that a file need not hold
CLASSES = (
    r"(.*\.)?(conv_seg|cls_emb|mask_norm|fc_seg|se_layer|coarse\.1)(\.weight|\.bias)?"  # what depends on their number
)


def load_head(head: nn.Module, state: State) -> str:
    """Load a decode head, and the auxiliary one and the neck where both sides have them; what was done, in words.

    Layers that depend on the number of classes stay as drawn where the file has another number. Raises BenchError where
    the file has no decode head, or one of other layers.
    """
    inner = head.head if isinstance(head, WithAuxiliary) else head
    assert isinstance(inner, nn.Module)
    held = {name: tensor for name, tensor in state.outside.items() if re.match(PARTS, name)}
    if not any(name.startswith("decode_head.") for name in held):
        raise BenchError(f"--head_weights {state.path}: it holds no decode_head", "give a checkpoint of mmsegmentation")
    rules = next((rules for kind, rules in RULES if isinstance(inner, kind)), ()) + USUAL
    wanted = {
        **inner.state_dict(),
        **({f"auxiliary_head.{k}": v for k, v in head.auxiliary.state_dict().items()} if inner is not head else {}),  # type: ignore[union-attr]
    }
    found = {_renamed(name, rules): tensor for name, tensor in held.items()}
    used, other = {}, []
    for name, tensor in wanted.items():
        if name not in found:
            if not re.fullmatch(OURS, name.removeprefix("auxiliary_head.")):
                raise _differ(state, f"lacks {shown(name)}")
        elif found[name].shape == tensor.shape:
            used[name] = found[name].float() if found[name].is_floating_point() else found[name]
        elif re.fullmatch(CLASSES, name):
            other.append(name)
        else:
            raise _differ(state, f"has {shown(name)} of {tuple(found[name].shape)}, the head {tuple(tensor.shape)}")
    unknown = [name for name in found if name not in wanted and not name.startswith(("auxiliary_head.", "neck."))]
    unknown = [name for name in unknown if not (name.startswith("conv_seg.") and "conv_seg.weight" not in wanted)]
    if unknown:
        raise _differ(state, f"has layers that the head does not: {shown(unknown[0])}")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in used.values()):
        raise BenchError(f"--head_weights {state.path}: it holds NaN or infinity", "get another file")
    inner.load_state_dict({k: v for k, v in used.items() if not k.startswith("auxiliary_head.")}, strict=False)
    if inner is not head:
        second = {k.removeprefix("auxiliary_head."): v for k, v in used.items() if k.startswith("auxiliary_head.")}
        head.auxiliary.load_state_dict(second, strict=False)  # type: ignore[union-attr]
    left = f"; of another number of classes, as drawn: {', '.join(other)}" if other else ""
    return f"{len(used)} tensors of the head from {state.path.name} (sha256 {state.sha256[:10]}){left}"


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        new, count = re.subn(rf"^{pattern}", replacement, name, count=1)
        if count:
            return new
    return name


def _differ(state: State, what: str) -> BenchError:
    return BenchError(
        f"--head_weights {state.path} {what}", "name its head with --head, its width with --fpn_dim, or leave it out"
    )
