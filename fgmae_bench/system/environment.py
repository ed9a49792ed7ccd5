"""What a run ran on: versions, device, commit and memory, as a record states them."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fgmae_bench.errors import printable
from fgmae_bench.system.energy import Energy, counters

SOURCE = Path(__file__).resolve().parents[2]


def describe(device: str, device_name: str, world_size: int) -> dict[str, Any]:
    """The record's `environment`."""
    import timm
    import torch

    commit, dirty = git_state()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": device,
        "device_name": device_name,
        "world_size": world_size,
        "threads": torch.get_num_threads(),
        "git_commit": commit,
        "git_dirty": dirty,
        "command": command(),
    }


def git_state() -> tuple[str | None, bool | None]:
    """(commit, True when tracked files differ from it) of the source tree; (None, None) outside a repository."""
    if not (SOURCE / ".git").exists():
        return None, None
    call = ["git", "-C", str(SOURCE)]
    try:
        commit = subprocess.run([*call, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        status = subprocess.run(
            [*call, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    return (commit.stdout.strip() or None, bool(status.stdout.strip())) if commit.returncode == 0 else (None, None)


def command() -> str:
    """The command line in the form a reader can type again, torchrun and its processes included."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec else ""
    program = f"{_launcher()} -m {name}" if name.startswith("fgmae_bench") else Path(sys.argv[0]).name
    return " ".join([program, *map(shell_word, sys.argv[1:])])


def shell_word(text: str) -> str:
    """`text` as one word for bash, on one line: line ends and other control characters as escapes in $'...'."""
    if printable(text) == text and "\n" not in text and "\t" not in text:
        return shlex.quote(text)
    return "$'" + "".join(_shell_letter(letter) for letter in text) + "'"


def _shell_letter(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    if letter != "\t" and letter != "\n" and printable(letter) == letter:
        return letter
    # bytes, not code points: what a name's undecodable bytes are stands as it is on the disk
    return "".join(f"\\x{byte:02x}" for byte in letter.encode(errors="surrogateescape"))


def _launcher() -> str:
    """What started this process: python, or torchrun as the environment variables say."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return "python"
    machines = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    return (
        "torchrun "
        f"{f'--nnodes={machines} ' if machines > 1 else ''}--nproc_per_node={os.environ.get('LOCAL_WORLD_SIZE', '1')}"
    )


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def anonymous_memory() -> int | None:
    """Anonymous resident bytes of this process, None outside Linux; file-backed pages (feature banks) do not count."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next((line for line in status.read_text().splitlines() if line.startswith("RssAnon")), None)
    return int(line.split()[1]) * 1024 if line else None


class MemoryPeak:
    """The largest anonymous memory seen at the moments it was asked to look, and the energy between them."""

    def __init__(self, gpu: str = "") -> None:
        self.bytes = anonymous_memory()
        self.energy = Energy(counters(gpu))

    def look(self) -> None:
        """Look now."""
        self.energy.look()
        current = anonymous_memory()
        if current is not None and (self.bytes is None or current > self.bytes):
            self.bytes = current
