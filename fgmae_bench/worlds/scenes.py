"""A synthetic SEN12MS for scene labels: tiles of which one class is most, and the table of shares of their maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fgmae_bench.data.dfc.layout import TileName
from fgmae_bench.data.dfc.scenes import COLUMNS, TABLE
from fgmae_bench.data.schemes import DFC, IGBP, IGBP_TO_DFC
from fgmae_bench.data.synthetic import MARKER
from fgmae_bench.system.files import appearing, write_bytes, write_json, write_text
from fgmae_bench.system.randomness import generator
from fgmae_bench.worlds.covers import plain
from fgmae_bench.worlds.dfc import SIZE, WORLDS, encode
from fgmae_bench.worlds.dfc_land import LAND
from fgmae_bench.worlds.folder import already_there, fingerprinted, require_amount
from fgmae_bench.worlds.scene import MARGIN, Array, observe, smooth

VERSION = 1
SNOW = 8  # a DFC code that the land of the other worlds has not
FIRST_IGBP = {to: code for code, to in sorted(IGBP_TO_DFC.items(), reverse=True)}  # the lowest code of each class


def write_scenes(
    root: Path,
    *,
    tiles: int = 120,
    size: int = SIZE,
    seed: int = 0,
    world: str = "sen12ms_scenes",
    progress: bool = False,
) -> dict[str, Any]:
    """Write `<collection>/{s1,lc}_<scene>/<collection>_<kind>_<scene>_p<N>.tif` and `scene_labels.csv`; returns the
    marker, which counts the tiles of each class.
    """
    folders = WORLDS["sen12ms"].folders
    require_amount("tiles", tiles, len(folders) * len(DFC.codes), size)
    root, classes = Path(root).resolve(), list(DFC.codes)
    main = [classes[number // len(folders) % len(classes)] for number in range(tiles)]
    counts = {DFC.codes[code]: main.count(code) for code in classes}
    marker = fingerprinted(world, VERSION, seed, counts, size)
    if already_there(root, marker):
        return marker
    lines = [",".join(COLUMNS)]
    with appearing(root) as partial:
        for number, code in enumerate(tqdm(main, unit="tile", disable=None if progress else True)):
            folder = folders[number % len(folders)]
            image, igbp = tile(seed, world, number, code, size)
            name = TileName(collection=folder.collection, kind="s1", scene=folder.scene, patch=number)
            lc = np.stack([igbp, *(np.zeros_like(igbp) for _ in range(3))]).astype(np.uint16)
            for kind, values in (("s1", image.astype(np.float64)), ("lc", lc)):
                place = partial / folder.collection / f"{kind}_{folder.folder}"
                write_bytes(place / f"{name.of(kind)}.tif", encode(values, world))
            shares = np.bincount(igbp.ravel(), minlength=18)[1:] / igbp.size
            lines.append(",".join([name.of("s2"), *(f"{share:.8g}" for share in shares)]))
        write_text(partial / TABLE, "\n".join(lines) + "\n")
        write_json(partial / MARKER, marker)
    return marker


def tile(seed: int, world: str, number: int, code: int, size: int) -> tuple[Array, np.ndarray[Any, Any]]:
    """(image (2, H, W) dB, IGBP codes (H, W)) of a tile: most of it a DFC class, a corner of it the next one."""
    rng = generator(seed, world, "pixels", number)
    canvas = size + 2 * MARGIN
    relief = smooth(rng, 0.2 * canvas, canvas)
    inside = relief[MARGIN:-MARGIN, MARGIN:-MARGIN]
    other = code % len(DFC.codes) + 1
    codes = np.where(relief < np.quantile(inside, rng.uniform(0.65, 0.95)), code, other)
    ground = np.where(codes == code, _land(rng, code, canvas), _land(rng, other, canvas)).astype(np.float32)
    seen = codes[MARGIN:-MARGIN, MARGIN:-MARGIN]
    igbp = np.array([0, *(FIRST_IGBP[code] for code in sorted(DFC.codes))])[seen]
    assert set(np.unique(igbp)) <= set(IGBP.codes)
    return observe(rng, ground + np.float32(rng.normal(0, 0.5))), igbp


def _land(rng: np.random.Generator, code: int, canvas: int) -> Array:
    return plain(rng, "sand", canvas, texture_db=0.6) - np.float32(1.5) if code == SNOW else LAND[code](rng, canvas)
