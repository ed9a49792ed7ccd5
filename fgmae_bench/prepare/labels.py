"""Write the scene labels of SEN12MS: one row a tile with the share of each IGBP class, from its land-cover map.

python -m fgmae_bench.prepare labels sen12ms_scenes --data_path DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote
from typing import Any

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.flags import spellings
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import write_text
from fgmae_bench.system.progress import Progress

LAYOUT = "rois_scenes"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("dataset", metavar="DATASET", help="sen12ms_scenes, sen12ms_multilabel, or a card's path")
    parser.add_argument(
        *spellings("data_path"), metavar="DIR", help="folder of the tiles (default: data next to the card)"
    )
    parser.add_argument("--out", metavar="CSV", help="the table (default: scene_labels.csv in the folder of the tiles)")


def main(given: dict[str, Any]) -> None:
    """Write the table by rename; an existing one is not written over."""
    from fgmae_bench.data.dfc.scenes import TABLE, make_table
    from fgmae_bench.data.index import require_data

    card = load_card(given["dataset"])
    if card.layout != LAYOUT:
        raise BenchError(f"{card.title} has layout '{card.layout}'", f"labels are made for the layout {LAYOUT}")
    root = Path(given.get("data_path") or card.data_path)
    require_data(card, root)
    out = Path(given.get("out") or root / (card.arrangement.table or TABLE))
    if out.exists():
        raise BenchError(f"{out} is there already", "remove it, or give another --out")
    with Progress("counting classes", card.counts.total if card.counts else 0, "tiles") as progress:
        text = make_table(card, root, progress.step)
    write_text(out, text)
    following = f"python -m fgmae_bench.prepare inspect {card.name} --data_path {quote(str(root))}"
    print(f"{text.count(chr(10)) - 1} tiles in {out}; next: {following}")
