"""The GPUs that a suite may hand out, found without torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from fgmae_bench.errors import BenchError
from fgmae_bench.suite.command import Command


def require_present(given: str) -> None:
    """Raise BenchError where `--gpus` names a device that this machine has not: by index, or by the beginning of its UUID."""
    asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout if shutil.which("nvidia-smi") else ""
    here = re.findall(r"^GPU (\d+):", asked, re.MULTILINE)
    uuids = re.findall(r"UUID: ([^)\s]+)", asked)
    for part in _listed(given) or ():
        if part not in here and not any(len(part) > len("GPU-") and uuid.startswith(part) for uuid in uuids):
            todo = f"choose from {', '.join(here)}" if here else "leave --gpus out, or use --slurm"
            raise BenchError(f"--gpus {given}: there is no GPU {part}, this machine has {len(here)}", todo)


def devices(given: str | None) -> tuple[str, ...] | None:
    """Devices by `--gpus` (a list such as 0,1, or none), else CUDA_VISIBLE_DEVICES, else all; None where there are none."""
    listed = given if given is not None else os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return _listed(listed)
    if shutil.which("nvidia-smi") is None:
        return None
    asked = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True)
    return tuple(asked.stdout.split()) or None if asked.returncode == 0 else None


def _listed(text: str) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in text.split(",") if part.strip() not in ("", "none", "-1")) or None


def require_enough(commands: list[Command], gpus: tuple[str, ...] | None) -> None:
    """Raise BenchError for a command that wants more GPUs than there are."""
    for command in commands:
        if gpus is not None and command.needs_gpu and command.processes > len(gpus):
            what = f"{command.where}.nproc_per_node is {command.processes}, the suite has {len(gpus)} GPUs to hand out"
            raise BenchError(what, "lower it (batch_size times as much gives the same run), leave the run out with --only, or use --slurm")
