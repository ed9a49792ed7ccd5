"""The layout `rois` (SEN12MS, DFC2020) as the index that runs work with."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fgmae_bench.config.cards import Card
from fgmae_bench.data.dfc.maps import map_files
from fgmae_bench.data.files import SIDECARS, TIFF
from fgmae_bench.data.index import Index, Reader, read_file
from fgmae_bench.data.synthetic import MARKER, read_marker
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import is_kind
from fgmae_bench.views.chip import Chip

TILE = re.compile(r"(?P<collection>ROIs\d{4}_[a-z]+)_(?P<kind>[a-z]+\d?)_(?P<scene>\d+)_p(?P<patch>\d+)", re.ASCII)
SCENE = re.compile(r"(?P<kind>[a-z]+\d?)_(?P<scene>\d+|[a-z]+)", re.ASCII)
COLLECTION = re.compile(r"ROIs\d{4}_[a-z]+", re.ASCII)


@dataclass(frozen=True, kw_only=True, order=True)
class TileName:
    """`ROIs1158_spring_s1_63_p475`: collection, kind `s1` (or `s2`, `lc`, `dfc`), scene 63, patch 475."""

    collection: str
    kind: str
    scene: int
    patch: int

    def of(self, kind: str) -> str:
        """The same tile's name as another kind."""
        return f"{self.collection}_{kind}_{self.scene}_p{self.patch}"


def parse_tile(stem: str) -> TileName | None:
    """The parts of a file name without ending, None where it is none of a tile."""
    match = TILE.fullmatch(stem)
    if match is None:
        return None
    return TileName(
        collection=match["collection"], kind=match["kind"], scene=int(match["scene"]), patch=int(match["patch"])
    )


def parse_scene(folder: str) -> tuple[str, str] | None:
    """(kind, scene) of a folder such as `s1_63` or `dfc_validation`."""
    match = SCENE.fullmatch(folder)
    return (match["kind"], match["scene"]) if match else None


KINDS = ("s1", "s2", "lc", "dfc")
DEEPEST = 6  # folders below the root that are looked into
LARGEST_WORLD = 4096  # pixels a side; one image of the stated size is unpacked however small its file is


@dataclass(frozen=True, kw_only=True, order=True)
class TileKey:
    """What an image and its label maps share: the folders' collection and scene, and the name without its kind."""

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

    A tile is in `<collection>/<kind>_<scene>/`, or in `<kind>/` as Copernicus-Bench has it, however deep; `__MACOSX`
    and hidden folders are stepped over. Raises BenchError on a TIFF in such a folder whose name is not a tile's or
    another kind's, and where two files have one key.
    """
    found: dict[str, dict[TileKey, Tile]] = {}
    for folder, collection, kind, scene in _scene_folders(root, root, 0):
        if kind == "s2":
            continue
        held = found.setdefault(kind, {})
        for entry in os.scandir(folder):
            if (
                entry.name.startswith(".")
                or entry.name.lower().endswith(SIDECARS)
                or not entry.name.lower().endswith(TIFF)
            ):
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
            if not is_kind(entry):
                raise BenchError(f"{path} is not a file", "complete the data, or remove it")
            status = entry.stat()
            held[key] = Tile(file=str(path.relative_to(root)), name=name, stat=(status.st_size, status.st_mtime_ns))
    return found


def stamp(*stats: tuple[int, int] | None) -> int:
    """Hash of sizes and modification times of the files of one sample."""
    return int.from_bytes(hashlib.blake2b(repr(stats).encode(), digest_size=8).digest())


def _scene_folders(root: Path, place: Path, depth: int) -> Iterator[tuple[Path, str, str, str]]:
    """(folder, collection, kind, scene) of folders such as `ROIs1158_spring/s1_63`, sorted; `s1` alone has no more."""
    inside = sorted(
        entry.name
        for entry in os.scandir(place)
        if not entry.name.startswith((".", "__MACOSX")) and is_kind(entry, folder=True)
    )
    for name in inside:
        scene = parse_scene(name)
        if COLLECTION.fullmatch(place.name) and scene:
            yield place / name, place.name, *scene
        elif name in KINDS:
            yield place / name, "", name, ""
        elif depth < DEEPEST:
            yield from _scene_folders(root, place / name, depth + 1)


log = logging.getLogger("fgmae_bench")


@dataclass(frozen=True)
class SizedReader:
    """Reads images of another size than the card's, as a synthetic world may have made them."""

    size: tuple[int, int]
    inner: Reader = read_file

    def __call__(self, path: Path, card: Card) -> Chip:
        """One image, held against the card otherwise."""
        return self.inner(path, dataclasses.replace(card, signal=dataclasses.replace(card.signal, size=self.size)))


def rois(card: Card, root: Path) -> Index:
    """Index of `<collection>/s1_<scene>/<collection>_s1_<scene>_p<N>.tif` with label maps in `lc_<scene>` and
    `dfc_<scene>`.

    Ids are `<collection>/s1_<scene>/<name>` whatever is wrapped around, groups `<collection>/s1_<scene>`, aliases the
    name that the published lists use. Raises BenchError naming a tile without the label that its neighbours in the
    folder have.
    """
    found = scan_tiles(root)
    kind = card.signal.folder
    images = found.get(kind, {})
    if not images:
        example = f"ROIs1158_spring/{kind}_1/ROIs1158_spring_{kind}_1_p1.tif"
        raise BenchError(
            f"{root}: no Sentinel-1 tile is there", f"expected such as {example}; get the data: {card.origin.get}"
        )
    broken = {key for key, tile in images.items() if os.path.splitext(os.path.basename(tile.file))[0] in card.broken}
    if broken:
        log.warning("%d tiles that are known to be damaged are left out: %s", len(broken), ", ".join(card.broken))
    keys = sorted(images.keys() - broken)
    kinds = sorted({stated.folder for stated in card.label_sources.values()})
    maps = {name: found.get(name, {}) for name in kinds}
    _refuse_gaps(root, keys, images, maps)
    _tell_orphans(images, maps)
    listed = next((name for name in ("dfc", "s2") if name in kinds), "s2")
    return _index(
        card,
        root,
        [images[key] for key in keys],
        names=tuple(f"{key.collection}/{kind}_{key.scene}/{images[key].name.of(kind)}" for key in keys),
        groups=tuple(f"{key.collection}/{kind}_{key.scene}" for key in keys),
        aliases=tuple(images[key].name.of(listed) for key in keys),
        maps={name: [maps[name].get(key) for key in keys] for name in kinds},
        left_out=len(broken),
    )


def _index(
    card: Card,
    root: Path,
    images: list[Tile],
    *,
    names: tuple[str, ...],
    groups: tuple[str, ...],
    aliases: tuple[str, ...],
    maps: dict[str, list[Tile | None]],
    left_out: int,
) -> Index:
    size, synthetic = data_size(card, root)
    files = {kind: tuple(tile.file if tile else "" for tile in tiles) for kind, tiles in maps.items()}
    stamps = [
        stamp(image.stat, *(tile and tile.stat for tile in of_row))
        for image, *of_row in zip(images, *maps.values(), strict=True)
    ]
    return Index(
        root=root,
        files=tuple(image.file for image in images),
        labels=np.zeros((len(images), 0), np.uint8),
        stamps=np.array(stamps, np.uint64),
        synthetic=synthetic or card.synthetic,
        left_out=left_out,
        groups=groups,
        aliases=aliases,
        names=names,
        reader=SizedReader(size),
        size=size,
        maps=map_files(card, root, names, files, size),
    )


def _refuse_gaps(
    root: Path, keys: Iterable[TileKey], images: dict[TileKey, Tile], maps: dict[str, dict[TileKey, Tile]]
) -> None:
    """Raise BenchError naming an image without any label, or without one that others of its folder have."""
    folders: dict[tuple[str, str], list[TileKey]] = {}
    for key in keys:
        folders.setdefault((key.collection, key.scene), []).append(key)
    for members in folders.values():
        for kind, held in maps.items():
            lacking = [key for key in members if key not in held]
            if 0 < len(lacking) < len(members):
                name = images[lacking[0]]
                what = (
                    f"{root / name.file} has no label {name.name.of(kind)}.tif ({len(lacking)} of {len(members)} "
                    "tiles of its folder)"
                )
                raise BenchError(what, "complete the data, or remove the tile")
        if not any(members[0] in held for held in maps.values()):
            what = (
                f"{root / images[members[0]].file} has no label in "
                f"{' or '.join(f'{kind}_{members[0].scene}' for kind in maps)}"
            )
            raise BenchError(what, "put the folder of the labels next to that of the tiles, or remove the tiles")


def _tell_orphans(images: dict[TileKey, Tile], maps: dict[str, dict[TileKey, Tile]]) -> None:
    for kind, held in maps.items():
        orphans = len(held.keys() - images.keys())
        if orphans:
            log.warning("%d label files of kind %s have no Sentinel-1 tile; they are not used", orphans, kind)


def data_size(card: Card, root: Path) -> tuple[tuple[int, int], str | None]:
    """((height, width) of the images, fingerprint of the synthetic world), whose marker may state a size."""
    marker = read_marker(root)
    if marker is None:
        return (card.signal.size[0], card.signal.size[1]), None
    side = marker.get("size", card.signal.size[0])
    if type(side) is not int or not 2 <= side <= LARGEST_WORLD:
        raise BenchError(f"{root / MARKER}: size is {side!r}", "write the world again with prepare synth")
    return (side, side), marker["fingerprint"]
