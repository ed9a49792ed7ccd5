"""Which input contract holds: that of the weights, unless a flag lays another over it, which is said before the run and
noted.
"""

from __future__ import annotations

import dataclasses
import json
import logging

from fgmae_bench.checkpoints.reader import State
from fgmae_bench.checkpoints.registry import WEIGHTS, by_file, registered
from fgmae_bench.config.contract import FGMAE_CONTRACT, RAW_CONTRACT, InputContract
from fgmae_bench.config.run import Model
from fgmae_bench.config.strict import from_plain
from fgmae_bench.errors import BenchError, note, unknown
from fgmae_bench.models.architectures import TORCHGEO_ARCHITECTURES
from fgmae_bench.views.normalizers import NORMALIZERS

METADATA = "fgmae_bench"  # the key under which `weights convert` leaves source, layout and contract

log = logging.getLogger("fgmae_bench")


def resolve_contract(model: Model, state: State | None = None) -> InputContract:
    """The contract of the backbone, with `--normalizer` and `--input_size` laid over it; `state` are the weights of a
    path.
    """
    if model.model == "backscatter_stats":
        if model.normalizer not in (None, "db") or model.input_size is not None:
            raise BenchError(
                "backscatter_stats takes raw dB at the dataset's size", "leave out --normalizer and --input_size"
            )
        return RAW_CONTRACT
    if model.normalizer is not None and model.normalizer not in NORMALIZERS:
        raise unknown("normalizer", model.normalizer, NORMALIZERS)
    base = trained_contract(model, state) or _usual_contract(model.model)
    return dataclasses.replace(base, normalizer=model.normalizer or base.normalizer, size=model.input_size or base.size)


def trained_contract(model: Model, state: State | None) -> InputContract | None:
    """The contract that the weights were trained under: the manifest's, or what a converted file carries; None where
    unknown.
    """
    if model.weights == "random" or ":" in model.model:
        return None
    named = registered().get(model.weights, {})
    if model.model in named:
        return named[model.model].contract
    if state is None:
        return None
    entry = by_file(state.path, state.sha256)
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
    """A note, and a warning, where the input is normalised otherwise than the weights were trained, or are taken to
    have been.
    """
    if state is None or ":" in model.model:
        return ()
    stated = trained_contract(model, state)
    trained = stated or _usual_contract(model.model)
    if trained.normalizer == used.normalizer:
        return ()
    how = "were trained" if stated else "carry no contract and are taken to have been trained"
    text = f"the input is normalised by {used.normalizer}, the weights {model.weights} {how} on {trained.normalizer}"
    log.warning("%s: expect worse features than the weights can give", text)
    return (note("contract_mismatch", text),)


def _usual_contract(name: str) -> InputContract:
    """The contract of an architecture without known weights: FGMAE's, or that of torchgeo's model."""
    if name not in TORCHGEO_ARCHITECTURES:
        return FGMAE_CONTRACT
    return next(models[name].contract for models in WEIGHTS.values() if name in models)
