"""Label maps as files next to the images: one band of a TIFF, read as codes of its source."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card, LabelFile
from fgmae_bench.data.labels import Codes, Source
from fgmae_bench.data.outlines import OUTLINES, drawn
from fgmae_bench.data.raster import open_tiff, read_values
from fgmae_bench.data.schemes import card_source
from fgmae_bench.errors import BenchError

log = logging.getLogger("fgmae_bench")


@dataclass(frozen=True, kw_only=True)
class MapFiles:
    """`files` by kind of folder, row by row, relative to `root`, empty where a sample has none; `size` (height,
    width).
    """

    root: Path
    title: str
    names: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]
    stated: Mapping[str, LabelFile]
    known: Mapping[str, Source]
    size: tuple[int, int]
    images: tuple[str, ...] = ()  # the images, relative to the root, on whose grids outlines are drawn

    @property
    def sources(self) -> tuple[str, ...]:
        """Label sources that any sample has."""
        return tuple(name for name, stated in self.stated.items() if any(self.files[stated.folder]))

    def has(self, row: int, source: str) -> bool:
        """Whether a sample has a file with this source."""
        return source in self.stated and bool(self.files[self.stated[source].folder][row])

    def codes(self, row: int, source: str) -> Codes:
        """Labels (H, W) of a sample. Raises BenchError naming the file: absent, broken, other bands or size, values of
        no code.
        """
        path, stated = self._path(row, source)
        if path.suffix.lower() == OUTLINES:
            values = drawn(path, self.root / self.images[row], self.size)
        else:
            values = read_band(path, stated, self.size)
        return Codes.of(tolerated(values, self.known[source], stated, path), self.known[source], str(path))

    def _path(self, row: int, source: str) -> tuple[Path, LabelFile]:
        if source not in self.stated:
            raise BenchError(f"{self.title} has no label source '{source}'", f"choose from {', '.join(self.stated)}")
        stated = self.stated[source]
        file = self.files[stated.folder][row]
        if not file:
            what = f"{self.names[row]} has no {source} labels: its file in a folder '{stated.folder}' is not there"
            held = ", ".join(name for name in self.sources if self.has(row, name)) or "no source"
            raise BenchError(what, f"complete the data (there: {held}), or choose another label source or split")
        return self.root / file, stated

    def targets(self, row: int, source: str) -> NDArray[np.float32]:
        """Targets (H, W) of a regression, NaN where there is none. Raises BenchError as `codes`."""
        path, stated = self._path(row, source)
        return without_values(read_band(path, stated, self.size, kinds="fiu"), stated.ignore)


def without_values(values: NDArray[Any], ignored: Sequence[float]) -> NDArray[np.float32]:
    """Targets as float32 with NaN where a value is not finite or one of those that mean "no target"."""
    found = values.astype(np.float32)
    for value in ignored:
        found[values == np.array(value, values.dtype)] = np.nan
    found[~np.isfinite(found)] = np.nan
    return found


def map_files(
    card: Card,
    root: Path,
    names: tuple[str, ...],
    files: Mapping[str, tuple[str, ...]],
    size: tuple[int, int],
    images: tuple[str, ...] = (),
) -> MapFiles:
    """Label maps of a card's sources; `files` by kind of folder, `images` where some of them are outlines."""
    known = {} if card.task == "regression" else {name: card_source(card, name) for name in card.label_sources}
    return MapFiles(
        root=root,
        title=card.title,
        names=names,
        files=files,
        stated=card.label_sources,
        known=known,
        size=size,
        images=images,
    )


def read_band(path: Path, stated: LabelFile, size: tuple[int, int], kinds: str = "iu") -> NDArray[Any]:
    """One band (H, W) of a label file, in the type of the file. Raises BenchError naming the file."""
    with open_tiff(path) as source:
        if source.count != stated.bands:
            what = f"{path} has {source.count} bands, label files in '{stated.folder}' have {stated.bands}"
            raise BenchError(what, "replace the file: it may hold another kind of labels")
        if source.shape != size:
            raise BenchError(
                f"{path} is {source.shape[0]}x{source.shape[1]} pixels, its image {size[0]}x{size[1]}",
                "replace the file",
            )
        if stated.rgb:
            red, green, blue = read_values(source, path, [1, 2, 3], kinds="u", declared=True).astype(np.int64)
            return (red << 16) + (green << 8) + blue
        return read_values(source, path, stated.band, kinds=kinds, declared=True)


def tolerated(values: NDArray[Any], source: Source, stated: LabelFile, path: Path) -> NDArray[Any]:
    """Values (H, W) with the few that are none of the source's as "no label", where its card tolerates a share."""
    if not stated.strays or source.raw is None:
        return values
    known = np.isin(values, list(source.raw))
    share = 1 - float(known.mean())
    if share > stated.strays:
        return values  # refused with their histogram
    if share:
        log.info("%s: %.3g of the pixels have a value of no class and are ignored", path, share)
    none = next(value for value, code in source.raw.items() if code in source.unlabelled)
    return np.where(known, values, none)
