"""What every synthetic world leaves on disk: tagged GeoTIFFs, and a marker that says what determines them."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from fgmae_bench import __version__
from fgmae_bench.data.synthetic import SYNTHETIC_TAG, read_marker
from fgmae_bench.errors import BenchError
from fgmae_bench.worlds.scene import Array

log = logging.getLogger(__name__)


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
            target.update_tags(
                **{SYNTHETIC_TAG: world}
            )  # before the pixels, so that GDAL does not write the directory twice
            target.write(backscatter_db)
        return bytes(memory.getbuffer())


def encode_any(
    pixels: NDArray[Any],
    world: str,
    *,
    crs: CRS | None = None,
    transform: Affine | None = None,
    nodata: float | None = None,
    descriptions: tuple[str, ...] = (),
    compress: str | None = None,
) -> bytes:
    """Pixels (C, H, W) of any type as the bytes of a tagged TIFF, with or without a place."""
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "dtype": pixels.dtype.name, "count": count, "height": height, "width": width}
    profile |= {"nodata": nodata} if nodata is not None else {}
    profile |= {"compress": compress} if compress else {}
    profile |= {"crs": crs, "transform": transform} if crs and transform else {}
    with MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(**profile) as target:
            target.update_tags(**{SYNTHETIC_TAG: world})
            for number, text in enumerate(descriptions, 1):
                target.set_band_description(number, text)
            target.write(pixels)
        return bytes(memory.getbuffer())


def require_amount(name: str, amount: int, least: int, size: int | None = None, smallest: int = 32) -> None:
    """Raise BenchError on fewer samples than `least`, or images smaller than `smallest` pixels."""
    if amount < least:
        raise BenchError(f"{name} is {amount}", f"ask for {least} {name} or more")
    if size is not None and size < smallest:
        raise BenchError(f"size is {size}", f"ask for {smallest} pixels or more")


def fingerprinted(
    world: str, version: int, seed: int, counts: dict[str, int], size: int | None = None
) -> dict[str, Any]:
    """The marker of a world: what determines its pixels, who made it, and the SHA-256 of the former.

    `counts` are of its samples, in whole or by kind; `size` the pixels a side, where they can be asked for.
    """
    facts: dict[str, Any] = {"world": world, "version": version, "seed": seed}
    facts |= ({} if size is None else {"size": size}) | {"counts": counts}
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
    return {**facts, "made_by": f"fgmae_bench {__version__}", "fingerprint": fingerprint}


def already_there(root: Path, marker: dict[str, Any]) -> bool:
    """Whether `root` already holds the very world that `marker` describes; says so."""
    if fingerprint_in(root) != marker["fingerprint"]:
        return False
    log.info("%s already holds this world", root)
    return True


def fingerprint_in(root: Path) -> str | None:
    """Fingerprint of the world in `root`, None where there is no world or its marker is broken."""
    try:
        marker = read_marker(root)
    except BenchError:
        return None  # the folder is not empty, which whoever writes a world there will say
    return marker["fingerprint"] if marker else None
