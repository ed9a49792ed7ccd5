"""Make datasets ready.

python -m fgmae_bench.prepare synth eurosat
python -m fgmae_bench.prepare inspect eurosat --data_path DIR
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
    "download": "get a dataset from the hub: resumable, verified, unpacked safely",
    "synth": "write a synthetic world in a dataset's true on-disk layout",
    "inspect": "hold a folder of Sentinel-1 images against a card; statistics and a contact sheet",
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
    command = importlib.import_module(f"fgmae_bench.prepare.{name}")
    parser = Parser(
        prog=f"fgmae_bench.prepare {name}", description=command.__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    command.add_flags(parser)
    command.main(parser.parse(sys.argv[2:]))


if __name__ == "__main__":
    run_entry(main)
