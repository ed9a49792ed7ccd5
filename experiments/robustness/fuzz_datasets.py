"""Damage what the readers of published datasets meet besides images: outlines, tables of scene labels, lists as JSON, a
table a part, and folders of a sample each.

  python experiments/robustness/fuzz.py datasets [--readers outlines scenes json parts folders]
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fuzzing import Reader, Work, mutated

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.dfc.scenes import read_shares
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.list_splits import read_lines
from fgmae_bench.data.outlines import drawn
from fgmae_bench.worlds.copernicus import write_copernicus_bigearthnet
from fgmae_bench.worlds.floods import write_kuro_siwo
from fgmae_bench.worlds.scenes import write_scenes
from fgmae_bench.worlds.survey import write_spacenet6

Rng = np.random.Generator
SIDE = 32
SEEDS = Path(tempfile.mkdtemp(prefix="fuzz_datasets_"))
# Pieces of JSON in place of others.
PIECES = (
    *(
        '{"type": "Point"}',
        "[]",
        "[[[]]]",
        "null",
        "1e999",
        "-1e999",
        "NaN",
        '"x"',
        "[" * 5000,
        '{"a":' * 5000,
        "9" * 5000,
    ),
    *(
        '{"type": "Polygon", "coordinates": [[[0,0],[1,0],[1,1],[0,0]]]}',
        '{"type": "MultiPolygon", "coordinates": [[]]}',
    ),
)
NAMES = ("\x1b[2J", "a" * 255, "MS1_IVV_1_1_20170504.tif", "SL1_IVV_.tif", "MK0_MLU_x.tif", ".hidden", "20170504")


def silent(read: Callable[[], object]) -> Work:
    """`read` without what it returns, which would be taken for an exit code."""

    def work() -> None:
        read()

    return work


def changed_json(rng: Rng, text: str) -> bytes:
    """JSON with a value replaced, then perhaps with other bytes."""
    if rng.random() < 0.7:
        places = [at for at, letter in enumerate(text) if letter in ":,["]
        at = places[int(rng.integers(len(places)))] + 1
        end = min([text.find(letter, at) for letter in ",]}" if text.find(letter, at) > 0] or [len(text)])
        text = text[:at] + PIECES[int(rng.integers(len(PIECES)))] + text[end:]
    content = text.encode()
    return mutated(rng, content, 2) if rng.random() < 0.4 else content


def outlines(rng: Rng, folder: Path) -> Work:
    """A GeoJSON of buildings, drawn on its tile."""
    place = SEEDS / "spacenet6" / "train" / "AOI_11_Rotterdam"
    tile = sorted((place / "SAR-Intensity").iterdir())[int(rng.integers(6))]
    name = tile.stem.replace("SAR-Intensity", "Buildings") + ".geojson"
    path = folder / name
    path.write_bytes(changed_json(rng, (place / "geojson_buildings" / name).read_text()))
    return silent(lambda: drawn(path, tile, (SIDE, SIDE)))


def scenes(rng: Rng, folder: Path) -> Work:
    """A table of scene labels."""
    path = folder / "scene_labels.csv"
    path.write_bytes(mutated(rng, (SEEDS / "scenes" / "scene_labels.csv").read_bytes(), 3))
    return silent(lambda: read_shares(path))


def json_lists(rng: Rng, folder: Path) -> Work:
    """A list whose lines are the keys of a JSON object."""
    path = folder / "grid_dict_train.json"
    path.write_bytes(changed_json(rng, json.dumps({f"{n:032x}": {"path": f"1/01/{n:032x}"} for n in range(20)})))
    return silent(lambda: read_lines(path))


def parts(rng: Rng, folder: Path) -> Work:
    """A table for each part of a split."""
    root = folder / "data"
    shutil.copytree(SEEDS / "bigearthnet", root, copy_function=lambda source, target: Path(target).symlink_to(source))
    path = root / "bigearthnet_s1s2" / f"multilabel-{('train', 'val', 'test')[int(rng.integers(3))]}.csv"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(mutated(rng, content, 3))
    return silent(lambda: build_index(load_card("copernicus_bigearthnet"), root))


def folders(rng: Rng, folder: Path) -> Work:
    """Folders of samples with files renamed, left out, doubled, cut, or made folders."""
    root = folder / "data"
    shutil.copytree(SEEDS / "kuro_siwo", root)
    files = sorted(path for path in root.rglob("*_*.tif"))
    path = files[int(rng.integers(len(files)))]
    kind = int(rng.integers(5))
    if kind == 0:
        path.rename(path.with_name(NAMES[int(rng.integers(len(NAMES)))]))
    elif kind == 1:
        path.unlink()
    elif kind == 2:
        shutil.copy(path, path.with_name(path.name.replace("2017", "2016")))
    elif kind == 3:
        path.write_bytes(mutated(rng, path.read_bytes(), 2))
    else:
        path.unlink()
        path.mkdir()
    card = load_card("kuro_siwo")

    def read() -> None:
        index = build_index(card, root)
        for row in range(len(index.ids)):
            index.read(row, card)
            index.read_before(row, card)
            index.codes(row, "flood")

    return read


READERS: dict[str, Reader] = {
    "outlines": outlines,
    "scenes": scenes,
    "json": json_lists,
    "parts": parts,
    "folders": folders,
}


def prepare() -> None:
    """Write the worlds whose files are damaged."""
    write_spacenet6(SEEDS / "spacenet6", tiles=12, size=SIDE)
    write_scenes(SEEDS / "scenes", tiles=60, size=SIDE)
    write_copernicus_bigearthnet(SEEDS / "bigearthnet", patches=10)
    write_kuro_siwo(SEEDS / "kuro_siwo", patches=16, size=SIDE)
