"""Few-label subsets of the training part: the first samples of each class in an order that a draw makes."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from fgmae_bench.config.run import Run
from fgmae_bench.data.index import Index, Rows
from fgmae_bench.errors import BenchError
from fgmae_bench.system.randomness import key

PURPOSE = "few_labels"


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Which labels of the training part a run sees: `shots` samples of each class, else a `fraction` of it."""

    fraction: float = 1.0
    shots: int | None = None
    seed: int = 42
    draw: int = 0

    @property
    def whole(self) -> bool:
        """Whether every training label is seen."""
        return self.fraction >= 1 and self.shots is None


def subset_of(run: Run) -> Subset:
    """The subset that a run's flags name; its seed is the run's."""
    data = run.data
    return Subset(fraction=data.train_frac, shots=data.shots, seed=run.recipe.seed, draw=data.draw)


def few_labels(index: Index, rows: Rows, subset: Subset, classes: tuple[str, ...] = ()) -> Rows:
    """`rows` of a subset, in their order: the first k, or the first ceil(fraction x n), of each class in `label_order`.

    Subsets of one draw are nested: a smaller one is part of a larger one. Multi-label samples stand in the order of
    each class that they carry: the union is taken; a fraction takes them as one group. Raises BenchError, naming the
    class, where it has fewer samples than shots, and where images have no class.
    """
    if subset.whole:
        return rows
    if subset.shots is not None and not _has_classes(index):
        raise BenchError("--shots: an image of this dataset has no class of its own", "give --train_frac")
    chosen: set[int] = set()
    for label, members in _members(index, rows, subset).items():
        count = subset.shots or max(1, math.ceil(round(subset.fraction * len(members), 9)))
        if count > len(members):
            name = classes[int(label)] if classes else label
            raise BenchError(
                f"--shots is {count}: class '{name}' has {len(members)} training images",
                f"give {len(members)} or fewer" if len(members) else "choose another split",
            )
        chosen.update(label_order(index, members, subset, label)[:count])
    return rows[[int(row) in chosen for row in rows]]


def _has_classes(index: Index) -> bool:
    """Whether labels tell samples apart: not where they are maps, or numbers to be predicted."""
    return index.labels.dtype.kind != "f" and (index.labels.ndim == 1 or index.labels.shape[1] > 0)


def _members(index: Index, rows: Rows, subset: Subset) -> dict[str, list[int]]:
    """Class (its number as text; `all` where samples are not divided by one) -> its rows."""
    if _has_classes(index) and index.labels.ndim == 1:
        labels = index.labels[rows]
        return {str(label): rows[labels == label].tolist() for label in np.unique(labels)}
    if subset.shots is None:
        return {"all": rows.tolist()}
    return {str(k): rows[index.labels[rows, k] != 0].tolist() for k in range(index.labels.shape[1])}


def label_order(index: Index, rows: list[int], subset: Subset, label: str) -> list[int]:
    """The rows of one class in the order of a draw, keyed by (seed, draw, class, sample id) and nothing else.

    Where groups are known they take turns, in an order keyed alike: the first k are from min(k, G) of G groups. So
    neither the order of files nor other classes change it, and a new sample moves few others.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        groups["" if index.groups is None else index.groups[row]].append(row)

    def place(*what: str) -> tuple[int, tuple[str, ...]]:
        return key(subset.seed, PURPOSE, subset.draw, label, *what), what

    in_turn = sorted(groups, key=lambda name: place("group", name))
    ordered = [sorted(groups[name], key=lambda row: place(index.ids[row])) for name in in_turn]
    return [row for turn in zip_longest(*ordered) for row in turn if row is not None]
