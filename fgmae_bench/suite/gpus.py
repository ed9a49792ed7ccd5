"""The GPUs that a suite may hand out, found without torch."""

from __future__ import annotations

import os
import shutil
import subprocess

from fgmae_bench.errors import BenchError
from fgmae_bench.suite.command import Command


def devices(given: str | None) -> tuple[str, ...] | None:
    """Devices by `--gpus` (a list such as 0,1, or none), else CUDA_VISIBLE_DEVICES, else all; None where there are none."""
    listed = given if given is not None else os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return tuple(part.strip() for part in listed.split(",") if part.strip() not in ("", "none", "-1")) or None
    if shutil.which("nvidia-smi") is None:
        return None
    asked = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True)
    return tuple(asked.stdout.split()) or None if asked.returncode == 0 else None


def require_enough(commands: list[Command], gpus: tuple[str, ...] | None) -> None:
    """Raise BenchError for a command that wants more GPUs than there are."""
    for command in commands:
        if gpus is not None and command.needs_gpu and command.processes > len(gpus):
            what = f"{command.where}.nproc_per_node is {command.processes}, the suite has {len(gpus)} GPUs to hand out"
            raise BenchError(what, "lower it (batch_size times as much gives the same run), leave the run out with --only, or use --slurm")
