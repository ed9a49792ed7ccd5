"""What two records of the same run have in common: everything but the moment, the machine and the clock."""

from __future__ import annotations

import copy
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
