"""What a card of stresses costs: one command against the way a script does it, a run for every stressed copy.

  python experiments/speed/stress.py --per_class 40 --stresses 4 --severities 3

Ours: `stress`, one fit and one forward pass over the test split for each stressed view. Naive: for each view a stressed
copy of the test images on disk, and a new run that reads, forwards and fits all of it again. The same views in both;
the clean forward over the test split alone is timed beside them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rasterio

from fgmae_bench.views.stress import Scene
from fgmae_bench.views.stress_table import apply
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
    "eight_bit": (20, 30, 40, 50, 60, 70),
}


def run(module: str, folder: Path, data: Path, model: str, *flags: str) -> float:
    """Wall seconds of one command whose cache and results are in `folder`."""
    places = [f"--{name}={folder / name}" for name in ("results_dir", "cache_dir", "output_dir", "log_dir")]
    given = ["--dataset", "eurosat", "--data_path", str(data), "--model", model, "--weights", "random"]
    given += ["--probe", "lbfgs", "--penalties", "0.01", "--input_size", "64"]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", f"fgmae_bench.{module}", *given, *places, *flags], check=True, capture_output=True
    )
    return time.perf_counter() - start


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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per_class", type=int, default=40)
    parser.add_argument("--model", default="vit_small_patch16")
    parser.add_argument("--stresses", type=int, default=4)
    parser.add_argument("--severities", type=int, default=3)
    options = parser.parse_args()
    axes = {name: AXES[name][: options.severities] for name in list(AXES)[: options.stresses]}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_eurosat(root / "world", per_class=options.per_class, seed=0)
        fitted = run("linear", root / "ours", root / "world", options.model)
        ours = sum(
            run(
                "stress", root / "ours", root / "world", options.model,
                "--draws", "1", "--stress", name, "--severities", *map(str, ladder),
            )
            for name, ladder in axes.items()
        )  # fmt: skip
        naive = 0.0
        for name, ladder in axes.items():
            for severity in ladder:
                start = time.perf_counter()
                stressed_copy(root / "world", root / name / f"{severity:g}", name, severity)
                naive += time.perf_counter() - start
                naive += run("linear", root / f"{name}-{severity:g}", root / name / f"{severity:g}", options.model)
    views = sum(map(len, axes.values()))
    print(f"{options.per_class * 10} images, {options.model}, {views} views; the clean run itself {fitted:.1f} s")
    print(f"a run for each stressed copy {naive:.1f} s, one card {ours:.1f} s: {naive / ours:.1f}x")


if __name__ == "__main__":
    main()
