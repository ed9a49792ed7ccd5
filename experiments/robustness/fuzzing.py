"""The harness of the fuzz scripts: damage a file by a seed, read it in a forked child under limits, judge how it ended.

A script gives a table of readers, each a function (generator, folder) -> work: it writes its damaged files into the
empty folder and returns what the child is to do, most often `command("fgmae_bench.weights", "inspect", path)`. Modules
are imported, and seed files made, before `run` is called, so that a child costs a fork. A payload that runs makes the
file `payload` in the folder, the child's working directory.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fgmae_bench.errors import run_entry

Work = Callable[[], object]
Reader = Callable[[np.random.Generator, Path], Work]
ROOM = 1 << 30  # bytes of address space above what the parent has
SECONDS = 30.0
PAYLOAD = "payload"
EDGES = (b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\x80")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a child ended: exit code (negative: its signal), what it printed, seconds, bytes its memory grew by."""

    code: int
    output: str
    seconds: float
    grown: int
    payload: bool

    @property
    def fault(self) -> str:
        """Why the ending is a fault, "" where it is none."""
        if self.payload:
            return "a payload ran"
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        if "Traceback (most recent call last)" in self.output:
            return "a traceback"
        return "" if self.code in (0, 2) else f"exit code {self.code}"


def run(readers: dict[str, Reader], description: str) -> None:
    """The command line of a fuzz script: every reader over its seeds, one line each; exit code 1 on any fault."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", nargs="+", choices=readers, default=list(readers), metavar="NAME")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--count", type=int, default=500, help="seeds a reader (default: 500)")
    parser.add_argument("--keep", type=Path, help="folder for the files of each fault")
    given = parser.parse_args()
    faults = sum(fuzz(name, readers[name], given.first, given.count, given.keep) for name in given.readers)
    sys.exit(faults > 0)


def fuzz(name: str, reader: Reader, first: int, count: int, keep: Path | None = None) -> int:
    """Number of faults of one reader over `count` seeds; prints each, then one line of counts."""
    ends: Counter[str] = Counter()
    slowest, grown, start = 0.0, 0, time.monotonic()
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory(prefix="fuzz_") as place:
            folder = Path(place)
            outcome = trial(reader(np.random.default_rng([seed, *name.encode()]), folder), folder)
            verdict = "read" if outcome.code == 0 else "refused"
            ends["fault" if outcome.fault else verdict] += 1
            slowest, grown = max(slowest, outcome.seconds), max(grown, outcome.grown)
            if outcome.fault:
                print(f"{name}, seed {seed}: {outcome.fault}\n{outcome.output[-2000:]}")
            if outcome.fault and keep is not None:
                shutil.copytree(folder, keep / f"{name}-{seed}", dirs_exist_ok=True)
    print(
        f"{name:<20} {count} mutations: {ends['read']} read, {ends['refused']} refused, {ends['fault']} faults; "
        f"slowest {slowest:.1f} s, most memory {grown / 2**20:.0f} MiB, in all {time.monotonic() - start:.0f} s",
        flush=True,
    )
    return ends["fault"]


def trial(work: Work, folder: Path, *, room: int = ROOM, seconds: float = SECONDS) -> Outcome:
    """Do `work` in a forked child whose working directory is `folder`; kill it after `seconds`."""
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.monotonic()
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            _in_child(work, folder, said.fileno(), room)
        code, usage = _ended(child, seconds)
        said.seek(0)
        output = said.read().decode(errors="replace")
    return Outcome(
        code=code,
        output=output,
        seconds=time.monotonic() - start,
        grown=max(0, usage.ru_maxrss * 1024 - _memory(1)),
        payload=(folder / PAYLOAD).exists(),
    )


def command(package: str, *arguments: object) -> Work:
    """The work of `python -m package arguments`: the module itself, or the `__main__` of a package."""
    module = importlib.import_module(package)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{package}.__main__")

    def work() -> object:
        sys.argv = [package, *map(str, arguments)]
        return module.main()

    return work


def mutated(rng: np.random.Generator, content: bytes, most: int = 4) -> bytes:
    """`content` with 1 to `most` changes: bits, bytes, edge values, parts cut, doubled, moved, or the end missing."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, most + 1))):
        place, length = int(rng.integers(len(changed) + 1)), int(rng.integers(1, 65))
        part = changed[place : place + length]
        kind = rng.integers(8)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << int(rng.integers(8))
        elif kind in (1, 2) and place < len(changed):
            changed[place] = int(rng.integers(256))
        elif kind == 3:
            edge = EDGES[int(rng.integers(len(EDGES)))]
            changed[place : place + len(edge)] = edge
        elif kind == 4:
            del changed[place : place + length]
        elif kind == 5:
            changed[place:place] = part * int(rng.integers(1, 4))
        elif kind == 6:
            target = int(rng.integers(len(changed) + 1))
            changed[target : target + len(part)] = part
        elif kind == 7 and rng.random() < 0.3:
            del changed[place:]
    return bytes(changed)


def _in_child(work: Work, folder: Path, said: int, room: int) -> None:
    """Never returns: the exit code is that of the command line."""
    code = 70
    try:
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(folder)
        limit = _memory(0) + room
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        run_entry(work)  # type: ignore[arg-type]
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _ended(child: int, seconds: float) -> tuple[int, resource.struct_rusage]:
    """(exit code, resources) of the child; it is killed when its time is up."""
    handle = os.pidfd_open(child)
    try:
        if not select.select([handle], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(status), usage


def _memory(field: int) -> int:
    """Bytes of this process: 0 for its address space, 1 for what is resident."""
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()
