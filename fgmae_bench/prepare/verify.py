"""Re-read a pack and say whether it is whole; with its source, whether every sample is the same bit by bit.

python -m fgmae_bench.prepare verify eurosat.lmdb --data_path DIR
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.flags import spellings
from fgmae_bench.errors import BenchError
from fgmae_bench.prepare.pack import MOST_WORKERS, make_order
from fgmae_bench.system.progress import Progress

if TYPE_CHECKING:
    from fgmae_bench.data.index import Index
    from fgmae_bench.data.packs.store import Stamp


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("pack", metavar="PACK.lmdb", help="our pack, one of rico-hdl, or one of the legacy formats")
    parser.add_argument(*spellings("data_path"), metavar="DIR", help="what it was packed from: compare every sample")
    parser.add_argument(
        "--dataset", metavar="NAME", help="a dataset's name, or a card's path (default: what the pack states)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read the source (default: one a core)")
    parser.add_argument(
        *spellings("band_order"), metavar="VV,VH", help="order of the bands in the source's files, as when packing"
    )


def main(given: dict[str, Any]) -> None:
    """Print what was found; a fault ends as bad input."""
    from fgmae_bench.data.packs.format import META
    from fgmae_bench.data.packs.store import get, require_sound, stamp_of

    root = Path(given["pack"]).resolve()
    stamp = stamp_of(root)
    require_sound(root, thorough=True)
    held = get(root, stamp, META)
    if held is None:
        _foreign(root, stamp, given)
    else:
        _ours(root, held, given)


def _ours(root: Path, held: bytes, given: dict[str, Any]) -> None:
    from fgmae_bench.data.packs.check import check_source, check_values
    from fgmae_bench.data.packs.read import open_index, parse_meta

    meta = parse_meta(held, root)
    card = load_card(given.get("dataset") or meta.card)
    with Progress("verifying", meta.count, "samples") as progress:
        index = check_values(card, root, meta, progress.step)
    print(f"{given['pack']}: {meta.count} samples of {meta.card} as {meta.kind}, all there, every checksum agrees")
    print(f"made of: {_made_of(index)}")
    if meta.synthetic:
        print("synthetic data: made by fgmae_bench, no real scene")
    if "data_path" not in given:
        return
    source = open_index(card, Path(given["data_path"]), make_order(given.get("band_order")))
    with Progress("comparing", meta.count, "samples") as progress:
        check_source(
            card, index, meta, source, given.get("workers", min(MOST_WORKERS, os.cpu_count() or 1)), progress.step
        )
    print(f"{given['data_path']}: all {meta.count} samples, labels and groups are the same, bit by bit")


def _made_of(index: Index) -> str:
    """The content hash of the source's samples, as one line."""
    import numpy as np

    from fgmae_bench.data.content import part_sha256

    if index.source_content is None:
        return "not stated (an older pack)"
    digest = part_sha256(index.source_content[:, 0], index.labels, np.arange(len(index.files)))
    return f"images and labels with the content hash {digest}"


def _foreign(root: Path, stamp: Stamp, given: dict[str, Any]) -> None:
    """Decode every value of a pack of others."""
    from fgmae_bench.data.packs.legacy import PICKLE, first_item, pickled_items, rico_items

    if "data_path" in given:
        raise BenchError(f"{given['pack']} has no __meta__ to compare by", "verify it without --data_path")
    if first_item(root, stamp)[1].startswith(PICKLE):
        lengths = [len(parts) for _, parts in pickled_items(root, stamp)]
        print(
            f"{given['pack']}: {len(lengths)} legacy samples, pickled {lengths[0]}-tuples, all decoded "
            "without unpickling"
        )
        return
    shapes = {name: image.shape[1:] for name, image in rico_items(root)}
    if not shapes:
        raise BenchError(
            f"{given['pack']} has no __meta__ and holds no Sentinel-1 bands", "give a pack of ours or of rico-hdl"
        )
    sizes = ", ".join(f"{h}x{w}" for h, w in sorted(set(shapes.values())))
    print(f"{given['pack']}: rico-hdl, {len(shapes)} Sentinel-1 patches of {sizes} pixels with VV and VH; no labels")
