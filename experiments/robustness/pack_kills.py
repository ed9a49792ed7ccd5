"""Kill `prepare pack` again and again at random moments; every pack that is resumed to its end must verify, bit by bit.

  python experiments/robustness/pack_kills.py [--kills 200]
Expected: 0 packs under a final name that are not whole, every finished pack the same, no sample lost or doubled.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lmdb

from fgmae_bench.worlds.eurosat import write_eurosat

PER_CLASS = 150


def command(world: Path, out: Path, kind: str, workers: int) -> list[str]:
    """The packing."""
    flags = ["--data_path", world, "--out", out, "--dtype", kind, "--workers", workers]
    return [sys.executable, "-m", "fgmae_bench.prepare", "pack", "eurosat", *map(str, flags)]


def samples(pack: Path) -> list[bytes]:
    """Keys of the samples of a pack."""
    with lmdb.open(str(pack), readonly=True, lock=False) as environment, environment.begin() as reading:
        return [key for key in reading.cursor().iternext(values=False) if not key.startswith(b"__")]


def whole(pack: Path, world: Path, count: int) -> bool:
    """Whether a finished pack holds every sample once and verifies against its source."""
    keys = samples(pack)
    verify = [sys.executable, "-m", "fgmae_bench.prepare", "verify", str(pack), "--data_path", str(world)]
    return len(keys) == len(set(keys)) == count and subprocess.run(verify, capture_output=True).returncode == 0


def main() -> None:
    """Run until the wanted number of kills has landed; print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    options = parser.parse_args()
    dice, landed, continued, finished, bad = random.Random(1), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        world, out = root / "world", root / "pack.lmdb"
        write_eurosat(world, per_class=PER_CLASS)
        start = time.perf_counter()
        subprocess.run(command(world, root / "undisturbed.lmdb", "float32", 2), check=True, capture_output=True)
        seconds, kind = time.perf_counter() - start, "float32"
        while landed < options.kills or finished == 0:
            partial = root / "pack.lmdb.partial"
            continued += partial.exists()
            process = subprocess.Popen(
                command(world, out, kind, landed % 3), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                process.wait(dice.uniform(0.2, 0.9) * seconds if landed < options.kills else None)
            except subprocess.TimeoutExpired:
                process.kill()
                landed += 1
            code = process.wait()
            if code not in (0, -9):
                bad += 1
            if out.exists():
                finished += 1
                bad += not whole(out, world, 10 * PER_CLASS)
                shutil.rmtree(out)
                kind = dice.choice(("float32", "uint8"))
    print(
        f"{landed} kills at random moments (undisturbed {seconds:.1f} s), {continued} starts on what was "
        f"left, {finished} packs finished"
    )
    print(f"packs that were not whole, or runs that failed: {bad}")
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    main()
