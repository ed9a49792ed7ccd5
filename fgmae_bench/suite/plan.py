"""Say which runs experiments mean, and which of them are recorded; nothing is run.

python -m fgmae_bench.suite plan experiments/eurosat_linear.toml
python -m fgmae_bench.suite plan --commands experiments/*.toml      # one plain command a line, of what is still to do
"""

from __future__ import annotations

import argparse
from typing import Any

from fgmae_bench.suite.command import shell_line
from fgmae_bench.suite.expand import require_known
from fgmae_bench.suite.flags import add_common, commands_of, say
from fgmae_bench.suite.ledger import Ledgers


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `suite plan`."""
    add_common(parser)
    parser.add_argument(
        "--commands", action="store_true", help="print what is still to do as shell commands (default: off)"
    )


def main(given: dict[str, Any]) -> None:
    """Print a line for each command, then the counts."""
    commands = commands_of(given)
    ledgers = Ledgers(commands)
    require_known(commands, ledgers.models)
    pending = {command.key: len(ledgers.of(command).pending(command)) for command in commands}
    if given.get("commands"):
        for command in commands:
            if pending[command.key]:
                say(shell_line(command))
        return
    for command in commands:
        done = len(command.points) - pending[command.key]
        state = "recorded" if not pending[command.key] else "to do"
        more = f"  ({done} of {len(command.points)} runs recorded)" if len(command.points) > 1 else ""
        if done and not command.place.exists():
            more += "  (content unknown: the data is not here)"
        if done and not ledgers.of(command).model_is_here(command):
            more += "  (weights unknown: they are not here)"
        say(f"{state:<9} {command.title}{more}")
    for line in (line for ledger in ledgers for line in ledger.shelf.broken):
        say(f"left out: {line}")
    total, left = sum(len(command.points) for command in commands), sum(pending.values())
    say(f"{total} runs in {len(commands)} commands: {total - left} recorded, {left} to do")
