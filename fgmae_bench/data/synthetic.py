"""What marks synthetic data: the marker at the root of a world and the tag in each of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fgmae_bench.errors import BenchError

MARKER = "SYNTHETIC.json"  # what a synthetic world leaves at its root
SYNTHETIC_TAG = "FGMAE_BENCH_SYNTHETIC"  # a tag of each of its TIFF files


def read_marker(root: Path) -> dict[str, Any] | None:
    """The marker of a synthetic world, or None for a folder without one. Raises BenchError on a broken marker."""
    path = root / MARKER
    if not path.exists():
        return None
    try:
        marker = json.loads(path.read_text(encoding="utf-8") if path.is_file() else "")
        if isinstance(marker["fingerprint"], str) and isinstance(marker["counts"], dict):
            return dict(marker)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BenchError(
            f"{path}: broken marker of a synthetic world ({error})", "write the world again with prepare synth"
        ) from error
    raise BenchError(f"{path}: broken marker of a synthetic world", "write the world again with prepare synth")
