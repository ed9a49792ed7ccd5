"""What a card of stresses costs: one card against the way a script does it, a run for every stressed copy.

  python -P experiments/speed/stress.py --per_class 20 [--stresses 12 --severities 6] [--naive 6]

All in one process, in processor seconds. Ours: one card, after the run whose head it scores. Naive: for a view a
stressed copy of the images on disk, and a new run that reads, forwards and fits all of it again; only `--naive` of the
views are made so, spread over the grid, and their mean stands for the others. Expected: a view costs the forward pass
over the clean test split and its stress, nothing is fitted again, and the naive way several times as much.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import time
from pathlib import Path

import rasterio
import torch

from fgmae_bench.linear import main as linear_main
from fgmae_bench.probe import closed
from fgmae_bench.stress.__main__ import main as stress_main
from fgmae_bench.views.stress import Scene
from fgmae_bench.views.stress_table import STRESSES, apply
from fgmae_bench.worlds.eurosat import write_eurosat

AXES = {
    "offset": (0.3, 0.5, 1, 2, 3, 4),
    "speckle": (1, 2, 3.4, 5, 6.4, 8),
    "noise": (-28, -25, -22, -19, -16, -13),
    "resolution": (2, 3, 4, 5, 6, 7),
    "shift": (0.5, 1, 2, 4, 6, 8),
    "floor": (-30, -25, -22, -19, -16, -13),
    "quantised": (0.1, 0.5, 1, 2, 3, 4),
    "border": (0.05, 0.1, 0.25, 0.5, 0.6, 0.7),
    "boxcar": (3, 5, 7, 9, 11, 13),
    "lee": (3, 5, 7, 9, 11, 13),
    "imbalance": (0.5, 1, 2, 3, 4, 5),
    "eight_bit": (-65, -55, -45, -35, -25, -20),
}


def called(entry: object, module: str, words: list[str]) -> float:
    """Processor seconds of an entry called in this process with a command line."""
    kept, sys.argv = sys.argv, [module, *words]
    start = time.process_time()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            entry()  # type: ignore[operator]
    finally:
        sys.argv = kept
    return time.process_time() - start


def flags(folder: Path, data: Path, model: str, size: int) -> list[str]:
    """A probe whose cache and results are in `folder`."""
    places = [f"--{name}={folder / name}" for name in ("results_dir", "cache_dir", "output_dir", "log_dir")]
    given = ["--dataset", "eurosat", "--data_path", str(data), "--model", model, "--weights", "random"]
    return [*given, "--probe", "lbfgs", "--penalties", "0.01", "--input_size", str(size), "--num_workers", "0", *places]


def stressed_copy(source: Path, target: Path, name: str, severity: float) -> None:
    """Every image of `source` under a stress, in the same layout."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif path.suffix != ".tif":
            place.write_bytes(path.read_bytes())
        else:
            with rasterio.open(path) as file:
                db, profile = file.read(), file.profile
            with rasterio.open(place, "w", **profile) as file:
                file.write(apply(name, db, None, severity, Scene(sample=path.stem))[0])


def naive_seconds(root: Path, world: Path, name: str, severity: float, model: str, size: int) -> float:
    """Processor seconds of one view made by hand: the copy and its run."""
    start = time.process_time()
    stressed_copy(world, root / "copy", name, severity)
    made = time.process_time() - start
    words = flags(root / "run", root / "copy", model, size)
    return made + called(linear_main, "fgmae_bench.linear", [*words, "--trust_data"])


def forward_seconds(root: Path, world: Path, model: str, size: int) -> float:
    """Processor seconds of a card of one view that changes next to nothing: reading, forward pass, scores."""
    words = [*flags(root / "ours", world, model, size), "--no_null", "--draws", "1", "--stress", "offset"]
    return called(stress_main, "fgmae_bench.stress", [*words, "--severities", "0.001"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per_class", type=int, default=20)
    parser.add_argument("--model", default="vit_small_patch16")
    parser.add_argument("--input_size", type=int, default=64)
    parser.add_argument("--stresses", type=int, default=12)
    parser.add_argument("--severities", type=int, default=6)
    parser.add_argument("--naive", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    model, size = options.model, options.input_size
    axes = {name: AXES[name][: options.severities] for name in list(AXES)[: options.stresses]}
    views = [(name, severity) for name, ladder in axes.items() for severity in ladder]
    fits = []
    real = closed.fit_logistic
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        world = root / "world"
        write_eurosat(world, per_class=options.per_class, seed=0)
        fitted = called(linear_main, "fgmae_bench.linear", flags(root / "ours", world, model, size))
        once = forward_seconds(root, world, model, size)
        closed.fit_logistic = lambda *given, **how: fits.append(1) or real(*given, **how)
        ladders = {name: STRESSES[name].ladder for name in axes}
        for name, ladder in axes.items():  # a card of a grid of one's own: the ladders of the registry are replaced
            object.__setattr__(STRESSES[name], "ladder", tuple(map(float, ladder)))
        words = [*flags(root / "ours", world, model, size), "--no_null", "--draws", "1", "--stress", *axes]
        card = called(stress_main, "fgmae_bench.stress", words)
        for name, ladder in ladders.items():
            object.__setattr__(STRESSES[name], "ladder", ladder)
        refits = len(fits)
        chosen = views[:: max(1, len(views) // max(1, options.naive))][: options.naive]
        by_hand = [
            naive_seconds(root / f"naive-{i}", world, name, severity, model, size)
            for i, (name, severity) in enumerate(chosen)
        ]
    each = sum(by_hand) / len(by_hand)
    print(
        f"{options.per_class * 10} images, {model} at {size} px, {len(axes)} stresses, {len(views)} views; CPU seconds"
    )
    print(f"the run itself {fitted:.1f}; a card of one view {once:.1f}; fits of heads in the card: {refits}")
    print(f"one card of all views {card:.1f}, a view {card / len(views):.2f}")
    print(f"a run for each stressed copy: a view {each:.2f} (mean of {len(by_hand)}), all {each * len(views):.0f}")
    print(f"{each * len(views) / card:.1f}x")


if __name__ == "__main__":
    main()
