"""Runs that are repeated, killed or split: their flags, and what two records of the same run have in common."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

TIMES = ("seconds", "images_per_second")


def essence(record: dict[str, Any]) -> dict[str, Any]:
    """The record without creation time, timing, environment, paths and its own hash."""
    kept = copy.deepcopy(record)
    for name in ("created", "timing", "environment", "sha256"):
        kept.pop(name)
    kept["config"].pop("execution")
    kept["history"] = [{key: value for key, value in entry.items() if key not in TIMES} for entry in kept["history"]]
    return kept


def probe_flags(world: Path, place: Path, **more: Any) -> list[str]:
    """A probe of a tiny ViT on CPU that leaves everything in `place`; `more` flags are added or replace these."""
    flags = {"model": "vit_tiny_patch16_224", "batch_size": 16, "amp": "off", **more}
    return _arguments(world, place, flags)


def finetune_flags(world: Path, place: Path, **more: Any) -> list[str]:
    """Fine-tuning that uses every source of chance and saves after every step; `more` flags are added."""
    flags = {
        "model": "test_vit",
        "recipe": "corrected",
        "split": "random_60_20_20",
        "warmup_epochs": 1,
        "batch_size": 8,
        "accum_iter": 2,
        "mixup": 0.8,
        "head": "bn_linear",
        "amp": "off",
        "checkpoint_seconds": 0,
        **more,
    }
    return _arguments(world, place, flags)


def _arguments(world: Path, place: Path, flags: dict[str, Any]) -> list[str]:
    common = {"dataset": "eurosat", "data_path": world, "input_size": 32, "weights": "random", "device": "cpu"}
    folders = {"results_dir": place / "results", "output_dir": place / "run", "cache_dir": place / "cache"}
    return [part for name, value in (common | flags | folders).items() for part in (f"--{name}", str(value))]
