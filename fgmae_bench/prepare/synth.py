"""`python -m fgmae_bench.prepare synth eurosat --per_class 40 --data_path datasets/eurosat-synthetic/data`: write a synthetic dataset."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fgmae_bench.errors import unknown
from fgmae_bench.flags import spellings

PER_CLASS, SEED = 40, 0


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `prepare synth`; what is not typed stays absent."""
    paths = [spelling for name in ("data_path", "output_dir", "out") for spelling in spellings(name)]
    parser.add_argument("world", metavar="WORLD", help=f"what to write: {', '.join(sorted(WORLDS))}")
    parser.add_argument(*paths, dest="data_path", metavar="FOLDER", help="new folder (default: datasets/<WORLD>-synthetic/data)")
    parser.add_argument(*spellings("per_class"), type=int, metavar="IMAGES", help=f"images a class (default: {PER_CLASS})")
    parser.add_argument("--seed", type=int, metavar="SEED", help=f"another seed gives another world (default: {SEED})")


def main(given: dict[str, Any]) -> None:
    """Write the world, then say what lies where and which command comes next."""
    name = given["world"]
    if name not in WORLDS:
        raise unknown("world", name, WORLDS)
    data_path = Path(given.get("data_path", Path("datasets") / f"{name}-synthetic" / "data"))
    images, written = WORLDS[name](data_path, given.get("per_class", PER_CLASS), given.get("seed", SEED))
    state = "written to" if written else "already lie in"
    following = f"python -m fgmae_bench.linear --dataset {name} --data_path {data_path} --weights random --features cached"
    print(f"{images} synthetic images (no real data) {state} {data_path}; next: {following}")


def _eurosat(data_path: Path, per_class: int, seed: int) -> tuple[int, bool]:
    """(images, whether they were written now). Imported here so that --help does not wait for the image libraries."""
    from fgmae_bench.worlds.eurosat import read_marker, write_eurosat

    before = read_marker(data_path)
    marker = write_eurosat(data_path, per_class=per_class, seed=seed, progress=True)
    return sum(marker["counts"].values()), marker != before


WORLDS: dict[str, Callable[[Path, int, int], tuple[int, bool]]] = {"eurosat": _eurosat}
