"""Look at, make and fetch checkpoints.

python -m fgmae_bench.weights inspect FILE --model vit_small_patch16
python -m fgmae_bench.weights synth --model vit_small_patch16 --out FILE
python -m fgmae_bench.weights fetch fgmae --model vit_small_patch16
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys

from fgmae_bench.errors import BenchError, closest, run_entry
from fgmae_bench.flags import Parser

# Command -> what it does; each is a module of this package with `add_flags(parser)` and `main(given)`.
COMMANDS = {
    "inspect": "what a checkpoint file holds, and what a model would use of it",
    "synth": "write a random checkpoint with the published keys and shapes",
    "fetch": "get published weights from the hub and verify them",
    "list": "published weights that can be fetched, and which are here",
}


def main() -> None:
    """Hand the command line to one command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        lines = "\n".join(f"  {command:<8} {text}" for command, text in COMMANDS.items())
        print(f"{__doc__}\ncommands (each has its own --help):\n{lines}")
        return
    if name not in COMMANDS:
        raise BenchError(f"unknown command '{name}'", closest(name, COMMANDS))
    command = importlib.import_module(f"fgmae_bench.weights.{name}")
    parser = Parser(
        prog=f"fgmae_bench.weights {name}", description=command.__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    command.add_flags(parser)
    command.main(parser.parse(sys.argv[2:]))


if __name__ == "__main__":
    run_entry(main)
