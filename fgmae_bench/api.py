"""The suite from Python: probe an `nn.Module` of your own as the command line would."""

from __future__ import annotations

import os
from typing import Any, Literal

from torch import nn

from fgmae_bench.cards import load_card
from fgmae_bench.config import compose
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.records import Record

PROBES = {"linear_probe": "sgd", "logistic_regression": "lbfgs", "knn": "knn"}


def evaluate(
    model: nn.Module,
    dataset: str | os.PathLike[str],
    protocol: Literal["linear_probe", "logistic_regression", "knn"] = "linear_probe",
    *,
    name: str,
    input_size: int = 224,
    normalizer: str = "fgmae",
    **flags: Any,
) -> Record:
    """Probe `model` on `dataset` and return the record, which is also stored; a run that is recorded is not repeated.

    Args:
        model: maps (B, 2, S, S) float32 in the normaliser's range, bands VV and VH, to (B, D) or to a map (B, D, h, w).
            It is put into evaluation mode and its parameters are frozen.
        dataset: a dataset's name, or the path of a card.
        protocol: what is fitted on the frozen features.
        name: the model's name in records and tables.
        input_size: S, in pixels.
        normalizer: what the model expects, see `fgmae_bench.normalizers`.
        flags: any flag of `python -m fgmae_bench.linear`, such as `data_path`, `split`, `lr`, `features`, `results_dir`.

    Raises BenchError on bad input.

    """
    from fgmae_bench.probe.engine import run_probe

    if protocol not in PROBES:
        raise unknown("protocol", protocol, PROBES)
    if flags.get("eval"):
        raise BenchError("evaluate(eval=True)", "score a checkpoint with python -m fgmae_bench.linear --eval")
    dataset = os.fspath(dataset)
    given = {
        **{key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in flags.items()},
        "dataset": dataset, "probe": PROBES[protocol], "model": name, "weights": "module",
        "input_size": input_size, "normalizer": normalizer,
    }  # fmt: skip
    card = load_card(dataset)
    runs = compose("linear", given, card)
    if len(runs) != 1:
        raise BenchError("evaluate runs one setting", "give one lr and one weight_decay")
    return run_probe(runs, card, [], model)[0]
