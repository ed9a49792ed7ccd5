"""What the tests of the ablations share: a small world of DFC2020 and the flags of a short run."""

import shlex

import commands

from fgmae_bench.config.cards import load_card
from fgmae_bench.worlds.dfc import write_dfc

commands.MAIN.setdefault("ablate", "fgmae_bench.ablate.__main__")
CARD = load_card("dfc2020")
TINY = shlex.split(
    "--model test_vit --weights random --head linear --batch_size 4 --warmup_steps 0 --lr 1e-3 --layer_decay 1 "
    "--drop_path 0 --panels 0 --num_workers 1 --device cpu --cache_dir cache --results_dir results --output_dir "
    "out"
)
SHORT = ("--max_steps", "3", "--eval_every", "3")


def write_tiles(tmp_path_factory):
    """24 tiles of 32 pixels: 20 train and 4 test ones."""
    root = tmp_path_factory.mktemp("dfc") / "world"
    write_dfc(root, tiles=24, size=32)
    return root
