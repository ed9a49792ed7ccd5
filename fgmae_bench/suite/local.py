"""Commands as processes on this machine: so many at once, GPUs handed out, failures isolated, nothing left behind on a
signal.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fgmae_bench.errors import EXIT_BAD_INPUT, BenchError
from fgmae_bench.suite.child import Child, start
from fgmae_bench.suite.command import Command
from fgmae_bench.suite.ledger import Ledgers, release

LOOK_SECONDS = 0.05
CLAIMED_ELSEWHERE_SECONDS = 1.0  # before a run that another suite is at work on is looked at again
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How commands are run. `gpus` names the devices to hand out, None hands out none; `timeout` in seconds a
    command.
    """

    max_parallel: int = 1
    gpus: tuple[str, ...] | None = None
    retry: int = 0
    timeout: float | None = None


Say = Callable[[str, Command, str], None]  # (state, command, what there is to say)


@dataclass(kw_only=True)
class Floor:
    """What runs now, what waits, and what became of the rest. `warm` holds the banks that a command has been
    through.
    """

    waiting: list[Command]
    ledgers: Ledgers
    options: Options
    say: Say
    free: list[str]
    running: list[Child] = field(default_factory=list)
    warm: set[str] = field(default_factory=set)
    not_before: dict[str, float] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def run_here(commands: list[Command], ledgers: Ledgers, options: Options, say: Say) -> dict[str, str]:
    """Run commands until each is recorded or has failed; the failed ones' reasons by key.

    SIGINT, SIGTERM and SIGHUP end all children, then KeyboardInterrupt is raised; a second one kills them at once.
    """
    floor = Floor(waiting=list(commands), ledgers=ledgers, options=options, say=say, free=list(options.gpus or ()))
    with asked_to_stop() as asked:
        try:
            while floor.waiting or floor.running:
                if asked:
                    raise KeyboardInterrupt
                turn(floor)
                time.sleep(LOOK_SECONDS)
        finally:
            _end_all(floor, asked)
    return floor.failed


def turn(floor: Floor) -> None:
    """Take in what ended, end what takes too long, start what may start."""
    for child in list(floor.running):
        code = child.poll()
        if code is not None:
            floor.running.remove(child)
            floor.free += child.gpus
            try:
                _settle(floor, child, code)
            finally:
                release(child.held)
        elif floor.options.timeout is not None and time.monotonic() - child.started > floor.options.timeout:
            child.end(f"no end within --timeout {floor.options.timeout:g} s: killed")
    for command in list(floor.waiting):
        if len(floor.running) >= floor.options.max_parallel:
            break
        if _may_start(floor, command):
            _start(floor, command)


def gpus_of(command: Command, options: Options) -> int:
    """Devices that a command is handed."""
    return command.processes if options.gpus is not None and command.needs_gpu else 0


def _may_start(floor: Floor, command: Command) -> bool:
    """Not before its time, while its features are being computed, or while too few GPUs are free."""
    if time.monotonic() < floor.not_before.get(command.key, 0.0):
        return False
    if command.bank not in floor.warm and any(child.command.bank == command.bank for child in floor.running):
        return False
    return gpus_of(command, floor.options) <= len(floor.free)


def _start(floor: Floor, command: Command) -> None:
    """Claim the runs of a command that are still to do, and start it; put it off where another process holds one of
    them.
    """
    ledger = floor.ledgers.of(command)
    ledger.refresh()
    held = ledger.claim(ledger.pending(command))
    if held is None:
        floor.not_before[command.key] = time.monotonic() + CLAIMED_ELSEWHERE_SECONDS
        return
    floor.waiting.remove(command)
    ledger.refresh()
    if not ledger.pending(command):
        release(held)
        floor.say("recorded", command, "by another suite")
        return
    wanted = gpus_of(command, floor.options)
    gpus, floor.free = tuple(floor.free[:wanted]), floor.free[wanted:]
    threads = max(1, (os.cpu_count() or 1) // floor.options.max_parallel) if floor.options.max_parallel > 1 else None
    floor.attempts[command.key] = floor.attempts.get(command.key, 0) + 1
    try:
        ledger.note_failure(command, None)
        floor.running.append(start(command, ledger.log_of(command), held, gpus, threads))
        floor.say("started", command, str(ledger.log_of(command)))
    except BenchError as error:
        release(held)
        floor.free += gpus
        _fail(floor, command, str(error))


def _settle(floor: Floor, child: Child, code: int) -> None:
    """What became of a command that is over: recorded, tried again, or failed."""
    command, ledger = child.command, floor.ledgers.of(child.command)
    floor.warm.add(command.bank)
    seconds = f"{time.monotonic() - child.started:.0f} s"
    try:
        missing = ledger.receive(command, child.run_ids() if code == 0 else [])
    except BenchError as error:  # the receipts' disk is full: the records themselves say what is done
        missing = ledger.pending(command)
        floor.say("warning", command, str(error))
    if not missing:
        floor.say("recorded", command, seconds)
        return
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}: {child.last_words()}"
    reason = child.reason or ("exit code 0, but its record did not appear" if code == 0 else ended)
    if code != EXIT_BAD_INPUT and floor.attempts[command.key] <= floor.options.retry:
        floor.waiting.insert(0, command)
        floor.say("retried", command, f"{reason}; log: {child.log}")
    else:
        _fail(floor, command, f"{reason}; log: {child.log}")


def _fail(floor: Floor, command: Command, reason: str) -> None:
    floor.failed[command.key] = reason
    floor.ledgers.of(command).note_failure(command, reason)
    floor.say("failed", command, reason)


@contextlib.contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Collect stop signals in place of being ended by them."""
    asked: list[int] = []
    before: dict[signal.Signals, Any] = {
        name: signal.signal(name, lambda number, frame: asked.append(number)) for name in STOP_SIGNALS
    }
    try:
        yield asked
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _end_all(floor: Floor, asked: list[int]) -> None:
    """End what still runs and wait for it; at the second signal it is killed."""
    for child in floor.running:
        child.end("stopped with the suite")
    while floor.running:
        for child in list(floor.running):
            if len(asked) > 1:
                child.kill_at = 0.0
            if child.poll() is not None:
                floor.running.remove(child)
                release(child.held)
        time.sleep(LOOK_SECONDS)


def require_present(given: str) -> None:
    """Raise BenchError where `--gpus` names a device that this machine has not: by index, or by the beginning of its
    UUID.
    """
    asked = (
        subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
        if shutil.which("nvidia-smi")
        else ""
    )
    here = re.findall(r"^GPU (\d+):", asked, re.MULTILINE)
    uuids = re.findall(r"UUID: ([^)\s]+)", asked)
    for part in _listed(given) or ():
        if part not in here and not any(len(part) > len("GPU-") and uuid.startswith(part) for uuid in uuids):
            todo = f"choose from {', '.join(here)}" if here else "leave --gpus out, or use --slurm"
            raise BenchError(f"--gpus {given}: there is no GPU {part}, this machine has {len(here)}", todo)


def devices(given: str | None) -> tuple[str, ...] | None:
    """Devices by `--gpus` (a list such as 0,1, or none), else CUDA_VISIBLE_DEVICES, else all; None where there are
    none.
    """
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
            raise BenchError(
                what,
                "lower it (batch_size times as much gives the same run), leave the run out with --only, or use --slurm",
            )
