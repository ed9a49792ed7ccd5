"""Hold Sentinel-1 images against a card, or against none: units, band order, statistics, a contact sheet.

python -m fgmae_bench.prepare inspect eurosat --data_path DIR
python -m fgmae_bench.prepare inspect eurosat-float32.lmdb
python -m fgmae_bench.prepare inspect DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fgmae_bench.config.cards import Card, load_card
from fgmae_bench.config.contract import BANDS
from fgmae_bench.config.flags import spellings
from fgmae_bench.data.audit import MIN_IMAGES, UNITS, Statistics, calibration_note, judge, measure, recognise_units
from fgmae_bench.data.gather import Found, find_images, read_image
from fgmae_bench.data.index import check_counts
from fgmae_bench.errors import BenchError
from fgmae_bench.prepare.contact_sheet import fair_share, write_contact_sheet
from fgmae_bench.prepare.inspect_labels import report_labels
from fgmae_bench.system.progress import Progress
from fgmae_bench.system.randomness import keyed_order
from fgmae_bench.views.chip import Chip

LIMIT = 600
CONTRADICTED = "counts   contradicted"
GROUPED = {
    "single_label": "class",
    "multi_label": "tile",
    "segmentation": "folder",
}  # what images are grouped by, by task


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("what", metavar="WHAT", help="a dataset's name, a card's path, a pack, or a folder of images")
    parser.add_argument(
        *spellings("data_path"),
        dest="data_path",
        metavar="DIR",
        help="folder of the data (default: data beside the card)",
    )
    parser.add_argument("--out", metavar="PNG", help="contact sheet (default: inspect/<name>.png)")
    parser.add_argument(
        "--limit", type=int, metavar="N", help=f"images read at most, evenly over the classes (default: {LIMIT})"
    )


def main(given: dict[str, Any]) -> None:
    """Print the statistics and the verdict, write the contact sheet; a refusal ends as bad input."""
    limit = given.get("limit", LIMIT)
    if limit < 1:
        raise BenchError(f"--limit is {limit}", "give 1 or more")
    from fgmae_bench.data.packs.read import is_pack  # here, so that --help does not wait for it

    what = given["what"]
    if "data_path" not in given and is_pack(Path(what)):
        given = {**given, "what": card_of(Path(what)), "data_path": what}
        what = given["what"]
    as_folder = Path(what).is_dir() and not (Path(what) / "card.toml").is_file() and "data_path" not in given
    card = None if as_folder else load_card(what)
    root = Path(what) if card is None else Path(given.get("data_path") or card.data_path)
    name = root.resolve().name if card is None else card.name
    images, skipped, facts, read = _images(card, root)
    chips, broken = _read(images, limit, read)
    for line in [
        *facts,
        *(f"skipped  {line}" for line in _few(skipped)),
        *(f"unusable {line}" for line in _few(broken)),
    ]:
        print(line)
    if not chips:
        raise BenchError(
            f"{root}: no readable image of two bands", "give a folder of two-band TIFFs, or of VV and VH files in pairs"
        )
    bands = card.signal.bands if card else BANDS
    statistics = measure([chip for _, chip in chips], bands)
    units, cues = recognise_units(statistics)
    _print_bands(chips, bands)
    _print_groups(chips, GROUPED[card.task] if card else "class")
    order = [bands.index(band) for band in BANDS]
    groups: dict[str, list[Chip]] = {}
    for image, chip in chips:
        kept = Chip(
            db=chip.db[order], valid=None if chip.valid is None else chip.valid[order], synthetic=chip.synthetic
        )
        groups.setdefault(image.group, []).append(kept)
    synthetic = any(chip.synthetic for _, chip in chips)
    out = Path(given.get("out") or Path("inspect") / f"{name}.png")
    write_contact_sheet(
        out, f"{card.title if card else name}{' (synthetic data)' if synthetic else ''}", groups, units == "dB"
    )
    _print_verdict(
        card, statistics, units, cues, root, contradicted=any(fact.startswith(CONTRADICTED) for fact in facts)
    )
    refusals = report_labels(card, root, out, synthetic) if card and card.task == "segmentation" else []
    print(f"contact sheet: {out}")
    if synthetic:
        print("synthetic data: made by fgmae_bench, no real scene")
    if card and (refusal := judge(card, statistics, str(root)).refusal):
        raise refusal
    if refusals:
        raise refusals[0]


def _images(card: Card | None, root: Path) -> tuple[list[Found], list[str], list[str], Callable[[Found], Chip]]:
    """(images, lines on skipped files, facts to print, what reads an image)."""
    if card is None:
        if not root.is_dir():
            raise BenchError(f"{root} is not a folder", "give a folder, or the name of a dataset")
        images, skipped = find_images(root)
        return images, skipped, [f"{root}: {len(images)} images, no card"], read_image
    from fgmae_bench.data.packs.read import open_index

    index = open_index(card, root)
    groups = (
        [card.classes[label] for label in index.labels]
        if index.labels.ndim == 1
        else index.groups or [card.name] * len(index.files)
    )
    images = [
        Found(sample, group, (index.path(row),))
        for row, (sample, group) in enumerate(zip(index.ids, groups, strict=True))
    ]
    contradiction = check_counts(card, index)
    counts = f"{CONTRADICTED}: {contradiction.text}" if contradiction else "counts   as stated"
    facts = [f"{card.title} at {index.root}: {len(images)} images in {len(card.classes)} classes", counts]
    if index.path(0).is_file():
        return images, [], facts, read_image
    row_of = {sample: row for row, sample in enumerate(index.ids)}
    return images, [], facts, lambda found: index.read(row_of[found.name], card)


def card_of(pack: Path) -> str:
    """Name of the card that a pack of ours states. Raises BenchError for a pack of others."""
    from fgmae_bench.data.packs.format import META
    from fgmae_bench.data.packs.read import parse_meta
    from fgmae_bench.data.packs.store import get, stamp_of

    root = pack.resolve()
    held = get(root, stamp_of(root), META)
    if held is None:
        raise BenchError(
            f"{pack} does not say which dataset it holds", f"name it: prepare inspect DATASET --data_path {pack}"
        )
    return parse_meta(held, root).card


def _read(images: list[Found], limit: int, read: Callable[[Found], Chip]) -> tuple[list[tuple[Found, Chip]], list[str]]:
    """(up to `limit` images with their pixels, evenly over the groups in keyed order; a line for each broken file)."""
    by_group: dict[str, list[Found]] = {}
    for image in images:
        by_group.setdefault(image.group, []).append(image)
    share = fair_share(limit, len(by_group))
    wanted: set[str] = set()
    for members in by_group.values():
        wanted.update(keyed_order(0, "inspect", [image.name for image in members])[:share])
    chips, broken = [], []
    with Progress("reading", min(len(wanted), len(images)), "images") as progress:
        for image in images:
            if image.name not in wanted:
                continue
            try:
                chips.append((image, read(image)))
            except BenchError as error:
                broken.append(str(error))
            progress.step()
    return chips, broken


def _few(lines: list[str], most: int = 5) -> Iterable[str]:
    return [*lines[:most], *([f"… and {len(lines) - most} more"] if len(lines) > most else [])]


def _values(chips: list[tuple[Found, Chip]], band: int) -> Any:
    return np.concatenate([c.db[band][... if c.valid is None else c.valid[band]].ravel() for _, c in chips])


def _print_bands(chips: list[tuple[Found, Chip]], bands: tuple[str, ...]) -> None:
    print(f"{'band':<6}{'mean':>9}{'std':>9}{'min':>9}{'1 %':>9}{'median':>9}{'99 %':>9}{'max':>9}{'invalid':>9}")
    for k, band in enumerate(bands):
        values = _values(chips, k).astype(np.float64)
        low, middle, high = np.quantile(values, (0.01, 0.5, 0.99))
        numbers = (values.mean(), values.std(), values.min(), low, middle, high, values.max())
        invalid = 1 - len(values) / sum(c.db[k].size for _, c in chips)
        print(f"{band:<6}" + "".join(f"{number:>9.3g}" for number in numbers) + f"{invalid:>9.2%}")


def _print_groups(chips: list[tuple[Found, Chip]], kind: str) -> None:
    print(f"{kind:<26}{'images':>8}{'mean VV':>9}{'mean VH':>9}{'std VV':>9}{'std VH':>9}{'VV-VH':>9}{'invalid':>9}")
    groups: dict[str, list[tuple[Found, Chip]]] = {}
    for image, chip in chips:
        groups.setdefault(image.group, []).append((image, chip))
    for group, members in sorted(groups.items()):
        first, second = (_values(members, k).astype(np.float64) for k in (0, 1))
        difference = np.median([np.median(c.db[0]) - np.median(c.db[1]) for _, c in members])
        invalid = 1 - (len(first) + len(second)) / sum(c.db.size for _, c in members)
        numbers = (first.mean(), second.mean(), first.std(), second.std(), difference)
        print(
            f"{group[:25]:<26}{len(members):>8}" + "".join(f"{number:>9.3g}" for number in numbers) + f"{invalid:>9.2%}"
        )


def _print_verdict(
    card: Card | None, s: Statistics, units: str, cues: tuple[str, ...], root: Path, *, contradicted: bool
) -> None:
    few = (
        ""
        if s.images >= MIN_IMAGES
        else f" ({s.images} images: too few for a verdict, at least {MIN_IMAGES} are needed)"
    )
    print(f"units    {UNITS[units]}{few}: {', '.join(cues)}")
    if units == "dB":
        print(f"bands    median of {s.bands[0]}-{s.bands[1]} is {s.first_minus_second:.1f} dB{few}")
    if card:
        verdict = judge(card, s, str(root))
        agrees = f"agrees with the card {card.name}" if not few else f"none{few}"
        pixels = f"refused: {verdict.refusal.what}" if verdict.refusal else agrees
        print(f"verdict  {pixels}{'; the counts contradict the card, which a run refuses' if contradicted else ''}")
        for warning in verdict.warnings:
            print(f"warning  {warning['text']}")
        print(f"note     {calibration_note(card)}")
