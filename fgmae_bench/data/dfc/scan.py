"""Which files of a folder are images and label maps, whatever folders an archive has wrapped around them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fgmae_bench.data.dfc.names import COLLECTION, TileName, parse_scene, parse_tile
from fgmae_bench.data.index import SIDECARS, TIFF
from fgmae_bench.errors import BenchError

KINDS = ("s1", "s2", "lc", "dfc")
DEEPEST = 6  # folders below the root that are looked into


@dataclass(frozen=True, kw_only=True, order=True)
class TileKey:
    """What an image and its label maps have in common: the folders' collection and scene, and the name without its kind."""

    collection: str
    scene: str
    tile: tuple[str, int, int]  # collection, scene and patch of the name


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One file: where it is (relative to the root), its parsed name, and its size and modification time."""

    file: str
    name: TileName
    stat: tuple[int, int]


def scan_tiles(root: Path) -> dict[str, dict[TileKey, Tile]]:
    """Tiles by kind (`s1`, `lc`, `dfc`; `s2` is not listed) and key.

    A tile lies in `<collection>/<kind>_<scene>/`, or in `<kind>/` as Copernicus-Bench has it, however deep; `__MACOSX` and
    hidden folders are stepped over. Raises BenchError on a TIFF in such a folder whose name is no tile's or another kind's, and
    where two files have one key.
    """
    found: dict[str, dict[TileKey, Tile]] = {}
    for folder, collection, kind, scene in _scene_folders(root, root, 0):
        if kind == "s2":
            continue
        held = found.setdefault(kind, {})
        for entry in os.scandir(folder):
            if entry.name.startswith(".") or entry.name.lower().endswith(SIDECARS) or not entry.name.lower().endswith(TIFF):
                continue
            name = parse_tile(os.path.splitext(entry.name)[0])
            path = Path(entry.path)
            if name is None or name.kind != kind:
                example = f"{collection or 'ROIs0000_test'}_{kind}_0_p1.tif"
                raise BenchError(f"{path} is not named as a tile of {folder.name}", f"expected such as {example}")
            tile = (name.collection, name.scene, name.patch)
            key = TileKey(collection=collection or name.collection, scene=scene or str(name.scene), tile=tile)
            if key in held:
                raise BenchError(f"{path} and {root / held[key].file} are the same tile", "keep one of the two")
            status = entry.stat()
            held[key] = Tile(file=str(path.relative_to(root)), name=name, stat=(status.st_size, status.st_mtime_ns))
    return found


def stamp(*stats: tuple[int, int] | None) -> int:
    """Hash of sizes and modification times of the files of one sample."""
    return int.from_bytes(hashlib.blake2b(repr(stats).encode(), digest_size=8).digest())


def _scene_folders(root: Path, place: Path, depth: int) -> Iterator[tuple[Path, str, str, str]]:
    """(folder, collection, kind, scene) of folders such as `ROIs1158_spring/s1_63`, in sorted order; `s1` alone says no more."""
    inside = sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and not entry.name.startswith((".", "__MACOSX")))
    for name in inside:
        scene = parse_scene(name)
        if COLLECTION.fullmatch(place.name) and scene:
            yield place / name, place.name, *scene
        elif name in KINDS:
            yield place / name, "", name, ""
        elif depth < DEEPEST:
            yield from _scene_folders(root, place / name, depth + 1)
