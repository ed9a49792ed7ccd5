"""What tests of the suite share: a small experiment over a shared world, and the suite as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from commands import MAIN, REPOSITORY, Result, call, shared_world

MAIN.setdefault("suite", "fgmae_bench.suite.__main__")

COMMON = """
title = "Test"
module = "linear"
protocol = "linear_probe"
[common]
dataset = "eurosat"
split = "reference"
data_path = "{world}"
results_dir = "results"
cache_dir = "cache"
output_dir = "runs"
weights = "random"
features = "cached"
device = "cpu"
epochs = 2
batch_size = 16
[layout]
columns = ["run", "oa"]
"""


def experiment(folder: Path, *runs: str, name: str = "mine", common: str = "") -> Path:
    """Write an experiment of `runs`, each the inside of a flags table; later lines of `common` are added to [common]."""
    text = COMMON.format(world=shared_world()).replace("[layout]", common + "\n[layout]")
    for i, flags in enumerate(runs):
        text += f'\n[[runs]]\nlabel = "run {i}"\nflags = {{ {flags} }}\n'
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def suite(*words: object, cwd: Path) -> Result:
    """`python -m fgmae_bench.suite <words>` inside this process; its runs are processes of their own."""
    kept = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(cwd)])
    try:
        return call("suite", *words, cwd=cwd)
    finally:
        os.environ.pop("PYTHONPATH")
        if kept is not None:
            os.environ["PYTHONPATH"] = kept


def started(*words: object, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """The suite as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "fgmae_bench.suite", *map(str, words)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(cwd)]), **environment},
    )


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9, and wait."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
