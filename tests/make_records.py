"""Valid sealed records for tests: made from the real dataclasses, sealed by the real hash, with numbers of the test's
choice.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from fgmae_bench.config.cards import card_names, facts_sha256, load_card
from fgmae_bench.config.recipes import ProbeRecipe
from fgmae_bench.config.run import Data, Execution, Model, Run
from fgmae_bench.config.run_ids import run_hash, run_id, to_plain
from fgmae_bench.records import Record, seal, store

RECIPE = ProbeRecipe(
    recipe="published", features="stream", epochs=50, batch_size=16, lr=0.1, weight_decay=0.001, amp="off"
)
PARAMS = {"vit_small_patch16": (21_590_000, 384), "vit_base_patch16": (85_650_000, 768)}


def sha(text: str) -> str:
    """A stable stand-in for the SHA-256 of something that does not exist in the test."""
    return hashlib.sha256(text.encode()).hexdigest()


def card_facts(dataset: str) -> str:
    """The hash that a run on the suite's card of that name leaves; of another name any."""
    return facts_sha256(load_card(dataset)) if dataset in card_names() else sha("card")


def make_record(
    *,
    dataset: str = "eurosat",
    protocol: str = "linear_probe",
    model: str = "vit_small_patch16",
    split: str = "reference",
    split_seed: int = 42,
    train_frac: float = 1.0,
    world_size: int = 2,
    synthetic: bool = False,
    card_version: int = 1,
    test: dict[str, float | None] | None = None,
    legacy: dict[str, float] | None = None,
    notes: tuple[tuple[str, str], ...] = (),
    history_epochs: int = 3,
    status: str = "done",
    schema: int = 2,
    content: str = "pixels",
    card_sha256: str | None = None,
    **recipe_values: Any,
) -> Record:
    """A record of a linear probe on the reference split of EuroSAT-SAR, two processes, as in the shipped experiment's
    first row; `recipe_values` are fields of its recipe.
    """
    recipe = dataclasses.replace(RECIPE, **recipe_values)
    epochs = recipe.epochs
    run = Run(
        data=Data(dataset=dataset, split=split, split_seed=split_seed, train_frac=train_frac, band_order="VV,VH"),
        model=Model(model=model, pool="cls", input_size=224, normalizer="fgmae"),
        recipe=recipe,
        execution=Execution(),
    )
    facts = {"card_version": card_version, "synthetic": synthetic, "weights_sha256": sha("weights")}
    scores = {"loss": 0.6, "oa": 0.8, "aa": 0.79, "kappa": 0.77, "f1_macro": 0.78, "epoch": epochs} | (test or {})
    total, dim = PARAMS.get(model, (1_000_000, 64))
    body: Record = {
        "schema": schema,
        "run_id": run_id(run, facts, world_size),
        "created": "2025-01-01T00:00:00Z",
        "protocol": protocol,
        "recipe": recipe.recipe,
        "status": status,
        "dataset": {
            "name": dataset,
            "card_version": card_version,
            "split": split,
            "split_seed": split_seed,
            "eval_split": "test",
            "n_train": 21600,
            "n_val": 0,
            "n_test": 5400,
            "sample_ids_sha256": {
                "train": sha(f"train {split_seed} {train_frac} {synthetic}"),
                "val": None,
                "test": sha(f"{split_seed}"),
            },
            **(
                {}
                if schema == 1
                else {
                    "card_sha256": card_facts(dataset) if card_sha256 is None else card_sha256,
                    "content_sha256": dict.fromkeys(("train", "val", "test"), sha(content)),
                }
            ),
            "label_scheme": {"train": "eurosat10", "eval": "eurosat10"},
            "band_order": ["VV", "VH"],
            "units": "dB",
            "calibration": "unstated",
            "synthetic": synthetic,
        },
        "model": {
            "name": model,
            "weights": {"source": "fgmae", "sha256": sha("weights"), "used": 150, "dropped": 2, "missing": 0},
            "params_total": total,
            "params_trainable": 10 * dim + 10,
            "feature_dim": dim,
            "contract": {"normalizer": "fgmae"},
        },
        "config": {**to_plain(run), "facts": facts},
        "metrics": {
            "final": scores,
            "best": None,
            "test": scores,
            "per_class": {},
            "classes_scored": [],
            "legacy": legacy,
            "intervals": None,
        },
        "predictions": None,
        "history": [entry(epoch, scores) for epoch in range(1, history_epochs + 1)],
        "environment": {
            "python": "3.11",
            "torch": "2.6",
            "timm": "1.0",
            "numpy": "2.0",
            "platform": "Linux",
            "device": "cpu",
            "device_name": "CPU",
            "world_size": world_size,
            "threads": 1,
            "git_commit": None,
            "git_dirty": None,
            "command": "test",
        },
        "timing": {
            "total_seconds": 12.25,
            "train_seconds": 10.0,
            "eval_seconds": 2.0,
            "data_wait_fraction": 0.1,
            "images_per_second": 1234.5,
            "peak_anonymous_memory_bytes": None,
            "peak_device_memory_bytes": None,
        },
        "notes": [{"code": code, "text": text} for code, text in notes],
    }
    assert run_hash(run, facts, world_size)[:10] in body["run_id"]
    return seal(body)


def entry(epoch: int, scores: dict[str, float | None]) -> dict[str, Any]:
    """One epoch of a history that approaches the final scores."""
    val = {name: value and value * (1 - 0.3 / epoch) for name, value in scores.items() if name not in ("loss", "epoch")}
    val["loss"] = 0.6 + 1.5 / epoch
    return {
        "epoch": epoch,
        "lr": 0.1 / epoch,
        "train_loss": 0.5 + 1.5 / epoch,
        "val": val,
        "seconds": 1.0,
        "images_per_second": 100.0,
    }


def resealed(record: Record, *path_and_value: Any) -> Record:
    """A copy with one value changed at a key path, sealed again: the last argument is the value."""
    *path, last, value = path_and_value
    body = copy.deepcopy(record)
    place = body
    for key in path:
        place = place[key]
    place[last] = value
    return seal(body)


def store_all(records: list[Record], results_dir: Path) -> list[Path]:
    """Store records; returns their paths."""
    return [store(record, results_dir) for record in records]
