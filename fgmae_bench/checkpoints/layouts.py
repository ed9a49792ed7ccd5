"""How checkpoints are laid out, as rules: entries that wrap a state dict, prefixes of its keys, keys that no backbone
needs.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fgmae_bench.checkpoints.inert import Array, Foreign, Namespace
from fgmae_bench.checkpoints.scan import Refused, shown

# Entries that hold the state dict, the first that is there: `teacher` before `student`, as DINO evaluates it, and
# averages of the weights (EMA) last, so that they are read only where a file holds no others.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "teacher",
    "student",
    "network",
    "net",
    "module",
    "backbone",
    "encoder",
    "weights",
    "params",
    "state_dict_ema",
    "model_state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "ema_model",
    "params_ema",
    "ema",
)
# Parts that wrappers of modules put into names at any place: torch.compile, FSDP, activation checkpointing.
TRANSPARENT = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Prefixes of the backbone's keys, one of each, longest first; the first with an anchor below it. Of two networks that
# train each other, the one that is evaluated stands first.
OUTER = ("module.model.", "module.", "model.", "network.", "net.", "")
INNER = (
    "online_network.encoder.",
    "online_network.backbone.",
    "online_network.",
    "online_encoder.",
    "teacher.backbone.",
    "student.backbone.",
    "teacher.",
    "student.",
    "base_encoder.",
    "encoder_q.",
    "backbone.",
    "encoder.",
    "",
)
PREFIXES = tuple(sorted({o + i: None for i in INNER for o in OUTER if o + i}, key=len, reverse=True))
RADAR = "s1_encoder."  # of a file that holds encoders of several sensors, such as CLOSP's
# First layer of a ViT, of a ResNet, of a deep stem.
ANCHORS = (
    "patch_embed.proj.weight",
    "conv1.weight",
    "conv1.0.weight",
    # the same under names of `dialects`
    "patch_embed.projection.weight",
    "stem.0.weight",
    "downsample_layers.0.0.weight",
    "patch_embed1.proj.weight",
    "layers.0.0.projection.weight",
)
OUTPUT = r"\.(?!norm\.).*"  # of a head: what maps features to classes; the norm before it belongs to the features
# Rule -> keys that are left out, with or without the prefix.
DROP_RULES = {
    "decoder": r"decoder_.*|decoder\..*|mask_token",
    "hog": r"hog\..*",
    "head": rf"((head|heads|fc|classifier){OUTPUT}|fc_norm\..*)",
    "queue": r"queue.*",
    "momentum_encoder": r"(momentum_encoder|encoder_k)\..*",
    "projector": r"(projector|projection_head|predictor)\..*",
    "other_modality": r"(s2_encoder|s2_GAP_FFN|joint_encoder|projector_(?!s1-asc\.)[\w-]+)\..*",
    "series": r"projector_s1-asc\.(pad_parameter|patch_embed\.attention_heads\..*)",  # AnySat's attention in time
    "gradients": r"(sarfeature\d+|encoder_pred)\..*",  # targets of SAR-JEPA and SARATR-X
    "text": r"(text_model|location_encoder)\..*",
    "optical": r"patch_embed\.(conv2d_s2_l(1c|2a)\..*|s2_l(1c|2a)_embed)",
    "training": r"(optim|optimizer|scaler|scheduler|lr_scheduler|args|config|cfg|hparams|hyper_parameters)"
    r"(_state|_state_dict)?\..*",
    "criterion": r"(\w+_)?(criteri(on|ons|a)|loss|losses|loss_fn)\..*",
    "metrics": r"(\w+_)?metrics?\..*",
    "computed": r"computed\..*",  # of `dialects`: what timm's model computes, or has no place for
}
# Rule -> what else is left out outside the prefix of a backbone.
SIBLING_RULES = {
    "head": r"(\w+_)?(heads?|classifier|fc|necks?)\..*",
    "decoder": r"(\w+_)?decoders?\..*",
    "projector": r"(\w+_)?(projectors?|projection|predictors?|prototypes)\..*",
    "other_network": r"(student|teacher|target_\w+|momentum_\w+|((model|backbone|encoder)_)?ema(_model)?)\..*",
    "metrics": r"(train|training|val|valid|validation|test)_\w+\..*",
}
# Numbers at the top of a state dict that no model learns: best_acc1, global_step, last_epoch.
COUNTERS = r"(\w+_)?(epochs?|steps?|iters?|iterations?|updates|batch_size|lr|seed|loss|acc1?|accuracy|version)"
# How keys of backbones begin: of each architecture in timm, of CROMA.
BACKBONE_KEYS = (
    r"cls_token|pos_embed|patch_embed|embeds|conv|stem|features|blocks|layer|stage|norm|body|base_layer|s1_encoder"
)
NO_TENSOR = "no_tensor"  # the rule of entries of the state dict that are not tensors
HEAD = rf"(head|heads|fc|classifier){OUTPUT}"
SCALARS = (bool, int, float, str, bytes, type(None))
MAX_WRAPPERS, MAX_NESTING, MAX_ENTRIES = 3, 8, 100_000


@dataclass(frozen=True, kw_only=True)
class Found:
    """A flat state dict (tensors, arrays and other values) and the text of what stood around it."""

    values: dict[str, Any]
    wrapper: str
    others: dict[str, str]
    notes: tuple[str, ...]
    choice: str | None = None  # the state dict that was taken where there are several, or averaged weights alone


def find_state(root: Any, room: int, *, numbers: bool = False) -> Found:
    """Peel wrappers off, at most three, and join nested keys by dots, of at most `room` characters in all.

    With `numbers`, mappings of lists of numbers count as state dicts where none holds tensors. Raises Refused where
    `root` is not a mapping, or two of its keys are one name.
    """
    wrappers: list[str] = []
    others: dict[str, str] = {}
    notes: list[str] = []
    choice: str | None = None
    while len(wrappers) < MAX_WRAPPERS:
        if not isinstance(root, dict):
            raise Refused(f"it holds {described(root)} where a mapping of names to tensors is expected")
        present = [name for name in WRAPPERS if _holds_tensors(dict.get(root, name))]
        if not present and numbers and not _holds_tensors(root):
            present = [
                name for name in WRAPPERS if isinstance(held := dict.get(root, name), dict) and _holds_numbers(held)
            ]
        if not present:
            break
        if len(present) > 1:
            notes.append(f"'{present[0]}' is read, not {', '.join(present[1:])}")
        elif "ema" in present[0]:
            notes.append(f"'{present[0]}' is read: averaged weights, the file has no others")
        if len(present) > 1 or "ema" in present[0]:
            choice = present[0]
        wrappers.append(present[0])
        others |= dict(_texts((name, value) for name, value in dict.items(root) if name != present[0]))
        root = root[present[0]]
    values, unwrapped = _named(root, room // 4)
    notes += [f"{part} is taken out of {count} names" for part, count in sorted(unwrapped.items())]
    return Found(values=values, wrapper=".".join(wrappers), others=others, notes=tuple(notes), choice=choice)


def _named(mapping: dict[Any, Any], room: int) -> tuple[dict[str, Any], Counter[str]]:
    """(values by dotted name without transparent parts, count of names a transparent part was taken out of)."""
    values: dict[str, Any] = {}
    unwrapped: Counter[str] = Counter()
    for full, value in _flat(mapping, "", set(), 0):
        name = TRANSPARENT.sub("", full)
        unwrapped.update(set(TRANSPARENT.findall(full)))
        if name in values:
            raise Refused(f"it holds {shown(name)} twice")
        room -= len(full)
        if room < 0:
            raise Refused("its names are longer than the file")
        values[name] = value
    return values, unwrapped


def prefix_of(names: Collection[str]) -> str:
    """The backbone's prefix, "" for a bare state dict; without an anchor only one that all keys carry."""
    for prefix in (*PREFIXES, RADAR):  # RADAR by an anchor alone: CROMA's own keys begin with it
        if any(prefix + anchor in names for anchor in ANCHORS):
            return prefix
    if any(anchor in names for anchor in ANCHORS):
        return ""
    return next((prefix for prefix in PREFIXES if names and all(name.startswith(prefix) for name in names)), "")


def layout_of(wrapper: str, prefix: str, rules: Collection[str]) -> str:
    """What kind of file it is, by what stands around the backbone: moco, croma, full (with HOG layer), mae (decoder) or
    encoder.
    """
    if "queue" in rules or "momentum_encoder" in rules or "encoder_q" in prefix:
        return "moco"
    if "other_modality" in rules and prefix != RADAR:
        return "croma"
    if "hog" in rules:
        return "full"
    return "mae" if "decoder" in rules and wrapper else "encoder"


def drop_rule(name: str, *, sibling: bool = False) -> str | None:
    """Name of the rule that leaves this key out, None for a key of the backbone or an unknown one.

    `sibling`: the key, in full, is outside the backbone's prefix, where more is left out.
    """
    bare = re.sub(r"^((module|model|network|net)\.)+", "", name)
    rules = [*DROP_RULES.items(), *(SIBLING_RULES.items() if sibling else ())]
    return next((rule for rule, pattern in rules if re.fullmatch(pattern, bare)), None)


def is_head(name: str) -> bool:
    """Whether the key belongs to a classifier, which is never taken from a checkpoint."""
    return re.fullmatch(HEAD, name) is not None


def described(value: Any) -> str:
    """One short printable line for a value of a file: scalars as they are, anything else by its kind."""
    if isinstance(value, SCALARS):
        return shown(value, 60)
    if isinstance(value, list | tuple) and len(value) <= 8 and all(isinstance(part, SCALARS) for part in value):
        return shown("[" + ", ".join(shown(part, 20) for part in value) + "]", 60)
    tensor = value.tensor if isinstance(value, Array) else value
    if isinstance(tensor, Tensor):
        return shown(f"tensor {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}", 60)
    if isinstance(value, dict | list | tuple):
        return f"{'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    if isinstance(value, Foreign):
        return "an object that is not read"
    return "namespace" if isinstance(value, Namespace) else "something else"


def _texts(items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, str]]:
    """(name, text) of entries around the state dict; a namespace or small mapping of scalars one line a value."""
    for name, value in items:
        inner = value.values if isinstance(value, Namespace) else value if name == "metadata" else None
        if isinstance(inner, dict):
            yield from ((f"{shown(name, 40)}.{shown(key, 40)}", described(part)) for key, part in dict.items(inner))
        else:
            yield shown(name, 40), described(value)


def _holds_tensors(value: Any) -> bool:
    """Whether a mapping holds tensors, itself or one to three mappings further in."""
    level = [value]
    for _ in range(MAX_WRAPPERS + 1):
        parts = (part for mapping in level if isinstance(mapping, dict) for part in dict.values(mapping))
        level = list(itertools.islice(parts, MAX_ENTRIES))
        if any(isinstance(part, Tensor | Array) for part in level):
            return True
    return False


def _holds_numbers(mapping: dict[Any, Any]) -> bool:
    return any(isinstance(part, list | tuple) and shape_of(part) is not None for part in dict.values(mapping))


def knows(names: Iterable[str]) -> bool:
    """Whether any key, without prefix, is one that a known backbone could have."""
    return any(re.match(BACKBONE_KEYS, name, re.IGNORECASE) for name in names)


def repairable(name: str, value: Any, known: dict[int, tuple[int, ...] | None]) -> tuple[int, ...] | None:
    """Shape of the tensor that `--repair` makes of a value; None for text, and for counters and settings of a
    training.
    """
    return None if re.fullmatch(COUNTERS, name) else shape_of(value, known)


def shape_of(value: Any, known: dict[int, tuple[int, ...] | None] | None = None) -> tuple[int, ...] | None:
    """Shape of what `as_tensor` makes, None where it makes nothing.

    `known`: shapes of lists by id, so that each is walked once, however often a file holds it.
    """
    known = {} if known is None else known
    if isinstance(value, Tensor | Array):
        held = value.tensor if isinstance(value, Array) else value
        return None if held is None else tuple(held.shape)
    if _are_numbers([value]):
        return ()
    if not isinstance(value, list | tuple) or not value:
        return None
    if id(value) not in known:
        known[id(value)] = None  # while it is walked: a list that holds itself has no shape
        shapes = {()} if _are_numbers(value) else {shape_of(part, known) for part in value}
        inner = shapes.pop()
        known[id(value)] = None if shapes or inner is None else (len(value), *inner)
    return known[id(value)]


def as_tensor(value: Any) -> Tensor | None:
    """A number, or a rectangle of nested lists of numbers or of arrays of one shape, as a tensor; None for anything
    else.

    Floating-point numbers become float32, whole ones int64.
    """
    return None if shape_of(value) is None else _joined(value)


def _joined(value: Any) -> Tensor:
    """`as_tensor` of what has a shape."""
    if isinstance(value, Tensor | Array):
        return torch.as_tensor(value.tensor if isinstance(value, Array) else value)
    if not isinstance(value, list | tuple) or _are_numbers(value):
        whole = isinstance(value, int) or (isinstance(value, list | tuple) and all(type(part) is int for part in value))
        return torch.tensor(value, dtype=torch.int64 if whole else torch.float32)
    parts = [_joined(part) for part in value]
    return torch.stack([part.float() if any(p.is_floating_point() for p in parts) else part for part in parts])


def _are_numbers(values: Sequence[Any]) -> bool:
    """Whether all are numbers that a tensor can hold; truth values are not."""
    kinds = set(map(type, values))
    return (
        bool(kinds) and kinds <= {int, float} and (kinds != {int} or (min(values) >= -(2**63) and max(values) < 2**63))
    )


def _flat(mapping: dict[Any, Any], prefix: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of all values that are not mappings; refuses a mapping met twice."""
    if id(mapping) in seen or depth > MAX_NESTING:
        raise Refused("its mappings hold each other or nest too deeply")
    seen.add(id(mapping))
    for key, value in dict.items(mapping):
        if not isinstance(key, str | int):
            raise Refused("its state dict has keys that are not text")
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.", seen, depth + 1)
        else:
            yield f"{prefix}{key}", value
