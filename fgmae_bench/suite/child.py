"""One running command: a process group of its own with its log, ended as a whole, gone when its suite is killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from fgmae_bench.errors import os_error
from fgmae_bench.suite.command import Command, argv, shell_line
from fgmae_bench.system.files import open_regular

GRACE_SECONDS = 20.0  # between SIGTERM, on which training saves a checkpoint, and SIGKILL
PR_SET_PDEATHSIG = 1
SCORED = r"(\S+-(?:published|corrected)-[0-9a-f]{10}(?:-stress-[0-9a-f]{10})?)\s+[a-z]\w* -?[0-9.]"
RUN_ID = re.compile(SCORED)  # the line of a run's scores, or of a card's


@dataclass(kw_only=True)
class Child:
    """A command at work. `held` are the locks of its runs, which the process inherits; `reason` is why it is ended."""

    command: Command
    process: subprocess.Popen[bytes]
    log: Path
    offset: int
    held: list[int]
    gpus: tuple[str, ...]
    started: float = field(default_factory=time.monotonic)
    reason: str | None = None
    kill_at: float | None = None
    family: list[psutil.Process] = field(default_factory=list)

    def end(self, reason: str) -> None:
        """Ask the process and everything it started to end; `poll` kills what is left after GRACE_SECONDS."""
        if self.reason is None:
            self.reason, self.kill_at = reason, time.monotonic() + GRACE_SECONDS
            self.family = family_of(self.process.pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)

    def poll(self) -> int | None:
        """The exit code once the process is over, with nothing of it left."""
        code = self.process.poll()
        if code is None and self.kill_at is not None and time.monotonic() > self.kill_at:
            self.family += family_of(self.process.pid)
            kill(self.process.pid, self.family)
            code = self.process.wait()
        elif code is not None:
            kill(self.process.pid, self.family)
        return code

    def said(self) -> str:
        """What this attempt wrote to its log."""
        with contextlib.suppress(OSError), open(self.log, "rb") as stream:
            stream.seek(self.offset)
            return stream.read().decode(errors="replace")
        return ""

    def run_ids(self) -> list[str]:
        """The runs that the command says are recorded, in its order."""
        return [match[1] for line in self.said().splitlines() if (match := RUN_ID.match(line))]

    def last_words(self) -> str:
        """The error line, else the last line of the log."""
        lines = [line.strip() for line in self.said().splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["it said nothing"])[-1].removeprefix("error: ")[:300]


def start(command: Command, log: Path, held: list[int], gpus: tuple[str, ...], threads: int | None) -> Child:
    """Start a command; raises BenchError where its log cannot be written."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    if threads is not None:
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    parent = os.getpid()
    try:
        with os.fdopen(open_regular(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as stream:
            stream.write(f"$ {shell_line(command)}\n".encode())
            stream.flush()
            offset = stream.tell()  # before the start: the process moves the position that it shares
            process = subprocess.Popen(
                argv(command),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=environment,
                start_new_session=True,
                pass_fds=held,
                preexec_fn=lambda: _tie_to(parent),  # noqa: PLW1509 (no threads here)
            )
            return Child(command=command, process=process, log=log, offset=offset, held=held, gpus=gpus)
    except OSError as error:
        raise os_error(error, log) from error


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _tie_to(parent: int) -> None:
    """In the child: end with the suite, however that ends. USR2 is Slurm's warning to the job, not to the run."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def family_of(pid: int) -> list[psutil.Process]:
    """Everything that a process started; launchers put their workers into sessions of their own."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill(pid: int, family: list[psutil.Process]) -> None:
    """Kill a process group and a family at once."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
