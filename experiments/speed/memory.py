"""Anonymous memory of a cached probe over a small and an eight times larger world, each in a process of its own.

  python experiments/speed/memory.py
Expected: nearly flat; what grows are names, ids, stamps and the logits of the test split, 1 to 2 KB an image.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from measured import keep
from same_run import probe_flags

from fgmae_bench.worlds.eurosat import write_eurosat

SIZES = (100, 800)  # images a class


def peak(world: Path, scratch: Path, tag: str) -> int:
    """Peak anonymous bytes of one run, as its record states them."""
    place = scratch / tag
    flags = probe_flags(world, place, features="cached", epochs=20, batch_size=64)
    command = [sys.executable, "-m", "fgmae_bench.linear", *flags]
    subprocess.run(command, check=True, capture_output=True)
    record = json.loads(next((place / "results").glob("records/*/*/*.json")).read_text())
    return int(record["timing"]["peak_anonymous_memory_bytes"])


def main() -> None:
    """Run both sizes and print bytes and bytes an image."""
    with tempfile.TemporaryDirectory() as folder:
        scratch, peaks = Path(folder), []
        for size in SIZES:
            write_eurosat(scratch / f"world{size}", per_class=size)
            peaks.append(peak(scratch / f"world{size}", scratch, str(size)))
            print(f"{10 * size:>6} images: peak anonymous memory {peaks[-1] / 2**20:7.1f} MiB")
    grown = (peaks[1] - peaks[0]) / (10 * (SIZES[1] - SIZES[0]))
    keep(memory_small=peaks[0], memory_large=peaks[1])
    print(f"growth {grown:.0f} bytes an image (features alone would be 768, decoded images 32,768)")


if __name__ == "__main__":
    main()
