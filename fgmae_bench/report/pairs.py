"""Two runs or rows on the same test samples: which test fits them, and what it says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fgmae_bench.errors import BenchError, closest
from fgmae_bench.metrics.intervals import (
    FEW,
    LEAST,
    MULTI,
    Difference,
    Units,
    no_difference,
    obstacles,
    paired_differences,
    point,
)
from fgmae_bench.metrics.rows import row_differences
from fgmae_bench.metrics.significance import mcnemar_mid_p
from fgmae_bench.metrics.variance import Combined
from fgmae_bench.records import Record
from fgmae_bench.report.chosen import chance, spread_word
from fgmae_bench.report.predictions import Predictions, read_predictions, same_test

BOOTSTRAP, MCNEMAR, JACKKNIFE = "paired bootstrap", "McNemar mid-p", "jackknife t"
WITHHELD = {
    "few_groups": f"withheld: fewer than {LEAST} groups or samples",
    "rare_class": "withheld: a class in too few groups or samples",
    "no_spread": "withheld: all units differ alike",
    "undefined": "undefined",
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What may be compared: its name in the output, the records of its seeds, and their predictions.

    `row` is true of a row of a table or a model: a claim about more than these weights. `settings` is how many val
    chose it from.
    """

    name: str
    records: tuple[Record, ...]
    predictions: tuple[Path, ...]
    row: bool = False
    settings: int = 1

    @property
    def record(self) -> Record:
        """The record of the first seed."""
        return self.records[0]

    @property
    def chances(self) -> tuple[tuple[int, int], ...]:
        """(seed, draw of labels) of each record, in their order: runs of two rows are pairs where both are the same."""
        return tuple(chance(record) for record in self.records)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One cell: a metric of two runs or rows, the test that was made, and its p-value after Holm.

    `over_seeds` and `over_groups` are the standard errors of the two sources alone, `spread` names the first: seeds, or
    draws of labels; `starred`: stars may be given.
    """

    a: str
    b: str
    metric: str
    difference: Difference
    test: str
    adjusted: float | None = None
    over_seeds: float | None = None
    over_groups: float | None = None
    spread: str = "seeds"
    starred: bool = True
    combined: Combined | None = None


@dataclass(frozen=True, kw_only=True)
class Side:
    """The predictions of a candidate's seeds, samples in one order."""

    candidate: Candidate
    seeds: tuple[Predictions, ...]

    def units(self) -> list[Units]:
        """Units of each seed."""
        return [each.units() for each in self.seeds]


def side(candidate: Candidate, base: Predictions | None = None, name: str = "") -> Side:
    """The predictions of a candidate, in the order of `base` (that of `name`), else of its own first seed."""
    read = []
    for record, path in zip(candidate.records, candidate.predictions, strict=True):
        found = read_predictions(record, path)
        if not found.finite:
            raise BenchError(f"{path}: {record['run_id']} predicted numbers that are not finite", "compare another run")
        if base is not None:
            found = same_test(base, found, (name or candidate.name, candidate.name))
        base = base or found
        read.append(found)
    return Side(candidate=candidate, seeds=tuple(read))


def cells_of(a: Side, b: Side, metrics: list[str]) -> list[Pair]:
    """The cells of two sides on the same samples; raises BenchError for a metric that they lack."""
    alone = len(a.seeds) == len(b.seeds) == 1
    cells = _alone(a, b) if alone else _rows(a, b)
    for metric in metrics:
        if metric not in cells:
            raise BenchError(f"the runs have no metric '{metric}'", closest(metric, cells))
    row = a.candidate.row or b.candidate.row
    starred = not row or min(len(a.seeds), len(b.seeds)) > 1
    return [dataclasses.replace(cells[metric], starred=starred) for metric in metrics or cells]


def _alone(a: Side, b: Side) -> dict[str, Pair]:
    """Cells of two runs: their weights as they are, over groups or samples."""
    first, second = a.seeds[0], b.seeds[0]
    cells = {}
    for metric, found in paired_differences(first.units(), second.units()).items():
        difference, test = found, JACKKNIFE if first.groups is not None or first.kind == MULTI else BOOTSTRAP
        if difference.flips is not None:
            test += f", sign flips {difference.flips:.4f}"
        test = WITHHELD.get(difference.reason or "", test)
        counted = metric == "oa" and first.kind == "single_label" and first.groups is None
        if counted and first.targets is not None and found.reason != "few_groups":
            right = [each.scores.argmax(1) == first.targets for each in (first, second)]
            p = mcnemar_mid_p(int(np.sum(right[0] & ~right[1])), int(np.sum(right[1] & ~right[0])))
            difference, test = dataclasses.replace(found, p=p), MCNEMAR
        cells[metric] = Pair(a=a.candidate.name, b=b.candidate.name, metric=metric, difference=difference, test=test)
    return cells


def _rows(a: Side, b: Side) -> dict[str, Pair]:
    """Cells of two rows of several seeds: over seeds and groups. The same seeds on both sides are taken in pairs."""
    units_a, units_b = a.units(), b.units()
    chances = a.candidate.chances, b.candidate.chances
    paired = sorted(chances[0]) == sorted(chances[1])
    if paired:  # in the same order
        order = [sorted(range(len(each)), key=each.__getitem__) for each in chances]
        units_a, units_b = [units_a[i] for i in order[0]], [units_b[i] for i in order[1]]
    spread = spread_word([*a.candidate.records, *b.candidate.records])
    withheld = obstacles(units_a[0]) | obstacles(units_b[0])
    cells = {}
    means = [_means(units) for units in (units_a, units_b)]
    for metric, found in row_differences(units_a, units_b, paired=paired).items():
        reason = withheld.get(metric) or no_difference(found.value, found.error)
        low, high = found.interval() if reason is None else (None, None)
        cells[metric] = Pair(
            a=a.candidate.name,
            b=b.candidate.name,
            metric=metric,
            difference=Difference(
                a=means[0][metric],
                b=means[1][metric],
                low=low,
                high=high,
                p=None if reason else found.p(),
                reason=reason,
            ),
            test=WITHHELD.get(reason or "", f"{spread} x groups{f', same {spread}' if paired else ''}"),
            over_seeds=found.over_seeds,
            over_groups=found.over_groups,
            spread=spread,
            combined=None if reason else found,
        )
    return cells


def _means(seeds: list[Units]) -> dict[str, float]:
    each = [point(units) for units in seeds]
    return {name: float(np.mean([scores[name] for scores in each])) for name in each[0]}


def require_same_content(a: Candidate, b: Candidate) -> None:
    """Raise BenchError unless two runs were tested on the same pixels and labels: names of files prove nothing.

    A pack of eight bits that says what it was made of counts as its source.
    """
    held = [each.record["dataset"].get("content_sha256") for each in (a, b)]
    for each, content in zip((a, b), held, strict=True):
        if content is None:
            what = f"the record of {each.name} is of an older version and does not say of which pixels it is"
            raise BenchError(what, "run it again, and compare the new records")
    sources = [each.record["dataset"].get("source_content_sha256") for each in (a, b)]
    tested = [{content["test"], (source or content)["test"]} for content, source in zip(held, sources, strict=True)]
    if not tested[0] & tested[1]:
        what = f"{a.name} and {b.name} were tested on other pixels or labels"
        raise BenchError(what, "compare runs on one and the same test data")


def unit_words(candidate: Candidate, base: Predictions) -> str:
    """What was drawn: `drawn as 37 scenes`, or one by one."""
    count = len(set(base.groups)) if base.groups else 0
    if not count:
        return "drawn one by one: no groups are known, so neighbours that look alike are not allowed for"
    kind = (candidate.record["dataset"].get("groups") or {}).get("kind") or "group"
    warning = f" (fewer than {FEW}: errors from so few are uncertain)" if LEAST <= count < FEW else ""
    return f"drawn as {count:,} {kind}{'' if count == 1 else 's'}{warning}"
