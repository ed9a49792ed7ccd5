"""Reading the images of each dataset as a run does, beside a plain rasterio loop over the same files, in one run.

  python experiments/speed/layouts.py [--rounds 5] [--size 128]
A small synthetic world of each dataset is written in its layout. Both sides read every image (of floods both dates) in
one thread, files in the page cache: ours from the index, with units, fill and validity; the loop opens the same files
with rasterio and reads all bands. Processor time, the best of some rounds. Measured at 128 pixels on
two cores: plain float32 files .09 to .27 of the loop, a folder a sample in linear power .60, deflated files with NaN
1.27, float64 1.46 and 1.51, bytes on a nominal scale 1.68.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import rasterio

from fgmae_bench.config.cards import Card, load_card
from fgmae_bench.data.index import Index
from fgmae_bench.data.layouts import build_index

# name -> (module of fgmae_bench.worlds, writer, its keywords, whether images may be of another size)
WORLDS = {
    "copernicus_eurosat": ("copernicus", "write_copernicus_eurosat", {"per_class": 8}, False),
    "copernicus_bigearthnet": ("copernicus", "write_copernicus_bigearthnet", {"patches": 64}, False),
    "copernicus_dfc2020": ("copernicus", "write_copernicus_dfc2020", {"tiles": 48}, True),
    "sen12ms_scenes": ("scenes", "write_scenes", {"tiles": 60}, True),
    "sen1floods11": ("floods", "write_sen1floods11", {"chips": 48}, True),
    "kuro_siwo": ("floods", "write_kuro_siwo", {"patches": 48}, True),
    "biomassters": ("survey", "write_biomassters", {"chips": 48}, True),
    "spacenet6": ("survey", "write_spacenet6", {"tiles": 48}, True),
    "fusar_map": ("survey", "write_fusar_map", {"tiles": 48}, True),
}


def files_of(index: Index, row: int) -> list[Path]:
    """Every file that an image of a row is made of: bands in files of their own, both dates, valid pixels."""
    first = index.path(row)
    if index.before is None:
        return [first]
    patterns = ("MS1_IV*", "SL1_IV*", "MK0_MNA_*", "MK0_MNA_*")
    return [path for pattern in patterns for path in sorted(first.parent.glob(pattern))]


def ours(card: Card, index: Index) -> None:
    """Read every image as a run does."""
    for row in range(len(index.files)):
        index.read(row, card)
        if index.before is not None:
            index.read_before(row, card)


def plain(files: list[Path]) -> None:
    """Read every file with rasterio."""
    for path in files:
        with rasterio.open(path) as source:
            source.read()


def seconds(work: Callable[[], None], rounds: int) -> float:
    """Processor time of the best round."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def main() -> None:
    """Print a line for each dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="each is read so often, the best counts")
    parser.add_argument(
        "--size", type=int, default=128, help="pixels a side, where a world may be smaller than in truth"
    )
    given = parser.parse_args()
    print(f"{'dataset':<24}{'layout':<16}{'images':>7}{'files':>7}{'ours, ms':>10}{'rasterio, ms':>14}{'ratio':>7}")
    for name in WORLDS:
        print(line(name, given.size, given.rounds))


def line(name: str, size: int, rounds: int) -> str:
    """What one dataset takes, as a line of the table."""
    module, writer, how, sized = WORLDS[name]
    with tempfile.TemporaryDirectory() as place:
        root, card = Path(place) / name, load_card(name)
        made = how | ({"size": size} if sized else {})
        getattr(importlib.import_module(f"fgmae_bench.worlds.{module}"), writer)(root, **made)
        index = build_index(card, root)
        files = [path for row in range(len(index.files)) for path in files_of(index, row)]
        own, loop = seconds(lambda: ours(card, index), rounds), seconds(lambda: plain(files), rounds)
        images = len(index.files) * (1 + (index.before is not None))
    each = f"{own / images * 1e3:>10.3f}{loop / images * 1e3:>14.3f}{own / loop:>7.2f}"
    return f"{name:<24}{card.layout:<16}{images:>7}{len(files):>7}{each}"


if __name__ == "__main__":
    main()
