"""Names of a checkpoint's keys as its owner states them: a prefix of the backbone's, or a map from their beginnings."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from fgmae_bench.checkpoints.inert import shown
from fgmae_bench.checkpoints.layouts import ANCHORS, PREFIXES, drop_rule
from fgmae_bench.checkpoints.manifest import Entry
from fgmae_bench.checkpoints.reader import State
from fgmae_bench.errors import BenchError

V = TypeVar("V")
LINEAR_HEAD = r"(?:.*\.)?(?:head|heads|fc|classifier)(?:\.fc|\.\d+)?\.weight"


def under_prefix(state: State, prefix: str) -> State:
    """The state whose backbone is what begins with `prefix`; raises BenchError where nothing does."""
    every = _whole(state.tensors, state.prefix) | state.outside
    inside = {name.removeprefix(prefix): tensor for name, tensor in every.items() if name.startswith(prefix)}
    if not inside:
        held = Counter(name.partition(".")[0] for name in every)
        begins = ", ".join(f"{shown(name)}. ({count})" for name, count in held.most_common(5))
        raise BenchError(
            f"--weights_prefix {prefix}: no key of {state.path} begins with it", f"its keys begin with {begins}"
        )
    outside = {name: tensor for name, tensor in every.items() if not name.startswith(prefix)}
    return dataclasses.replace(state, prefix=prefix, tensors=inside, outside=outside, prefix_given=True)


def renamed(state: State, keys: Mapping[str, str]) -> State:
    """The state with the beginning of each key replaced by what `keys` says, the longest that fits.

    Raises BenchError on an entry that no key begins with, and on two keys that would get one name.
    """
    every = _whole(state.tensors, state.prefix) | state.outside
    order, used, result = sorted(keys, key=len, reverse=True), set[str](), dict(every)
    result.clear()
    for name, tensor in every.items():
        old = next((start for start in order if name.startswith(start)), None)
        new = name if old is None else keys[old] + name[len(old) :]
        used |= {old} if old is not None else set()
        if new in result:
            raise BenchError(f"{state.path}: two keys would be named {shown(new)}", "correct the map of its manifest")
        result[new] = tensor
    idle = [old for old in order if old not in used]
    if idle:
        raise BenchError(f"{state.path}: no key begins with {shown(idle[0])}", "correct the map of its manifest")
    return dataclasses.replace(state, prefix="", tensors=result, outside={})


def of_entry(state: State, entry: Entry) -> State:
    """The state with the backbone's keys as the manifest's entry states them; a converted file has them already."""
    if entry.prefix and any(name.startswith(entry.prefix) for name in _whole(state.tensors, state.prefix)):
        state = under_prefix(state, entry.prefix)
    if entry.keys:
        state = renamed(state, entry.keys)
    return state


@dataclass(frozen=True, kw_only=True)
class Head:
    """A classifier that a checkpoint holds: `weight` (C, D) and `bias` (C,), under `name` in its file."""

    name: str
    weight: Tensor
    bias: Tensor


def linear_head(state: State) -> Head | None:
    """The one linear classifier of a file, None where it holds none, or several."""
    every = _whole(state.tensors, state.prefix) | state.outside
    found = []
    for name, weight in every.items():
        bias = every.get(name.removesuffix("weight") + "bias")
        named = re.fullmatch(LINEAR_HEAD, name) and weight.dim() == 2
        if named and bias is not None and bias.shape == weight.shape[:1]:
            found.append(Head(name=name, weight=weight.float(), bias=bias.float()))
    return found[0] if len(found) == 1 else None


def projection(state: State) -> Head | None:
    """The linear map from the features of radar to the space of texts, None where a file holds none (CLOSP's
    `s1_projection`).
    """
    every = _whole(state.tensors, state.prefix) | state.outside
    weight, bias = (every.get(f"s1_projection.{part}") for part in ("weight", "bias"))
    if weight is None or bias is None or weight.dim() != 2 or bias.shape != weight.shape[:1]:
        return None
    return Head(name="s1_projection", weight=weight.float(), bias=bias.float())


def require_one_backbone(state: State) -> None:
    """Raise BenchError where a file holds several backbones under prefixes of which no rule says which is meant."""
    names = {*_whole(state.tensors, state.prefix), *state.outside}
    found = [prefix for prefix in PREFIXES if any(prefix + anchor in names for anchor in ANCHORS)]
    rivals = [
        prefix
        for prefix in found
        if prefix == state.prefix
        or any(drop_rule(name, sibling=True) is None for name in state.outside if name.startswith(prefix))
    ]
    if state.prefix in rivals and len(rivals) > 1 and not state.prefix_given:
        raise BenchError(
            f"{state.path} holds a backbone under each of {', '.join(sorted(rivals))}", "choose with --weights_prefix"
        )


def _whole(named: Mapping[str, V], prefix: str) -> dict[str, V]:
    return {prefix + name: value for name, value in named.items()}
