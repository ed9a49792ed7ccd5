"""What every synthetic world leaves on disk: GeoTIFFs that say what they are, and a marker that says what determines
them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from fgmae_bench import __version__
from fgmae_bench.errors import os_error
from fgmae_bench.worlds.scene import Array

log = logging.getLogger(__name__)
MARKER = "SYNTHETIC.json"
TAG = "FGMAE_BENCH_SYNTHETIC"


def encode(backscatter_db: Array, *, crs: CRS, transform: Affine, world: str) -> bytes:
    """An image (C, H, W) as the bytes of an uncompressed GeoTIFF, tagged with the name of its world.

    It is made in memory: on a full disk GDAL leaves a short file and says nothing, while Python's own write raises
    OSError.
    """
    count, height, width = backscatter_db.shape
    profile = {
        "driver": "GTiff",
        "dtype": "float32",
        "count": count,
        "height": height,
        "width": width,
        "interleave": "pixel",
    }
    with MemoryFile() as memory:
        with memory.open(**profile, crs=crs, transform=transform) as target:
            target.update_tags(**{TAG: world})  # before the pixels, so that GDAL does not write the directory twice
            target.write(backscatter_db)
        return bytes(memory.getbuffer())


def fingerprinted(facts: dict[str, Any]) -> dict[str, Any]:
    """The marker of a world: `facts` (what determines its pixels), who made it, and the SHA-256 of the facts."""
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
    return {**facts, "made_by": f"fgmae_bench {__version__}", "fingerprint": fingerprint}


def already_there(root: Path, marker: dict[str, Any]) -> bool:
    """Whether `root` already holds the very world that `marker` describes; says so."""
    present = read_marker(root)
    if present is None or present["fingerprint"] != marker["fingerprint"]:
        return False
    log.info("%s already holds this world", root)
    return True


def read_marker(root: Path) -> dict[str, Any] | None:
    """The marker of the world in `root`, or None where there is no world."""
    try:
        marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    except OSError as error:
        raise os_error(error, root) from error
    return marker if isinstance(marker, dict) and "fingerprint" in marker else None
