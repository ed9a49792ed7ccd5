"""A synthetic BigEarthNet v2 (reBEN): the land of the first world in v2's layout, divided by blocks.

Labels, split and flags stand in two tables next to the scenes. Blocks of 4 x 4 patches, a patch apart, go to one part
each, so that no test patch touches a training patch.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from fgmae_bench.data.bigearthnet.labels import multi_hot, nomenclature, parse_s2
from fgmae_bench.data.bigearthnet.metadata import CLEAR, COVERED
from fgmae_bench.data.bigearthnet.scan import S1_FOLDER
from fgmae_bench.data.synthetic import MARKER
from fgmae_bench.system.files import appearing, replacing, write_json
from fgmae_bench.system.randomness import generator
from fgmae_bench.worlds.bigearthnet import CLUSTER, Patch, chip, describe_world, patch_of, write_bands
from fgmae_bench.worlds.bigearthnet_tiles import TILES
from fgmae_bench.worlds.folder import already_there

WORLD, VERSION = "bigearthnet_v2", 1  # the version changes whenever a seed gives other files
MAX_PATCHES = 20_000
BLOCK_PARTS = (
    "train",
    "validation",
    "test",
    "train",
)  # of the blocks of a tile in turn; the next tile begins one further
SNOW, CLOUD = 0.08, 0.04  # shares of the patches
COUNTRIES = {
    "33UUP": "Austria",
    "35VPK": "Finland",
    "29SND": "Portugal",
    "29UPU": "Ireland",
    "32TMT": "Switzerland",
    "31UFS": "Belgium",
    "34UEG": "Lithuania",
    "29TNF": "Portugal",
    "34TDN": "Kosovo",
    "34VEM": "Finland",
    "33UXP": "Austria",
    "29UMV": "Ireland",
}
SCHEMA = pa.schema(
    [
        ("patch_id", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("split", pa.string()),
        ("country", pa.string()),
        ("s1_name", pa.string()),
        ("s2v1_name", pa.string()),
        ("contains_seasonal_snow", pa.bool_()),
        ("contains_cloud_or_shadow", pa.bool_()),
    ]
)


def patches_of(seed: int) -> Iterator[Patch]:
    """The patches in order: those of the first world with one of the 19 classes, inside a block."""
    for number in count():
        patch = patch_of(seed, number)
        if patch.in_19 and max(patch.col % CLUSTER, patch.row % CLUSTER) < CLUSTER - 1:
            yield patch


def s2_name(patch: Patch) -> str:
    """Name of the Sentinel-2 patch as the second version writes it: true times, tile, padded column and row."""
    seen = parse_s2(patch.s2_name)
    time = seen.acquired.replace("-", "").replace(":", "")
    return f"{seen.scene[:10]}_{time}_N9999_R022_T{patch.tile.name}_{patch.col:02d}_{patch.row:02d}"


def describe(seed: int, patch: Patch) -> dict[str, Any]:
    """The row of a patch in the published tables; a block belongs to one part, snow and clouds fall anywhere."""
    turn, tile = divmod(patch.cluster, len(TILES))
    weather = generator(seed, WORLD, "weather", patch.s1_name).random()
    hot = multi_hot(patch.labels, patch.s1_name)
    return {
        "patch_id": s2_name(patch),
        "labels": sorted(nomenclature().classes_19[place] for place in np.flatnonzero(hot)),
        "split": BLOCK_PARTS[(turn + tile) % len(BLOCK_PARTS)],
        "country": COUNTRIES[patch.tile.name],
        "s1_name": patch.s1_name,
        "s2v1_name": patch.s2_name,
        "contains_seasonal_snow": weather < SNOW,
        "contains_cloud_or_shadow": SNOW <= weather < SNOW + CLOUD,
    }


def write_bigearthnet_v2(root: Path, *, patches: int = 600, seed: int = 0, progress: bool = False) -> dict[str, Any]:
    """Write `<root>/BigEarthNet-S1/<scene>/<S1>/<S1>_{VV,VH}.tif` and the two tables of the archive; returns the
    world's marker.

    The marker `SYNTHETIC.json` is in the root and next to the scenes. The folder appears whole, by rename; one that
    already holds this very world is left as it is. Raises BenchError on a number of patches outside 1 ... MAX_PATCHES,
    a folder that holds anything else, and a full disk.
    """
    root = Path(root).resolve()
    marker = describe_world(WORLD, VERSION, seed, patches, MAX_PATCHES)
    if already_there(root, marker):
        return marker
    rows = []
    with appearing(root) as partial:
        for patch in tqdm(
            islice(patches_of(seed), patches), total=patches, unit="patch", disable=None if progress else True
        ):
            write_bands(partial / S1_FOLDER / patch.tile.scene[:32] / patch.s1_name, patch, chip(seed, patch), WORLD)
            rows.append(describe(seed, patch))
        for name, covered in ((CLEAR, False), (COVERED, True)):
            chosen = [
                row for row in rows if (row["contains_seasonal_snow"] or row["contains_cloud_or_shadow"]) == covered
            ]
            with replacing(partial / name) as temporary:
                pq.write_table(pa.Table.from_pylist(chosen, SCHEMA), temporary)
        for folder in (partial, partial / S1_FOLDER):
            write_json(folder / MARKER, marker)
    return marker
