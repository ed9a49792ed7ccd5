"""The patches that a split divides, from the patch table or the published names: places, labels, exclusions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fgmae_bench.data.bigearthnet.official import EXCLUSIONS, Named, grid_of_names
from fgmae_bench.data.multilabel_splits import Grid, grid_of
from fgmae_bench.errors import BenchError

# Reason -> the column of the patch table that says so.
FLAGS = dict(zip(EXCLUSIONS, ("snow", "cloud_shadow", "no_19_class"), strict=True))
UNLISTED = "in no metadata table"


@dataclass(frozen=True, kw_only=True)
class Universe:
    """Patches (N): names, cells, and where known multi-hot `labels` (N, 19) and `centres` (N, 2), longitude and
    latitude in degrees.

    `reason` (N,) says why a patch takes part in no split, empty where it does; `stated` (N,) the part that the
    publishers give it, where the table says so. `unlisted` counts patches of which no metadata is known.
    """

    names: tuple[Named, ...]
    grid: Grid
    reason: tuple[str, ...]
    labels: NDArray[np.uint8] | None = None
    centres: NDArray[np.float64] | None = None
    stated: tuple[str, ...] | None = None
    unlisted: int = 0

    @property
    def usable(self) -> NDArray[np.int64]:
        """Rows that take part."""
        return np.flatnonzero([not reason for reason in self.reason])

    def excluded(self) -> dict[str, int]:
        """How many patches take no part, by reason."""
        counts = Counter(filter(None, self.reason)) + Counter({UNLISTED: self.unlisted})
        return {reason: counts[reason] for reason in (*EXCLUSIONS, UNLISTED) if counts[reason]}

    def take(self, rows: NDArray[np.int64]) -> Universe:
        """The same with some of its patches."""
        grid = Grid(group=self.grid.group[rows], row=self.grid.row[rows], col=self.grid.col[rows])
        return Universe(
            names=tuple(self.names[row] for row in rows),
            grid=grid,
            reason=tuple(self.reason[row] for row in rows),
            labels=None if self.labels is None else self.labels[rows],
            centres=None if self.centres is None else self.centres[rows],
            stated=None if self.stated is None else tuple(self.stated[row] for row in rows),
        )


def from_lists(parts: dict[str, tuple[Named, ...]], exclusions: dict[str, set[str]]) -> Universe:
    """All patches that the published lists name: no labels, and no tile where the lists give S2 names only."""
    reasons = {name: reason for reason, names in exclusions.items() for name in sorted(names)}
    listed = [named for names in parts.values() for named in names]
    left_out = set(reasons) - {named.s2 for named in listed}
    names = (*listed, *(Named(s2=name, s1=None) for name in reasons if name in left_out))
    return Universe(
        names=names, grid=grid_of_names(names), reason=tuple(reasons.get(named.s2 or "", "") for named in names)
    )


def from_table(table: pa.Table, exclusions: dict[str, set[str]]) -> Universe:
    """The patches of a patch table; `exclusions`, S2 names by reason, add to what the table's own flags say.

    Raises BenchError where no row of the table has a place and labels.
    """
    broken = int(pc.sum(pc.is_valid(table["problem"])).as_py() or 0)
    table = table.filter(pc.is_null(table["problem"]))
    unlisted = int(pc.sum(pc.is_null(table["labels_19"])).as_py() or 0)
    table = table.filter(pc.is_valid(table["labels_19"]))
    if not len(table):
        raise BenchError(f"the index holds no whole patch ({broken} are broken)", "run prepare index again")
    columns = table.select(["s1_name", "s2_name", "tile", "row", "col", *FLAGS.values()]).to_pydict()
    names = tuple(Named(s2=s2, s1=s1) for s1, s2 in zip(columns["s1_name"], columns["s2_name"], strict=True))
    reasons = {name: reason for reason, listed in exclusions.items() for name in listed}
    said = [next((reason for reason, column in FLAGS.items() if columns[column][row]), "") for row in range(len(names))]
    return Universe(
        names=names,
        grid=grid_of(columns["tile"], columns["row"], columns["col"]),
        reason=tuple(reasons.get(named.s2 or "") or flag for named, flag in zip(names, said, strict=True)),
        labels=np.array(table["labels_19"].to_pylist(), np.uint8),
        centres=_centres(table),
        stated=tuple(table["split"].to_pylist()) if "split" in table.column_names else None,
        unlisted=unlisted,
    )


def _centres(table: pa.Table) -> NDArray[np.float64] | None:
    """Longitude and latitude (N, 2) in degrees of the middle of each patch; None where one is not known."""
    from rasterio.warp import transform

    if table["epsg"].null_count:
        return None

    x = (table["ulx"].to_numpy() + table["lrx"].to_numpy()) / 2
    y = (table["uly"].to_numpy() + table["lry"].to_numpy()) / 2
    epsg = table["epsg"].to_numpy()
    centres = np.empty((len(table), 2))
    for code in np.unique(epsg):
        rows = np.flatnonzero(epsg == code)
        centres[rows] = np.transpose(transform(f"EPSG:{code}", "EPSG:4326", x[rows].tolist(), y[rows].tolist()))
    return centres
