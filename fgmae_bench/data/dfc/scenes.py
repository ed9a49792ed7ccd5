"""Scene labels of SEN12MS: classes of whole tiles, from the share of each IGBP class in a tile's land-cover map.

The publishers' shares come as a pickle, which is not read here. `prepare labels` makes the same table from the tiles'
own maps; one that was converted from theirs is read alike.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from shlex import quote

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card, LabelFile
from fgmae_bench.data.dfc.layout import SizedReader, data_size, parse_tile, scan_tiles, stamp
from fgmae_bench.data.dfc.maps import read_band
from fgmae_bench.data.files import holding
from fgmae_bench.data.index import Index
from fgmae_bench.data.schemes import DFC, IGBP, IGBP_TO_DFC
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import read_bounded

TABLE = "scene_labels.csv"
NAME = "name"
COLUMNS = (NAME, *(f"igbp_{code}" for code in sorted(IGBP.codes)))
MOST_BYTES = 256 << 20
LEAST_SHARE = 0.1  # of a tile that one of several labels has (SEN12MS toolbox, classification/dataset.py)
TODO = "write it anew with prepare labels, or correct it"
Shares = NDArray[np.float64]  # (N, 17) of IGBP classes 1 to 17


def rois_scenes(card: Card, root: Path) -> Index:
    """Index of `<collection>/s1_<scene>/<tile>.tif` with classes from the table of shares, see `classes_of`.

    Ids, groups and aliases are those of the layout `rois`. Raises BenchError naming a tile without a row.
    """
    images = scan_tiles(root).get(card.signal.folder, {})
    if not images:
        what = f"{root}: no Sentinel-1 tile is there"
        raise BenchError(what, f"get the data: {card.origin.get}")
    kind = card.signal.folder
    keys = sorted(
        key for key, tile in images.items() if os.path.splitext(os.path.basename(tile.file))[0] not in card.broken
    )
    found = read_shares(_table(card, root))
    aliases = tuple(images[key].name.of("s2") for key in keys)
    lacking = [alias for alias in aliases if alias not in found]
    if lacking:
        what = f"{_table(card, root)} has no line of {lacking[0]} ({len(lacking)} of {len(keys)} tiles)"
        raise BenchError(what, "write the table anew with prepare labels, or complete it")
    shares = np.array([found[alias] for alias in aliases])
    size, synthetic = data_size(card, root)
    return Index(
        root=root,
        files=tuple(images[key].file for key in keys),
        labels=classes_of(shares, multi=card.task == "multi_label"),
        stamps=np.array([stamp(images[key].stat) for key in keys], np.uint64),
        synthetic=synthetic or card.synthetic,
        left_out=len(images) - len(keys),
        groups=tuple(f"{key.collection}/{kind}_{key.scene}" for key in keys),
        aliases=aliases,
        names=tuple(f"{key.collection}/{kind}_{key.scene}/{images[key].name.of(kind)}" for key in keys),
        reader=SizedReader(size),
        size=size,
    )


def classes_of(shares: Shares, *, multi: bool) -> NDArray[np.int64] | NDArray[np.uint8]:
    """Classes of the simplified legend from shares (N, 17): the largest, (N,), or all of a tenth and more, (N, 10).

    Shares are added up by the contest's table first; of equal ones the lowest code counts.
    """
    simple = np.zeros((len(shares), len(DFC.codes)))
    for code, to in IGBP_TO_DFC.items():
        simple[:, to - 1] += shares[:, code - 1]
    if not multi:
        return simple.argmax(axis=1).astype(np.int64)
    return (simple >= LEAST_SHARE - 1e-9).astype(np.uint8)


def tile_shares(path: Path, size: tuple[int, int]) -> Shares:
    """Shares (17,) of IGBP classes in the first of four bands of a land-cover file; 0 of a map without any."""
    codes = read_band(path, LabelFile(folder="lc", bands=4, band=1), size)
    counts = np.bincount(np.clip(codes.ravel(), 0, 255).astype(np.int64), minlength=256)[1 : len(IGBP.codes) + 1]
    return counts / max(int(counts.sum()), 1)


def make_table(card: Card, root: Path, step: Callable[[int], object] = lambda count: None) -> str:
    """The table of shares of every tile at `root`, from its land-cover map, as text. Raises BenchError on a tile
    without one.
    """
    found = scan_tiles(root)
    maps, size = found.get("lc", {}), data_size(card, root)[0]
    lines = [",".join(COLUMNS)]
    for key, tile in sorted(found.get(card.signal.folder, {}).items()):
        if os.path.splitext(os.path.basename(tile.file))[0] in card.broken:
            continue
        if key not in maps:
            what = f"{root / tile.file} has no land-cover map {tile.name.of('lc')}.tif"
            raise BenchError(what, "complete the data, or convert the publishers' table")
        shares = tile_shares(root / maps[key].file, size)
        lines.append(",".join([tile.name.of("s2"), *(f"{share:.8g}" for share in shares)]))
        step(1)
    if len(lines) == 1:
        raise BenchError(f"{root}: no Sentinel-1 tile is there", f"get the data: {card.origin.get}")
    return "\n".join(lines) + "\n"


def _table(card: Card, root: Path) -> Path:
    """The table of a dataset, in its folder, one around it, or below."""
    name = card.arrangement.table or TABLE
    place = next((folder for folder in (root, root.parent) if (folder / name).is_file()), None) or holding(
        root, name, 1
    )
    if place is None:
        todo = f"make it with: python -m fgmae_bench.prepare labels {card.name} --data_path {quote(str(root))}"
        raise BenchError(f"{root} holds no {name}, the share of each class in each tile", todo)
    return place / name


def read_shares(path: Path) -> dict[str, Shares]:
    """Shares (17,) by name of tile without its ending. Raises BenchError naming file and line."""
    try:
        text = read_bounded(path, MOST_BYTES).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise BenchError(f"{path} cannot be read as a table ({error})", TODO) from error
    if not rows or tuple(rows[0]) != COLUMNS:
        raise BenchError(f"{path} does not begin with the columns {COLUMNS[0]}, {COLUMNS[1]}, …, {COLUMNS[-1]}", TODO)
    found: dict[str, Shares] = {}
    for number, row in enumerate(rows[1:], 2):
        where = f"{path}, line {number}"
        if not row:
            continue
        name = row[0].removesuffix(".tif")
        try:
            shares = np.array([float(text) for text in row[1:]])
        except ValueError as error:
            raise BenchError(f"{where}: not all shares are numbers", TODO) from error
        if len(shares) != len(COLUMNS) - 1 or not (shares >= 0).all() or not shares.sum() <= 1.001:
            raise BenchError(f"{where}: {len(shares)} shares that add up to {shares.sum():.3g}", TODO)
        if parse_tile(name) is None or name in found:
            reason = "is named twice" if name in found else "is not a tile"
            raise BenchError(f"{where}: {name[:80]} {reason}", TODO)
        found[name] = shares
    return found
