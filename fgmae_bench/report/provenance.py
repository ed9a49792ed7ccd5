"""Where the records of a pulled folder come from: one small file a run, which `board pull` writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fgmae_bench.system.files import read_small_json

FOLDER = "provenance"
FIELDS = ("submitted_by", "submitted_commit", "submitted_at", "store", "sha256", "confirmed_by")


def read_provenance(folder: Path) -> dict[str, dict[str, Any]]:
    """Run id -> who submitted it, in which commit, when, from which store; empty for a folder of one's own results."""
    found = {}
    place = folder / FOLDER
    for name in sorted(os.listdir(place)) if place.is_dir() else ():
        held = read_small_json(place / name) if name.endswith(".json") else None
        if isinstance(held, dict):
            found[name[:-5]] = {key: held[key] for key in FIELDS if isinstance(held.get(key), str)}
    return found
