"""The harness of the fuzz scripts: damage a file by a seed, read it in a forked child under limits, judge how it ended.

A script gives a table of readers, each a function (generator, folder) -> work: it writes its damaged files into the
empty folder and returns what the child is to do, most often `command("fgmae_bench.weights", "inspect", path)`. Modules
are imported, and seed files made, before the first child is forked, so that a child costs a fork. A payload that runs
makes the file `payload` in the folder, the child's working directory.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fgmae_bench.errors import run_entry

Work = Callable[[], object]
Reader = Callable[[np.random.Generator, Path], Work]
ROOM = 1 << 30  # bytes of address space above what the parent has
SECONDS, HANG = 30.0, 600.0  # of processor time, and by the clock, however busy the machine is
REHEARSED = 12  # seeds a reader, where each mutation gets a child of its own
PAYLOAD = "payload"
EDGES = (b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\x80")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a work ended: exit code (negative: its signal), what it printed, seconds, bytes its memory grew by."""

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
        if self.code in (-signal.SIGPROF, -signal.SIGALRM):
            return f"not at its end after {SECONDS:.0f} s of processor time, or {HANG:.0f} s by the clock"
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        if "Traceback (most recent call last)" in self.output:
            return "a traceback"
        return "" if self.code in (0, 2) else f"exit code {self.code}"


@dataclass(kw_only=True)
class Count:
    """What came of a reader's mutations; `cpu` in seconds of the children and of making their files."""

    accepted: int = 0
    refused: int = 0
    faults: int = 0
    cpu: float = 0.0
    slowest: float = 0.0  # seconds
    grown: int = 0  # bytes

    def add(self, other: Count) -> None:
        """Take in the mutations of another process."""
        for name in ("accepted", "refused", "faults", "cpu"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.slowest, self.grown = max(self.slowest, other.slowest), max(self.grown, other.grown)


def fuzz(name: str, reader: Reader, seeds: Iterable[int], batch: int, keep: Path | None) -> Count:
    """Count what comes of the seeds, `batch` of them in one child; a fault is printed, its files are kept in `keep`."""
    count, before = Count(), _cpu()
    for group in _groups(list(seeds), batch):
        with contextlib.ExitStack() as places:
            folders = [Path(places.enter_context(tempfile.TemporaryDirectory(prefix="fuzz_"))) for _ in group]
            works = [
                (reader(np.random.default_rng([seed, *name.encode()]), folder), folder)
                for seed, folder in zip(group, folders, strict=True)
            ]
            for seed, folder, outcome in zip(group, folders, trials(works), strict=True):
                kind = "faults" if outcome.fault else "accepted" if outcome.code == 0 else "refused"
                setattr(count, kind, getattr(count, kind) + 1)
                count.slowest, count.grown = max(count.slowest, outcome.seconds), max(count.grown, outcome.grown)
                if outcome.fault:
                    print(f"{name}, seed {seed}: {outcome.fault}\n{outcome.output[-2000:]}", flush=True)
                    if keep is not None:
                        shutil.copytree(folder, keep / f"{name}-{seed}", dirs_exist_ok=True, symlinks=True)
    count.cpu = _cpu() - before
    return count


def fuzz_all(
    readers: dict[str, Reader], seeds: list[int], *, jobs: int = 1, batch: int = 1, keep: Path | None = None
) -> dict[str, Count]:
    """What comes of each reader's seeds; `jobs` forks of this process share them.

    A fork that does not come to its end counts as a fault of every reader.
    """
    if batch < REHEARSED:  # else few children import what a rehearsal would find
        _rehearse(readers)
    gc.collect()
    gc.freeze()  # so that a collection in a child writes into none of the pages that it shares
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="fuzz_counts_") as place:
        forks = []
        for job in range(jobs):
            if (pid := os.fork()) == 0:
                _share(readers, seeds[job::jobs], batch, keep, Path(place) / str(job))
            forks.append(pid)
        ended = [os.waitpid(pid, 0)[1] == 0 for pid in forks]
        totals = {name: Count() for name in readers}
        for job, fine in enumerate(ended):
            counts = json.loads((Path(place) / str(job)).read_text()) if fine else {}
            for name, total in totals.items():
                total.add(Count(**counts[name]) if name in counts else Count(faults=1))
    return totals


def _rehearse(readers: dict[str, Reader]) -> None:
    """Import what the first seeds of each reader import, found out in a child: no other child shall wait for it."""
    known = set(sys.modules)
    with tempfile.TemporaryDirectory(prefix="fuzz_") as place:
        for name, reader in readers.items():
            folders = [Path(place) / f"{name}-{seed}" for seed in range(REHEARSED)]
            works = []
            for seed, folder in enumerate(folders):
                folder.mkdir()
                works.append((reader(np.random.default_rng([seed, *name.encode()]), folder), folder))
            found = Path(place) / f"{name}.txt"
            works.append((lambda found=found: found.write_text("\n".join(sys.modules)) and None, Path(place)))  # type: ignore[misc]
            trials(works)
            for module in found.read_text().splitlines() if found.exists() else ():
                if module not in known and not module.startswith("__"):
                    with contextlib.suppress(ImportError, AttributeError):
                        importlib.import_module(module)


def _share(readers: dict[str, Reader], seeds: list[int], batch: int, keep: Path | None, counts: Path) -> None:
    """One fork's part of the work, written to `counts`; never returns."""
    try:
        found = {name: asdict(fuzz(name, reader, seeds, batch, keep)) for name, reader in readers.items()}
        counts.write_text(json.dumps(found))
    except BaseException:  # noqa: BLE001 (printed; nothing of the parent may run on in a fork)
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _groups(seeds: list[int], size: int) -> Iterator[list[int]]:
    return (seeds[at : at + size] for at in range(0, len(seeds), size))


def _cpu() -> float:
    """Seconds of processor time of this process and of its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def trial(work: Work, folder: Path, *, room: int = ROOM, seconds: float = SECONDS) -> Outcome:
    """Do `work` in a forked child whose working directory is `folder`; a signal ends it after `seconds`."""
    return trials([(work, folder)], room=room, seconds=seconds)[0]


def trials(works: list[tuple[Work, Path]], *, room: int = ROOM, seconds: float = SECONDS) -> list[Outcome]:
    """Do each work, in its folder, one after the other in one forked child; where that dies, the rest in another.

    The works of a child share what a module remembers: give it one where that may hide a fault.
    """
    done: list[Outcome] = []
    while len(done) < len(works):
        sys.stdout.flush()
        sys.stderr.flush()
        left, start = works[len(done) :], time.monotonic()
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as ends:
            child = os.fork()
            if child == 0:
                _in_child(left, said.fileno(), ends.fileno(), room, seconds)
            _, status, usage = os.wait4(child, 0)
            code, base = os.waitstatus_to_exitcode(status), _memory(1)
            said.seek(0)
            ends.seek(0)
            text, begin = said.read(), 0
            reports = [json.loads(line) for line in ends]
        for (_, folder), (ended, end, spent, largest) in zip(left, reports, strict=False):
            done.append(_outcome(ended, text[begin:end], spent, largest - base, folder))
            begin = end
        if len(reports) < len(left):  # the child died in the next one
            folder, spent = left[len(reports)][1], time.monotonic() - start
            done.append(_outcome(code or 70, text[begin:], spent, usage.ru_maxrss * 1024 - base, folder))
    return done


def _outcome(code: int, output: bytes, seconds: float, grown: int, folder: Path) -> Outcome:
    text = output.decode(errors="replace")
    payload = (folder / PAYLOAD).exists()
    return Outcome(code=code, output=text, seconds=seconds, grown=max(0, grown), payload=payload)


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


def _in_child(works: list[tuple[Work, Path]], said: int, ends: int, room: int, seconds: float) -> None:
    """Do the works and write a line about each to `ends`: exit code as of the command line, end of its text, seconds,
    the most memory. Never returns.
    """
    try:
        os.dup2(said, 1)
        os.dup2(said, 2)
        limit = _memory(0) + room
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for work, folder in works:
            os.chdir(folder)
            start = time.monotonic()
            signal.setitimer(signal.ITIMER_PROF, seconds)  # nobody handles the signals: they end the child
            signal.setitimer(signal.ITIMER_REAL, HANG)
            code = _code(work)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            facts = [code, os.lseek(1, 0, os.SEEK_CUR), time.monotonic() - start, largest]
            os.write(ends, json.dumps(facts).encode() + b"\n")
    except BaseException:  # noqa: BLE001 (printed; nothing of the parent may run on in a fork)
        traceback.print_exc()
        os._exit(70)
    os._exit(0)


def _code(work: Work) -> int:
    """The exit code that `python -m` would have; what it printed is written."""
    code = 70
    try:
        run_entry(work)  # type: ignore[arg-type]
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 (printed; nothing of the parent may run on in a fork)
        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _memory(field: int) -> int:
    """Bytes of this process: 0 for its address space, 1 for what is resident."""
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()
