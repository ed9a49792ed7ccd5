"""`--weights` to a file, and the file into the module, with what became of each key."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from fgmae_bench.checkpoints.load import load_state
from fgmae_bench.checkpoints.names import of_entry, require_one_backbone, under_prefix
from fgmae_bench.checkpoints.reader import State
from fgmae_bench.checkpoints.registry import entry_of, locate, registered
from fgmae_bench.config.encoders import EMBEDDINGS, HANDMADE, adapter_of
from fgmae_bench.config.plugins import foreign
from fgmae_bench.config.run import IMAGENET, OWN_WEIGHTS, Model
from fgmae_bench.errors import BenchError, note, unknown
from fgmae_bench.models.architectures import architecture, from_timm, make_adapter, require_known
from fgmae_bench.models.backbone import WeightsReport
from fgmae_bench.models.contracts import resolve_contract
from fgmae_bench.models.encoders import mit
from fgmae_bench.models.encoders.adapter import Adapter
from fgmae_bench.models.pooling import PooledMap, TokenPool
from fgmae_bench.models.timm_weights import published_by_timm

TORCHGEO = "torchgeo:"
NATIVE_SIDE = 64
REDRAW = 0x5EED  # added to a seed; torch takes 32 bits of it


def find_weights_file(model: Model, cache: Path) -> Path | None:
    """The file that `--weights` means: a registered name's fetched file or a path; None where none are loaded.

    Raises BenchError for a file that is not there and for a name that does not fit the model, whatever the model is.
    """
    if ":" not in model.model:
        require_known(model.model)  # before its weights, of which a misspelt model has none
    if model.weights in ("random", OWN_WEIGHTS) or model.model in (*HANDMADE, EMBEDDINGS):
        return None
    if model.weights == IMAGENET:
        published_by_timm(model.model)
        return None
    known = registered()
    if ":" in model.model and model.weights in known:
        raise BenchError(
            f"--weights {model.weights} with --model {model.model}",
            "give the path of a checkpoint with the factory's own keys, or leave --weights out: the factory's own",
        )
    if model.weights in known:
        return locate(model.weights, model.model, cache)
    if model.weights.startswith(TORCHGEO):
        return locate(torchgeo_name(model.weights, model.model), model.model, cache)
    path = Path(model.weights)
    if path.is_file():
        return path
    if path.suffix or "/" in model.weights:
        raise BenchError(
            f"--weights {model.weights}: no such file",
            f"give a checkpoint, or one of random, {IMAGENET}, {', '.join(sorted(known))}",
        )
    raise unknown("weights", model.weights, ["random", IMAGENET, *known])


def load_weights(module: nn.Module, model: Model, state: State) -> tuple[WeightsReport, tuple[dict[str, str], ...]]:
    """Load a checkpoint into a backbone: (what became of its keys, notes for the record)."""
    target, optional = loadable(module)
    if model.weights_prefix is None and (known := entry_of(model.weights, model.model, state)) is not None:
        state = of_entry(state, known.entry)
    if model.weights_prefix is not None:
        state = under_prefix(state, model.weights_prefix)
    require_one_backbone(state)
    report = load_state(target, state, optional)
    source = model.weights if model.weights in registered() else state.path.name
    dropped = sum(report.dropped.values())
    weights = WeightsReport(
        source=source,
        sha256=report.sha256,
        used=report.used,
        dropped=dropped,
        missing=report.missing,
        choice=state.choice,
    )
    return weights, tuple(note("weights", text) for text in report.notes)


def draw_again(module: nn.Module, name: str, seed: int) -> None:
    """Draw a factory's weights anew from `seed`, for a random control of its pre-trained model.

    The module, or each of its layers that has parameters, must offer `reset_parameters`, as torch's layers do, or
    `init_weights`. Raises BenchError where one does not: what cannot be drawn again would stay pre-trained.
    """
    inner = module.inner if isinstance(module, PooledMap) else module
    own = _drawing(inner)
    parts = [inner] if own else [part for part in inner.modules() if list(part.parameters(recurse=False))]
    without = [type(part).__name__ for part in parts if _drawing(part) is None]
    if without:
        raise BenchError(
            f"--weights random: {name} has {', '.join(sorted(set(without)))} without reset_parameters()",
            "give the module a method reset_parameters(), or a factory of its own for random weights",
        )
    before = {key: tensor.clone() for key, tensor in inner.named_parameters() if tensor.dim() > 1}
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.no_grad():
        torch.manual_seed(seed + REDRAW)  # else a factory that drew from the same seed would give the same again
        for part in parts:
            draw = _drawing(part)
            assert draw is not None
            with foreign(f"--weights random: {name} cannot be drawn again", "correct it", type(part).__module__):
                draw()
    # some frameworks load their pre-trained file again in init_weights: such a draw changes nothing
    same = [key for key, tensor in inner.named_parameters() if key in before and torch.equal(tensor, before[key])]
    if same:
        raise BenchError(
            f"--weights random: {same[0]} of {name} is the same after it was drawn again",
            "give a factory of its own for random weights",
        )


def _drawing(module: nn.Module) -> Callable[[], object] | None:
    """What draws a module's weights anew, None where it offers nothing."""
    for name in ("reset_parameters", "init_weights"):
        draw = getattr(module, name, None)
        if callable(draw):
            return draw
    return None


def loadable(module: nn.Module) -> tuple[nn.Module, str]:
    """(the network whose keys a checkpoint holds, pattern of keys that it may lack)."""
    if isinstance(module, TokenPool):
        return module.vit, ""
    inner = module.inner if isinstance(module, PooledMap) else module
    return (inner.network, inner.optional) if isinstance(inner, Adapter) else (inner, "")


def empty_network(name: str, size: int) -> tuple[nn.Module, str]:
    """(a network on the meta device, without memory for weights; pattern of keys that its checkpoint may lack)."""
    architecture(name)
    with torch.device("meta"):
        if name in mit.NAMES:
            made: nn.Module = mit.make(name)
        else:
            made = from_timm(name, size) if adapter_of(name) is None else make_adapter(name, size)
    return loadable(PooledMap(made) if isinstance(made, Adapter) else made)


def usual_size(name: str) -> int:
    """Side in pixels of the input that a model is usually given; 64 for encoders of native pixels, for which it does
    not matter to the weights.
    """
    return resolve_contract(Model(model=name, weights="random")).size or NATIVE_SIDE


def torchgeo_model(weights: str) -> str:
    """The model that `torchgeo:Enum.MEMBER` belongs to; raises BenchError where its input contract is not known."""
    member = weights.removeprefix(TORCHGEO)
    known = {
        entry.entry.torchgeo: model
        for models in registered().values()
        for model, entry in models.items()
        if entry.entry.torchgeo
    }
    if member in known:
        return known[member]
    try:
        url = importlib.import_module("torchgeo.models").get_weight(member).url
    except (ImportError, ValueError, AttributeError, KeyError):
        raise unknown("torchgeo weights", member, [name for name in known if name]) from None
    raise BenchError(
        f"the input contract of torchgeo's {member} is not known here",
        f"add an entry with its contract for {url} to your manifest",
    )


def torchgeo_name(weights: str, model: str) -> str:
    """The registered name of `torchgeo:Enum.MEMBER`; raises BenchError where it belongs to another model."""
    fitting = torchgeo_model(weights)
    if fitting != model:
        raise BenchError(f"--weights {weights} are those of {fitting}, not of {model}", f"use --model {fitting}")
    member = weights.removeprefix(TORCHGEO)
    return next(
        name for name, models in registered().items() if model in models and models[model].entry.torchgeo == member
    )
