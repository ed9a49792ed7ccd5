"""Kill suite processes that share one record folder at random moments; each run must be recorded exactly once.

  python experiments/robustness/suite_kills.py [--suites 8] [--kills 40] [--runs 16]
Suites are killed with SIGKILL and started again until the kills are spent, then left to end. Expected: every run has
one
record, no record was written twice, no run was ever at work in two processes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from fgmae_bench.records import problem_of
from fgmae_bench.worlds.eurosat import write_eurosat

EXPERIMENT = """
title = "Kills"
module = "linear"
protocol = "linear_probe"
[common]
dataset = "eurosat"
data_path = "world"
split = "reference"
model = "backscatter_stats"
weights = "random"
features = "cached"
device = "cpu"
epochs = 2
batch_size = 16
cache_dir = "cache"
[layout]
columns = ["run", "oa"]
[[runs]]
label = "statistics"
flags = {{ seed = {seeds} }}
"""


def start(place: Path) -> subprocess.Popen[bytes]:
    """One suite over the common folder; its output goes nowhere."""
    command = [sys.executable, "-m", "fgmae_bench.suite", "run", "kills.toml"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def at_work(suites: list[subprocess.Popen[bytes]]) -> list[str]:
    """Output folders of the probes that run now."""
    found = []
    for suite in suites:
        try:
            for child in psutil.Process(suite.pid).children():
                words = child.cmdline()
                found += [words[words.index("--output_dir") + 1]] if "--output_dir" in words else []
        except psutil.Error:
            continue
    return found


def main() -> None:
    """Kill until the kills are spent; print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--suites", type=int, default=8)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--runs", type=int, default=16)
    options = parser.parse_args()
    dice, first, twice, landed = random.Random(1), dict[Path, tuple[int, int]](), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_eurosat(place / "world", per_class=12)
        (place / "kills.toml").write_text(EXPERIMENT.format(seeds=list(range(options.runs))))
        suites = [start(place) for _ in range(options.suites)]
        rewritten = failed = 0
        while any(suite.poll() is None for suite in suites):
            time.sleep(dice.uniform(0.05, 0.6))
            names = at_work(suites)
            twice += len(names) - len(set(names))
            for path in (place / "results").glob("records/*/*/*.json"):
                stamp = (path.stat().st_ino, path.stat().st_mtime_ns)
                rewritten += first.setdefault(path, stamp) != stamp
            living = [i for i, suite in enumerate(suites) if suite.poll() is None]
            if landed < options.kills and living:
                victim = dice.choice(living)
                suites[victim].kill()
                suites[victim].wait()
                suites[victim] = start(place)
                landed += 1
        failed = sum(suite.returncode != 0 for suite in suites)
        records = [json.loads(path.read_text()) for path in (place / "results").glob("records/*/*/*.json")]
        broken = sum(problem_of(record) is not None for record in records)
        seeds = sorted(record["config"]["recipe"]["seed"] for record in records)
    print(
        f"{options.suites} suites, {landed} kills, {options.runs} runs: {len(records)} records, {broken} "
        f"broken, {rewritten} written twice"
    )
    print(f"runs at work in two processes at once: {twice}; suites that ended otherwise than with 0: {failed}")
    if seeds != list(range(options.runs)) or broken or rewritten or twice or failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
