"""Say how far the runs of experiments are: recorded, running here or elsewhere, queued on Slurm, failed and why, or to
do.

python -m fgmae_bench.suite status experiments/eurosat_linear.toml
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from fgmae_bench.suite.command import Command
from fgmae_bench.suite.flags import add_common, commands_of, say
from fgmae_bench.suite.ledger import Ledger, Ledgers
from fgmae_bench.suite.slurm import queued


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `suite status`."""
    add_common(parser)


def main(given: dict[str, Any]) -> None:
    """Print a line for each command, then the counts."""
    commands = commands_of(given)
    ledgers = Ledgers(commands)
    jobs = queued() if any(ledgers.of(command).job(command) for command in commands) else {}
    counts: Counter[str] = Counter()
    for command in commands:
        state, text = state_of(ledgers.of(command), command, jobs or {})
        counts[state] += 1
        say(f"{state:<9} {command.title}{text}")
    say(f"{len(commands)} commands: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items())))


def state_of(ledger: Ledger, command: Command, jobs: dict[str, str]) -> tuple[str, str]:
    """(state, what else there is to say)."""
    pending = ledger.pending(command)
    if not pending:
        paths = [ledger.record_of(command, point) for point in command.points]
        return "recorded", "  " + " ".join(path.stem for path in paths if path)
    if ledger.claimed(pending):
        return "running", f"  log: {ledger.log_of(command)}"
    job = ledger.job(command)
    if job in jobs:
        return "queued", f"  Slurm job {job}: {jobs[job]}"
    reason = ledger.failure(command)
    return ("failed", f"  {reason}") if reason else ("to do", "")
