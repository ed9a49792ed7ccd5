"""How often the intervals hold the truth and the tests cry wolf, on simulated groups of which the truth is known.

  python experiments/statistics/coverage.py [--repetitions 2000] [--parts coverage tests blocks] [--metrics oa aa ...]
Expected: a nominal 95 % covers 92 to 97 % from 20 groups on and at least 90 % at 10; macro scores whose rarest class is
in fewer than three groups are withheld; 5 to 8 groups are printed. False positives at 5 % are 3 to 7 % from 10 groups
on. 150 blocks as of EuroSAT cover 93 % and more where chips drawn one by one have far less. See docs/statistics.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import simulated
from simulated import Design

from fgmae_bench.metrics.intervals import (
    Units,
    intervals,
    multi_label_units,
    paired_differences,
    segmentation_units,
    single_label_units,
)
from fgmae_bench.metrics.significance import mcnemar_mid_p

GROUPS = (5, 8, 10, 20, 40)
CORRELATIONS = (0.0, 0.05, 0.1, 0.2, 0.3)
SIZES = {"single": 200, "segmentation": 20, "tags": 120}  # samples a group
METRICS = {"oa": "single", "aa": "single", "miou": "segmentation", "map_micro": "tags", "map_macro": "tags"}
RARE = {0: GROUPS, 3: (10, 20, 40), 2: (20,)}  # groups that hold the rarest class (0: any), and numbers of groups tried


@dataclass
class Cell:
    """What came of one cell: whether each shown interval held the truth, its width, and how many were withheld."""

    held: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    withheld: int = 0

    def add(self, bounds: list[float] | None, truth: float) -> None:
        """Count one interval."""
        if bounds is None:
            self.withheld += 1
        else:
            self.held.append(bounds[0] <= truth <= bounds[1])
            self.widths.append(bounds[1] - bounds[0])

    def words(self) -> str:
        """Coverage, median width, share withheld."""
        share = self.withheld / (self.withheld + len(self.held))
        shown = f"{np.mean(self.held):8.1%}{np.median(self.widths):8.3f}" if self.held else f"{'–':>8}{'–':>8}"
        return f"{shown}{share:10.0%}"


def names(count: int) -> list[str]:
    """Names of groups that sort as they are numbered."""
    return [f"{i:04}" for i in range(count)]


def samples(counts: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(logits, targets, groups) of samples with these numbers of hits; what is missed is taken for the next class."""
    groups, k = counts.shape
    cell = np.repeat(np.arange(groups * k), counts.ravel())
    place = np.arange(len(cell)) - np.repeat(np.cumsum(counts.ravel()) - counts.ravel(), counts.ravel())
    target = cell % k
    said = np.where(place < hits.ravel()[cell], target, (target + 1) % k)
    label = names(groups)
    return np.eye(k, dtype=np.float32)[said], target, [label[i] for i in cell // k]


def single_units(counts: np.ndarray, hits: np.ndarray) -> Units:
    """Units of samples with these numbers of hits."""
    logits, targets, groups = samples(counts, hits)
    return single_label_units(logits, targets, groups)


def drawn(kind: str, random: np.random.Generator, design: Design) -> tuple[Units, dict[str, float]]:
    """(units of a simulated split, its true scores)."""
    if kind == "single":
        counts, hits = simulated.single_label(random, design)
        held = counts.sum(0) > 0
        return single_units(counts, hits), {"oa": simulated.true_overall(), "aa": simulated.true_accuracy(held)}
    if kind == "segmentation":
        confusion = simulated.confusions(random, design)
        held = confusion.sum((0, 2)) > 0
        truth = float(np.array(simulated.true_ious(design))[held].mean())
        return segmentation_units(confusion, names(design.groups)), {"miou": truth}
    unit, y, scores = simulated.tags(random, design)
    each, together = simulated.true_average_precisions()
    label = names(design.groups)
    units = multi_label_units(scores, y, [label[i] for i in unit])
    return units, {"map_micro": together, "map_macro": float(np.array(each)[y.any(0)].mean())}


def coverage(kind: str, design: Design, repetitions: int, wanted: Iterable[str]) -> dict[str, Cell]:
    """The cells of a design's metrics."""
    cells = {name: Cell() for name in wanted}
    for repetition in range(repetitions):
        random = np.random.default_rng((repetition, design.groups, design.held, round(100 * design.correlation)))
        units, truth = drawn(kind, random, design)
        found = intervals(units)["test"]
        for name, cell in cells.items():
            cell.add(found[name], truth[name])
    return cells


def repetitions_of(design: Design, repetitions: int) -> int:
    """A quarter where nothing is claimed: below ten groups, and with a class in two, which withholds macro scores."""
    return repetitions // 4 if design.groups < 10 or design.held == 2 else repetitions


def designs(kind: str) -> Iterator[Design]:
    """All designs of a kind of data."""
    for held, counts in RARE.items():
        for groups in counts:
            for correlation in CORRELATIONS:
                yield Design(groups=groups, size=SIZES[kind], correlation=correlation, held=held)


def print_coverage(repetitions: int, wanted: list[str]) -> None:
    """Coverage, median width and share withheld of each design."""
    print(
        f"coverage of nominal 95 % intervals, {repetitions} repetitions a cell (below 10 groups and with a class in 2: "
        f"{repetitions // 4}); groups of unequal size"
    )
    print(f"{'metric':<11}{'rarest in':>10}{'groups':>8}{'corr.':>7}{'covers':>8}{'width':>8}{'withheld':>10}")
    for kind in SIZES:
        chosen = [name for name in wanted if METRICS[name] == kind]
        for design in designs(kind) if chosen else ():
            for name, cell in coverage(kind, design, repetitions_of(design, repetitions), chosen).items():
                where = design.held or "any"
                line = f"{name:<11}{where:>10}{design.groups:>8}{design.correlation:>7}{cell.words()}"
                print(line, flush=True)


def equals(kind: str, random: np.random.Generator, design: Design) -> tuple[Units, Units]:
    """Two models that are equally good on the same samples; what makes a group hard is hard for both."""
    if kind == "single":
        counts, _ = simulated.counted(random, design)
        shared = random.normal(size=design.groups)
        two = [simulated.single_label(random, design, shared, counts) for _ in range(2)]
        return single_units(*two[0]), single_units(*two[1])
    unit, y, scores = simulated.tags(random, design)
    label = names(design.groups)
    groups = [label[i] for i in unit]
    apart = np.sqrt(design.correlation / 2) * random.normal(size=(2, design.groups, y.shape[1]))
    two = [scores + each[unit] + 0.5 * random.normal(size=y.shape) for each in apart]
    return multi_label_units(two[0], y, groups), multi_label_units(two[1], y, groups)


def print_tests(repetitions: int) -> None:
    """False positives of paired tests at 5 %."""
    print(f"\nfalse positives of the paired test at 5 %, {repetitions} repetitions a cell ({repetitions // 4} of mAP)")
    print(f"{'metric':<11}{'groups':>8}{'corr.':>7}{'p < .05':>9}{'sign flips':>12}{'withheld':>10}")
    for kind, wanted in (("single", ("oa", "aa")), ("tags", ("map_micro", "map_macro"))):
        for groups in GROUPS:
            for correlation in CORRELATIONS[::2]:
                design = Design(groups=groups, size=SIZES[kind], correlation=correlation)
                found: dict[str, list] = {name: [] for name in wanted}
                count = repetitions if kind == "single" else repetitions // 4
                for repetition in range(count):
                    random = np.random.default_rng((1, repetition, groups, round(100 * correlation)))
                    compared = paired_differences(*equals(kind, random, design))
                    for name, differences in found.items():
                        differences.append(compared[name])
                for name, differences in found.items():
                    p = [d.p for d in differences if d.p is not None]
                    flips = [d.flips for d in differences if d.flips is not None]
                    share = 1 - len(p) / count
                    cells = [f"{np.mean(np.array(each) < 0.05):.1%}" if each else "–" for each in (p, flips)]
                    print(f"{name:<11}{groups:>8}{correlation:>7}{cells[0]:>9}{cells[1]:>12}{share:>10.0%}", flush=True)
    print(f"McNemar mid-p, independent samples: {mcnemar_false_positives(20 * repetitions):.1%}")


def mcnemar_false_positives(trials: int, samples: int = 1000, disagreement: float = 0.1) -> float:
    """The share of McNemar's mid-p below .05 on independent samples of two equally good models."""
    random = np.random.default_rng(2)
    discordant = random.binomial(samples, disagreement, trials)
    only_a = random.binomial(discordant, 0.5)
    return float(np.mean([mcnemar_mid_p(int(a), int(n - a)) < 0.05 for a, n in zip(only_a, discordant, strict=True)]))


def blocks(correlation: float, repetitions: int, *, plain: bool) -> dict[str, Cell]:
    """OA and AA of 150 blocks as of EuroSAT, over blocks or over chips drawn one by one."""
    cells = {"oa": Cell(), "aa": Cell()}
    for repetition in range(repetitions):
        counts, hits = simulated.in_blocks(
            np.random.default_rng((3, repetition, round(100 * correlation))), correlation
        )
        logits, targets, groups = samples(counts, hits)
        found = intervals(single_label_units(logits, targets, None if plain else groups), 400)["test"]
        for name, cell in cells.items():
            cell.add(found[name], 0.8)
    return cells


def print_blocks(repetitions: int) -> None:
    """EuroSAT-like coverage over blocks, and over chips in a tenth of the repetitions."""
    print(f"\n150 blocks of 36 chips on average, {repetitions} repetitions ({repetitions // 10} of chips one by one)")
    print(f"{'metric':<11}{'corr.':>7}{'over blocks':>13}{'over chips':>12}")
    for correlation in CORRELATIONS[1:]:
        grouped = blocks(correlation, repetitions, plain=False)
        plain = blocks(correlation, max(1, repetitions // 10), plain=True)
        for name in grouped:
            shown = [f"{np.mean(cells[name].held):.1%}" for cells in (grouped, plain)]
            print(f"{name:<11}{correlation:>7}{shown[0]:>13}{shown[1]:>12}", flush=True)


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000, help="simulated splits a cell (default: 2000)")
    parts = ("coverage", "tests", "blocks")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="tables to print (default: all)")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=list(METRICS), help="(default: all)")
    options = parser.parse_args()
    if "coverage" in options.parts:
        print_coverage(options.repetitions, options.metrics)
    if "tests" in options.parts:
        print_tests(options.repetitions)
    if "blocks" in options.parts:
        print_blocks(options.repetitions)


if __name__ == "__main__":
    main()
