"""`python -m fgmae_bench.prepare index bigearthnet --data_path RAW --lists LISTS`: one row a patch, from the raw files.

Of datasets in other layouts the table is that of `fgmae_bench.prepare.index_any`, which runs do not need.

Of bigearthnet_v2, whose metadata tables state labels, split and covered patches, `--lists` means nothing.

A killed command goes on where it stopped; a second one reads only what changed. Broken patches are listed with their
reason.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgmae_bench.config.cards import Card, load_card
from fgmae_bench.config.flags import spellings
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.system.files import lock_and_clean_up

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("fgmae_bench")
LAYOUTS = {"bigearthnet_v1": 1, "bigearthnet_v2": 2}  # of cards that this command knows -> version of the dataset
FORMATS = ("parquet", "csv")
CATALOGUE = "https://catalogue.dataspace.copernicus.eu/odata/v1"
RATE = 2.0
SHOWN = 5


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `prepare index`; what is not typed stays absent."""
    parser.add_argument("dataset", metavar="DATASET", help="name or card path, such as bigearthnet")
    parser.add_argument(*spellings("data_path"), metavar="FOLDER", help="raw data (default: the card's data folder)")
    parser.add_argument(
        "--out", metavar="FILE", help="the table (default: index.parquet next to the patches, where runs look for it)"
    )
    parser.add_argument(
        "--format", metavar="{parquet,csv}", help="of the table (default: by the ending of --out, else parquet)"
    )
    parser.add_argument(
        "--strict", action="store_true", help="the first broken patch is an error (default: it is listed)"
    )
    parser.add_argument(
        "--lists", metavar="FOLDER", help="published lists, for snow and cloud_shadow (default: flags stay as they are)"
    )
    parser.add_argument(
        "--links",
        metavar="OUT.csv",
        help="also write patch, product, link, from the Copernicus catalogue (default: no)",
    )
    parser.add_argument("--catalogue", metavar="URL", help=f"base address of the catalogue (default: {CATALOGUE})")
    parser.add_argument(
        "--rate", type=float, metavar="PER_SECOND", help=f"most questions a second to the catalogue (default: {RATE:g})"
    )
    parser.add_argument(
        "--workers", type=int, metavar="PROCESSES", help="processes that read patches (default: one a core)"
    )


def main(given: dict[str, Any]) -> None:
    """Index, write the table, say what is in it; then the links, if they are asked for."""
    from fgmae_bench.data.bigearthnet.catalogue import normal_base, write_links
    from fgmae_bench.data.bigearthnet.scan import patch_root, scene_root

    card = load_card(given["dataset"])
    if card.layout not in LAYOUTS:
        from fgmae_bench.prepare.index_any import write_index

        write_index(card, given)
        return
    version = LAYOUTS[card.layout]
    for name in ("lists", "links", "catalogue", "rate") if version == 2 else ():
        if name in given:
            raise BenchError(
                f"--{name} means nothing for {card.title}: its tables name snow and cloud, but no products",
                "leave it out",
            )
    out, form = _target(given)
    lists = _folder(given["lists"], "--lists") if "lists" in given else None
    workers = given.get("workers", len(os.sched_getaffinity(0)))
    rate = given.get("rate", RATE)
    if workers < 1 or not rate > 0:
        raise BenchError(f"--workers is {workers} and --rate is {rate:g}", "give 1 or more, and more than 0")
    catalogue = normal_base(given.get("catalogue", CATALOGUE))
    data = _folder(given.get("data_path", card.data_path), "--data_path", f"get the data: {card.origin.get}")
    root = (patch_root if version == 1 else scene_root)(data)
    table = build(
        card, root, out or root / f"index.{form}", form, lists=lists, workers=workers, strict=given.get("strict", False)
    )
    _say(table, out or root / f"index.{form}", lists)
    if "links" in given:
        links = Path(given["links"])
        lines, missing = write_links(table, links, catalogue, rate)
        print(f"{lines} links in {links}")
        _list("products are not in the catalogue", missing)


def build(
    card: Card, root: Path, out: Path, form: str, *, lists: Path | None = None, workers: int = 1, strict: bool = False
) -> pa.Table:
    """The patch table of `root`, written to `out` by rename; finished batches are in `<out>.parts` until then.

    A table of a synthetic world carries the world's fingerprint.

    Raises BenchError where `out` cannot be written, a list is missing, or, when `strict`, a patch is broken.
    """
    from fgmae_bench.data.bigearthnet.metadata import find_metadata
    from fgmae_bench.data.bigearthnet.official import flag
    from fgmae_bench.data.bigearthnet.raw import completed
    from fgmae_bench.data.bigearthnet.scan import PARTS, scan
    from fgmae_bench.data.bigearthnet.table import INDEX_FILE, mark_synthetic, read_table, write_table
    from fgmae_bench.data.synthetic import read_marker

    version, marker = LAYOUTS[card.layout], read_marker(root)
    parts = out.with_name(f"{out.name}{PARTS}")
    if version == 2:
        find_metadata(root)  # before hours of reading
    with lock_and_clean_up(out.with_name(f".{out.name}.lock")):
        sources = {path for path in (root / INDEX_FILE, out) if path.is_file() and path.suffix == ".parquet"}
        known = [read_table(path, version) for path in [*sorted(sources), *sorted(parts.glob("[!.]*.parquet"))]]
        table = scan(root, card.signal.size, known, version=version, parts=parts, workers=workers, strict=strict)
        table = flag(table, lists) if lists else table
        table = completed(table, root) if version == 2 else table
        table = mark_synthetic(table, marker["fingerprint"]) if marker else table
        for leftover in out.parent.glob(f".{out.name}.*.partial"):
            leftover.unlink()
        write_table(out, table, form)
        shutil.rmtree(parts, ignore_errors=True)
    return table


def _say(table: pa.Table, out: Path, lists: Path | None) -> None:
    """Counts on standard output, broken patches and contradictions on standard error."""
    import pyarrow.compute as pc

    from fgmae_bench.data.bigearthnet.official import contradictions
    from fgmae_bench.data.bigearthnet.scan import problems

    counts = {name: int(pc.sum(table[name]).as_py() or 0) for name in ("no_19_class", "snow", "cloud_shadow")}
    broken = problems(table)
    known = table["snow"].null_count < len(table)
    flags = (
        f"{counts['snow']} under seasonal snow, {counts['cloud_shadow']} under cloud or shadow"
        if known
        else "snow and cloud unknown"
    )
    print(
        f"{len(table)} patches in {out}: {counts['no_19_class']} with none of the 19 classes, {flags}, "
        f"{len(broken)} broken"
    )
    if "split" in table.column_names:
        said = {item["values"]: item["counts"] for item in pc.value_counts(table["split"]).to_pylist()}
        print(
            f"{', '.join(f'{said.get(part, 0)} {part}' for part in ('train', 'val', 'test'))}, "
            f"{said.get(None, 0)} in no metadata table"
        )
    _list("broken patches", broken)
    if lists:
        _list(
            "patches whose labels contradict the list of those with none of the 19 classes",
            contradictions(table, lists),
        )


def _list(title: str, found: list[str]) -> None:
    """How many and the first few, on standard error."""
    if found:
        print(
            f"{len(found)} {title}:",
            *found[:SHOWN],
            *(["…"] if len(found) > SHOWN else []),
            sep="\n  ",
            file=sys.stderr,
        )


def _target(given: dict[str, Any]) -> tuple[Path | None, str]:
    """(--out or None, format of the table)."""
    out = Path(given["out"]) if "out" in given else None
    form = given.get("format") or (out.suffix.removeprefix(".") if out else FORMATS[0])
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    if out is not None and out.suffix != f".{form}":
        raise BenchError(f"--out {out} does not end in .{form}", "make --out and --format agree")
    return out, form


def _folder(given: str | Path, name: str, todo: str = "give the path of a folder") -> Path:
    path = Path(given)
    if not path.is_dir():
        raise BenchError(f"{name} {path} is not a folder", todo)
    return path
