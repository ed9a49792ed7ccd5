"""The runs of experiments: planned, run here or on Slurm, and gone on with after any interruption.

python -m fgmae_bench.suite plan experiments/eurosat_linear.toml
python -m fgmae_bench.suite run --max_parallel 2 experiments/*_fast.toml
python -m fgmae_bench.suite run --slurm --partition gpu --time 240 experiments/eurosat_linear.toml

Expected: a line for each run; exit code 0, 3 where runs failed (their logs are named), 2 on bad input, 130 when
    interrupted.
"""

from __future__ import annotations

from fgmae_bench.config.flags import dispatch
from fgmae_bench.errors import run_entry
from fgmae_bench.suite.flags import say

# Command -> what it does; each is a module of this package with `add_flags(parser)` and `main(given)`.
COMMANDS = {
    "plan": "which runs the files mean, and which are recorded",
    "run": "run what is not recorded, on this machine or on Slurm",
    "status": "recorded, running, queued, failed, to do",
}


def main() -> None:
    """Hand the command line to one command."""
    dispatch("fgmae_bench.suite", COMMANDS, __doc__ or "", say)


if __name__ == "__main__":
    run_entry(main)
