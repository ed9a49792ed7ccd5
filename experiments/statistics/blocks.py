"""How large blocks must be that samples of different ones are independent: the standard error against the block's side.

  python experiments/statistics/blocks.py RUN --dataset eurosat --data_path DIR [--metric oa] [--results_dir results]
  python experiments/statistics/blocks.py --simulate 20
RUN is the id or the path of a record whose predictions are stored; DIR holds the georeferenced files. Expected: the
standard error rises with the side as long as neighbouring blocks are alike, and is level from some side on. That side
belongs on the card, as `block_km` of [groups]. Where it still rises at the end the samples are of too few places.
With --simulate, 5,400 chips on 600 km of which those of one patch of so many km are alike: the side is found again.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fgmae_bench.checkpoints.registry import default_cache
from fgmae_bench.config.cards import load_card
from fgmae_bench.data.groups import block_groups
from fgmae_bench.data.packs.read import open_index
from fgmae_bench.data.spatial import chip_centres
from fgmae_bench.errors import BenchError, run_entry
from fgmae_bench.metrics.intervals import FEW, LEAST, estimates
from fgmae_bench.metrics.jackknife import effective_groups
from fgmae_bench.metrics.table import selection
from fgmae_bench.report.compare import find_run
from fgmae_bench.report.predictions import Predictions, read_predictions

SIDES = (1, 2, 5, 10, 20, 50, 100)  # km
TURNS = 5  # grids that are moved against one another: where the lines fall is chance
RISE = 0.05  # relative, that is no rise


@dataclass(frozen=True, kw_only=True)
class Point:
    """Blocks of one side: how many, how many of equal size would vary as they do, the standard error they give."""

    side: float  # km
    blocks: int
    effective: float
    error: float  # NaN where blocks are too few


def curve(held: Predictions, places: np.ndarray, metric: str, sides: tuple[float, ...] = SIDES) -> list[Point]:
    """A point for each side, mean over grids that are moved by parts of it; `places` (N, 2) are degrees."""
    return [_mean([_point(held, places, metric, side, turn / TURNS) for turn in range(TURNS)]) for side in sides]


def _point(held: Predictions, places: np.ndarray, metric: str, side: float, shift: float) -> Point:
    moved = places + np.array([0.0, shift * side / 111.2])
    groups = block_groups(moved, side)[1]
    units = held.with_groups(groups).units()
    sizes = np.unique(groups, return_counts=True)[1]
    error = estimates(units)[metric].error if units.count >= LEAST else math.nan
    return Point(side=side, blocks=units.count, effective=effective_groups(sizes.astype(float)), error=error)


def _mean(points: list[Point]) -> Point:
    blocks, effective, error = np.mean([(p.blocks, p.effective, p.error) for p in points], axis=0)
    return Point(side=points[0].side, blocks=round(blocks), effective=float(effective), error=float(error))


def plateau(points: list[Point]) -> float | None:
    """The smallest side from which the error rises no more: that of no larger blocks is above it by more than a
    twentieth and the uncertainty of an error from so many blocks, 1 / sqrt(2 (G - 1)).

    Only sides with ten effective blocks or more count; None where the last of these is still above those before it.
    """
    known = [p for p in points if math.isfinite(p.error) and p.effective >= FEW]
    for i, point in enumerate(known[:-1]):
        free = [1 + RISE + 1 / math.sqrt(2 * (p.effective - 1)) for p in known[i + 1 :]]
        if all(p.error <= point.error * f for p, f in zip(known[i + 1 :], free, strict=True)):
            return point.side
    return None


def simulated(
    patch_km: float, seed: int = 0, chips: int = 5400, extent_km: float = 600.0
) -> tuple[Predictions, np.ndarray]:
    """(predictions, places) of chips near the equator: those of one square patch are right or wrong alike."""
    random = np.random.default_rng(seed)
    km = random.uniform(0, extent_km, (chips, 2))
    number = np.floor((km + random.uniform(0, patch_km, 2)) / patch_km).astype(int)
    rate = random.beta(8 / 3, 2 / 3, (number.max() + 1,) * 2)  # .8 on average, correlated by .23
    right = random.random(chips) < rate[number[:, 0], number[:, 1]]
    scores = np.stack([right, ~right], axis=1).astype(np.float32)
    ids = tuple(f"chip {i}" for i in range(chips))
    held = Predictions(
        kind="single_label", ids=ids, groups=None, classes=("a", "b"), scores=scores, targets=np.zeros(chips, np.int64)
    )
    return held, km / 111.2


def of_run(options: argparse.Namespace) -> tuple[Predictions, np.ndarray]:
    """(predictions, places) of the test samples of a run."""
    if options.run is None or options.dataset is None:
        raise BenchError("no run", "name a run and its --dataset, or --simulate a side in km")
    run, card = find_run(options.run, options.results_dir), load_card(options.dataset)
    held = read_predictions(run.record, run.predictions[0])
    index = open_index(card, options.data_path or card.data_path, None)
    row = {name: i for i, name in enumerate(index.ids)}
    lacking = [name for name in held.ids if name not in row]
    if lacking:
        raise BenchError(
            f"{len(lacking)} test samples are not in the data, first {lacking[0]}", "give their --data_path"
        )
    return held, chip_centres(index, options.cache_dir)[[row[name] for name in held.ids]]


def main() -> int:
    """Print the standard error at each side, and from which on it is level."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", nargs="?")
    parser.add_argument("--dataset")
    parser.add_argument("--data_path", type=Path)
    parser.add_argument("--metric", help="(default: the one that selects)")
    parser.add_argument("--results_dir", type=Path, default=Path("results"))
    parser.add_argument("--cache_dir", type=Path, default=default_cache())
    parser.add_argument("--simulate", type=float, metavar="KM", help="side of the patches of made-up chips")
    options = parser.parse_args()
    held, places = simulated(options.simulate) if options.simulate else of_run(options)
    metric = options.metric or selection(held.kind)
    print(f"{'side km':>8}{'blocks':>8}{'effective':>11}{'SE of ' + metric:>14}")
    points = curve(held, places, metric)
    for p in points:
        print(f"{p.side:>8}{p.blocks:>8}{p.effective:>11.1f}{p.error:>14.4f}")
    level = plateau(points)
    print(f"level from {level:g} km on" if level else f"no level side with {FEW} effective blocks: too few places")
    return 0


if __name__ == "__main__":
    run_entry(main)
