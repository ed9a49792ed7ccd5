"""Run what is not recorded: as processes on this machine, or with --slurm as job arrays. Starting again goes on.

python -m fgmae_bench.suite run experiments/first_real_run.toml
python -m fgmae_bench.suite run --max_parallel 4 --retry 1 --timeout 7200 experiments/*_fast.toml
python -m fgmae_bench.suite run --slurm --partition gpu --time 240 --mem 32 experiments/bigearthnet_linear.toml

Exit code 0 when all is recorded, 3 where runs failed, 130 when interrupted: runs end with their checkpoints, Slurm jobs
go on.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from typing import Any

from fgmae_bench.errors import BenchError, printable
from fgmae_bench.suite.command import Command, shell_line
from fgmae_bench.suite.expand import require_known
from fgmae_bench.suite.flags import add, add_common, commands_of, say
from fgmae_bench.suite.ledger import Ledgers
from fgmae_bench.suite.local import Options, Say, devices, require_enough, require_present, run_here
from fgmae_bench.suite.obstacles import require_runnable
from fgmae_bench.suite.slurm import Cluster, run_on_slurm, sbatch_lines
from fgmae_bench.system.progress import Progress

log = logging.getLogger("fgmae_bench")
EXIT_FAILED_RUNS = 3
SLURM_ONLY = ("partition", "account", "time", "mem", "cpus", "sbatch")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `suite run`."""
    add_common(parser)
    add(
        parser,
        "max_parallel",
        "N",
        "commands at once (default: as many as the GPUs take, 1 without; 256 on Slurm)",
        int,
    )
    add(parser, "retry", "N", "more attempts for a command that fails, bad input apart (default: 0)", int)
    add(parser, "timeout", "SECONDS", "a command that takes longer is killed and has failed (default: none)", float)
    add(parser, "gpus", "LIST", "GPUs to hand out, such as 0,1, or none (default: CUDA_VISIBLE_DEVICES, else all)")
    parser.add_argument(
        "--dry_run", "--dry-run", dest="dry_run", action="store_true", help="print what would be run (default: off)"
    )
    group = parser.add_argument_group("Slurm")
    group.add_argument(
        "--slurm", action="store_true", help="submit job arrays through submitit and wait for them (default: off)"
    )
    for name, metavar, text, kind in (
        ("partition", "NAME", "partition (default: the cluster's)", str),
        ("account", "NAME", "account (default: the user's)", str),
        ("time", "MINUTES", "time limit of a job; a run that reaches it goes on in a new one (default: 240)", int),
        ("mem", "GIB", "memory of a job (default: the cluster's)", float),
        ("cpus", "N", "CPUs of a job (default: the cluster's)", int),
    ):
        add(group, name, metavar, text, kind)  # type: ignore[arg-type]
    group.add_argument(
        "--sbatch", action="append", metavar="NAME=VALUE", help="any other option of sbatch, such as qos=long"
    )


def main(given: dict[str, Any]) -> None:
    """Run the suite; ends the process with exit code 3 where runs failed."""
    _check(given)
    commands = commands_of(given)
    ledgers = Ledgers(commands)
    for line in (line for ledger in ledgers for line in ledger.shelf.broken):
        log.warning("left out: %s", line)
    total = sum(len(command.points) for command in commands)
    require_known(commands, ledgers.models)
    left = [command for command in commands if ledgers.of(command).pending(command)]
    require_runnable(left)
    pending = sum(len(ledgers.of(command).pending(command)) for command in left)
    if not left:
        say(f"nothing to do: all {total} runs are recorded")
        return
    if given.get("dry_run"):
        for command in left:
            say(shell_line(command))
        for line in sbatch_lines(left, _cluster(given)) if given.get("slurm") else ():
            say(line)
        say(f"{pending} of {total} runs are to do, in {len(left)} commands; nothing was run")
        return
    gpus = None if given.get("slurm") else devices(given.get("gpus"))
    require_enough(left, gpus)
    for ledger in ledgers:
        ledger.prepare()
    say(f"{total} runs: {total - pending} recorded before, {pending} to do in {len(left)} commands")
    started = time.monotonic()
    with Progress("suite", len(left), "commands", show=sys.stderr.isatty()) as progress:
        failed = _run(left, ledgers, given, gpus, _teller(progress, len(left)))
    say(
        f"{len(left) - len(failed)} of {len(left)} commands recorded, {len(failed)} failed, "
        f"{time.monotonic() - started:.0f} s"
    )
    if failed:
        sys.exit(EXIT_FAILED_RUNS)


def _run(
    left: list[Command], ledgers: Ledgers, given: dict[str, Any], gpus: tuple[str, ...] | None, report: Say
) -> dict[str, str]:
    retry, timeout = given.get("retry", 0), given.get("timeout")
    if not given.get("slurm"):
        smallest = min(command.processes for command in left)
        parallel = given.get("max_parallel", max(1, len(gpus or ()) // smallest))
        return run_here(left, ledgers, Options(max_parallel=parallel, gpus=gpus, retry=retry, timeout=timeout), report)
    return run_on_slurm(left, ledgers, _cluster(given), report)


def _cluster(given: dict[str, Any]) -> Cluster:
    """What the command line asks of Slurm."""
    return Cluster(
        max_parallel=given.get("max_parallel", Cluster.max_parallel),
        retry=given.get("retry", 0),
        timeout=given.get("timeout"),
        minutes=given.get("time", 240),
        partition=given.get("partition"),
        account=given.get("account"),
        memory=given.get("mem"),
        cpus=given.get("cpus"),
        more=dict(pair.split("=", 1) for pair in given.get("sbatch", [])),
    )


def _teller(progress: Progress, total: int) -> Say:
    """Says what happens to each command: above the bar on a terminal, as plain lines elsewhere."""

    def report(state: str, command: Command, text: str) -> None:
        if state in ("recorded", "failed"):
            progress.step()
            state = f"[{progress.done}/{total}] {state}"
        line = f"{state}  {command.title}  {text}"
        if progress.bar is not None:
            progress.bar.write(printable(line))
        else:
            say(line)

    return report


def _check(given: dict[str, Any]) -> None:
    """Raise BenchError on impossible values of the suite's own flags."""
    for name, least in (("max_parallel", 1), ("retry", 0), ("time", 1), ("cpus", 1)):
        if name in given and given[name] < least:
            raise BenchError(f"--{name} is {given[name]}", f"give {least} or more")
    for name in ("timeout", "mem"):
        if name in given and not given[name] > 0:
            raise BenchError(f"--{name} is {given[name]}", "give a positive number")
    for name in SLURM_ONLY:
        if name in given and not given.get("slurm"):
            raise BenchError(f"--{name} is for Slurm", "add --slurm, or leave it out")
    if "gpus" in given and not given.get("slurm"):
        require_present(given["gpus"])
    for pair in given.get("sbatch", []):
        if "=" not in pair:
            raise BenchError(f"--sbatch {pair} is not NAME=VALUE", "give for example --sbatch qos=long")
