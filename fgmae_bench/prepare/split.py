"""Divide a dataset into train, val and test, and say how much the split leaks.

python -m fgmae_bench.prepare split bigearthnet --kind official --lists LISTS --out DIR python -m fgmae_bench.prepare
split bigearthnet --kind random --seed 1 --fractions .6 .2 .2 --index index.parquet --out DIR python -m
fgmae_bench.prepare split bigearthnet_v2 --kind official --index index.parquet --out DIR python -m fgmae_bench.prepare
split bigearthnet --kind tile --seed 1 --fractions .6 .2 .2 --index index.parquet --block 15 --out DIR
python -m fgmae_bench.prepare split card.toml --kind groups --seed 1 --fractions .6 .2 .2 --data_path DATA --out DIR

The folder it writes is a split: --split DIR.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card, load_card
from fgmae_bench.config.flags import spellings
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.prepare.split_any import KINDS as ANY
from fgmae_bench.prepare.split_any import write_split
from fgmae_bench.system.files import appearing, write_json, write_text

if TYPE_CHECKING:
    from fgmae_bench.data.bigearthnet.official import Named
    from fgmae_bench.data.bigearthnet.universe import Universe
    from fgmae_bench.data.multilabel_splits import Adjacency

    Lists = dict[str, tuple[Named, ...]]

KINDS = {
    "official": "as published, in lists or the index",
    "random": "at random",
    "tile": "whole tiles or blocks, with a buffer",
}
LAYOUTS = {"bigearthnet_v1": 1, "bigearthnet_v2": 2}  # of cards that this command knows -> version of the dataset
PARTS = ("train", "val", "test")
BUFFER, TOLERANCE = 1, 0.01


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("dataset", metavar="DATASET", help="a dataset's name, or a card's path")
    parser.add_argument(
        "--kind",
        metavar="{" + ",".join([*KINDS, *(k for k in ANY if k not in KINDS)]) + "}",
        required=True,
        help="of BigEarthNet: "
        + "; ".join(f"{k}: {v}" for k, v in KINDS.items())
        + ". Of other data: "
        + "; ".join(f"{k}: {v}" for k, v in ANY.items()),
    )
    parser.add_argument(
        "--lists", metavar="DIR", help="folder of the published lists, of parts and of what is left out"
    )
    parser.add_argument(
        "--index", metavar="FILE", help="patch table of prepare index (default: the names in --lists alone)"
    )
    parser.add_argument(*spellings("data_path"), metavar="DIR", help="other data than BigEarthNet: files, or a pack")
    parser.add_argument(*spellings("block_km"), type=float, metavar="KM", help="spatial: side of a block (default: 20)")
    parser.add_argument(
        *spellings("buffer_m"), type=float, metavar="M", help="spatial: metres between two parts (default: 1000)"
    )
    parser.add_argument("--seed", type=int, metavar="SEED", help="required by all kinds but official")
    parser.add_argument(
        "--fractions", type=float, nargs=3, metavar=("TRAIN", "VAL", "TEST"), help="required by all kinds but official"
    )
    parser.add_argument(
        "--block",
        type=int,
        metavar="PATCHES",
        help="tile: side of the blocks that a tile is cut into (default: whole tiles)",
    )
    parser.add_argument(
        "--buffer", type=int, metavar="PATCHES", help=f"tile: patches left out between two parts (default: {BUFFER})"
    )
    parser.add_argument(
        "--tolerance", type=float, metavar="SHARE", help=f"official: names the data may lack (default: {TOLERANCE})"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="new folder of the split")


def main(given: dict[str, Any]) -> None:
    """Divide, write the folder, print what a user must know before trusting the split."""
    card = load_card(given["dataset"])
    if card.layout not in LAYOUTS:
        write_split(card, given)
        return
    _check(card, given)
    from fgmae_bench.data.bigearthnet.official import read_parts
    from fgmae_bench.data.multilabel_splits import adjacency

    lists = (
        read_parts(Path(given["lists"]))
        if "lists" in given and (given["kind"] == "official" or "index" not in given)
        else {}
    )
    universe, synthetic = _universe(card, given, lists)
    part, absent = _parts(universe, given, lists)
    rows = [np.flatnonzero(part == number) for number in range(3)]
    touch = adjacency(universe.grid, rows[0], rows[2], universe.centres)
    facts = _facts(card, given, universe, part, touch) | {"absent": absent, "synthetic": synthetic}
    with appearing(Path(given["out"]).resolve()) as folder:
        for name, chosen in zip(PARTS, rows, strict=True):
            write_text(folder / f"{name}.txt", "".join(f"{universe.names[row].name}\n" for row in chosen))
        write_json(folder / "split.json", facts)
    print("\n".join(_said(card, facts, universe, part)))
    dataset, out = quote(given["dataset"]), quote(given["out"])
    print(f"written to {given['out']}; next: python -m fgmae_bench.linear --dataset {dataset} --split {out}")


def _check(card: Card, given: dict[str, Any]) -> None:
    """Raise BenchError on flags that are missing or mean nothing together."""
    kind = given["kind"]
    for name in sorted({"data_path", "block_km", "buffer_m"} & set(given)):
        raise BenchError(f"--{name} means nothing for {card.title}", "leave it out: --index names its patches")
    if kind not in KINDS:
        raise unknown("kind of split", kind, KINDS)
    second = LAYOUTS[card.layout] == 2
    if second and "lists" in given:
        raise BenchError(f"--lists means nothing for {card.title}", "leave it out: its index holds the published split")
    needed = ("index" if second else "lists",) if kind == "official" else ("seed", "fractions")
    absent = [f"--{name}" for name in needed if name not in given]
    if absent:
        raise BenchError(f"a split of kind {kind} needs {' and '.join(absent)}", "say them; nothing is chosen silently")
    if "lists" not in given and "index" not in given:
        raise BenchError(
            "there is nothing to split",
            "give --index FILE (made by prepare index), or --lists DIR with the published names",
        )
    meant = {
        "official": {"tolerance"},
        "random": {"seed", "fractions"},
        "tile": {"seed", "fractions", "block", "buffer"},
    }
    for name in sorted(set().union(*meant.values()) & set(given) - meant[kind]):
        raise BenchError(f"--{name} means nothing for a split of kind {kind}", "leave it out")


def _universe(card: Card, given: dict[str, Any], lists: Lists) -> tuple[Universe, bool]:
    """(the patches of the index, without one those that the lists name; whether they are synthetic)."""
    from fgmae_bench.data.bigearthnet.official import read_exclusions
    from fgmae_bench.data.bigearthnet.table import is_synthetic, read_table
    from fgmae_bench.data.bigearthnet.universe import from_lists, from_table
    from fgmae_bench.data.synthetic import MARKER

    exclusions = read_exclusions(Path(given["lists"])) if "lists" in given else {}
    if "index" in given:
        path = Path(given["index"])
        table = read_table(path, LAYOUTS[card.layout])
        return from_table(table, exclusions), is_synthetic(path, table)
    folder = Path(given["lists"]).resolve()
    return from_lists(lists, exclusions), any((place / MARKER).is_file() for place in (folder, folder.parent))


def _parts(universe: Universe, given: dict[str, Any], lists: Lists) -> tuple[NDArray[np.int8], dict[str, int]]:
    """(part of each patch, names of each list that the data lacks)."""
    from fgmae_bench.data.bigearthnet.official import match
    from fgmae_bench.data.multilabel_splits import LEFT_OUT, random_parts, tile_parts

    if given["kind"] == "official" and universe.stated is not None:
        numbers = [
            PARTS.index(said) if not reason else LEFT_OUT
            for said, reason in zip(universe.stated, universe.reason, strict=True)
        ]
        return np.array(numbers, np.int8), {}
    if given["kind"] == "official":
        return match(universe.names, lists, given.get("tolerance", TOLERANCE))
    part = np.full(len(universe.names), LEFT_OUT, np.int8)
    rows, fractions = universe.usable, tuple(given["fractions"])
    chosen = universe.take(rows)
    if given["kind"] == "random":
        part[rows] = random_parts([named.name for named in chosen.names], fractions=fractions, seed=given["seed"])
    else:
        part[rows] = tile_parts(
            chosen.grid,
            chosen.labels,
            fractions=fractions,
            seed=given["seed"],
            block=given.get("block"),
            buffer=given.get("buffer", BUFFER),
            centres=chosen.centres,
        )
    return part, {}


def _facts(
    card: Card, given: dict[str, Any], universe: Universe, part: NDArray[np.int8], touch: Adjacency
) -> dict[str, Any]:
    """What `split.json` says; `leaky` where a test patch touches a training patch, or tiles are not known."""
    from fgmae_bench.data.multilabel_splits import LEFT_OUT

    excluded = universe.excluded()
    counts = {name: int((part == number).sum()) for number, name in enumerate(PARTS)}
    elsewhere = sum(not reason for number, reason in zip(part, universe.reason, strict=True) if number == LEFT_OUT)
    return {
        "dataset": card.name,
        "kind": given["kind"],
        **{name: given[name] for name in ("seed", "fractions", "block", "buffer") if name in given},
        "counts": counts,
        "excluded": excluded,
        "elsewhere": elsewhere,
        "leaky": touch.touching > 0 or universe.centres is None,
        "adjacency": {
            "test": touch.tested,
            "touching": touch.touching,
            "mean_neighbours": round(touch.mean_neighbours, 6),
        },
    }


def _said(card: Card, facts: dict[str, Any], universe: Universe, part: NDArray[np.int8]) -> list[str]:
    """The lines that are printed."""
    genuine = not facts["synthetic"]
    official = card.splits["official"].counts if genuine and facts["kind"] == "official" else {}
    total = card.counts.total if genuine and card.counts else 0
    lines = [] if genuine else ["synthetic data: made by fgmae_bench, no real scene"]
    lines += [
        f"{facts['kind']} split of {card.title}: {len(universe.names) + universe.unlisted:,} patches" + _against(total)
    ]
    lines += [f"  {name:<9} {count:>9,}{_against(official.get(name, 0))}" for name, count in facts["counts"].items()]
    reasons = (
        ", ".join(f"{count:,} {reason}" for reason, count in facts["excluded"].items())
        or "no lists and no flags say why"
    )
    lines.append(f"  excluded  {sum(facts['excluded'].values()):>9,}{_against(official.get('excluded', 0))}: {reasons}")
    if facts["elsewhere"]:
        why = "in the buffer between parts" if facts["kind"] == "tile" else "in no list"
        lines.append(f"  left out  {facts['elsewhere']:>9,}: {why}")
    lines += [
        f"  {count:,} names of the list for {name} are not in the data"
        for name, count in facts["absent"].items()
        if count
    ]
    touch = facts["adjacency"]
    share = touch["touching"] / touch["test"] if touch["test"] else 0.0
    lines.append(
        f"  {touch['touching']:,} of {touch['test']:,} test patches ({share:.1%}) touch a training patch; "
        f"{touch['mean_neighbours']:.2f} training neighbours on average"
    )
    if universe.centres is None:
        lines.append(
            "  places are known within an acquisition or tile only; an index also sees tiles that overlap on the ground"
        )
    if facts["kind"] == "tile" and universe.labels is not None:
        lines += _balance(card, part, universe.labels)
    return lines


def _balance(card: Card, part: NDArray[np.int8], labels: NDArray[np.uint8]) -> list[str]:
    """The label whose share of test is farthest from that of all patches, and labels that train or test lack."""
    from fgmae_bench.data.multilabel_splits import label_shares

    shares = label_shares(part, labels)  # (3, C)
    overall = (part == 2).sum() / max((part >= 0).sum(), 1)
    worst = int(np.nan_to_num(np.abs(shares[2] - overall)).argmax())
    lines = [
        (
            f"  {overall:.1%} of the patches are test; farthest from that, {shares[2, worst]:.1%} of "
            f"'{card.classes[worst]}'"
        )
    ]
    for number, name in ((0, "train"), (2, "test")):
        absent = [card.classes[label] for label in np.flatnonzero(shares[number] == 0)]
        if absent:
            lines.append(f"  {name} holds no patch of {', '.join(absent)}: choose another seed, or smaller blocks")
    return lines


def _against(published: int) -> str:
    return f" (card: {published:,})" if published else ""
