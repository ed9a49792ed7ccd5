"""What Slurm says of this user's jobs, by `squeue` alone: accounting (`sacct`) is absent on many clusters."""

from __future__ import annotations

import shutil
import subprocess


def queued() -> dict[str, str] | None:
    """Job id (`123` or `123_4`) -> state of every job of this user that waits or runs; None where squeue gives no answer."""
    if shutil.which("squeue") is None:
        return None
    try:
        asked = subprocess.run(["squeue", "--me", "-h", "-r", "-o", "%i %T"], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    if asked.returncode:
        return None
    return dict(line.split(maxsplit=1) for line in asked.stdout.splitlines() if " " in line)
