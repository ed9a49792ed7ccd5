"""Kill a streamed probe again and again at random moments; resumed, it must end with the undisturbed record.

  python experiments/robustness/kills.py [--kills 100]
After each kill every file under a final name must be whole. Expected: 0 half files, all records equal.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from same_run import essence, probe_flags

from fgmae_bench.records import problem_of
from fgmae_bench.worlds.eurosat import write_eurosat

EPOCHS = 30


def command(world: Path, place: Path) -> list[str]:
    """The run; it checkpoints after every epoch."""
    flags = probe_flags(world, place, features="stream", epochs=EPOCHS, checkpoint_seconds=0, resume="auto")
    return [sys.executable, "-m", "fgmae_bench.linear", *flags]


def half_files(place: Path) -> list[str]:
    """Files under a final name that are not whole."""
    bad = []
    for path in [p for p in place.rglob("*") if p.is_file() and not p.name.endswith(".partial")]:
        try:
            if path.suffix == ".json":
                loaded = json.loads(path.read_text())
                if path.name == "record.json" and problem_of(loaded):
                    bad.append(str(path))
            elif path.suffix == ".jsonl":
                [json.loads(line) for line in path.read_text().splitlines()]
            elif path.suffix == ".pth":
                torch.load(path, weights_only=True)
            elif path.suffix == ".safetensors":
                with safe_open(path, "numpy") as file:
                    file.get_tensor("logits")
        except (OSError, ValueError, RuntimeError, EOFError) as error:
            bad.append(f"{path}: {error}")
    return bad


def the_essence(place: Path) -> dict[str, Any]:
    """The one record, without creation time, timing, environment and paths."""
    (path,) = (place / "results").glob("records/*/*/*.json")
    return essence(json.loads(path.read_text()))


def main() -> None:
    """Run until the wanted number of kills has landed; print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    options = parser.parse_args()
    dice, landed, finished, equal, bad = random.Random(1), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_eurosat(root / "world", per_class=12)
        start = time.perf_counter()
        subprocess.run(command(root / "world", root / "undisturbed"), check=True, capture_output=True)
        whole = time.perf_counter() - start
        expected = the_essence(root / "undisturbed")
        while landed < options.kills or not (root / "killed" / "results" / "records").exists():
            process = subprocess.Popen(
                command(root / "world", root / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                process.wait(dice.uniform(0.3, 1.0) * whole if landed < options.kills else None)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                landed += 1
            bad += len(half_files(root / "killed"))
            if process.returncode == 0:
                finished += 1
                equal += the_essence(root / "killed") == expected
                if landed < options.kills:
                    shutil.rmtree(root / "killed")
    print(
        f"{landed} kills at random moments (a whole run takes {whole:.1f} s), {finished} runs finished, "
        f"{equal} records equal"
    )
    print(f"half files under a final name: {bad}")
    if equal != finished or bad:
        sys.exit(1)


if __name__ == "__main__":
    main()
