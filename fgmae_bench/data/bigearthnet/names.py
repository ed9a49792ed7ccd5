"""Names of BigEarthNet's patches and scenes, by regular expression: their times are not always times of day."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from fgmae_bench.errors import BenchError

_S1 = re.compile(
    r"(?P<scene>S1[A-D]_IW_GRDH_1SDV_(?P<date>\d{8})T(?P<time>\d{6}))_(?P<tile>\d{1,2}[A-Z]{3})_(?P<col>\d{1,3})_(?P<row>\d{1,3})"
)
_S1_SCENE = re.compile(r"S1[A-D]_IW_GRDH_1SDV_\d{8}T\d{6}")
_S1_PRODUCT = re.compile(r"S1[A-D]_IW_GRDH_1SDV_\d{8}T\d{6}_\d{8}T\d{6}_\d{6}_[0-9A-F]{6}_[0-9A-F]{4}")
_S2 = re.compile(
    r"(?P<scene>S2[A-D]_MSIL2A_(?P<date>\d{8})T(?P<time>\d{5,6})(?:_N\d{4}_R\d{3}_T(?P<tile>\d{1,2}[A-Z]{3}))?)_(?P<col>\d{1,3})_(?P<row>\d{1,3})"
)


@dataclass(frozen=True, kw_only=True)
class PatchName:
    """What a patch's name says. `col` counts patches of 1.2 km eastwards and `row` southwards from the tile's corner, from 0.

    The column comes first in the name. `tile` is None where the name omits it (S2, v1). Times are UTC, as written: `clock` is
    hour, minute, second, of which the second may be 60 or 61 in S2 names.
    """

    scene: str
    date: str  # YYYYMMDD
    clock: tuple[int, int, int]
    tile: str | None
    row: int
    col: int

    @property
    def acquired(self) -> str:
        """The acquisition time, ISO 8601 in UTC without a zone; a second of 60 or 61 runs into the next minute."""
        day = datetime(int(self.date[:4]), int(self.date[4:6]), int(self.date[6:]))
        hour, minute, second = self.clock
        return (day + timedelta(hours=hour, minutes=minute, seconds=second)).isoformat()


def parse_s1(name: str) -> PatchName:
    """What an S1 patch name of v1 or v2 says, such as `S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_39`; BenchError for others."""
    return _parse(_S1, name, "S1", "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_39")


def parse_s2(name: str) -> PatchName:
    """What an S2 patch name says; BenchError for others.

    v1 omits the tile and drops the hour's leading zero in 69,866 of its names (`S2B_MSIL2A_20180204T94161_57_38`); v2 carries
    the tile and pads row and column (`S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57`).
    """
    return _parse(_S2, name, "S2", "S2B_MSIL2A_20170924T93020_69_24")


def is_s1_patch(name: str) -> bool:
    """Whether `name` is that of an S1 patch."""
    return _S1.fullmatch(name) is not None


def is_s1_scene(name: str) -> bool:
    """Whether `name` is that of a scene folder of v2, such as `S1A_IW_GRDH_1SDV_20170613T165043`."""
    return _S1_SCENE.fullmatch(name) is not None


def is_s1_product(name: str) -> bool:
    """Whether `name` is a whole product name without `.SAFE`, as `scene_source` holds it."""
    return _S1_PRODUCT.fullmatch(name) is not None


def _parse(pattern: re.Pattern[str], name: str, sensor: str, example: str) -> PatchName:
    match = pattern.fullmatch(name)
    if match is None:
        raise BenchError(f"'{name}' is no {sensor} patch name", f"expected one such as {example}")
    time = match["time"]
    clock = (int(time[:-4]), int(time[-4:-2]), int(time[-2:]))
    return PatchName(
        scene=match["scene"], date=match["date"], clock=clock, tile=match["tile"], row=int(match["row"]), col=int(match["col"])
    )
