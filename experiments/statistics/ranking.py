"""How often models of known gaps are separated: pairs of gap 0 never, pairs of four standard errors nearly always.

  python experiments/statistics/ranking.py [--repetitions 500]
Worlds have 3 datasets of 40 groups, 4 models of 3 seeds each: two that are equally good, one four and one eight true
standard errors below. Hits are drawn by a generator that shares no code with the estimators: the difficulty of a group
is common to all models, each model has a turn of its own in each group, each seed a shift of its own. The true standard
error of a difference comes from the spread of true gaps over worlds of that generator, not from any estimate.
Expected (500 repetitions, some minutes on one core): no pair of gap 0 separated in 95 % of the worlds or more, pairs of
four standard errors separated in 90 % or more. Exit code 1 where either is missed.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.intervals import single_label_units
from fgmae_bench.metrics.separation import apart, over_places, pair_estimates

DATASETS, GROUPS, SAMPLES, SEEDS = 3, 40, 25, 3
BASE = 0.75
STEPS = (0, 0, 4, 8)  # true standard errors below the best
GROUP, TURN, SEED = 0.08, 0.05, 0.006  # deviations: of a group, of a model in a group, of a seed
NEVER, NEARLY = 0.95, 0.90


def world(random: np.random.Generator, gaps: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Hits (models, seeds, groups, samples) on one dataset, of models that are `gaps` below BASE."""
    models = len(gaps)
    difficulty = random.normal(0, GROUP, (1, 1, GROUPS, 1))
    turn = random.normal(0, TURN, (models, 1, GROUPS, 1))
    shift = random.normal(0, SEED, (models, SEEDS, 1, 1))
    rate = np.clip(BASE - gaps[:, None, None, None] + difficulty + turn + shift, 0, 1)
    return random.random((models, SEEDS, GROUPS, SAMPLES)) < rate


def true_error(random: np.random.Generator, worlds: int = 2000) -> float:
    """Deviation over worlds of the mean difference of two models that are equally good."""
    gaps = np.zeros(2)
    found = []
    for _ in range(worlds):
        means = np.mean([world(random, gaps).mean((1, 2, 3)) for _ in range(DATASETS)], axis=0)
        found.append(means[0] - means[1])
    return float(np.std(found))


def separated(random: np.random.Generator, gaps: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which pairs of models the estimators separate in one world of all datasets."""
    places = []
    for _ in range(DATASETS):
        hits = world(random, gaps)
        targets = np.arange(GROUPS * SAMPLES) % 2
        groups = [f"{g:02}" for g in range(GROUPS) for _ in range(SAMPLES)]
        rows = [
            [
                single_label_units(np.eye(2)[np.where(one.ravel(), targets, 1 - targets)], targets, groups)
                for one in each
            ]
            for each in hits
        ]
        names = [str(seed) for seed in range(SEEDS)]
        places.append(pair_estimates(rows, [[f"{m} {name}" for name in names] for m in range(len(rows))], "oa"))
    above = apart(len(gaps), over_places(places)).above
    return np.asarray(above | above.T)


def simulate(repetitions: int, seed: int = 0) -> tuple[float, float, float]:
    """(share of worlds without a separated pair of gap 0, share of separated pairs four errors apart, the error)."""
    random = np.random.default_rng(seed)
    error = true_error(random)
    gaps = np.array(STEPS) * error
    steps = np.abs(np.subtract.outer(STEPS, STEPS))
    upper = np.triu(np.ones_like(steps, bool), 1)
    quiet, found = 0, []
    for _ in range(repetitions):
        pairs = separated(random, gaps)
        quiet += not pairs[upper & (steps == 0)].any()
        found.append(pairs[upper & (steps == 4)].mean())
    return quiet / repetitions, float(np.mean(found)), error


def main() -> int:
    """Print both shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=500, help="worlds (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the worlds (default: 0)")
    options = parser.parse_args()
    quiet, power, error = simulate(options.repetitions, options.seed)
    print(f"true standard error of a difference: {error:.5f}; {options.repetitions} worlds")
    print(f"no pair of gap 0 separated: {quiet:.1%} (wanted: {NEVER:.0%} or more)")
    print(f"pairs of four standard errors separated: {power:.1%} (wanted: {NEARLY:.0%} or more)")
    return 0 if quiet >= NEVER and power >= NEARLY else 1


if __name__ == "__main__":
    sys.exit(main())
