"""Backbones, images to features: published architectures, timm models, backscatter statistics, user factories."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fgmae_bench.checkpoints.names import linear_head, projection, under_prefix
from fgmae_bench.checkpoints.reader import read_state
from fgmae_bench.checkpoints.registry import default_cache, entry_of
from fgmae_bench.config.contract import InputContract
from fgmae_bench.config.encoders import EMBEDDINGS, HANDMADE, INPUTS, adapter_of
from fgmae_bench.config.run import IMAGENET, OWN_WEIGHTS, Model
from fgmae_bench.data.extra_inputs import SOURCES
from fgmae_bench.errors import BenchError, note
from fgmae_bench.models.architectures import (
    FGMAE_ARCHITECTURES,
    TORCHGEO_ARCHITECTURES,
    architecture,
    make_adapter,
    make_module,
    measured_dim,
    patch_side,
)
from fgmae_bench.models.backbone import Backbone, WeightsReport
from fgmae_bench.models.contracts import Statistics, at_size, mismatch_notes, resolve_contract, usual_contract
from fgmae_bench.models.embeddings import Embeddings
from fgmae_bench.models.place import NAME as PLACE
from fgmae_bench.models.pooling import BackscatterStats, Pool, PooledMap, TokenPool
from fgmae_bench.models.timm_weights import account_published, published_file
from fgmae_bench.models.unread import unread_notes
from fgmae_bench.models.weights import (
    TORCHGEO,
    draw_again,
    find_weights_file,
    load_weights,
    loadable,
    torchgeo_name,
)


def build_backbone(
    model: Model,
    seed: int,
    cache: Path | None = None,
    *,
    drop_path: float = 0.0,
    statistics: Statistics | None = None,
    data_size: tuple[int, ...] | None = None,
) -> Backbone:
    """The backbone that `model` names with its weights, in evaluation mode and frozen; `cache` holds fetched weights.

    Random weights are drawn from `seed`; `drop_path` is the rate of stochastic depth when it is trained; `statistics`
    give mean and deviation of the training split, where nobody stated the input of the weights; `data_size` is the
    images' height and width, for what takes them as they are. Raises
    BenchError on an unknown name, weights that are not here or do not fit, an input size the patches do not divide, a
    pool that is not there.
    """
    resolve_contract(model)  # flags that cannot be, before any file is read
    file = find_weights_file(model, cache or default_cache())
    if model.weights.startswith(TORCHGEO) and file is not None:
        model = dataclasses.replace(model, weights=torchgeo_name(model.weights, model.model))
    if ":" not in model.model:
        architecture(model.model)
    state = None if file is None else read_state(file)
    if state is not None and model.weights_prefix is not None:
        under_prefix(state, model.weights_prefix)  # one that matches nothing ends here, before anything is built
    contract, usual = resolve_contract(model, state, statistics), usual_contract(model, state, statistics)
    if contract.geometry == "native":
        contract = at_size(contract, data_size, model.model, patch_side(model.model, model.patch_size))
        usual = usual and dataclasses.replace(usual, size=contract.size if usual.geometry == "native" else usual.size)
    published = published_file(model.model) if model.weights == IMAGENET else None
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        module, pool, feature_dim = make_module(model, contract, drop_path, published)
    weights = WeightsReport(source="random", sha256=None, used=0, dropped=0, missing=0)
    notes = mismatch_notes(model, contract, state)
    handmade, custom = model.model in (*HANDMADE, EMBEDDINGS), ":" in model.model
    if isinstance(module, Embeddings):
        count = len(module.vectors)
        weights = WeightsReport(source="embeddings", sha256=module.sha256, used=count, dropped=0, missing=0)
        if "pixels_sha256" not in module.how:
            notes += (note("embeddings_unverified", "the file does not say of which pixels its vectors are"),)
    elif handmade:
        weights = dataclasses.replace(weights, source="none")
    elif model.weights == OWN_WEIGHTS:
        weights = dataclasses.replace(weights, source=OWN_WEIGHTS)
    elif model.weights == IMAGENET:
        weights, remark = account_published(loadable(module)[0], model, contract.size, seed)
        notes += (remark,)
    elif custom and state is None:
        draw_again(module, model.model, seed)
    elif state is not None:
        weights, remarks = load_weights(module, model, state)
        notes += remarks
    module.eval().requires_grad_(False)
    notes += unread_notes(model.model, module, contract.size)
    backbone = Backbone(
        module=module,
        name=model.model,
        pool=pool,
        feature_dim=feature_dim,
        contract=contract,
        weights=weights,
        lowers_precision=not handmade,
        custom=custom,
        notes=notes,
        head=None if state is None else linear_head(state),
        projection=None if state is None else projection(state),
        head_order=known.entry.classes
        if state is not None and (known := entry_of(model.weights, model.model, state))
        else "",
        inputs=contract_inputs(model, contract),
        usual=usual,
    )
    return _known_by_behaviour(backbone) if backbone.custom else backbone


def contract_inputs(model: Model, contract: InputContract) -> dict[str, Any]:
    """What an encoder is fed besides pixels, for the record: given, absent and by which rule, the same for all; and the
    size of its input in pixels and tokens. Raises BenchError on an extra input that the model does not take.
    """
    entry = adapter_of(model.model)
    takes = dict.fromkeys(INPUTS, "not known") if model.model == PLACE else dict(entry.inputs) if entry else {}
    for name in model.inputs:
        if name not in takes:
            todo = f"choose from {', '.join(takes)}" if takes else "leave it out: pixels are all that it takes"
            raise BenchError(f"--inputs {name}: {model.model} does not take it", todo)
    if entry is None and model.model != PLACE:
        return {}
    found: dict[str, Any] = {
        "given": {name: SOURCES[name] for name in model.inputs},
        "absent": {name: rule for name, rule in takes.items() if name not in model.inputs},
    }
    if entry is not None:
        patch = model.patch_size or entry.patch
        found |= {"fixed": dict(entry.fixed), "patch_size": patch, "input_size": contract.size}
        found |= {"tokens": (contract.size // patch) ** 2}
        found |= {name: text for name in ("statement", "one_band") if (text := getattr(entry, name))}
    return found


def wrap_module(
    module: nn.Module,
    model: Model,
    statistics: Statistics | None = None,
    data_size: tuple[int, ...] | None = None,
) -> Backbone:
    """A module of the user, (B, 2, S, S) to (B, D) or a map, as a frozen backbone under the contract of `model`."""
    contract = resolve_contract(model, None, statistics)
    contract = at_size(contract, data_size, model.model, 1)
    pooled = PooledMap(module)
    dim = measured_dim(pooled, contract)
    pooled.eval().requires_grad_(False)
    weights = WeightsReport(source="module", sha256=None, used=len(module.state_dict()), dropped=0, missing=0)
    return _known_by_behaviour(
        Backbone(
            module=pooled,
            name=model.model,
            pool=None,
            feature_dim=dim,
            contract=contract,
            weights=weights,
            custom=True,
            notes=(*mismatch_notes(model, contract, None), *unread_notes(model.model, pooled, contract.size)),
            usual=usual_contract(model, None, statistics),
        )
    )


def _known_by_behaviour(backbone: Backbone) -> Backbone:
    """A user's module with a hash of its tensors and of its features of a fixed image: its code has no version here."""
    known = hashlib.sha256(f"{backbone.fingerprint()} {backbone.behaviour()}".encode()).hexdigest()
    return dataclasses.replace(backbone, weights=dataclasses.replace(backbone.weights, sha256=known))


__all__ = [
    "FGMAE_ARCHITECTURES",
    "TORCHGEO_ARCHITECTURES",
    "Backbone",
    "BackscatterStats",
    "Pool",
    "PooledMap",
    "TokenPool",
    "WeightsReport",
    "architecture",
    "build_backbone",
    "find_weights_file",
    "make_adapter",
    "patch_side",
    "resolve_contract",
    "wrap_module",
]
