"""Hold Sentinel-1 images against a card, or against none: units, bands, fill, statistics, a contact sheet.

python -m fgmae_bench.prepare inspect eurosat --data_path DIR
python -m fgmae_bench.prepare inspect eurosat-float32.lmdb
python -m fgmae_bench.prepare inspect DIR
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fgmae_bench.config.cards import Card, load_card
from fgmae_bench.config.contract import BANDS, POLARISATIONS
from fgmae_bench.config.flags import spellings
from fgmae_bench.data.audit import (
    MIN_IMAGES,
    PAIRS,
    SAME,
    Verdict,
    calibration_note,
    descriptions_of,
    gap_db,
    judge,
    measure,
    unconverted,
)
from fgmae_bench.data.files import IMAGES
from fgmae_bench.data.gather import Found, LooksLikeLabels, Seen, find_images, foreign_kind, foreign_kinds, look
from fgmae_bench.data.index import check_counts
from fgmae_bench.data.recognise import Finding, Statistics, recognise_units
from fgmae_bench.data.samples import Samples
from fgmae_bench.data.zarr_store import is_store
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
    "regression": "group",
}  # what images are grouped by, by task


@dataclass(kw_only=True)
class Looked:
    """The images that were read: `chips` with the bands `bands`, in the units of the files or, of a pack, in dB."""

    images: list[Found]
    bands: tuple[str, ...]
    chips: list[tuple[Found, Chip]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    labels: int = 0  # files that look like label maps
    assumed: bool = False  # nothing names the bands

    @property
    def only(self) -> list[Chip]:
        """The chips alone."""
        return [chip for _, chip in self.chips]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("what", metavar="WHAT", help="a dataset's name, a card's path, a pack, or a folder of images")
    parser.add_argument(
        *spellings("data_path"),
        dest="data_path",
        metavar="DIR",
        help="folder of the data (default: data next to the card)",
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
    refuse_file(Path(what))
    as_folder = Path(what).is_dir() and not (Path(what) / "card.toml").is_file() and "data_path" not in given
    card = None if as_folder else load_card(what)
    root = Path(what) if card is None else Path(given.get("data_path") or card.data_path)
    name = root.resolve().name if card is None else card.name
    looked = look_at_folder(root, limit) if card is None else _look_by_card(card, root, limit)
    _print_found(looked, root)
    statistics = measure(looked.only, looked.bands)
    finding = recognise_units(statistics)
    _print_bands(looked)
    _print_groups(looked, GROUPED[card.task] if card else "class")
    synthetic = any(chip.synthetic for chip in looked.only)
    out = Path(given.get("out") or Path("inspect") / f"{name}.png")
    title = f"{card.title if card else name}{' (synthetic data)' if synthetic else ''}"
    write_contact_sheet(out, title, _in_order(looked), finding.units == "dB", _shown(looked.bands))
    verdict = _verdict(card, statistics, root)
    _print_verdict(card, verdict, looked)
    refusals = report_labels(card, root, out, synthetic) if card and card.task == "segmentation" else []
    print(f"contact sheet: {out}")
    if synthetic:
        print("synthetic data: made by fgmae_bench, no real scene")
    if verdict and verdict.refusal:
        raise verdict.refusal
    if refusals:
        raise refusals[0]


def refuse_file(path: Path) -> None:
    """Raise BenchError on a file that is not a card, and on a folder of a format that is not read, naming it."""
    kind = foreign_kind(path)
    if kind is not None and path.exists() and not is_store(path):
        raise BenchError(f"{path} is {kind[0]}", kind[1])
    if path.is_file() and path.suffix.lower() in IMAGES:
        raise BenchError(f"{path} is one image", f"give the folder that it is in: prepare inspect {path.parent}")
    if path.is_file() and path.suffix != ".toml":
        raise BenchError(f"{path} is a file, not a card.toml", "give a card, a pack, or a folder of images")


# --- what is looked at


def look_at_folder(root: Path, limit: int) -> Looked:
    """Images of a folder without a card. Raises BenchError where there is none, saying what is there in their place."""
    if not root.is_dir():
        raise BenchError(f"{root} is not a folder", "give a folder, or the name of a dataset")
    images, skipped = find_images(root)
    seen: dict[str, Seen] = {}

    def read(found: Found) -> Chip:
        seen[found.name] = look(found)
        return seen[found.name].chip

    looked = Looked(images=images, bands=(), skipped=skipped, facts=[f"{root}: {len(images)} images, no card"])
    _read(looked, limit, read)
    if not looked.chips:
        return looked
    usual = Counter((len(seen[image.name].chip.db), seen[image.name].bands) for image, _ in looked.chips)
    (count, bands), _ = usual.most_common(1)[0]
    others = [
        image for image, _ in looked.chips if (len(seen[image.name].chip.db), seen[image.name].bands) != (count, bands)
    ]
    looked.broken += [f"{image.name}: other bands than most images" for image in others]
    looked.chips = [(image, chip) for image, chip in looked.chips if image not in others]
    looked.assumed = len(bands) != count
    looked.bands = BANDS[:count] if looked.assumed else bands
    looked.facts += _facts_of([seen[image.name] for image, _ in looked.chips], looked)
    return looked


def _facts_of(seen: list[Seen], looked: Looked) -> list[str]:
    """Lines on what files without a card state: bands, type, size, nodata, resolution."""
    first = seen[0]
    sizes = Counter("x".join(map(str, each.chip.db.shape[1:])) for each in seen)
    shown = ", ".join(f"{size} ({count})" if len(sizes) > 1 else size for size, count in sizes.most_common(3))
    nodata = ", ".join(dict.fromkeys(f"{value:g}" for each in seen for value in each.nodata)) or "none"
    lines = [f"files    {shown} pixels, {first.dtype}, nodata declared: {nodata}"]
    if any(first.descriptions):
        lines.append(f"bands    described as {', '.join(text or '?' for text in first.descriptions)}")
    if len(first.descriptions) > len(first.places):
        places = " and ".join(str(place + 1) for place in first.places)
        lines.append(
            f"bands    {len(first.descriptions)} in a file; looked at {places}: on a card, index = "
            f"{[place + 1 for place in first.places]} under [signal]"
        )
    if looked.assumed:
        lines.append(f"bands    nothing names them: {', '.join(looked.bands)} are assumed")
    metres = [each.metres for each in seen if each.metres]
    if metres:
        across, down = np.median(metres, axis=0)
        lines.append(
            f"ground   a pixel is {across:.1f} m across and {down:.1f} m down (median of {len(metres)} images)"
        )
    return lines


def _look_by_card(card: Card, root: Path, limit: int) -> Looked:
    """Images of a card's data, read as a run reads them, but in the units of the files."""
    from fgmae_bench.data.packs.read import open_index

    index = open_index(card, root)
    groups: Sequence[str]
    if index.labels.ndim == 1:
        groups = [card.classes[label] for label in index.labels]
    else:
        groups = index.groups if index.groups and card.task != "segmentation" else [card.name] * len(index.files)
    images = [
        Found(sample, group, (index.path(row),))
        for row, (sample, group) in enumerate(zip(index.ids, groups, strict=True))
    ]
    contradiction = check_counts(card, index)
    counts = f"{CONTRADICTED}: {contradiction.text}" if contradiction else "counts   as stated"
    of = f" in {len(card.classes)} classes" if card.classes else ""
    facts = [f"{card.title} at {index.root}: {len(images)} images{of}", counts]
    row_of, plain = {sample: row for row, sample in enumerate(index.ids)}, unconverted(card)
    looked = Looked(images=images, bands=card.signal.bands, facts=facts)

    def read(found: Found) -> Chip:
        chip = index.read(row_of[found.name], plain)
        if chip.invalid_fraction == 1:
            raise BenchError(f"{found.name}: a band has no valid pixel", "a run leaves it out and counts it")
        return chip

    _read(looked, limit, read)
    return looked


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


def _read(looked: Looked, limit: int, read: Callable[[Found], Chip]) -> None:
    """Read up to `limit` images, evenly over the groups in keyed order; a line for each broken file."""
    by_group: dict[str, list[Found]] = {}
    for image in looked.images:
        by_group.setdefault(image.group, []).append(image)
    share = fair_share(limit, len(by_group))
    wanted: set[str] = set()
    for members in by_group.values():
        wanted.update(keyed_order(0, "inspect", [image.name for image in members])[:share])
    with Progress("reading", min(len(wanted), len(looked.images)), "images") as progress:
        for image in looked.images:
            if image.name not in wanted:
                continue
            try:
                looked.chips.append((image, read(image)))
            except LooksLikeLabels:
                looked.labels += 1
            except BenchError as error:
                looked.broken.append(str(error))
            progress.step()


# --- what is printed


def _print_found(looked: Looked, root: Path) -> None:
    """Print what was found; raises BenchError where no image could be read."""
    for line in [
        *looked.facts,
        *(f"skipped  {line}" for line in _few(looked.skipped)),
        *(f"unusable {line}" for line in _few(looked.broken)),
        *([f"skipped  {looked.labels} files that look like label maps"] if looked.labels else []),
    ]:
        print(line)
    if not looked.chips:
        instead = foreign_kinds(root) if root.is_dir() else ""
        todo = "give a folder of TIFFs, or of VV and VH files in pairs"
        raise BenchError(
            f"{root}: no readable image{'; ' * bool(instead)}{instead.partition('; ')[0]}",
            instead.partition("; ")[2] or todo,
        )


def _few(lines: list[str], most: int = 5) -> Iterable[str]:
    return [*lines[:most], *([f"… and {len(lines) - most} more"] if len(lines) > most else [])]


def _values(chips: list[tuple[Found, Chip]], band: int) -> Any:
    """All valid finite values of a band, float64."""
    kept = np.concatenate([c.db[band][... if c.valid is None else c.valid[band]].ravel() for _, c in chips])
    return kept[np.isfinite(kept)].astype(np.float64)


def print_columns(rows: list[list[str]]) -> None:
    """Rows of text in columns as wide as they need: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        line = "".join(f"  {text:>{width}}" for text, width in zip(others, widths[1:], strict=True))
        print(f"{first:<{widths[0]}}{line}")


def _print_bands(looked: Looked) -> None:
    rows = [["band", "mean", "std", "min", "1 %", "25 %", "median", "75 %", "99 %", "max", "invalid"]]
    for k, band in enumerate(looked.bands):
        values = _values(looked.chips, k)
        invalid = 1 - len(values) / sum(c.db[k].size for _, c in looked.chips)
        quantiles = np.quantile(values, (0.01, 0.25, 0.5, 0.75, 0.99))
        numbers = (values.mean(), values.std(), values.min(), *quantiles, values.max())
        rows.append([band, *(f"{number:.3g}" for number in numbers), f"{invalid:.2%}"])
    print_columns(rows)


def _shown(bands: tuple[str, ...]) -> tuple[str, ...]:
    """Up to two bands that pictures and groups show: a co- and a cross-polarised pair where there is one."""
    pair = next((pair for pair in PAIRS if set(pair) <= set(bands)), None)
    return pair or tuple(band for band in POLARISATIONS if band in bands)[:2]


def _print_groups(looked: Looked, kind: str) -> None:
    shown = _shown(looked.bands)
    places = [looked.bands.index(band) for band in shown]
    between = [f"{shown[0]}-{shown[1]}"] if len(shown) == 2 else []
    rows = [[kind, "images", *(f"mean {b}" for b in shown), *(f"std {b}" for b in shown), *between, "invalid"]]
    groups: dict[str, list[tuple[Found, Chip]]] = {}
    for image, chip in looked.chips:
        groups.setdefault(image.group, []).append((image, chip))
    for group, members in sorted(groups.items()):
        values = [_values(members, place) for place in places]
        invalid = 1 - sum(map(len, values)) / sum(c.db[place].size for _, c in members for place in places)
        numbers = [*(v.mean() for v in values), *(v.std() for v in values)]
        if between:
            numbers.append(_nanmedian([_difference(c, *places) for _, c in members]))
        rows.append([group[:40], str(len(members)), *(f"{number:.3g}" for number in numbers), f"{invalid:.2%}"])
    print_columns(rows)


def _difference(chip: Chip, first: int, second: int) -> float:
    """Median of the difference of two bands where both are valid, NaN without any."""
    difference = chip.db[first] - chip.db[second]
    kept = np.isfinite(difference) & (True if chip.valid is None else chip.valid[first] & chip.valid[second])
    return float(np.median(difference[kept])) if kept.any() else float("nan")


def _nanmedian(values: list[float]) -> float:
    kept = [value for value in values if np.isfinite(value)]
    return float(np.median(kept)) if kept else float("nan")


def _in_order(looked: Looked) -> dict[str, list[Chip]]:
    """Chips by group with the bands that are shown."""
    order = [looked.bands.index(band) for band in _shown(looked.bands)]
    groups: dict[str, list[Chip]] = {}
    for image, chip in looked.chips:
        valid = None if chip.valid is None else chip.valid[order]
        groups.setdefault(image.group, []).append(Chip(db=chip.db[order], valid=valid, synthetic=chip.synthetic))
    return groups


def _verdict(card: Card | None, statistics: Statistics, root: Path) -> Verdict | None:
    """The verdict of a run on the images looked at."""
    if card is None:
        return None
    from fgmae_bench.data.packs.read import is_pack, open_index

    samples = Samples(card=card, index=open_index(card, root))
    return judge(card, statistics, str(root), None, "dB" if is_pack(root) else None, descriptions_of(samples))


def _print_verdict(card: Card | None, verdict: Verdict | None, looked: Looked) -> None:
    s = verdict.statistics if verdict else measure(looked.only, looked.bands)
    finding = verdict.finding if verdict else recognise_units(s)
    few = ""
    if s.images < MIN_IMAGES:
        few = f" ({s.images} images: too few for a verdict, at least {MIN_IMAGES} are needed)"
    print(f"units    {finding.words}{few}: {', '.join(finding.cues)}")
    stated = card.signal.units if card else ""
    for line in _remarks(s, finding, few, looked.assumed, stated):
        print(line)
    if card is None or verdict is None:
        return
    agrees = f"agrees with the card {card.name}" if not few else f"none{few}"
    pixels = f"refused: {verdict.refusal.what}" if verdict.refusal else agrees
    contradicted = any(fact.startswith(CONTRADICTED) for fact in looked.facts)
    print(f"verdict  {pixels}{'; the counts contradict the card, which a run refuses' if contradicted else ''}")
    for warning in verdict.warnings:
        print(f"warning  {warning['text']}")
    print(f"note     {calibration_note(card)}")


def _remarks(s: Statistics, finding: Finding, few: str, assumed: bool, stated: str = "") -> Iterable[str]:
    """Lines on bands, fill and what to state on a card, which does not say it already by its `stated` units."""
    if finding.units not in ("dB", stated):
        yield f"advice   {finding.todo}"
    if len(s.bands) > 1:
        gap = gap_db(s, finding.units)
        unit = " dB" if finding.units in ("dB", "linear_power", "amplitude") else ""
        yield f"bands    median of {s.bands[0]}-{s.bands[1]} is {gap:.1f}{unit}{few}"
        if s.same >= SAME:
            yield f"bands    one band twice: {s.same:.0%} of their pixels are equal"
        elif assumed and gap < 0:
            yield "bands    the first is the darker one, as VH is: state the order of the files on the card"
    for value, share in s.fills:
        yield (
            f"fill     {value:g} is repeated in {share:.2%} of the pixels, far from all others: "
            f"nodata = [{float(value)}] under [signal] if nothing was measured there"
        )
