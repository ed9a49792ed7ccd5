"""Measured - published: where the two may be compared, and the note where they may not."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

from fgmae_bench.config.compose import merged, named_recipe
from fgmae_bench.config.recipes import PROTOCOLS, RECIPES
from fgmae_bench.config.same_run import effective_batch
from fgmae_bench.records import Record
from fgmae_bench.report.published import SPLITS, Published, card_titled, impossible_pair, title_of
from fgmae_bench.report.row import Note, Obstacle

NO_LEGACY = Obstacle(
    code="no_legacy",
    short="no legacy metrics",
    text="No difference shown: the published number is a per-batch average and the record has no legacy metrics; "
    "run with --legacy_metrics.",
)
LEGACY = Note(
    code="legacy_compared",
    text="The difference is taken from the record's legacy metrics (averaged per batch, as the published number is), "
    "not from the values shown.",
)
# Tables that FGMAE's released code made: what the named recipe `published` stands for, on fresh views in each epoch.
REFERENCE = ("eurosat_linear", "eurosat_finetune", "bigearthnet_linear", "bigearthnet_finetune")
# Copernicus-Bench's linear probes, with the rates of its scripts: SGD without momentum, the whole image resized and
# flipped both ways (zhu-xlab/Copernicus-FM @ 5d8535f, src/foundation_models/lightning_task.py and
# src/datasets/cobench_eurosats1_wrapper.py in Copernicus-Bench).
COPERNICUS = {"eurosat_s1_frozen": 0.1, "bigearthnet_s1_frozen": 1.0}
COPERNICUS_VIEWS = (
    "flips (horizontal, published: both ways)",
    "geometry (random crops, then a centre crop; published: the whole image resized)",
)
# Its decoders (src/foundation_models/vit_wrapper.py and lightning_task.py, src/datasets/cobench_floods1_wrapper.py):
# values of a recipe that stand for them, and what ours are not whatever the recipe says.
COPERNICUS_DECODERS = ("dfc2020_s1_frozen", "flood_s1_frozen")
COPERNICUS_DECODER: dict[str, dict[str, Any]] = {
    "decoder (published: 512 channels, dropout .1, an auxiliary head)": {
        "fpn_dim": 512,
        "head_dropout": 0.1,
        "auxiliary": True,
    },
    "augmentation (published: whole images, rotations padded with 0, flips both ways)": {
        "augment": True,
        "crop_scale": 1.0,
        "vflip": True,
        "rotate": 90.0,
        "rotate_fill": "zero",
    },
}
COPERNICUS_ELSE = (
    "optimiser (published: beta1 of AdamW from .85 to .95, biases and norms decayed too)",
    "last map (published: without the encoder's final norm for ViTs)",
)
# What the CSV calls a pre-training -> names of the registry. A name that is not here stands for itself.
PRETRAINING = {
    "FGMAE": ("fgmae", "fgmae-full"),
    "SoftCon": ("softcon",),
    "CROMA": ("croma",),
    "DOFA": ("dofa",),
    "Copernicus-FM": ("copernicus-fm",),
}
SIZES = {"ViT-S": "small", "ViT-B": "base", "ViT-L": "large", "ViT-H": "huge"}
# Fields of a recipe that are compared by what the source states of them, or that change no expectation of a number.
BY_SOURCE = ("recipe", "lr", "blr", "epochs", "batch_size", "accum_iter", "features")
NEUTRAL = ("seed", "amp", "eval_every", "knn_k", "penalties")


def differences(
    records: tuple[Record, ...], published: Published, weights_files: tuple[str, ...] = ()
) -> tuple[dict[str, float], tuple[Note, ...]]:
    """Measured (mean over seeds) - published for each metric that both sides have, and notes on how or why not.

    Dataset, split, protocol, recipe, model, weights and metric definition must all match, as far as the source says
    them; `weights_files` are names of files that hold the weights which the plan names. Per-batch averages are compared
    with `metrics.legacy` only.
    """
    obstacle = _other_data(records, published) or _other_run(records[0], published, weights_files)
    if obstacle:
        return {}, (obstacle,)
    legacy = "per-batch" in published.definition
    measured = [record["metrics"]["legacy" if legacy else "test"] for record in records]
    if any(values is None for values in measured):
        return {}, (NO_LEGACY,)
    if legacy and any(
        values.get("batch_size", published.batch_per_process) != published.batch_per_process for values in measured
    ):
        text = f"No difference shown: the published per-batch averages are of batches of {published.batch_per_process}."
        return {}, (Obstacle(code="other_batch", short="other legacy batch", text=text),)
    found = {}
    for metric, value in published.metrics:
        seeds = [values.get(metric) for values in measured]
        if all(isinstance(seed, int | float) for seed in seeds):
            found[metric] = statistics.fmean(seeds) - value
    return found, (LEGACY,) if legacy and found else ()


def statement(published: Published) -> tuple[Note, ...]:
    """Notes on a published row: how it was averaged, its remark, and whether its pair of values is possible."""
    words = "; ".join(part for part in (published.definition, published.remark) if part)
    notes = [Note(code="published_as", text=f"Published by {published.source}: {words}.")] if words else []
    bound = impossible_pair(published)
    if bound is not None:
        text = (
            f"Published OA {published.value('oa')} and AA {published.value('aa')} cannot both be values "
            "of the whole set: "
            f"with the class shares of {published.dataset}, OA and AA differ by at most {bound:.4f}."
        )
        notes.append(Note(code="impossible_pair", text=text))
    return tuple(notes)


def _other_data(records: tuple[Record, ...], published: Published) -> Obstacle | None:
    """Why nothing may be compared with this table at all, None where it may. All records agree on what is looked at."""
    record: dict[str, Any] = records[0]
    dataset = record["dataset"]

    def no(code: str, reason: str) -> Obstacle:
        short = {"synthetic": "synthetic data"}.get(code, code.replace("_", " "))
        return Obstacle(code=code, short=short, text=f"No difference shown: {reason}.")

    if any(each["dataset"]["synthetic"] for each in records):
        return no("synthetic", "the data is synthetic")
    if title_of(dataset["name"]) != published.dataset:
        return no("other_dataset", f"the published number is of {published.dataset}")
    if record["protocol"] != published.protocol:
        return no("other_protocol", f"the published protocol is {published.protocol}")
    split, seed = SPLITS.get(published.table, (None, None))
    if split is None:
        return no("other_split", "the split of the published number is not known")
    if dataset["split"] != split or seed not in (None, dataset["split_seed"]):
        return no(
            "other_split",
            f"the published number is of the split '{split}'" + (f", seed {seed}" if seed is not None else ""),
        )
    data = record["config"]["data"]
    if data.get("train_frac", 1.0) != 1.0 or data.get("shots") is not None:
        return no("other_split", "the published number is of the whole training split")
    if not any(known in published.definition for known in ("per-batch", "whole")):
        return no("other_definition", "how the published number was averaged is not known")
    return None


def _other_run(record: Record, published: Published, weights_files: tuple[str, ...]) -> Obstacle | None:
    """What tells the run from the published one, in one sentence; None where nothing that the source says does."""
    found = [
        *_other_recipe(record, published),
        *_other_backbone(record, published, weights_files),
        *(COPERNICUS_VIEWS if published.table in COPERNICUS else ()),
        *(_other_decoder(record) if published.table in COPERNICUS_DECODERS else ()),
    ]
    if not found:
        return None
    short = "other " + ", ".join(dict.fromkeys(each.split(" (")[0] for each in found))
    return Obstacle(code="other_run", short=short, text=f"No difference shown: other {', '.join(found)}.")


def _other_decoder(record: Record) -> list[str]:
    """What of a decoder and its training is not Copernicus-Bench's; a record without a field means its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(RECIPES["segment"])}
    held = defaults | record["config"]["recipe"]
    found = [words for words, wanted in COPERNICUS_DECODER.items() if any(held[k] != v for k, v in wanted.items())]
    return [*found, *COPERNICUS_ELSE]


def _other_recipe(record: Record, published: Published) -> list[str]:
    """Settings of the training that are not those of the published run."""
    recipe = record["config"]["recipe"]
    lr = COPERNICUS.get(published.table, published.lr)
    batch = published.batch_per_process and published.world_size and published.batch_per_process * published.world_size
    features = "stream" if published.table in (*REFERENCE, *COPERNICUS) and recipe.get("features") else None
    wanted = {"recipe": "published", "epochs": published.epochs, published.lr_kind: lr, "features": features}
    held = {**recipe, "recipe": record["recipe"], "effective batch": effective_batch(record)}
    wanted |= {"effective batch": batch or None}
    if published.table in REFERENCE:
        wanted |= _named(record, published)
    if published.table in COPERNICUS:
        wanted |= {"momentum": 0.0}
    return [
        f"{name.replace('_', ' ')} ({_shown(held.get(name))}, published: {_shown(value)})"
        for name, value in wanted.items()
        if value is not None and not _equal(held.get(name), value)
    ]


def _named(record: Record, published: Published) -> dict[str, Any]:
    """What the recipe `published` of the card says of everything that the source itself does not state."""
    module, card = PROTOCOLS[record["protocol"]][0], card_titled(published.dataset)
    if card is None:
        return {}
    fields = {field.name: field.default for field in dataclasses.fields(RECIPES[module])}
    named = merged(*named_recipe(module, "published", card, record["model"]["name"]))
    left_out = {*BY_SOURCE, *NEUTRAL}
    return {name: named.get(name, default) for name, default in fields.items() if name not in left_out}


def _other_backbone(record: Record, published: Published, weights_files: tuple[str, ...]) -> list[str]:
    """Model, weights and input that are not those of the published run."""
    found, model, source = [], record["model"]["name"], record["model"]["weights"]["source"]
    size = SIZES.get(published.model)
    if published.model and (size not in model.split("_") if size else model != published.model):
        found.append(f"model ({model}, published: {published.model})")
    known = PRETRAINING.get(published.pretraining, (published.pretraining,))
    if published.pretraining and source not in (*known, *weights_files):
        found.append(f"weights ({source}, published: {published.pretraining})")
    if any(note["code"] == "contract_mismatch" for note in record["notes"]):
        found.append("input (not the one that the weights were trained on)")
    return found


def _equal(held: Any, wanted: Any) -> bool:
    if isinstance(held, int | float) and isinstance(wanted, int | float):
        return math.isclose(held, wanted, rel_tol=1e-9)
    return bool(held == wanted)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
