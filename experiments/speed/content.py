"""What the content hash costs: a first cached run with and without it, and a second run.

  python experiments/speed/content.py --per_class 200

Prints the time a chip of 64 px and a patch of 120 px take to hash, what that means for 27,000 EuroSAT-SAR files and for
a BigEarthNet pack, and the first and second cached probe of a small ViT with the hash and with a stand-in that costs
nothing. Expected: at most 1.15 times on a first run, nothing on a second.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from fgmae_bench.data.content import content_of
from fgmae_bench.views.chip import Chip
from fgmae_bench.worlds.eurosat import write_eurosat

FREE = """
import sys
import numpy as np
from fgmae_bench.data import samples
samples.FACTS["content"] = lambda chip: np.uint64(0)
from fgmae_bench.errors import run_entry
from fgmae_bench.linear import main
run_entry(main)
"""


def seconds_a_chip(side: int, count: int = 300) -> float:
    """Processor seconds to hash an image of `side` pixels."""
    draw = np.random.default_rng(0)
    chips = [Chip(db=draw.normal(-12, 3, (2, side, side)).astype(np.float32), valid=None, synthetic=True)] * count
    start = time.process_time()
    for chip in chips:
        content_of(chip)
    return (time.process_time() - start) / count


def run(folder: Path, model: str, *, free: bool) -> tuple[float, float]:
    """(wall, CPU) seconds of a cached probe in `folder`, whose cache and results stay for the next."""
    flags = ["--dataset", "eurosat", "--data_path", str(folder / "world"), "--model", model, "--weights", "random"]
    flags += ["--features", "cached", "--epochs", "1", "--batch_size", "64", "--input_size", "64"]
    places = [f"--{name}={folder / name}" for name in ("results_dir", "cache_dir", "output_dir", "log_dir")]
    command = ["-c", FREE] if free else ["-m", "fgmae_bench.linear"]
    start, spent = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command, *flags, *places], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - spent.ru_utime - spent.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per_class", type=int, default=200)
    parser.add_argument("--model", default="vit_small_patch16")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    for name, side, count in (("EuroSAT-SAR", 64, 27_000), ("BigEarthNet-S1", 120, 590_326)):
        each = seconds_a_chip(side)
        print(f"{name}: {each * 1e6:.0f} us an image of {side} px, {each * count:.1f} CPU-s for {count:,}")
    first, second, bare = [], [], []
    with tempfile.TemporaryDirectory() as place:
        write_eurosat(Path(place) / "world", per_class=options.per_class, seed=0)
        for i in range(options.rounds):
            for free, times in ((False, first), (True, bare)):
                folder = Path(place) / f"{i}-{free}"
                folder.mkdir()
                (folder / "world").symlink_to(Path(place) / "world")
                times.append(run(folder, options.model, free=free))
                if not free:
                    second.append(run(folder, options.model, free=False))
    for i, what in enumerate(("wall", "CPU")):
        with_hash, without, again = (min(each[i] for each in times) for times in (first, bare, second))
        print(
            f"{what}: first cached run of {options.per_class * 10} images {with_hash:.1f} s, without the hash "
            f"{without:.1f} s, ratio {with_hash / without:.3f}; a second run, recorded already: {again:.1f} s"
        )


if __name__ == "__main__":
    main()
