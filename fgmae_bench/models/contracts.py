"""Which input contract holds: that of the weights, unless a flag lays another over it, which is said and noted."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable

from fgmae_bench.checkpoints.reader import State
from fgmae_bench.checkpoints.registry import by_file, published, registered
from fgmae_bench.config.contract import BANDS, FGMAE_CONTRACT, RAW_CONTRACT, InputContract
from fgmae_bench.config.encoders import EMBEDDINGS, HANDMADE, adapter_of
from fgmae_bench.config.run import IMAGENET, NATIVE, OWN_WEIGHTS, Model
from fgmae_bench.config.strict import from_plain
from fgmae_bench.errors import BenchError, note, unknown
from fgmae_bench.models.timm_weights import published_by_timm
from fgmae_bench.views.normalizers import NEEDS_STATISTICS, NORMALIZERS, OF_THE_DATA

SWAPPED_DB = 1.0  # by which the mean of VH may be above that of VV
METADATA = "fgmae_bench"  # the key under which `weights convert` leaves source, layout and contract

log = logging.getLogger("fgmae_bench")


Statistics = Callable[[], tuple[tuple[float, ...], tuple[float, ...]]]  # (mean, std) in dB of the training split


def resolve_contract(model: Model, state: State | None = None, statistics: Statistics | None = None) -> InputContract:
    """The contract of the backbone, with the flags that state one laid over it; `state` are the weights of a path.

    Where nobody stated what weights were trained on, neither the manifest, the file nor a flag, the input is z-scores
    by the `statistics` of the training split, and the contract says `assumed`. Raises BenchError for flags that
    contradict one another.
    """
    _check_statistics(model)
    if model.model in (*HANDMADE, EMBEDDINGS):
        _refuse_ignored(model)
        return RAW_CONTRACT
    if model.normalizer is not None and model.normalizer not in NORMALIZERS:
        raise unknown("normalizer", model.normalizer, NORMALIZERS)
    if model.weights_prefix is not None and model.weights in ("random", IMAGENET, OWN_WEIGHTS):
        raise BenchError(f"--weights_prefix with --weights {model.weights}", "name the file that it is of")
    trained = trained_contract(model, state)
    base = trained or _usual_contract(model)
    given = dataclasses.replace(
        base,
        normalizer=model.normalizer or base.normalizer,
        mean=model.mean or base.mean,
        std=model.std or base.std,
        transductive=base.transductive and model.normalizer in (None, base.normalizer),  # a mark of the normaliser
    )
    if model.input_size == NATIVE:
        given = dataclasses.replace(given, size=0, geometry="native")
    elif isinstance(model.input_size, int):
        given = dataclasses.replace(given, size=model.input_size, geometry="resize_crop")
    if trained is not None or not _learnt_elsewhere(model, state):
        if given.normalizer in OF_THE_DATA and not model.mean and statistics is not None:  # its publishers' own rule
            mean, std = statistics()
            given = dataclasses.replace(given, mean=mean, std=std)
        return given
    # nobody knows what these weights were trained on: what a flag states holds, the rest is the training split's own
    given = dataclasses.replace(given, normalizer=model.normalizer or "zscore", calibration="unstated")
    if not model.mean and given.normalizer in (*NEEDS_STATISTICS, *OF_THE_DATA) and statistics is not None:
        mean, std = statistics()
        given = dataclasses.replace(given, mean=mean, std=std)
    return dataclasses.replace(given, assumed=model.normalizer is None and not model.mean)


def usual_contract(
    model: Model, state: State | None = None, statistics: Statistics | None = None
) -> InputContract | None:
    """The contract without the flags that state one, None where there are none."""
    bare = dataclasses.replace(model, input_size=None, normalizer=None, mean=(), std=())
    return None if bare == model else resolve_contract(bare, state, statistics if model.mean else None)


def departures(model: Model, used: InputContract, usual: InputContract | None) -> list[str]:
    """The flags of `model` that lay another input over the one which weights or architecture have by themselves.

    Where nobody knows what weights were trained on, a flag that states it departs from nothing.
    """
    if usual is None:
        return []
    size = (used.geometry, used.size) != (usual.geometry, usual.size)
    found = ["input_size"] if model.input_size is not None and size else []
    names = [] if usual.assumed else ["normalizer", "mean", "std"]
    return found + [name for name in names if getattr(model, name) and getattr(used, name) != getattr(usual, name)]


def _refuse_ignored(model: Model) -> None:
    """Raise BenchError on flags that mean nothing for a model without a network: a run that names them would get the
    scores of one that does not.
    """
    name = model.model
    if model.normalizer not in (None, "db") or model.input_size not in (None, NATIVE):
        raise BenchError(f"{name} takes raw dB at the dataset's size", "leave out --normalizer and --input_size")
    if (model.mean, model.std) not in (((), ()), (RAW_CONTRACT.mean, RAW_CONTRACT.std)):  # a run's config states them
        raise BenchError(f"{name} takes raw dB: --mean and --std mean nothing for it", "leave them out")
    for flag in ("weights_prefix", "patch_size", "pool"):
        if getattr(model, flag) is not None:
            raise BenchError(f"--{flag} means nothing for {name}: it has no network", "leave it out")
    if name in HANDMADE and model.weights not in (Model().weights, "random", "none"):
        raise BenchError(f"--weights {model.weights}: {name} has none", "leave --weights out")


def _learnt_elsewhere(model: Model, state: State | None) -> bool:
    """Whether the weights were trained on something that the suite does not know: a file's, or a module's own. Those of
    timm are known to be of other channels than VV and VH.
    """
    return state is not None or model.weights in (OWN_WEIGHTS, IMAGENET)


def _check_statistics(model: Model) -> None:
    """Raise BenchError on means and deviations that cannot be those of two bands."""
    if bool(model.mean) != bool(model.std):
        given, other = ("mean", "std") if model.mean else ("std", "mean")
        raise BenchError(f"--{given} without --{other}", f"give --{other} as well, one value a band")
    for name, values in (("mean", model.mean), ("std", model.std)):
        if values and len(values) != len(BANDS):
            raise BenchError(f"--{name} has {len(values)} values", f"give one for each of {', '.join(BANDS)}")
        if not all(math.isfinite(value) for value in values):
            raise BenchError(f"--{name} holds NaN or infinity", "give numbers in dB")
    if len(model.mean) == len(BANDS) and model.mean[0] < model.mean[1] - SWAPPED_DB:
        what = f"--mean is {' '.join(f'{value:g}' for value in model.mean)}, VV below VH: statistics of VH and VV"
        what += ", as GEO-Bench-2 names them for BigEarthNet v2"
        raise BenchError(what, "give VV first, in --std too")
    if any(value <= 0 for value in model.std):
        raise BenchError(f"--std is {' '.join(f'{value:g}' for value in model.std)}", "give positive deviations in dB")


def trained_contract(model: Model, state: State | None) -> InputContract | None:
    """The contract of the weights: the manifest's, or what a converted file carries; None where it is unknown."""
    if model.weights in ("random", IMAGENET, OWN_WEIGHTS):
        return None
    named = registered().get(model.weights, {})
    if model.model in named:
        return named[model.model].contract
    if state is None:
        return None
    entry = by_file(state.path, state.sha256, model.model)
    return carried_contract(state) or (entry.contract if entry else None)


def carried_contract(state: State) -> InputContract | None:
    """The contract in a converted file's metadata; raises BenchError where it is damaged."""
    text = state.metadata.get(METADATA)
    if text is None:
        return None
    try:
        held = json.loads(text)["contract"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BenchError(f"{state.path}: its metadata is damaged", "convert the file again") from error
    if held is None:
        return None
    contract = from_plain(InputContract, held, f"{state.path}: contract")
    if contract.normalizer not in NORMALIZERS:
        raise unknown("normalizer", contract.normalizer, NORMALIZERS)
    return contract


def mismatch_notes(model: Model, used: InputContract, state: State | None) -> tuple[dict[str, str], ...]:
    """A note, and a warning, where the input is normalised otherwise than the weights were trained, where nobody stated
    what they were trained on, and where an image's input depends on the others of its batch.
    """
    if not used.transductive:
        return _whose(model, used, state)
    text = (
        f"{used.normalizer} takes its statistics over a batch: the features of an image depend on the others in it, "
        "and the run is not ranked"
    )
    log.warning(text)
    return (*_whose(model, used, state), note("transductive", text))


def _whose(model: Model, used: InputContract, state: State | None) -> tuple[dict[str, str], ...]:
    """Who states the contract, where that is nobody or somebody other than the weights."""
    trained = trained_contract(model, state)
    if used.assumed and trained is not None:
        text = f"the publishers of the weights {model.weights} state no input for Sentinel-1: it is assumed"
        log.warning("%s", text)
        return (note("contract_assumed", text),)
    if used.assumed:
        numbers = " and ".join(f"{m:.2f} +- {s:.2f} dB" for m, s in zip(used.mean, used.std, strict=True))
        cause = (
            f"the weights {IMAGENET} were trained on optical images"
            if model.weights == IMAGENET
            else f"nobody stated the input that the weights {model.weights} were trained on"
        )
        text = f"{cause}: {used.normalizer} by {numbers}, the training split's, is assumed"
        log.warning("%s; state it with --normalizer, --mean and --std", text)
        return (note("contract_assumed", text),)
    if trained is None or trained_same(trained, used):
        return ()
    if used.normalizer != trained.normalizer:
        text = (
            f"the input is normalised by {used.normalizer}, the weights {model.weights} were trained on "
            f"{trained.normalizer}"
        )
    else:
        own, theirs = (f"mean {list(each.mean)} and deviation {list(each.std)}" for each in (used, trained))
        text = f"the input is normalised with {own}, the weights {model.weights} were trained with {theirs}"
    log.warning("%s: expect worse features than the weights can give", text)
    return (note("contract_mismatch", text),)


def trained_same(trained: InputContract, used: InputContract) -> bool:
    """Whether the normalisation is the one that the weights were trained under."""
    return all(getattr(trained, name) == getattr(used, name) for name in ("normalizer", "mean", "std"))


def _usual_contract(model: Model) -> InputContract:
    """The contract of an architecture without known weights: FGMAE's, at the size that timm's were trained at where
    these are meant, or that of the encoder's own weights.
    """
    if model.weights == IMAGENET:
        return dataclasses.replace(FGMAE_CONTRACT, size=published_by_timm(model.model).input_size[-1])
    entry = adapter_of(model.model)
    if entry is None or entry.weights == "random":  # of a package that brings no weights
        return FGMAE_CONTRACT
    return published(entry.weights, model.model).contract


def at_size(contract: InputContract, data_size: tuple[int, ...] | None, name: str, patch: int) -> InputContract:
    """A contract of native pixels at the size of the data; raises BenchError where it does not fit the encoder."""
    if contract.geometry != "native" or contract.size or contract.normalizer == "db":
        return contract
    if data_size is None:
        raise BenchError(f"{name} takes images as they are", "give the size of yours with --input_size")
    height, width = data_size[0], data_size[-1]
    if height != width or height % patch:
        good = min(height, width) // patch * patch or patch
        raise BenchError(
            f"images of {height}x{width} px: {name} takes squares of whole patches of {patch} px",
            f"use --input_size {good}, which resizes them, or another --patch_size where it has several",
        )
    return dataclasses.replace(contract, size=height)
