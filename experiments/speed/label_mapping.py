"""Label maps to training ids: from the bank of labels, against the usual way of one file a sample, side by side.

  python experiments/speed/label_mapping.py [--tiles 256]
The usual way is that of published loaders: `rasterio.open` of each sample's label file, one band, a look-up table. Ours
takes the
rows of a shuffled batch from the memory-mapped bank and maps them by the scheme. Both read from the page cache, on one
core, in turns;
the masks are compared. Wanted: 10x; measured on two busy cores: 18x for DFC labels, 25x for MODIS ones, which lie in
files of four
bands. The way between, through our reader of files with its checks, is what filling the bank costs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
from measured import keep

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.dfc.maps import MapFiles
from fgmae_bench.data.index import Index
from fgmae_bench.data.labels import LabelMap
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.schemes import card_map
from fgmae_bench.features.label_bank import LabelBank, fill_label_bank
from fgmae_bench.worlds.dfc import write_dfc

BATCH, ROUNDS = 32, 7
PAIRS = (("dfc", "dfc10"), ("igbp", "dfc10"))


def usual(index: Index, rows: np.ndarray, label_map: LabelMap) -> Iterator[np.ndarray]:
    """Masks (B, H, W) read and mapped file by file."""
    maps = index.maps
    assert isinstance(maps, MapFiles)
    stated = maps.stated[label_map.source.name]
    for start in range(0, len(rows), BATCH):
        masks = []
        for row in rows[start : start + BATCH]:
            with rasterio.open(maps.root / maps.files[stated.folder][row]) as source:
                masks.append(label_map.table[source.read(stated.band)])
        yield np.stack(masks)


def checked(index: Index, rows: np.ndarray, label_map: LabelMap) -> Iterator[np.ndarray]:
    """The same through our reader of files."""
    for start in range(0, len(rows), BATCH):
        yield np.stack(
            [label_map(index.codes(int(row), label_map.source.name)).values for row in rows[start : start + BATCH]]
        )


def banked(bank: LabelBank, rows: np.ndarray, label_map: LabelMap) -> Iterator[np.ndarray]:
    """The same from the bank, as a run on frozen maps reads them."""
    for start in range(0, len(rows), BATCH):
        yield label_map(bank.codes(rows[start : start + BATCH])).values


def compare(index: Index, bank: LabelBank, label_map: LabelMap, rows: np.ndarray) -> float:
    """Print masks/s of each way, and ratios."""
    ways: dict[str, Callable[[], Iterator[np.ndarray]]] = {
        "usual": lambda: usual(index, rows, label_map),
        "checked": lambda: checked(index, rows, label_map),
        "bank": lambda: banked(bank, rows, label_map),
    }
    for masks in zip(*(way() for way in ways.values()), strict=True):
        assert all(np.array_equal(masks[0], other) for other in masks[1:]), "the masks differ"
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            for _masks in way():
                pass
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"{label_map.source.name} as {label_map.scheme.name}, {len(rows)} masks of "
        f"{'x'.join(map(str, bank.values.shape[1:]))}"
    )
    for name, wanted in (("usual", ""), ("checked", ""), ("bank", " (wanted: 10x)")):
        print(f"  {name:<8} {len(rows) / median[name]:>8.0f} masks/s, {median['usual'] / median[name]:.1f}x{wanted}")
    return median["usual"] / median["bank"]


def main() -> None:
    """Write a synthetic DFC2020 of full-size tiles, fill the banks, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiles", type=int, default=256)
    card = load_card("dfc2020")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_dfc(root / "world", tiles=parser.parse_args().tiles)
        index = build_index(card, root / "world")
        rows = np.random.default_rng(0).permutation(len(index.files))
        ratios = []
        for source, scheme in PAIRS:
            start = time.perf_counter()
            bank = fill_label_bank(card, index, source, root / "cache")
            print(f"bank of {source} filled in {time.perf_counter() - start:.1f} s")
            assert bank is not None
            ratios.append(compare(index, bank, card_map(card, source, scheme), rows))
    keep(label_mapping=min(ratios))


if __name__ == "__main__":
    main()
