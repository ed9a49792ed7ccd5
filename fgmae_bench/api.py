"""The suite from Python: what the command line does, with an `nn.Module` of your own."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import Any

from torch import nn

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.recipes import PROTOCOLS
from fgmae_bench.config.run import compose
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.records import Record
from fgmae_bench.runs.grid import run_grid


def evaluate(
    model: nn.Module,
    dataset: str | os.PathLike[str],
    protocol: str = "linear_probe",
    *,
    name: str,
    input_size: int | None = None,
    normalizer: str = "fgmae",
    **flags: Any,
) -> Record:
    """Adapt `model` to `dataset` by `protocol` and return the record, which is also stored; a run that is recorded is
    not repeated.

    Args:
        model: maps (B, 2, S, S) float32 in the normaliser's range, bands VV and VH, to (B, D) or to a map (B, D, h, w),
            which segmentation needs unless it is one of timm's ViTs or pyramids. A probe puts it into evaluation mode
            and freezes its parameters; what trains it further trains a copy.
        dataset: a dataset's name, or the path of a card.
        protocol: {protocols}.
        name: the model's name in records and tables.
        input_size: S, in pixels; by default 224, and the size of the data for segmentation.
        normalizer: what the model expects, see `fgmae_bench.views.normalizers`.
        flags: any flag of the protocol's command (`python -m fgmae_bench.linear`, `finetune` or `segment`), such as
            `data_path`, `split`, `lr`, `features`, `results_dir`.

    Raises BenchError on bad input, RunFailed where the run diverges, which is recorded too.

    """
    if not isinstance(model, nn.Module):
        raise BenchError(
            f"the model is of type {type(model).__name__}",
            "give a torch.nn.Module; names go to --model on the command line",
        )
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    module, stands_for = PROTOCOLS[protocol]
    if flags.get("eval"):
        raise BenchError("evaluate(eval=True)", f"score a checkpoint with python -m fgmae_bench.{module} --eval")
    for flag in sorted({"weights", *stands_for} & flags.keys()):
        raise BenchError(
            f"evaluate({flag}=...) with protocol '{protocol}'", "leave it out: the model and the protocol say it"
        )
    dataset = os.fspath(dataset)
    card = load_card(dataset)
    given = {
        **{key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in flags.items()},
        **stands_for,
        "dataset": dataset,
        "model": name,
        "weights": "module",
        "normalizer": normalizer,
        **({} if input_size is None else {"input_size": input_size}),
    }
    if input_size is None and card.task != "segmentation":
        given["input_size"] = 224
    runs = compose(module, given, card)
    if len(runs) != 1:
        raise BenchError("evaluate runs one setting", "give one lr and one weight_decay")
    return run_grid(module, runs, card, backbone=model if module == "linear" else _copy(model))[0]


evaluate.__doc__ = (evaluate.__doc__ or "").replace("{protocols}", ", ".join(f"`{name}`" for name in PROTOCOLS))


def _copy(model: nn.Module) -> nn.Module:
    """What may be trained in place of the user's module."""
    try:
        return deepcopy(model)
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        todo = (
            "detach the tensors it keeps, use torch.nn.utils.parametrizations, or give --model module:factory on "
            "the command line"
        )
        raise BenchError(f"{type(model).__name__} cannot be copied ({reason})", todo) from error
