"""How often the intervals hold the truth and the tests cry wolf, on simulated tiles of which patches look alike.

  python experiments/statistics/coverage.py [--trials 1000]
Expected: the group bootstrap covers 93 to 97 % of a nominal 95 %, the plain one far less; false positives 3.5 to 6.5 %.
"""

from __future__ import annotations

import argparse

import numpy as np

from fgmae_bench.metrics.intervals import (
    Units,
    intervals,
    multi_label_units,
    paired_differences,
    segmentation_units,
    single_label_units,
)
from fgmae_bench.metrics.significance import mcnemar_mid_p
from fgmae_bench.system.randomness import generator

TILES, PATCHES = 40, 100  # patches a tile on average
FEWER = {"map_macro": 40}  # patches a tile where a trial is slow; a quarter of the trials
CORRELATIONS = (0.02, 0.05)
ACCURACY = 0.8


def rates(random: np.random.Generator, mean: float, correlation: float, size: int) -> np.ndarray:
    """Hit rates of tiles: beta-distributed, so that hits within a tile have the given correlation."""
    scale = (1 - correlation) / correlation
    return random.beta(mean * scale, (1 - mean) * scale, size)


def tiles(random: np.random.Generator, count: int, patches: int) -> np.ndarray:
    """Tile of each patch; sizes vary from half to one and a half times `patches`."""
    return np.repeat(np.arange(count), random.integers(patches // 2, patches + patches // 2 + 1, count))


def hits_to_logits(hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two-class logits and targets with the given hits."""
    return np.stack([hit, ~hit], axis=1).astype(np.float32), np.zeros(len(hit), np.int64)


def single_label_case(
    random: np.random.Generator, correlation: float, count: int, patches: int
) -> tuple[Units, Units, str, float]:
    """(grouped units, plain units, metric, truth) of overall accuracy."""
    tile = tiles(random, count, patches)
    logits, targets = hits_to_logits(random.random(len(tile)) < rates(random, ACCURACY, correlation, count)[tile])
    return single_label_units(logits, targets, tile.astype(str)), single_label_units(logits, targets), "oa", ACCURACY


def segmentation_case(
    random: np.random.Generator, correlation: float, count: int, patches: int
) -> tuple[Units, Units, str, float]:
    """Mean IoU of two classes of equal share with equal errors a pixel: a / (2 - a) at accuracy a."""
    tile = tiles(random, count, patches)
    rate = rates(random, ACCURACY, correlation, count)[tile]
    right = random.binomial(32, rate[:, None], (len(tile), 2))
    confusion = np.empty((len(tile), 2, 2), np.int64)
    for k in range(2):
        confusion[:, k, k], confusion[:, k, 1 - k] = right[:, k], 32 - right[:, k]
    truth = ACCURACY / (2 - ACCURACY)
    return segmentation_units(confusion, tile.astype(str)), segmentation_units(confusion), "miou", truth


def multi_label_case(
    random: np.random.Generator, correlation: float, count: int, patches: int
) -> tuple[Units, Units, str, float]:
    """Macro AP of three labels: presence and normal scores vary by tile; a score is 1.5 higher where its label is
    there.
    """
    tile = tiles(random, count, patches)
    y = (
        random.random((len(tile), 3))
        < np.stack([rates(random, 0.3, correlation, count) for _ in range(3)], axis=1)[tile]
    )
    noise = np.sqrt(correlation) * random.normal(size=(count, 3))[tile] + np.sqrt(1 - correlation) * random.normal(
        size=y.shape
    )
    logits = 1.5 * y + noise
    return (
        multi_label_units(logits, y, tile.astype(str)),
        multi_label_units(logits, y),
        "map_macro",
        true_average_precision(),
    )


def true_average_precision(prevalence: float = 0.3, shift: float = 1.5) -> float:
    """AP of the population, by quadrature over thresholds: the integral of precision over recall."""
    from scipy.stats import norm

    x = np.linspace(9, -8, 40_001)
    recall, false = norm.sf(x - shift), norm.sf(x)
    precision = prevalence * recall / np.maximum(prevalence * recall + (1 - prevalence) * false, 1e-300)
    return float(np.trapezoid(precision, recall))


CASES = {"oa": single_label_case, "miou": segmentation_case, "map_macro": multi_label_case}


def coverage(
    case: str,
    correlation: float,
    trials: int,
    *,
    plain: bool,
    count: int = TILES,
    patches: int = PATCHES,
    draws: int = 500,
) -> float:
    """Share of trials whose interval holds the truth."""
    held = 0
    for trial in range(trials):
        grouped, independent, metric, truth = CASES[case](
            generator("coverage", case, correlation, trial), correlation, count, patches
        )
        low, high = intervals(independent if plain else grouped, draws)["test"][metric]
        held += low <= truth <= high
    return held / trials


def false_positives(
    correlation: float, trials: int, *, plain: bool, count: int = TILES, patches: int = PATCHES, draws: int = 500
) -> float:
    """Share of trials in which two equally good models differ at the 5 % level: they share half of a tile's
    difficulty.
    """
    found = 0
    for trial in range(trials):
        random = generator("false positives", correlation, trial)
        tile = tiles(random, count, patches)
        common = rates(random, ACCURACY, correlation, count)
        units = []
        for _ in range(2):
            rate = (common + rates(random, ACCURACY, correlation, count)) / 2
            logits, targets = hits_to_logits(random.random(len(tile)) < rate[tile])
            units.append(single_label_units(logits, targets, None if plain else tile.astype(str)))
        p = paired_differences(units[0], units[1], draws)["oa"].p
        found += p is not None and p < 0.05
    return found / trials


def mcnemar_false_positives(trials: int, samples: int = 1000, disagreement: float = 0.1) -> float:
    """The same for McNemar's mid-p test on independent samples."""
    random = generator("mcnemar")
    discordant = random.binomial(samples, disagreement, trials)
    only_a = random.binomial(discordant, 0.5)
    return float(np.mean([mcnemar_mid_p(int(a), int(n - a)) < 0.05 for a, n in zip(only_a, discordant, strict=True)]))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="simulated splits a cell (default: 1000)")
    trials = parser.parse_args().trials
    print(
        f"coverage of a nominal 95 % interval, {TILES} tiles of {PATCHES} patches ({FEWER['map_macro']} for "
        f"AP), {trials} trials"
    )
    print(f"{'metric':<12}{'correlation':>12}{'group bootstrap':>18}{'plain bootstrap':>18}")
    for case in CASES:
        for correlation in CORRELATIONS:
            per_tile = FEWER.get(case, PATCHES)
            made = trials // 4 if case in FEWER else trials
            cells = [coverage(case, correlation, made, plain=plain, patches=per_tile) for plain in (False, True)]
            print(f"{case:<12}{correlation:>12}{cells[0]:>18.1%}{cells[1]:>18.1%}", flush=True)
    for count in (10, 20):
        value = coverage("oa", 0.05, trials, plain=False, count=count)
        print(f"{'oa':<12}{0.05:>12}{value:>18.1%}  with {count} tiles")
    print("\nfalse positives of the paired test at 5 %")
    for correlation in CORRELATIONS:
        cells = [false_positives(correlation, trials, plain=plain) for plain in (False, True)]
        print(f"{'oa':<12}{correlation:>12}{cells[0]:>18.1%}{cells[1]:>18.1%}", flush=True)
    print(f"{'McNemar mid-p, independent samples':<24}{mcnemar_false_positives(20 * trials):>8.1%}")


if __name__ == "__main__":
    main()
