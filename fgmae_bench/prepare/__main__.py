"""Make datasets ready.

python -m fgmae_bench.prepare synth eurosat
python -m fgmae_bench.prepare inspect eurosat --data_path DIR
"""

from __future__ import annotations

from fgmae_bench.config.flags import dispatch
from fgmae_bench.errors import run_entry

# Command -> what it does; each is a module of this package with `add_flags(parser)` and `main(given)`.
COMMANDS = {
    "download": "get a dataset from the hub or its publishers' address: resumable, verified, unpacked safely",
    "synth": "write a synthetic world in a dataset's true on-disk layout",
    "index": "one row a sample: file, group, label, part of each split; of BigEarthNet also time, place, flags, links",
    "labels": "scene labels of SEN12MS: the share of each class in each tile, from its own land-cover maps",
    "pack": "pack a dataset into one LMDB, resumable at any moment",
    "verify": "read a pack again and compare it with its source",
    "split": "divide a dataset: published lists, at random, by groups, or disjoint on the ground; how much each leaks",
    "card": "look at a folder and write a draft of its card: task, layout, bands, units, classes, splits",
    "inspect": "hold a folder of Sentinel-1 images against a card; statistics and a contact sheet",
}


def main() -> None:
    """Hand the command line to one command."""
    dispatch("fgmae_bench.prepare", COMMANDS, __doc__ or "", print)


if __name__ == "__main__":
    run_entry(main)
