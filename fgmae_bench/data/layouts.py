"""On-disk layouts by the name that a card gives; a new layout is a reader and its line here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from fgmae_bench.config.cards import Card
from fgmae_bench.config.plugins import entry_points, loaded
from fgmae_bench.data.bigearthnet.raw import bigearthnet_v1, bigearthnet_v2
from fgmae_bench.data.dfc.layout import rois
from fgmae_bench.data.dfc.scenes import rois_scenes
from fgmae_bench.data.folders import class_folders
from fgmae_bench.data.index import Index, require_data
from fgmae_bench.data.paired import paired_folders
from fgmae_bench.data.sample_folders import sample_folders
from fgmae_bench.data.table import table
from fgmae_bench.data.zarr_layout import zarr_samples
from fgmae_bench.errors import BenchError, closest

Layout = Callable[[Card, Path], Index]
log = logging.getLogger("fgmae_bench")
LAYOUTS: dict[str, Layout] = {
    "class_folders": class_folders,
    "bigearthnet_v1": bigearthnet_v1,
    "rois": rois,
    "paired_folders": paired_folders,
    "sample_folders": sample_folders,
    "rois_scenes": rois_scenes,
    "bigearthnet_v2": bigearthnet_v2,
    "table": table,
    "zarr": zarr_samples,
}


GROUP = "fgmae_bench.datasets"  # entry points of other packages: a layout's name to a function (card, root) -> Index


def build_index(card: Card, root: Path) -> Index:
    """Index of the data of `card` at `root`; raises BenchError where it is not there or not in the card's layout."""
    reader = _shipped(card) or _installed(card)
    require_data(card, root)
    index = reader(card, root)
    if not isinstance(index, Index):
        raise BenchError(f"the reader of layout '{card.layout}' returned {type(index).__name__}", "return an Index")
    return index


def _shipped(card: Card) -> Layout | None:
    """The suite's own reader of the layout; raises BenchError where a package offers one of that name too."""
    if card.layout in LAYOUTS and any(point.name == card.layout for point in entry_points(group=GROUP)):
        raise BenchError(f"the layout {card.layout} is defined twice", "rename the entry point")
    return LAYOUTS.get(card.layout)


def _installed(card: Card) -> Layout:
    """The reader that an installed package offers under the layout's name. Raises BenchError where there is none."""
    offered = {point.name: point for point in entry_points(group=GROUP)}
    if card.layout not in offered:
        raise BenchError(f"{card.path}: unknown layout '{card.layout}'", closest(card.layout, [*LAYOUTS, *offered]))
    point = offered[card.layout]
    log.info("layout %s: importing %s, which runs its code", card.layout, point.value)
    reader: Layout = loaded("layout", card.layout, point.load)
    return reader
