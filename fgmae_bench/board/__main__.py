"""Records that travel: others' come in, one's own go out, and a store is checked.

python -m fgmae_bench.board pull STORE
python -m fgmae_bench.board submit RUN --store CLONE
python -m fgmae_bench.board check CLONE

A store is a git repository with records/, predictions/, explanations/ and cards/. Expected: exit code 0; 1 where
something was left out or found, each named in a line; 2 on bad input.
"""

from __future__ import annotations

from fgmae_bench.config.flags import dispatch
from fgmae_bench.errors import run_entry

# Command -> what it does; each is a module of this package with `add_flags(parser)` and `main(given)`.
COMMANDS = {
    "pull": "bring the records of a store into a read-only folder next to one's own",
    "submit": "lay out the files of a pull request: records without paths and names, predictions, explanations",
    "check": "everything that a store must hold to, as its CI runs it",
}


def main() -> None:
    """Hand the command line to one command."""
    dispatch("fgmae_bench.board", COMMANDS, __doc__ or "", print)


if __name__ == "__main__":
    run_entry(main)
