"""What label sources, schemes, decode heads and known mistakes do to a segmentation score.

python -m fgmae_bench.ablate labels --dataset dfc2020 --data_path DIR
python -m fgmae_bench.ablate heads --dataset dfc2020 --data_path DIR --heads fcn segformer upernet
python -m fgmae_bench.ablate traps --dataset dfc2020 --data_path DIR --freeze_backbone

Expected: a model that is scored by labels mapped twice loses nearly everything, a perfect one too (mIoU .05 on
    DFC2020).
"""

from __future__ import annotations

from fgmae_bench.ablate.flags import say
from fgmae_bench.config.flags import dispatch
from fgmae_bench.errors import run_entry

# Command -> what it does; each is a module of this package with `add_flags(parser)` and `main(given)`.
COMMANDS = {
    "labels": "the grid of label schemes trained on and scored by, with what perfect and constant predictors reach",
    "heads": "one frozen pass of a backbone and every decode head on it; how far heads agree on a ranking of encoders",
    "traps": "the mistakes of published runs, repaired one after the other, each step measured",
}


def main() -> None:
    """Hand the command line to one command."""
    dispatch("fgmae_bench.ablate", COMMANDS, __doc__ or "", say)


if __name__ == "__main__":
    run_entry(main)
