"""Splits by the groups of samples: folders of DFC2020, scenes of SEN12MS."""

from __future__ import annotations

from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.cards import Split
from fgmae_bench.data.index import Index
from fgmae_bench.errors import BenchError

Rows = NDArray[np.int64]
ORDER = ("test", "val", "train")  # a group that several parts name is in the first of them


def group_parts(index: Index, split: Split) -> dict[str, Rows]:
    """Rows of train, val and test: a sample is where a pattern of the part matches its group, such as `ROIs0000_test/*`."""
    if index.groups is None:
        raise BenchError(f"{index.root}: the groups of the samples are not known", "choose another split")
    part_of = {group: _part(group, split) for group in set(index.groups)}
    parts = [part_of[group] for group in index.groups]
    return {name: np.array([row for row, part in enumerate(parts) if part == name], np.int64) for name in ORDER}


def _part(group: str, split: Split) -> str:
    return next((part for part in ORDER if any(fnmatchcase(group, pattern) for pattern in split.groups.get(part, ()))), "")
