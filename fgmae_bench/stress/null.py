"""The null of a card: backscatter statistics with the same probe, under the same stresses and resamples."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fgmae_bench.config.cards import Card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.run import Run
from fgmae_bench.records import Record
from fgmae_bench.stress.summary import Summary
from fgmae_bench.system.files import replacing

Held = dict[str, dict[str, NDArray[np.float64]]]  # by stress: changes (S,), drawn (S, B)


def run_of(run: Run, entry: str, card: Card) -> Run:
    """The run of statistics that a run is compared with: the same samples, and its probe, or logistic regression."""
    given = {
        "dataset": run.data.dataset,
        "model": "backscatter_stats",
        "weights": "random",
        "features": "cached",
        "recipe": run.recipe.recipe,
        "probe": run.recipe.probe if entry == "linear" else ("ridge" if card.task == "regression" else "lbfgs"),
    }
    if given["probe"] == "inference":
        given["probe"] = "lbfgs"
    (made,) = compose("linear", given, card)
    recipe = made.recipe
    if entry == "linear" and run.recipe.probe == given["probe"]:
        recipe = dataclasses.replace(run.recipe, features="cached", views=1, seed=recipe.seed)
    if run.data.shots is not None or run.data.train_frac < 1:  # the seed draws the labels, which are to be the same
        recipe = dataclasses.replace(recipe, seed=run.recipe.seed)
    names = {f.name for f in dataclasses.fields(made.data)}
    data = {f.name: getattr(run.data, f.name) for f in dataclasses.fields(run.data) if f.name in names}
    shared = ("data_path", "results_dir", "cache_dir", "num_workers", "device", "trust_data", "partial")
    # its folder is its own, named by its id: cards of other models are compared with the same
    execution = dataclasses.replace(made.execution, **{name: getattr(run.execution, name) for name in shared})
    return dataclasses.replace(made, data=dataclasses.replace(made.data, **data), recipe=recipe, execution=execution)


def path_of(results: Path, id: str) -> Path:
    """The file of a card's resamples."""
    return results / "predictions" / "stress" / f"{id}.safetensors"


def keep(results: Path, id: str, found: list[Summary]) -> None:
    """Store the changes of a card's metric and those of each of its resamples, so that cards can be paired."""
    tensors = {f"{each.name}.changes": each.changes for each in found}
    tensors |= {f"{each.name}.drawn": np.ascontiguousarray(each.drawn) for each in found}
    with replacing(path_of(results, id)) as temporary:
        save_file(tensors, temporary)


def kept(results: Path, record: Record, beside: Record, units: int) -> Held | None:
    """Changes of a recorded card by stress; None where they are gone, or of other test samples than `beside`."""
    same = ("content_sha256", "sample_ids_sha256")
    if any(record["dataset"][name]["test"] != beside["dataset"][name]["test"] for name in same):
        return None
    if not units:
        return None
    try:
        tensors = load_file(path_of(results, record["run_id"]))
    except (OSError, SafetensorError, ValueError):
        return None
    names = record["metrics"]["tolerance"]
    if any(f"{name}.{part}" not in tensors for name in names for part in ("changes", "drawn")):
        return None
    return {name: {part: tensors[f"{name}.{part}"] for part in ("changes", "drawn")} for name in names}
