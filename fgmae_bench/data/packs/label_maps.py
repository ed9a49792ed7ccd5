"""Label maps inside a pack: one tensor of codes for each label source, beside the bands of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.cards import Card
from fgmae_bench.data.index import Index
from fgmae_bench.data.packs.format import LABEL, Meta, decode_value
from fgmae_bench.data.packs.store import Stamp, get
from fgmae_bench.data.packs.table import Labels
from fgmae_bench.errors import BenchError
from fgmae_bench.label_cards import card_source
from fgmae_bench.label_schemes import Codes, Source


@dataclass(frozen=True, kw_only=True)
class PackMaps:
    """See `LabelMaps`. `ids` are the keys of the samples, `held` (N, S) says which of `known` each of them has labels of.

    Codes are whole numbers of 8 bits as the source's files hold them; in a uint8 pack they are 255 under invalid pixels.
    """

    root: Path
    stamp: Stamp
    ids: tuple[str, ...]
    known: Mapping[str, Source]
    held: NDArray[np.bool_]
    size: tuple[int, int]  # (height, width)

    @property
    def sources(self) -> tuple[str, ...]:
        """Label sources that any sample has."""
        return tuple(name for name, column in zip(self.known, self.held.T, strict=True) if column.any())

    def has(self, row: int, source: str) -> bool:
        """Whether a sample has labels of this source."""
        return source in self.known and bool(self.held[row, list(self.known).index(source)])

    def codes(self, row: int, source: str) -> Codes:
        """Labels (H, W) of a sample. Raises BenchError: no such source or labels, a damaged value."""
        if source not in self.known:
            raise BenchError(f"{self.root} holds no {source} labels", f"choose from {', '.join(self.known)}, or pack the data again")
        where = f"{self.root}/{self.ids[row]}"
        if not self.has(row, source):
            there = ", ".join(name for name in self.known if self.has(row, name)) or "no source"
            raise BenchError(f"{where} has no {source} labels", f"choose another label source or split (there: {there})")
        value = get(self.root, self.stamp, self.ids[row].encode())
        values = decode_value(value, where).get(LABEL + source) if value is not None else None
        if values is None or values.dtype != np.uint8 or values.shape != self.size:
            what = f"{where}: its {source} labels are not {self.size[0]}x{self.size[1]} codes of 8 bits"
            raise BenchError(what, "write the pack again, or restore it")
        return Codes(values=values, source=self.known[source])


def packed_maps(card: Card, root: Path, stamp: Stamp, meta: Meta, labels: Labels) -> PackMaps | None:
    """The label maps of a pack of a segmentation dataset, None for others. Raises BenchError where it should have some and has none."""
    if card.task != "segmentation":
        return None
    unknown = sorted(set(meta.label_sources) - set(card.label_sources))
    if not meta.label_sources or unknown:
        what = f"{root} holds labels of {', '.join(unknown)}, which {card.title} has not" if unknown else f"{root} holds no label maps"
        raise BenchError(what, "write the pack again from the files")
    if labels.held is None or labels.held.shape != (meta.count, len(meta.label_sources)):
        raise BenchError(f"{root}: __labels__ does not say which samples have labels", "write the pack again")
    height, width = meta.size or card.signal.size
    return PackMaps(
        root=root, stamp=stamp, ids=labels.ids, known={name: card_source(card, name) for name in meta.label_sources},
        held=labels.held, size=(height, width),
    )  # fmt: skip


def same_labels(packed: Index, source: Index) -> bool:
    """Whether both have label maps of the same sources for the same samples; their codes are compared with the pixels."""
    if packed.maps is None or source.maps is None:
        return packed.maps is source.maps
    if sorted(packed.maps.sources) != sorted(source.maps.sources):
        return False
    rows = range(len(source.files))
    return all(packed.maps.has(row, name) == source.maps.has(row, name) for name in source.maps.sources for row in rows)
