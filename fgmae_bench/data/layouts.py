"""On-disk layouts by the name that a card gives; a new layout is a reader and its line here."""

from __future__ import annotations

from pathlib import Path

from fgmae_bench.config.cards import Card
from fgmae_bench.data.bigearthnet.raw import bigearthnet_v1, bigearthnet_v2
from fgmae_bench.data.dfc.layout import rois
from fgmae_bench.data.folders import class_folders
from fgmae_bench.data.index import Index, require_data
from fgmae_bench.data.paired import paired_folders
from fgmae_bench.data.table import table
from fgmae_bench.errors import BenchError, closest

LAYOUTS = {
    "class_folders": class_folders,
    "bigearthnet_v1": bigearthnet_v1,
    "rois": rois,
    "paired_folders": paired_folders,
    "bigearthnet_v2": bigearthnet_v2,
    "table": table,
}


def build_index(card: Card, root: Path) -> Index:
    """Index of the data of `card` at `root`; raises BenchError where it is not there or not in the card's layout."""
    if card.layout not in LAYOUTS:
        raise BenchError(f"{card.path}: unknown layout '{card.layout}'", closest(card.layout, LAYOUTS))
    require_data(card, root)
    return LAYOUTS[card.layout](card, root)
