"""Write a synthetic dataset in the true on-disk layout.

python -m fgmae_bench.prepare synth eurosat --per_class 40 --data_path datasets/eurosat-synthetic/data
python -m fgmae_bench.prepare synth bigearthnet --patches 600 --data_path datasets/bigearthnet-synthetic/data
python -m fgmae_bench.prepare synth dfc2020 --tiles 96 --size 64 --data_path datasets/dfc2020-synthetic/data
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from fgmae_bench.config.flags import spellings
from fgmae_bench.errors import BenchError, unknown

SEED = 0
Marker = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class World:
    """How a world is asked for: the flag that says how much of it, and what writes it: (folder, how much, seed) to its
    marker.

    What writes a `sized` world, whose images may be smaller than the true ones, takes `size`, pixels on a side, as
    well.
    """

    flag: str
    default: int
    unit: str
    write: Callable[..., Marker]
    sized: bool = False
    following: str = (
        "linear --dataset {name} --data_path {data_path} --weights random --features cached"  # the command to try next
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `prepare synth`; what is not typed stays absent."""
    paths = [spelling for name in ("data_path", "output_dir", "out") for spelling in spellings(name)]
    parser.add_argument("world", metavar="WORLD", help=f"what to write: {', '.join(sorted(WORLDS))}")
    parser.add_argument(
        *paths, dest="data_path", metavar="FOLDER", help="new folder (default: datasets/<WORLD>-synthetic/data)"
    )
    for flag in dict.fromkeys(world.flag for world in WORLDS.values()):
        asked = {name: world for name, world in WORLDS.items() if world.flag == flag}
        kinds = dict.fromkeys((world.unit, world.default) for world in asked.values())
        named = {
            kind: " and ".join(name for name, world in asked.items() if (world.unit, world.default) == kind)
            for kind in kinds
        }
        text = ", ".join(f"{unit}, for {named[unit, default]} (default: {default})" for unit, default in kinds)
        metavar = next(iter(asked.values())).unit.split()[0].upper()
        parser.add_argument(*spellings(flag), type=int, metavar=metavar, help=text)
    sized = ", ".join(name for name, world in WORLDS.items() if world.sized)
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help=f"pixels on a side, for {sized} (default: as in truth)"
    )
    parser.add_argument("--seed", type=int, metavar="SEED", help=f"another seed gives another world (default: {SEED})")


def main(given: dict[str, Any]) -> None:
    """Write the world, then say where it is and which command comes next."""
    name = given["world"]
    if name not in WORLDS:
        raise unknown("world", name, WORLDS)
    world = WORLDS[name]
    for other in WORLDS.values():
        if other.flag in given and other.flag != world.flag:
            raise BenchError(f"--{other.flag} means nothing for {name}", f"say --{world.flag}: {world.unit}")
    data_path = Path(given.get("data_path", Path("datasets") / f"{name}-synthetic" / "data"))
    asked = (data_path, given.get(world.flag, world.default), given.get("seed", SEED))
    if "size" in given and not world.sized:
        raise BenchError(f"--size means nothing for {name}", "leave it out")
    from fgmae_bench.worlds.folder import fingerprint_in

    before = fingerprint_in(data_path)
    marker = world.write(*asked, **({"size": given["size"]} if "size" in given else {}))
    images = sum(marker["counts"].values())
    state = "are already in" if before == marker["fingerprint"] else "written to"
    following = f"python -m fgmae_bench.{world.following.format(name=name, data_path=quote(str(data_path)))}"
    print(f"{images} synthetic images (no real data) {state} {data_path}; next: {following}")


def _eurosat(data_path: Path, per_class: int, seed: int) -> Marker:
    """Imported here, as below, so that --help does not wait for the image libraries."""
    from fgmae_bench.worlds.eurosat import write_eurosat

    return write_eurosat(data_path, per_class=per_class, seed=seed, progress=True)


def _bigearthnet(data_path: Path, patches: int, seed: int) -> Marker:
    from fgmae_bench.worlds.bigearthnet import write_bigearthnet

    return write_bigearthnet(data_path, patches=patches, seed=seed, progress=True)


def _bigearthnet_v2(data_path: Path, patches: int, seed: int) -> Marker:
    from fgmae_bench.worlds.bigearthnet_v2 import write_bigearthnet_v2

    return write_bigearthnet_v2(data_path, patches=patches, seed=seed, progress=True)


def _dfc(world: str) -> Callable[..., Marker]:
    """What writes one of the worlds of worlds/dfc.py."""

    def write(data_path: Path, tiles: int, seed: int, size: int | None = None) -> Marker:
        from fgmae_bench.worlds.dfc import SIZE, write_dfc

        return write_dfc(
            data_path, world=world, tiles=tiles, seed=seed, size=SIZE if size is None else size, progress=True
        )

    return write


def _written(module: str, name: str, amount: str, **fixed: Any) -> Callable[..., Marker]:
    """What writes a world: `name` of a module of fgmae_bench.worlds, whose amount has the keyword `amount`."""

    def write(data_path: Path, count: int, seed: int, size: int | None = None) -> Marker:
        code = getattr(importlib.import_module(f"fgmae_bench.worlds.{module}"), name)
        sized = {} if size is None else {"size": size}
        marker: Marker = code(data_path, seed=seed, progress=True, **{amount: count}, **sized, **fixed)
        return marker

    return write


def _sized(module: str, name: str, flag: str, default: int, **fixed: Any) -> World:
    """A world whose images may be smaller than the true ones."""
    unit = f"{flag} in all"
    write = _written(module, name, flag, **fixed)
    return World(flag=flag, default=default, unit=unit, write=write, sized=True, following=INSPECT)


INSPECT = "prepare inspect {name} --data_path {data_path}"
WORLDS = {
    "eurosat": World(flag="per_class", default=40, unit="images a class", write=_eurosat),
    "bigearthnet": World(flag="patches", default=600, unit="patches in all", write=_bigearthnet),
    "bigearthnet_v2": World(flag="patches", default=600, unit="patches in all", write=_bigearthnet_v2),
    "dfc2020": World(
        flag="tiles", default=96, unit="tiles in all", write=_dfc("dfc2020"), sized=True, following=INSPECT
    ),
    "sen12ms": World(
        flag="tiles", default=96, unit="tiles in all", write=_dfc("sen12ms"), sized=True, following=INSPECT
    ),
    "sen12ms_scenes": _sized("scenes", "write_scenes", "tiles", 120),
    "sen12ms_multilabel": _sized("scenes", "write_scenes", "tiles", 120, world="sen12ms_multilabel"),
    "copernicus_eurosat": World(
        flag="per_class",
        default=40,
        unit="images a class",
        write=_written("copernicus", "write_copernicus_eurosat", "per_class"),
    ),
    "copernicus_bigearthnet": World(
        flag="patches",
        default=200,
        unit="patches in all",
        write=_written("copernicus", "write_copernicus_bigearthnet", "patches"),
    ),
    "copernicus_dfc2020": _sized("copernicus", "write_copernicus_dfc2020", "tiles", 60),
    "copernicus_flood": _sized("floods", "write_kuro_siwo", "patches", 48, world="copernicus_flood"),
    "kuro_siwo": _sized("floods", "write_kuro_siwo", "patches", 48),
    "sen1floods11": _sized("floods", "write_sen1floods11", "chips", 60),
    "biomassters": _sized("survey", "write_biomassters", "chips", 48),
    "spacenet6": _sized("survey", "write_spacenet6", "tiles", 48),
    "fusar_map": _sized("survey", "write_fusar_map", "tiles", 40),
}
