"""What is known of a sample besides its pixels: when it was taken, from its product's name or its file; where, from its
georeference.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.index import Index
from fgmae_bench.data.raster import open_tiff
from fgmae_bench.data.spatial import chip_places
from fgmae_bench.errors import BenchError

# Start of acquisition in the name of a Sentinel-1 product: S1A_IW_GRDH_1SDV_20170613T165043_...
TIMED = re.compile(r"(?<!\d)((?:19|20)\d{2})(\d{2})(\d{2})T\d{6}(?!\d)")
TAG = "TIFFTAG_DATETIME"  # 2017:06:13 16:50:43
SOURCES = {"location": "georeference", "month": "product name or file", "day_of_year": "product name or file"}
Extra = dict[str, NDArray[Any]]


def extra_inputs(index: Index, names: Iterable[str], cache: Path) -> Extra:
    """Extra inputs by name, a row a sample of the index: `location` (N, 2) longitude and latitude in degrees, `month`
    (N,) from 0 to 11, `day_of_year` (N,) from 0 to 365.

    Raises BenchError where a sample does not have one.
    """
    found: Extra = {}
    for name in names:
        if name == "location":
            try:
                found[name] = np.ascontiguousarray(chip_places(index, cache)[:, 0])
            except BenchError as error:
                raise BenchError(f"--inputs location: {error.what.split(',')[0]}", "leave location out") from error
        elif "month" not in found or "day_of_year" not in found:
            days = [_acquired(index, row) for row in range(len(index.files))]
            found["month"] = np.array([day.month - 1 for day in days], np.int64)
            found["day_of_year"] = np.array([day.timetuple().tm_yday - 1 for day in days], np.int64)
    return {name: found[name] for name in names}


def _acquired(index: Index, row: int) -> datetime.date:
    """Day of a sample's acquisition; raises BenchError where neither its name nor its file says it."""
    day = acquired(index, row)
    if day is None:
        what = f"--inputs: neither the name of {index.ids[row]} nor its file says when it was taken"
        raise BenchError(what, "leave the month out")
    return day


def acquired(index: Index, row: int) -> datetime.date | None:
    """Day of a sample's acquisition, None where neither its name nor its file says it. Raises BenchError for a date
    that cannot be.
    """
    path = index.path(row)
    for text in (index.ids[row], path.name):
        if (match := TIMED.search(text)) is not None:
            return _date(match.groups(), index.ids[row])
    if path.is_file() and path.suffix.lower() in (".tif", ".tiff"):
        with open_tiff(path) as source:
            parts = re.match(r"(\d{4}):(\d{2}):(\d{2})\b", source.tags().get(TAG, ""))
        if parts is not None:
            return _date(parts.groups(), index.ids[row])
    return None


def _date(parts: Iterable[str], sample: str) -> datetime.date:
    try:
        return datetime.date(*map(int, parts))
    except ValueError as error:
        raise BenchError(f"the date of {sample} cannot be ({error})", "correct its name") from error
