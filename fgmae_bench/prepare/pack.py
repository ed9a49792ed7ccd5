"""Pack a dataset into one LMDB; after a kill at any moment the same command goes on.

python -m fgmae_bench.prepare pack eurosat --data_path DIR --out eurosat.lmdb
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from shlex import quote
from typing import Any

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.contract import FGMAE_CONTRACT, POLARISATIONS, parse_bands
from fgmae_bench.config.flags import spellings
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.system.progress import Progress

KINDS = {
    "float32": "backscatter exactly as read",
    "uint8": "the input of FGMAE's contract before its geometry, an eighth in size and time",
}
MOST_WORKERS = 8


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("dataset", metavar="DATASET", help="a dataset's name, or a card's path")
    parser.add_argument(
        *spellings("data_path"), metavar="DIR", help="the data: files, or a pack (default: data next to the card)"
    )
    parser.add_argument(
        "--out", metavar="PACK.lmdb", help="new folder of the pack (default: <DATASET>-<dtype>.lmdb next to the data)"
    )
    parser.add_argument(
        "--dtype", metavar="{" + ",".join(KINDS) + "}", help="; ".join(f"{k}: {v}" for k, v in KINDS.items())
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that read; 0 reads in this one (default: one a core)"
    )
    parser.add_argument(
        *spellings("band_order"), metavar="VV,VH", help="order of the bands in the files, standing above the card's"
    )
    parser.add_argument(
        *spellings("trust_data"), action="store_true", help="pack data whose pixels contradict its card (default: off)"
    )
    parser.add_argument(
        *spellings("partial"), action="store_true", help="pack fewer samples than the card counts (default: off)"
    )


def main(given: dict[str, Any]) -> None:
    """Index, check against the card, pack; print where it is and the command that comes next."""
    from fgmae_bench.data.packs.write import write_pack
    from fgmae_bench.views.classification import make_view

    kind, workers = given.get("dtype", "float32"), given.get("workers", min(MOST_WORKERS, os.cpu_count() or 1))
    if kind not in KINDS:
        raise BenchError(f"--dtype is {kind}", closest(kind, KINDS))
    if workers < 0:
        raise BenchError(f"--workers is {workers}", "give 0 or more")
    card = load_card(given["dataset"])
    root = Path(given.get("data_path") or card.data_path)
    order = make_order(given.get("band_order"))
    view = make_view(card, FGMAE_CONTRACT, given.get("band_order")) if kind == "uint8" else None
    index = checked_source(given, order)
    out = Path(given.get("out") or root.resolve().parent / f"{card.name}-{kind}.lmdb")
    start = time.monotonic()
    with Progress("packing", len(index.files), "samples") as progress:
        written = write_pack(card, index, out, view=view, bands=order, workers=workers, step=progress.step)
    seconds = time.monotonic() - start
    done = (
        f"{written.new} now in {seconds:.1f} s, {written.new / seconds:.0f}/s"
        if written.new
        else "nothing was left to do"
    )
    print(f"{written.count} samples as {kind} in {out}, {written.size / 2**20:.1f} MiB ({done})")
    if index.synthetic:
        print("synthetic data: made by fgmae_bench, no real scene")
    pack, dataset, data = (quote(str(text)) for text in (out, given["dataset"], root))
    print(f"next: python -m fgmae_bench.prepare verify {pack} --dataset {dataset} --data_path {data}")


def make_order(text: str | None) -> tuple[str, ...] | None:
    """The bands of `--band_order`, None where it was not given. Raises BenchError unless they are VV and VH."""
    if text is None:
        return None
    order = parse_bands(text)
    if not set(order) <= set(POLARISATIONS):
        raise BenchError(f"--band_order is {text}", "give VV,VH or VH,VV")
    return order


def checked_source(given: dict[str, Any], order: tuple[str, ...] | None) -> Any:
    """The source's index. Raises BenchError where it contradicts its card and no flag allows that."""
    from fgmae_bench.checkpoints.registry import default_cache
    from fgmae_bench.data.audit import audit
    from fgmae_bench.data.dataset import accept_count
    from fgmae_bench.data.groups import to_pack
    from fgmae_bench.data.index import check_counts
    from fgmae_bench.data.packs.read import open_index

    card = load_card(given["dataset"])
    index = open_index(card, Path(given.get("data_path") or card.data_path), order)
    contradiction = check_counts(card, index)
    if contradiction:
        accept_count(contradiction, given.get("partial", False))
    verdict, _ = audit(card, index, order)
    if verdict.refusal and not given.get("trust_data"):
        raise verdict.refusal
    return to_pack(card, index, default_cache())
