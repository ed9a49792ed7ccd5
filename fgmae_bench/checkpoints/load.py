"""A checkpoint into a backbone: every key of the file used, dropped by a named rule, or the reason to stop."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fgmae_bench.checkpoints.dialects import to_two_channels
from fgmae_bench.checkpoints.layouts import NO_TENSOR, drop_rule, is_head
from fgmae_bench.checkpoints.reader import REPAIR, State, read_state
from fgmae_bench.checkpoints.scan import shown
from fgmae_bench.checkpoints.shapes import geometry, named_widths
from fgmae_bench.errors import BenchError

LISTED = 5  # keys named in a message
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Buffers that evaluation does not need from a file, and the norm of a pooled map, which files without a head lack.
COMPUTED = r"(.*\.)?num_batches_tracked|attn_bias|head\.norm\..*"
WHICH = "give the checkpoint of this model, or name the model of this checkpoint"


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of each key: `used` + sum of `dropped` is all of the file; `missing` are keys of the model's own
    head.
    """

    used: int
    dropped: dict[str, int]
    missing: int
    sha256: str
    interpolated: bool
    notes: tuple[str, ...]


def load_backbone(module: nn.Module, path: Path) -> LoadReport:
    """Load the backbone's weights from `path` into `module`, which is changed only when all is well; its head stays as
    it is.

    Raises BenchError on an unreadable file, another geometry, unknown or missing keys, numbers that are not finite.
    """
    return load_state(module, read_state(path))


def load_state(module: nn.Module, state: State, optional: str = "") -> LoadReport:
    """`load_backbone` of a state that was read before."""
    tensors, report = account(module, state, optional)
    module.load_state_dict(
        tensors, strict=False
    )  # strictness is account's: only a head or a computed buffer may be missing
    return report


def account(module: nn.Module, state: State, optional: str = "") -> tuple[dict[str, Tensor], LoadReport]:
    """(tensors for `module`, float32 where they are weights; what became of each key). `module` may be on the meta
    device.

    `optional`: pattern of the keys that a file may lack. Tensors that are not used are neither copied nor read. Raises
    BenchError as `load_backbone`.
    """
    model = module.state_dict()
    wanted = {name: tuple(tensor.shape) for name, tensor in model.items() if not is_head(name)}
    _require_tensors(state, wanted)
    state = _of_two_channels(state, wanted)
    _require_geometry(state, wanted)
    used, dropped = _sorted_keys(state, wanted)
    _require_all(
        state,
        used,
        [name for name in wanted if not re.fullmatch(f"{COMPUTED}|{optional}" if optional else COMPUTED, name)],
    )
    tensors, cast, interpolated = {}, Counter[str](), False
    for name in used:
        if not model[name].is_floating_point():
            tensors[name] = _of_shape(state, name, state.tensors[name], wanted[name])
            continue
        tensor = _finite(state, name)
        if name == "pos_embed" and tuple(tensor.shape) != wanted[name]:
            tensor = _resized(module, tensor, wanted[name], state.path)
            interpolated = True
        tensors[name] = _of_shape(state, name, tensor, wanted[name])
        if state.tensors[name].dtype is not torch.float32:
            cast[_dtype(state.tensors[name])] += 1
    notes = [*state.notes, *(f"{count} tensors of {dtype} cast to float32" for dtype, count in sorted(cast.items()))]
    if interpolated:
        before, after = state.tensors["pos_embed"].shape[1], wanted["pos_embed"][1]
        notes.append(f"pos_embed interpolated from {before} to {after} tokens (bicubic)")
    missing = len(model) - len(used)
    return tensors, LoadReport(
        used=len(used),
        dropped=dropped,
        missing=missing,
        sha256=state.sha256,
        interpolated=interpolated,
        notes=tuple(notes),
    )


def _of_two_channels(state: State, wanted: dict[str, tuple[int, ...]]) -> State:
    """The state with the first convolution of an optical checkpoint as timm adapts it, said in a note."""
    first, shape = state.tensors.get(state.optical), wanted.get(state.optical, ())
    if first is None or first.dim() != 4 or len(shape) != 4 or (first.shape[1], shape[1]) != (3, 2):
        return state
    text = f"{state.optical} adapted from 3 channels to 2 as timm does: the kernels of the first two, times 3/2"
    tensors = state.tensors | {state.optical: to_two_channels(first)}
    return dataclasses.replace(state, tensors=tensors, notes=(*state.notes, text))


def _of_shape(state: State, name: str, tensor: Tensor, wanted: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) != wanted:
        raise BenchError(f"{state.path}: {name} is {tuple(tensor.shape)}, the model wants {wanted}", WHICH)
    return tensor


def _resized(module: nn.Module, embed: Tensor, wanted: tuple[int, ...], path: Path) -> Tensor:
    """The position embedding on the model's grid; torchgeo's transformers have one CLS token and a square grid."""
    if isinstance(module, VisionTransformer | Eva | Beit):
        prefix_tokens = 0 if getattr(module, "no_embed_class", False) else module.num_prefix_tokens
        return resize_pos_embed(embed, module.patch_embed.grid_size, prefix_tokens, wanted, path)
    side = math.isqrt(wanted[1] - 1)
    return resize_pos_embed(embed, (side, side), 1, wanted, path)


def resize_pos_embed(
    embed: Tensor, grid: Sequence[int], prefix_tokens: int, wanted: Sequence[int], path: Path
) -> Tensor:
    """(1, prefix + n*n, D) to (1, prefix + h*w, D): bicubic without antialiasing, prefix tokens kept.

    MAE's `interpolate_pos_embed` (facebookresearch/mae, util/pos_embed.py). Raises BenchError where the old grid is not
    square.
    """
    side = math.isqrt(max(embed.shape[1] - prefix_tokens, 0)) if embed.dim() == 3 else 0
    if (
        embed.dim() != 3
        or side < 1
        or embed.shape[0] != 1
        or side * side + prefix_tokens != embed.shape[1]
        or embed.shape[2] != wanted[2]
    ):
        grid_text = f"is not a square grid behind {prefix_tokens} token(s), the model wants {tuple(wanted)}"
        raise BenchError(f"{path}: pos_embed {tuple(embed.shape)} {grid_text}", WHICH)
    kept, patches = embed[:, :prefix_tokens], embed[:, prefix_tokens:]
    square = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, D, n, n)
    resized = interpolate(square, size=tuple(grid), mode="bicubic", align_corners=False)
    return torch.cat([kept, resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _require_tensors(state: State, wanted: dict[str, tuple[int, ...]]) -> None:
    """Refuse a key of the model that the file holds as a list, a number or a text; where the key is optional, too."""
    held = [bare for name in state.plain if (bare := name.removeprefix(state.prefix)) in wanted]
    if held:
        raise BenchError(
            f"{state.path} holds {len(held)} keys of the model not as tensors: {_listed(held)}",
            f"where these are weights, {REPAIR}",
        )


def _require_geometry(state: State, wanted: dict[str, tuple[int, ...]]) -> None:
    """Name the cause where file and model are different architectures."""
    first, stem = state.tensors.get("conv1.weight"), wanted.get("conv1.weight", ())
    if first is not None and first.dim() == len(stem) == 4 and first.shape[1] != stem[1]:
        raise BenchError(f"{state.path} takes {first.shape[1]} channels, the model {stem[1]}", WHICH)
    found, model = geometry({name: tensor.shape for name, tensor in state.tensors.items()}), geometry(wanted)
    if found is None or model is None or found == model:
        return
    if found.dim != model.dim:
        cause = f"is {found.dim} wide{named_widths(found.dim)}, the model {model.dim}{named_widths(model.dim)}"
    elif found.patch != model.patch:
        cause = f"has patches of {found.patch} pixels, the model {model.patch}"
    elif found.channels != model.channels:
        cause = f"takes {found.channels} channels, the model {model.channels}"
    else:
        cause = f"has {found.depth} blocks, the model {model.depth}"
    raise BenchError(f"{state.path} {cause}", WHICH)


def _sorted_keys(state: State, wanted: dict[str, tuple[int, ...]]) -> tuple[list[str], dict[str, int]]:
    """(used keys, count a drop rule). Raises BenchError that lists the keys which are neither."""
    used = [name for name in state.tensors if name in wanted]
    unknown, dropped = [], Counter[str]()
    others = [(name, False) for name in state.tensors if name not in wanted]
    for name, sibling in [*others, *((name, True) for name in state.outside)]:
        if (rule := drop_rule(name, sibling=sibling)) is not None:
            dropped[rule] += 1
        elif name.startswith("head.norm."):  # of a model without a pooled map
            dropped["head"] += 1
        elif sibling and state.prefix_given:
            dropped["outside_prefix"] += 1
        else:
            unknown.append(name)
    if unknown:
        raise BenchError(
            f"{state.path} has {len(unknown)} keys that the model does not know: {_listed(unknown)}", WHICH
        )
    if state.plain:
        dropped[NO_TENSOR] += len(state.plain)
    return used, dict(dropped)


def _require_all(state: State, used: list[str], wanted: list[str]) -> None:
    """Raise BenchError that lists the keys of the model which the file lacks."""
    present = set(used)
    missing = [name for name in wanted if name not in present]
    if not missing:
        return
    tuned = "norm.weight" in missing and "fc_norm.weight" in state.tensors
    hint = " (its final norm is fc_norm: fine-tuned with mean pooling)" if tuned else ""
    if re.search(r"-\d{5}-of-\d{5}\.", state.path.name):
        hint = " (it is one file of several: give their index, *.safetensors.index.json)"
    raise BenchError(f"{state.path} lacks {len(missing)} keys of the model: {_listed(missing)}{hint}", WHICH)


def _finite(state: State, name: str) -> Tensor:
    """A tensor of the file in float32; raises BenchError on other kinds of numbers and on NaN or infinity."""
    if state.tensors[name].dtype not in FLOATS:
        raise BenchError(
            f"{state.path}: {name} holds {_dtype(state.tensors[name])}", "give weights as floating-point numbers"
        )
    weights = state.tensors[name].float()
    if (
        weights.numel() and not torch.stack(torch.aminmax(weights)).isfinite().all()
    ):  # NaN wins both; without a temporary copy
        raise BenchError(
            f"{state.path}: {name} holds NaN or infinity",
            "its training has diverged or the file is damaged; get another one",
        )
    return weights


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(shown(name) for name in names[:LISTED]) + more


def untrained(tensors: Mapping[str, Tensor]) -> str | None:
    """Why a backbone's tensors look untrained, None where they do not.

    The criterion: every normalisation layer has the weights (all 1, or all 0 where residual branches start at zero) and
    biases (all 0) that initialisation gives it, which no step of training leaves; or a matrix or kernel holds one
    number throughout.
    """
    norms = [name for name, tensor in tensors.items() if name.endswith(".weight") and tensor.dim() == 1]
    if norms and all(_as_initialised(tensors, name) for name in norms):
        return f"all {len(norms)} normalisation layers are as initialised (weights 1, biases 0)"
    for name, tensor in tensors.items():
        if name.endswith(".weight") and tensor.dim() > 1 and tensor.numel() > 1 and tensor.is_floating_point():
            low, high = torch.aminmax(tensor)
            if low == high:
                return f"{name} holds the number {low.item():g} throughout"
    return None


def _as_initialised(tensors: Mapping[str, Tensor], weight: str) -> bool:
    values = tensors[weight]
    bias = tensors.get(weight.removesuffix("weight") + "bias")
    constant = bool((values == 1).all()) or bool((values == 0).all())
    return constant and (bias is None or not bool(bias.any()))
