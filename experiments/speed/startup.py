"""Start-up of the entries: `--help` and an empty report, median of several processes.

  python experiments/speed/startup.py
Expected: --help under 1.5 s, report under 1 s.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 5


def seconds(*arguments: str) -> float:
    """Median wall time of `python -m fgmae_bench.<arguments>`."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Print each."""
    for module in ("linear", "prepare", "report"):
        print(f"{module} --help{seconds(f'fgmae_bench.{module}', '--help'):>8.2f} s (wanted: 1.5 s at most)")
    with tempfile.TemporaryDirectory() as folder:
        print(
            f"report, no records{seconds('fgmae_bench.report', '--results_dir', folder):>6.2f} s (wanted: 1 s at most)"
        )


if __name__ == "__main__":
    main()
