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

from measured import keep

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
    helps = {module: seconds(f"fgmae_bench.{module}", "--help") for module in ("linear", "prepare", "report")}
    for module, value in helps.items():
        print(f"{module} --help{value:>8.2f} s (wanted: 1.5 s at most)")
    with tempfile.TemporaryDirectory() as folder:
        empty = seconds("fgmae_bench.report", "--results_dir", folder)
    print(f"report, no records{empty:>6.2f} s (wanted: 1 s at most)")
    keep(startup_help=helps["linear"], startup_report=empty)


if __name__ == "__main__":
    main()
