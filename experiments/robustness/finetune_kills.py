"""Kill (SIGKILL) and stop (SIGTERM) fine-tuning again and again at random moments; resumed, it must end bit-identical.

  python experiments/robustness/finetune_kills.py [--kills 50] [--stops 50]
After each interruption every file under a final name must be whole. Expected: 0 half files, every finished run equal to
the
undisturbed one: record, weights of the last epoch and of the best.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from kills import half_files, the_essence
from same_run import finetune_flags  # kills puts tests on the path

from fgmae_bench.worlds.eurosat import write_eurosat

EPOCHS = 12


def command(world: Path, place: Path) -> list[str]:
    """The run; it saves after every step."""
    flags = finetune_flags(world, place, epochs=EPOCHS, resume="auto")
    return [sys.executable, "-m", "fgmae_bench.finetune", *flags]


def same(place: Path, whole: Path) -> bool:
    """Equal records and equal weights, bit for bit."""
    if json.dumps(the_essence(place), sort_keys=True) != json.dumps(the_essence(whole), sort_keys=True):
        return False
    for name in ("checkpoint-last.pth", "checkpoint-best.pth"):
        a, b = (torch.load(folder / "run" / name, weights_only=True)["model"] for folder in (place, whole))
        if a.keys() != b.keys() or not all(torch.equal(a[key], b[key]) for key in a):
            return False
    return True


def main() -> None:
    """Run until the wanted number of interruptions has landed; print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stops", type=int, default=50)
    options = parser.parse_args()
    dice = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        world, whole = Path(folder) / "world", Path(folder) / "whole"
        write_eurosat(world, per_class=12)
        started = time.monotonic()
        subprocess.run(command(world, whole), check=True, capture_output=True)
        length = time.monotonic() - started
        for number, wanted in ((signal.SIGKILL, options.kills), (signal.SIGTERM, options.stops)):
            landed = finished = equal = bad = 0
            place = Path(folder) / number.name
            while landed < wanted:
                process = subprocess.Popen(command(world, place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                try:
                    process.wait(timeout=dice.uniform(0.3, 1.0) * length)
                except subprocess.TimeoutExpired:
                    landed += 1
                    process.send_signal(number)
                    process.wait()
                bad += len(half_files(place))
                if process.returncode == 0:
                    finished, equal = finished + 1, equal + same(place, whole)
                    shutil.rmtree(place)
            print(
                f"{number.name}: {landed} at random moments (a whole run takes {length:.1f} s), "
                f"{finished} runs finished, "
                f"{equal} bit-identical, {bad} half files under a final name",
                flush=True,
            )


if __name__ == "__main__":
    main()
