"""Whether a record is that of a composed run: every field of Data, Model and Recipe is compared, or says why not."""

from __future__ import annotations

import math
import os
from typing import Any

from fgmae_bench.config.cards import Card
from fgmae_bench.config.contract import parse_bands
from fgmae_bench.config.names import CLASS_HEADS, FITTED_HEADS
from fgmae_bench.config.recipes import PENALTIES, FinetuneRecipe
from fgmae_bench.config.run import PARTS, Run, defaults_of
from fgmae_bench.config.schedules import rate_of

# Fields that are not compared as they stand, and why a record with another value may be of the run.
ELSEWHERE = {
    "dataset": "a record is of a dataset by the facts of its card and by its content, wherever the card is",
    "nb_classes": "the label scheme says how many; another number is refused before a run",
    "batch_size": "compared as its product with accumulation and processes, and by what a batch norm sees",
    "accum_iter": "compared as its product with batch and processes",
    "blr": "the rate that follows from it is compared as lr",
}
# Fields that card, weights or hardware decide where nobody states them: a record says in `departs` which of them
# somebody stated otherwise.
DECIDED = ("pool", "input_size", "normalizer", "mean", "std", "amp")


def same_run(run: Run, record: dict[str, Any], card: Card, processes: int, files: tuple[str, ...] = ()) -> bool:
    """Whether a record holds what `run` means on `card` and so many processes: as it is composed, before it is run.

    `files` are names of files that hold the same weights as those that the run names.
    """
    config = record["config"]
    held = {name: as_json(value) for part in PARTS[:-1] for name, value in config[part].items()}
    recipe, departs = run.recipe, {*config.get("departs", ())}
    if "contract_mismatch" in _codes(record) and not (run.model.normalizer or run.model.mean):
        return False  # of a version that did not keep what departs
    if not _same_weights(run, record, files) or not _same_texts(run, record) or not _same_batch(run, record, processes):
        return False
    wanted = _wanted(run, record, card)
    defaults = defaults_of(type(run.data)) | defaults_of(type(run.model)) | defaults_of(type(recipe))
    for name, value in wanted.items():
        if name in DECIDED and value in (None, []):
            if name in departs:
                return False
        elif not same_value(held.get(name, as_json(defaults[name])), value):
            return False
    return True


def _wanted(run: Run, record: dict[str, Any], card: Card) -> dict[str, Any]:
    """Field -> value that the record of a run holds; without fields that mean nothing for it."""
    recipe = vars(run.recipe)
    flat = {name: as_json(value) for part in (run.data, run.model, run.recipe) for name, value in vars(part).items()}
    bands = parse_bands(run.data.band_order) if run.data.band_order else card.signal.bands
    flat |= {"split": run.data.split or card.usual_split(run.recipe.recipe), "band_order": ",".join(bands)}
    if card.task == "segmentation" and "train_labels" in flat:
        source, scheme = flat["train_labels"] or card.label_source, flat["train_scheme"] or card.label_scheme
        flat |= {"train_labels": source, "train_scheme": scheme}
        flat |= {"eval_labels": flat["eval_labels"] or source, "eval_scheme": flat["eval_scheme"] or scheme}
    if recipe.get("probe", "sgd") == "sgd":
        flat["lr"] = rate_of(run.recipe, effective_batch(record))
    if "eval_every" in recipe and recipe["eval_every"] is None:
        flat["eval_every"] = max(1, recipe["max_steps"] // 10) if recipe["max_steps"] else 1
    if "clip_grad" in recipe:
        flat["clip_grad"] = recipe["clip_grad"] or None
    if isinstance(run.recipe, FinetuneRecipe):
        counts = CLASS_HEADS[recipe["head"]].batch_statistics and record["environment"]["world_size"] > 1
        flat["sync_bn"] = recipe["sync_bn"] and counts
    if "features" in recipe:
        flat["features"] = _features(run, record)
    if flat["pool"] is not None and record["config"]["model"].get("pool") is None:
        flat["pool"] = None  # a module that pools on its own
    aside = {*ELSEWHERE, "weights", *without_meaning(run, record)}
    return {name: value for name, value in flat.items() if name not in aside}


def without_meaning(run: Run, record: dict[str, Any]) -> set[str]:
    """Fields that others set aside, so that the record holds one value whatever is stated of them."""
    recipe = vars(run.recipe)
    if recipe.get("head") in FITTED_HEADS:  # nothing of it is trained
        return {*recipe} - {"recipe", "head", "freeze_backbone", "seed"}
    names = {"epochs"} if recipe.get("max_steps") is not None else set()
    if recipe.get("warmup_steps") is not None:
        names.add("warmup_epochs")
    if recipe.get("optimizer", "sgd") != "sgd":
        names.add("momentum")
    if recipe.get("freeze_backbone"):
        names |= {"layer_decay", "drop_path"}
    if "probe" in recipe:
        names |= {"knn_k"} if recipe["probe"] != "knn" else set()
        names |= {"penalties"} if recipe["probe"] not in PENALTIES else set()
    # what a run set aside for what it found: idle drop path, random views of images whose features are computed once
    names |= {"drop_path"} & _codes(record)
    if record["config"]["recipe"].get("features") == "cached":
        names |= {"augment"} | ({"crop_scale"} if recipe.get("views", 1) == 1 else set())
    return names


def _features(run: Run, record: dict[str, Any]) -> str | None:
    """Whether the features of a run are streamed or cached, on the device that the record is of."""
    recipe = vars(run.recipe)
    if "probe" in recipe:
        native = record["model"].get("contract", {}).get("geometry") == "native"
        if native or recipe["probe"] != "sgd" or recipe["views"] > 1:
            return "cached"
    elif not recipe["freeze_backbone"]:
        return "stream"
    gpu = str(record["environment"].get("device", "cpu")).startswith("cuda")
    return recipe["features"] or ("stream" if gpu or recipe["recipe"] == "published" else "cached")


def _same_weights(run: Run, record: dict[str, Any], files: tuple[str, ...]) -> bool:
    """Weights of one name, or of a file that holds them. They do not tell apart models that load none."""
    source = record["model"]["weights"]["source"]
    return source in ("none", *files) or record["config"]["model"].get("weights") == run.model.weights


def _same_texts(run: Run, record: dict[str, Any]) -> bool:
    """Texts of classes from the file that the run names, where it names one."""
    wanted, held = vars(run.execution).get("class_text"), record["config"].get("execution", {}).get("class_text")
    return wanted is None or (held is not None and os.path.expanduser(held) == os.path.expanduser(wanted))


def _same_batch(run: Run, record: dict[str, Any], processes: int) -> bool:
    """Whether samples a step are as many, and where they are normalised over a batch, those of that too."""
    recipe = vars(run.recipe)
    if recipe.get("probe", "sgd") != "sgd" or recipe.get("head") in FITTED_HEADS:
        return True
    if recipe["batch_size"] * recipe["accum_iter"] * processes != effective_batch(record):
        return False
    seen = record["config"].get("facts", {}).get("batch_norm_samples")
    if seen is None or not isinstance(run.recipe, FinetuneRecipe):
        return True
    return bool(seen == recipe["batch_size"] * (processes if recipe["sync_bn"] else 1))


def effective_batch(record: dict[str, Any]) -> int:
    """Samples a step: batch, accumulation and processes together."""
    recipe = record["config"]["recipe"]
    return int(recipe.get("batch_size", 1) * recipe.get("accum_iter", 1) * record["environment"]["world_size"])


def _codes(record: dict[str, Any]) -> set[str]:
    return {found["code"] if isinstance(found, dict) else found for found in record["notes"]}


def as_json(value: Any) -> Any:
    """A tuple as the list that a record holds."""
    return list(value) if isinstance(value, tuple) else value


def same_value(measured: Any, planned: Any) -> bool:
    """Equal, but for the last bits of a number: a rate from a base rate, divided by its factor again, may differ."""
    if isinstance(measured, list) and isinstance(planned, list):
        return len(measured) == len(planned) and all(map(same_value, measured, planned))
    if isinstance(measured, float) and isinstance(planned, int | float):
        return math.isclose(measured, planned, rel_tol=1e-12)
    return bool(measured == planned)
