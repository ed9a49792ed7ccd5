"""The suite from Python: what the command line does, with an `nn.Module` of your own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from torch import nn

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.contract import BANDS, InputContract
from fgmae_bench.config.plugins import foreign
from fgmae_bench.config.recipes import PROTOCOLS
from fgmae_bench.config.run import OWN_WEIGHTS
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.models.architectures import is_registered
from fgmae_bench.records import Record
from fgmae_bench.runs.grid import run_grid


def evaluate(
    model: nn.Module | str,
    dataset: str | os.PathLike[str],
    protocol: str = "linear_probe",
    *,
    name: str | None = None,
    input_size: int | None = None,
    normalizer: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    contract: InputContract | None = None,
    **flags: Any,
) -> Record:
    """Adapt `model` to `dataset` by `protocol` and return the record, which is also stored; a run that is recorded is
    not repeated.

    Args:
        model: maps (B, 2, S, S) float32 in the normaliser's range, bands VV and VH, to (B, D) or to a map (B, D, h, w),
            which segmentation needs unless it is one of timm's ViTs or pyramids. A probe puts it into evaluation mode
            and freezes its parameters; what trains it further trains a copy. Or the name of a model, as `--model` takes
            it, with `weights=` (a registry name, a path, "imagenet" or "random").
        dataset: a dataset's name, or the path of a card.
        protocol: {protocols}.
        name: the module's name in records and tables; a model that is named has one.
        input_size: S, in pixels; by default 224, and the size of the data for segmentation.
        normalizer, mean, std: what the model was trained on, see `fgmae_bench.views.normalizers`; one mean and one
            deviation a band, in dB. Where nothing is stated, z-scores by the training split are assumed, which is said
            and noted, and the record fills no row of a table.
        contract: the same as one `InputContract`, in place of `normalizer`, `mean`, `std` and `input_size`.
        flags: any flag of the protocol's command (`python -m fgmae_bench.linear`, `finetune` or `segment`), such as
            `data_path`, `split`, `lr`, `features`, `results_dir`.

    Raises BenchError on bad input, RunFailed where the run diverges, which is recorded too.

    """
    if not isinstance(model, nn.Module | str):
        raise BenchError(
            f"the model is of type {type(model).__name__}", "give a torch.nn.Module, or a name as --model takes it"
        )
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    module, stands_for = PROTOCOLS[protocol]
    if flags.get("eval"):
        raise BenchError("evaluate(eval=True)", f"score a checkpoint with python -m fgmae_bench.{module} --eval")
    own = isinstance(model, nn.Module)
    for flag in sorted({*(("weights",) if own else ()), *stands_for} & flags.keys()):
        raise BenchError(
            f"evaluate({flag}=...) with protocol '{protocol}'", "leave it out: the model and the protocol say it"
        )
    _check_name(model, name)
    dataset = os.fspath(dataset)
    card = load_card(dataset)
    given = {
        **{key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in flags.items()},
        **stands_for,
        "dataset": dataset,
        **({"model": name, "weights": OWN_WEIGHTS} if own else {"model": model}),
        **_stated(normalizer, mean, std, input_size, contract),
    }
    if own and "input_size" not in given and not card.per_pixel:
        given["input_size"] = 224
    runs = compose(module, given, card)
    if len(runs) != 1:
        raise BenchError("evaluate runs one setting", "give one lr and one weight_decay")
    if isinstance(model, str):
        return run_grid(module, runs, card)[0]
    return run_grid(module, runs, card, backbone=model if module == "linear" else _copy(model))[0]


evaluate.__doc__ = (evaluate.__doc__ or "").replace("{protocols}", ", ".join(f"`{name}`" for name in PROTOCOLS))


def _check_name(model: nn.Module | str, name: str | None) -> None:
    """Raise BenchError unless a module has a name that is its own, and a named model none besides."""
    if isinstance(model, str):
        if name is not None:
            raise BenchError(f"name='{name}' for the model {model}", "leave it out: a model that is named has its name")
    elif name is None:
        raise BenchError("evaluate(module, ...) without name", "give name=, which records and tables show")
    elif is_registered(name) or ":" in name:
        raise BenchError(f"name='{name}' is a model of the suite", "give the module a name of its own")


def _stated(
    normalizer: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    input_size: int | None,
    contract: InputContract | None,
) -> dict[str, Any]:
    """The flags that state an input contract; raises BenchError where it is stated twice."""
    bands = {name: [float(v) for v in value] for name, value in (("mean", mean), ("std", std)) if value is not None}
    single = {"normalizer": normalizer, "input_size": input_size}
    flags = {**bands, **{name: value for name, value in single.items() if value is not None}}
    if contract is None:
        return flags
    if flags:
        raise BenchError(f"evaluate(contract=...) and {', '.join(flags)}", "state the input once")
    if not isinstance(contract, InputContract) or contract.bands != BANDS or contract.geometry != "resize_crop":
        raise BenchError(f"contract is {contract!r:.80}", "give an InputContract of VV and VH, resized and cropped")
    return {
        "normalizer": contract.normalizer,
        "mean": list(contract.mean),
        "std": list(contract.std),
        **({"input_size": contract.size} if contract.size else {}),
    }


def _copy(model: nn.Module) -> nn.Module:
    """What may be trained in place of the user's module."""
    todo = (
        "detach the tensors it keeps, use torch.nn.utils.parametrizations, or give --model module:factory on the "
        "command line"
    )
    with foreign(f"{type(model).__name__} cannot be copied", todo, type(model).__module__):
        return deepcopy(model)
