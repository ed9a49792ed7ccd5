"""Where the benchmarks of this folder leave their numbers: one JSON a machine, from which `table.py` makes the tables.

A file is named by processor or card; each number stands with its unit, when it was measured, at which commit, and how
busy the machine was then.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "results" / "speed"


def processor() -> str:
    """The processor's name and number of cores."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wide = "AVX-512" if cpuinfo.is_file() and " avx512f" in cpuinfo.read_text() else ""
    return ", ".join(part for part in (name, wide, f"{cores} cores") if part)


def keep(machine: str | None = None, **values: float) -> None:
    """Write numbers down under their names: ratios, seconds, images/s or bytes, as `table.py` words them.

    `machine` is a card's name, by default the processor's. A script that was given flags keeps nothing.
    """
    if sys.argv[1:]:
        print("not kept: sizes were given, and tables hold the usual ones")
        return
    machine = machine or processor()
    path = FOLDER / f"{re.sub('[^A-Za-z0-9]+', '-', machine).strip('-').lower()}.json"
    held: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"machine": machine, "measured": {}}
    about = {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }
    for name, value in values.items():
        held["measured"][name] = {"value": float(f"{value:.4g}"), **about}
    held["measured"] = dict(sorted(held["measured"].items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(held, indent=1) + "\n")
    partial.replace(path)
    print(f"kept in {path.relative_to(ROOT)}: {', '.join(values)}")


def machines() -> list[dict[str, Any]]:
    """What was measured, a machine each, by name."""
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]


def _commit() -> str:
    """The commit of the code that ran, marked where it was changed; ? outside a checkout."""
    try:
        told = [
            subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
            for words in (["rev-parse", "--short=9", "HEAD"], ["status", "--porcelain", "--", "fgmae_bench"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "?"
    return told[0] + ("+" if told[1] else "")
