"""Splits of any dataset as folders of lists: at random, by classes, by whole groups, or by blocks on the ground."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fgmae_bench.config.cards import Card, Split
from fgmae_bench.config.run import Execution
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.system.files import appearing, write_json, write_text

if TYPE_CHECKING:
    from fgmae_bench.data.index import Index
    from fgmae_bench.data.splits import Parts

KINDS = {
    "random": "at random",
    "stratified": "at random within each class",
    "groups": "whole groups, such as scenes",
    "spatial": "blocks on the ground, with a buffer",
}
BLOCK_KM, BUFFER_M = 20.0, 1000.0
PARTS = ("train", "val", "test")


def write_split(card: Card, given: dict[str, Any]) -> None:
    """Divide the data of a card, write the folder, print sizes, and how many groups are torn apart."""
    from fgmae_bench.data.groups import with_groups
    from fgmae_bench.data.packs.read import open_index

    _check(given)
    cache = Path(Execution().cache_dir)
    index = with_groups(card, open_index(card, Path(given.get("data_path") or card.data_path)), cache)
    parts = _parts(card, index, given, cache)
    empty = [part for part in ("train", "test") if not len(getattr(parts, part))]
    if empty:
        raise BenchError(f"no sample is left for {empty[0]}", "give other fractions, or smaller blocks")
    torn = _torn(index, parts)
    facts: dict[str, Any] = {
        "dataset": card.name,
        "kind": given["kind"],
        **{name: given[name] for name in ("seed", "fractions", "block_km", "buffer_m") if name in given},
        "counts": {part: len(getattr(parts, part)) for part in PARTS},
        "left_out": parts.left_out,
        "groups": index.group_kind or None,
        "torn_groups": torn,
        "leaky": torn != 0,
        "synthetic": bool(index.synthetic),
    }
    with appearing(Path(given["out"]).resolve()) as folder:
        for part in PARTS:
            write_text(folder / f"{part}.txt", "".join(f"{index.ids[row]}\n" for row in getattr(parts, part)))
        write_json(folder / "split.json", facts)
    print(f"{given['kind']} split of {card.title}: {len(index.ids):,} samples")
    for part in PARTS:
        print(f"  {part:<9} {len(getattr(parts, part)):>9,}")
    if parts.left_out:
        print(f"  left out  {parts.left_out:>9,}: within the buffer")
    if torn is None:
        print("  which samples belong together is not known: say so on the card under [groups]")
    else:
        print(f"  {torn:,} of {len(set(index.groups or ())):,} groups ({index.group_kind}) are torn apart")
    print(f"written to {given['out']}; next: --split {given['out']} on the command of a run")


def _check(given: dict[str, Any]) -> None:
    """Raise BenchError on flags that are missing or mean nothing together."""
    kind = given["kind"]
    if kind not in KINDS:
        raise unknown("kind of split", kind, KINDS)
    absent = [f"--{name}" for name in ("seed", "fractions") if name not in given]
    if absent:
        raise BenchError(f"a split of kind {kind} needs {' and '.join(absent)}", "say them; nothing is chosen silently")
    meant = {
        "kind",
        "dataset",
        "data_path",
        "seed",
        "fractions",
        "out",
        *(("block_km", "buffer_m") * (kind == "spatial")),
    }
    for name in sorted(set(given) - meant):
        raise BenchError(f"--{name} means nothing for a split of kind {kind}", "leave it out")
    shares = given["fractions"]
    if min(shares) < 0 or not shares[0] > 0 < shares[2] or abs(sum(shares) - 1) > 1e-6:
        raise BenchError(f"--fractions is {' '.join(map(str, shares))}", "give train, val and test that add up to 1")


def _parts(card: Card, index: Index, given: dict[str, Any], cache: Path) -> Parts:
    from fgmae_bench.config.run import Data
    from fgmae_bench.data.spatial import counted, deal_blocks
    from fgmae_bench.data.splits import Parts, make_split

    kind, (train, val, _), seed = given["kind"], given["fractions"], given["seed"]
    if kind == "groups":
        if index.groups is None:
            raise BenchError(f"{index.root}: which samples belong together is not known", "state [groups] on the card")
        blocks = np.unique(np.array(index.groups), return_inverse=True)[1].reshape(-1)
        part = deal_blocks(blocks, counted(index), np.array(given["fractions"]), seed)
        rows = [np.flatnonzero(part == number) for number in range(3)]
        return Parts(train=rows[0], val=rows[1], test=rows[2], leaky=False)
    split = Split(
        kind=kind,
        train=train,
        val=val,
        block_km=given.get("block_km", BLOCK_KM),
        buffer_m=given.get("buffer_m", BUFFER_M),
    )
    one = dataclasses.replace(card, splits={"new": split}, default_split="new")
    return make_split(one, index, Data(dataset=card.name, split_seed=seed), cache)


def _torn(index: Index, parts: Parts) -> int | None:
    """Groups that are in several parts, None where groups are not known."""
    if index.groups is None:
        return None
    held: dict[str, set[str]] = {}
    for part in PARTS:
        for row in getattr(parts, part):
            held.setdefault(index.groups[row], set()).add(part)
    return sum(len(where) > 1 for where in held.values())
