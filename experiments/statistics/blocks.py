"""How large blocks must be that samples of different ones are independent: the standard error against the block's side.

  python experiments/statistics/blocks.py RUN --dataset eurosat --data_path DIR [--metric oa] [--results_dir results]
RUN is the id or the path of a record whose predictions are stored; DIR holds the georeferenced files. Expected: the
standard error rises with the side as long as neighbouring blocks are alike, and is level from some side on. That side
belongs on the card, as `block_km` of [groups]. Where it still rises at the end the samples are of too few places.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fgmae_bench.checkpoints.registry import default_cache
from fgmae_bench.config.cards import load_card
from fgmae_bench.data.groups import block_groups
from fgmae_bench.data.packs.read import open_index
from fgmae_bench.data.spatial import chip_centres
from fgmae_bench.metrics.intervals import LEAST, estimates
from fgmae_bench.metrics.jackknife import effective_groups
from fgmae_bench.metrics.table import selection
from fgmae_bench.report.compare import find_run
from fgmae_bench.report.predictions import Predictions, read_predictions

SIDES = (1, 2, 5, 10, 20, 50, 100)  # km


def curve(held: Predictions, places: np.ndarray, metric: str) -> list[tuple[float, int, float, float]]:
    """(side in km, blocks, effective blocks, standard error) for each side; `places` (N, 2) are degrees."""
    found = []
    for side in SIDES:
        groups = block_groups(places, side)[1]
        units = held.with_groups(groups).units()
        sizes = np.unique(groups, return_counts=True)[1]
        error = estimates(units)[metric].error if units.count >= LEAST else float("nan")
        found.append((side, units.count, effective_groups(sizes.astype(float)), error))
    return found


def main() -> None:
    """Print the standard error at each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_path", type=Path)
    parser.add_argument("--metric", help="(default: the one that selects)")
    parser.add_argument("--results_dir", type=Path, default=Path("results"))
    parser.add_argument("--cache_dir", type=Path, default=default_cache())
    options = parser.parse_args()
    run, card = find_run(options.run, options.results_dir), load_card(options.dataset)
    held = read_predictions(run.record, run.predictions[0])
    index = open_index(card, options.data_path or card.data_path, None)
    row = {name: i for i, name in enumerate(index.ids)}
    places = chip_centres(index, options.cache_dir)[[row[name] for name in held.ids]]
    metric = options.metric or selection(held.kind)
    print(f"{'side km':>8}{'blocks':>8}{'effective':>11}{'SE of ' + metric:>14}")
    for side, blocks, effective, error in curve(held, places, metric):
        print(f"{side:>8}{blocks:>8}{effective:>11.1f}{error:>14.4f}")


if __name__ == "__main__":
    main()
