"""Look at a folder of Sentinel-1 images and write a draft of its card: what was seen, and where it had to be guessed.

python -m fgmae_bench.prepare card DIR
python -m fgmae_bench.prepare card DIR --labels labels.csv
python -m fgmae_bench.prepare card DIR --masks MASKS --out my_floods.toml
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fgmae_bench.config.cards import Card, card_names, load_card
from fgmae_bench.config.contract import BANDS
from fgmae_bench.config.run import Data
from fgmae_bench.errors import BenchError, os_error

if TYPE_CHECKING:
    from fgmae_bench.data.gather import Found, Seen
    from fgmae_bench.data.recognise import Finding
    from fgmae_bench.prepare.card_folders import Plan

LOOKED_AT = 96  # images that units and bands are judged by
ENTRIES = {"segmentation": "segment", "regression": "linear"}
FRACTIONS = (0.6, 0.2)
MOST_PATTERNS = 400
TEST_GROUPS = 5  # below which no interval is shown
USUAL_BATCH = 16
PLAIN_TABLES = ("", "labels", "label", "table", "samples", "index", "metadata")  # names of tables that say nothing
Section = tuple[str, list[str]]  # heading, lines


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "folder", metavar="DIR", help="folder of the data: images by class, or with label maps or a table"
    )
    parser.add_argument("--labels", metavar="FILE", help="CSV or Parquet file, one row an image")
    parser.add_argument("--masks", metavar="DIR", help="folder of the label maps, or of maps of a number")
    parser.add_argument("--out", metavar="TOML", help="card to write; never over another (default: card.toml)")


def main(given: dict[str, Any]) -> None:
    """Look, write the card, say what comes next."""
    from fgmae_bench.data.gather import store_in
    from fgmae_bench.prepare.card_folders import plan_of
    from fgmae_bench.prepare.card_store import plan_of_store
    from fgmae_bench.prepare.card_table import plan_of_table
    from fgmae_bench.prepare.inspect import refuse_file

    root, out = Path(given["folder"]), Path(given.get("out", "card.toml"))
    if os.path.lexists(out):
        raise BenchError(f"{out} is there already", "a card is never written over: remove it, or give another --out")
    refuse_file(root)
    if "labels" in given and "masks" in given:
        raise BenchError("--labels and --masks are two layouts", "give one of them")
    if "labels" not in given and "masks" not in given and store_in(root) is not None:
        plan = plan_of_store(root)
    elif "labels" in given:
        plan = plan_of_table(root, Path(given["labels"]))
    else:
        plan = plan_of(root, Path(given["masks"]) if "masks" in given else None)
    seen = _look(plan)
    draft = Draft(plan=plan, signal=signal_of(seen), name=name_of(plan.root, given.get("labels", "")))
    text = draft.text(_splits(draft))
    publish(out, text)
    card = load_card(str(out))
    _print(card, draft, out, given["folder"])


# --- what the pixels say


@dataclass(kw_only=True)
class SignalDraft:
    """Lines of [signal], each a key with its value as it is written, and a remark or none."""

    lines: dict[str, tuple[str, str]] = field(default_factory=dict)
    evidence: list[str] = field(default_factory=list)
    georeferenced: bool = False


def _look(plan: Plan) -> list[Seen]:
    """Some of the images. Raises BenchError where none can be read."""
    from fgmae_bench.data.gather import look
    from fgmae_bench.system.progress import Progress
    from fgmae_bench.system.randomness import keyed_order

    by_name: dict[str, Found] = {image.name: image for image in plan.images}
    chosen, seen, broken = keyed_order(0, "card", sorted(by_name))[:LOOKED_AT], [], []
    place_of = {image.name: place for place, image in enumerate(plan.images)}
    with Progress("looking", len(chosen), "images") as progress:
        for name in chosen:
            try:
                seen.append(look(by_name[name]))
            except BenchError as error:
                broken.append(str(error))
                plan.unusable.append(place_of[name])
            progress.step()
    if not seen:
        raise BenchError(
            f"{plan.root}: no image can be read: {broken[0] if broken else 'there is none'}", "see inspect"
        )
    if broken:
        plan.remark("signal", f"{len(broken)} of {len(chosen)} images looked at cannot be used: {broken[0][:160]}")
    return seen


def signal_of(seen: list[Seen]) -> SignalDraft:
    """[signal] as the images speak for it, with the evidence in words."""
    from fgmae_bench.data.audit import measure
    from fgmae_bench.data.recognise import recognise_units

    draft = SignalDraft(georeferenced=all(each.metres for each in seen))
    count = Counter(len(each.chip.db) for each in seen).most_common(1)[0][0]
    alike = [each for each in seen if len(each.chip.db) == count]
    bands = Counter(each.bands for each in alike).most_common(1)[0][0]
    named = len(bands) == count
    orders = {each.descriptions for each in alike}
    swapped = any(each.bands not in ((), bands) for each in alike)
    alike = [each for each in alike if each.bands == bands]
    statistics = measure([each.chip for each in alike], bands if named else BANDS[:count])
    finding = recognise_units(statistics)
    if not named:
        bands = BANDS[:count]
        if count == 2 and statistics.first_minus_second < 0:
            bands = bands[::-1]
    first = alike[0]
    draft.lines["bands"] = _bands_line(bands, named, first, statistics.first_minus_second)
    if named and any(first.descriptions) and swapped:
        draft.lines["described"] = _described_line(first, orders)
    elif len(first.descriptions) > count:
        others = [
            text or f"band {place + 1}" for place, text in enumerate(first.descriptions) if place not in first.places
        ]
        draft.lines["index"] = (
            f"{[place + 1 for place in first.places]}",
            f"of {len(first.descriptions)} bands; not read: {', '.join(others)[:80]}",
        )
    draft.lines |= _unit_lines(finding)
    draft.lines["calibration"] = ('"unstated"', "pixels cannot show it: sigma0, gamma0, gamma0_rtc")
    sizes = Counter(each.chip.db.shape[1:] for each in seen)
    size, most = sizes.most_common(1)[0]
    draft.lines["size"] = (
        f"{list(map(int, size))}",
        ""
        if len(sizes) == 1
        else f"EDIT: {len(seen) - most} of {len(seen)} images looked at have another size, which a run refuses",
    )
    draft.lines["dtype"] = (f'"{first.dtype}"', "")
    if statistics.fills:
        values = [float(value) for value, _ in statistics.fills]
        share = sum(share for _, share in statistics.fills)
        draft.lines["nodata"] = (
            f"{values}",
            f"repeated in {share:.2%} of the pixels, far from all others: guessed to be no data",
        )
    draft.evidence = [f"{len(seen)} images looked at; units: {finding.words} ({', '.join(finding.cues)})"]
    declared = ", ".join(dict.fromkeys(f"{value:g}" for each in seen for value in each.nodata))
    if declared:
        draft.evidence.append(f"files declare {declared} as no data themselves, which is applied")
    metres = [each.metres for each in seen if each.metres]
    if metres:
        across, down = np.median(metres, axis=0)
        draft.evidence.append(f"a pixel is {across:.1f} m across and {down:.1f} m down on the ground")
    return draft


def _bands_line(bands: tuple[str, ...], named: bool, first: Seen, gap: float) -> tuple[str, str]:
    written = json.dumps(list(bands))
    if named:
        how = "the names of the files" if not any(first.descriptions) else "the files' descriptions"
        return written, f"by {how}"
    if len(bands) == 1:
        return written, "GUESSED: nothing names the band"
    return written, f"GUESSED: the first is the {'darker' if gap < 0 else 'brighter'} one, and VV is brighter than VH"


def _described_line(first: Seen, orders: set[tuple[str, ...]]) -> tuple[str, str]:
    """`described`, for files that do not all describe their bands alike: by position some would be swapped."""
    texts = [first.descriptions[place] for place in first.places]
    if all(set(texts) <= set(order) for order in orders):
        return json.dumps(texts), "the order of bands differs between files"
    return json.dumps(texts), f"EDIT: files describe their bands in {len(orders)} ways; a run refuses the others"


def _unit_lines(finding: Finding) -> dict[str, tuple[str, str]]:
    """`units` and, where it is known, `scale`."""
    if finding.units in ("dB", "linear_power", "amplitude"):
        return {"units": (f'"{finding.units}"', "" if finding.units == "dB" else "converted to dB on reading")}
    if finding.units == "ask" and "linear_power" in finding.possible:
        return {"units": ('"linear_power"', "GUESSED: it may be amplitude, the pixels cannot tell; find out")}
    if finding.scale is not None:
        return {"units": ('"dB"', ""), "scale": (f"{finding.scale}", f"they look like {finding.words}")}
    return {"units": ('"dB"', f"EDIT: they look like {finding.words}; {finding.todo}")}


# --- the card


@dataclass(kw_only=True)
class Draft:
    """A card as it will be written."""

    plan: Plan
    signal: SignalDraft
    name: str
    train: int = 0  # images for training under the recommended split

    def text(self, splits: dict[str, tuple[dict[str, Any], str]]) -> str:
        """The TOML of the card with splits, each with its remark; the last is the usual and recommended one."""
        plan, names = self.plan, list(splits)
        top = [
            "# A draft by `prepare card`. GUESSED and EDIT mark what the files do not say; an unknown key is an error.",
            f"name = {_quoted(self.name)}",
            f"title = {_quoted(plan.root.resolve().name or self.name)}",
            "version = 1                        # raise it when a fact changes that can change a number",
            f"task = {_quoted(plan.task)}",
        ]
        if plan.kind != "table" and not plan.options:
            top.append(f"layout = {_quoted(plan.kind)}")
        if plan.task != "regression":
            top.append(f"classes = {_listed(plan.classes)}")
        top += [f"default_split = {_quoted(names[-1])}", f"recommended_split = {_quoted(names[-1])}"]
        sections: list[Section] = [("", top)]
        if plan.options:
            lines = [
                f"kind = {_quoted(plan.kind)}",
                *(f"{key} = {_value(value)}" for key, value in plan.options.items()),
            ]
            sections.append(("layout", lines))
        elif "layout" in plan.remarks:
            top += [f"# {text}" for text in plan.remarks["layout"]]
        sections.append(("signal", self._signal()))
        sections += self._labels()
        for name, (facts, remark) in splits.items():
            lines = [f"# {remark}"] if remark else []
            sections.append((f"splits.{name}", [*lines, *(f"{key} = {_value(value)}" for key, value in facts.items())]))
        sections.append(
            (
                "origin",
                ['url = "unstated"', 'licence = "unstated"', "# citation, and get: the command that gets the data"],
            )
        )
        failed = [f"# {_flat(text)}" for text in plan.remarks.get("splits", [])]
        texts = [self._section(*section) for section in sections]
        return "\n\n".join([*texts[:-1], *(["\n".join(failed)] if failed else []), texts[-1]]) + "\n"

    def _section(self, heading: str, lines: list[str]) -> str:
        remarks = [f"# {text}" for text in self.plan.remarks.get(heading.partition(".")[0] if heading else "-", [])]
        head = [f"[{heading}]"] if heading else []
        if heading.startswith("splits"):
            remarks = []
        return "\n".join([*head, *map(_line, remarks), *lines])

    def _signal(self) -> list[str]:
        lines = [_line(f"# {text}") for text in self.signal.evidence]
        for key, (value, remark) in self.signal.lines.items():
            lines.append(f"{key} = {value}{'  # ' + _flat(remark) if remark else ''}")
        if self.plan.folder:
            lines.append(f"folder = {_quoted(self.plan.folder)}")
        return lines

    def _labels(self) -> list[Section]:
        plan, found = self.plan, []
        if plan.kind == "paired_folders" or plan.label_folder:
            lines = [f"folder = {_quoted(plan.label_folder)}"]
            if plan.codes:
                lines.append(f"codes = {_value(plan.codes)}")
            if plan.ignore:
                lines.append(f"ignore = {[int(value) if value == round(value) else value for value in plan.ignore]}")
            found.append((f"label_sources.{_key(plan.label_folder or 'masks')}", lines))
        if plan.task == "regression":
            found.append(("target", [f"name = {_quoted(plan.target)}", 'unit = ""']))
        counted = len(plan.images)
        if plan.task == "single_label" and plan.per_class and plan.kind == "class_folders":
            found.append(("counts", [f"total = {sum(plan.per_class.values())}"]))
            found.append(("counts.per_class", [f"{_quoted(name)} = {count}" for name, count in plan.per_class.items()]))
        elif plan.kind == "paired_folders" and not plan.stated:
            found.append(("counts", [f"total = {counted}"]))
        return found


def _splits(draft: Draft) -> dict[str, tuple[dict[str, Any], str]]:
    """Splits that can be made of this data, each with its facts and a remark, the recommended last.

    Every one is tried on the data itself, with the card that it would be on. Raises BenchError where none can be made.
    """
    wanted = dict(_suggested(draft))
    usable: dict[str, tuple[dict[str, Any], str]] = {}
    problem: BenchError | None = None
    for name, split in wanted.items():
        try:
            draft.train = _try(draft, name, split)
        except BenchError as error:
            draft.plan.remark("splits", f"a split '{name}' cannot be made: {error.what}")
            problem = error
            continue
        usable[name] = split
    if not usable:
        raise problem or BenchError(f"{draft.plan.root} cannot be divided", "give more images")
    return usable


def _suggested(draft: Draft) -> list[tuple[str, tuple[dict[str, Any], str]]]:
    """(name, (facts, remark)) of splits that may be made, the best last."""
    from fgmae_bench.data.files import stem_of
    from fgmae_bench.data.groups import by_name
    from fgmae_bench.prepare.card_folders import places_of

    plan = draft.plan
    train, val = FRACTIONS
    seen = by_name(stem_of(image.name) for image in plan.images) if plan.kind == "class_folders" else None
    found: list[tuple[str, tuple[dict[str, Any], str]]] = []
    kind = "stratified" if plan.task == "single_label" else "random"
    random = {"kind": kind, "train": train, "val": val, "leaky": True}
    found.append(("random", (random, "images at random: neighbours are torn apart")))
    if len(plan.images) < 5:
        found.append(
            ("fit", ({"kind": "everything", "leaky": True}, "trained on and scored by all: measures the fit alone"))
        )
    groups = list(seen[1]) if seen else plan.groups
    if plan.kind == "paired_folders":
        groups = [f"{place}*" for place in places_of(plan.groups) if place]
        groups = groups if len(groups) == len(plan.groups) else []
    elif groups:
        groups = [re.sub(r"([*?\[])", r"[\1]", group) for group in groups]
    if groups and 3 <= len(set(groups)) <= MOST_PATTERNS:
        parts = _dealt(groups, [groups[place] for place in plan.unusable])
        words = f"whole {seen[0]}s, by names" if seen else "whole groups"
        if plan.kind == "paired_folders":
            words = "by what names begin with, guessed to be the place"
        found.append(("groups", ({"kind": "groups", "groups": parts}, words)))
    if (draft.signal.georeferenced or "place" in plan.options) and not groups:
        spatial = {"kind": "spatial", "train": train, "val": val, "block_km": 20.0, "buffer_m": 1000.0}
        found.append(("spatial", (spatial, "blocks on the ground, with a buffer between the parts")))
    if plan.stated:
        found.append(("stated", ({"kind": "stated"}, "as the data itself is divided")))
    return found


def _dealt(groups: list[str], unusable: list[str]) -> dict[str, list[str]]:
    """Groups by part; val only where there are five groups or more, five groups of test where there are eight or more.

    Groups that are all `unusable` count for nothing, and go to train.
    """
    counts = Counter(groups)
    counts.subtract(unusable)
    whole = Counter({group: count for group, count in counts.items() if count > 0})
    test = 0.2 if len(whole) >= 5 else 0.3
    while True:
        val = 0.2 if len(whole) >= 5 and test < 0.4 else 0.1 if len(whole) >= 5 else 0.0
        parts = _dealt_by({"train": 1 - test - val, **({"val": val} if val else {}), "test": test}, whole)
        if len(parts["test"]) >= TEST_GROUPS or len(whole) < TEST_GROUPS + 3 or test > 0.6:
            return parts | {"train": sorted([*parts["train"], *(counts.keys() - whole.keys())])}
        test += 0.05


def _dealt_by(shares: dict[str, float], counts: Counter[str]) -> dict[str, list[str]]:
    """Groups by part, the largest first, each where most is lacking of the part's share."""
    parts: dict[str, list[str]] = {name: [] for name in shares}
    lacking = {name: share * counts.total() for name, share in shares.items()}
    for group, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        empty = [name for name in parts if not parts[name]]
        left = len(counts) - sum(map(len, parts.values()))
        name = max(empty if left <= len(empty) else parts, key=lambda part: lacking[part])
        parts[name].append(group)
        lacking[name] -= count
    return {name: sorted(members) for name, members in parts.items()}


def _try(draft: Draft, name: str, split: tuple[dict[str, Any], str]) -> int:
    """Images for training. Raises BenchError where the data cannot be read and divided by a card with this split."""
    from fgmae_bench.data.groups import with_groups
    from fgmae_bench.data.layouts import build_index
    from fgmae_bench.data.splits import make_split

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "card.toml"
        path.write_text(draft.text({name: split}), encoding="utf-8")
        card = load_card(str(path))
        try:
            index = build_index(card, draft.plan.root)
            index.read(0, card)
            known = with_groups(card, index, Path(place), read=False)
            parts = make_split(card, known, Data(dataset=card.name, split=name), Path(place), index.groups)
            return len(parts.train)
        except BenchError as error:
            raise BenchError(error.what.replace(str(path), "the draft"), error.todo) from error


def name_of(root: Path, labels: str = "") -> str:
    """A card's name from a folder's, none of the suite's; of several tables of one folder each has its own."""
    place = root.resolve()
    place = place.parent if place.name.lower() in ("data", "images", "train") else place
    stem = Path(labels).stem.lower()
    name = place.name.lower().removesuffix(".zarr") + ("" if stem in PLAIN_TABLES else f"_{stem}")
    words = re.sub(r"[^a-z0-9]+", "_", name).strip("_") or "dataset"
    return f"own_{words}" if words in card_names() else words


def publish(out: Path, text: str) -> None:
    """Write a card that appears whole and never over another. Raises BenchError."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=out.parent, prefix=f".{out.name}.", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
            os.chmod(stream.name, 0o644)
            os.link(stream.name, out)  # fails where something is there
    except FileExistsError as error:
        raise BenchError(f"{out} is there already", "a card is never written over: give another --out") from error
    except OSError as error:
        raise os_error(error, out) from error


def _print(card: Card, draft: Draft, out: Path, data: str) -> None:
    plan = draft.plan
    of = f" in {len(card.classes)} classes" if card.classes else f", target {plan.target}"
    print(f"{out}: {card.task}, {len(plan.images)} images{of}, laid out as {card.layout}")
    for line in draft.signal.evidence:
        print(f"signal   {line}")
    for name in card.splits:
        usual = " (recommended)" if name == card.recommended_split else ""
        print(f"split    {name}: {card.splits[name].kind}{usual}")
    for line in out.read_text(encoding="utf-8").splitlines():
        if ("GUESSED" in line or "EDIT" in line) and not line.startswith("# A draft"):
            print(f"look at  {line}")
    root = plan.root if plan.root.resolve() != Path(data).resolve() else Path(data)
    entry = ENTRIES.get(card.task, "linear")
    entry = "segment" if card.per_pixel else entry
    rest = " --freeze_backbone --recipe corrected" if entry == "segment" else " --features cached"
    if draft.train < 2 * USUAL_BATCH:
        rest += f" --batch_size {1 << max(0, (draft.train // 2).bit_length() - 1)}"
    print(f"next: python -m fgmae_bench.prepare inspect {out} --data_path {root}")
    print(f"then: python -m fgmae_bench.{entry} --dataset {out} --data_path {root} --weights random{rest}")


def _quoted(text: str) -> str:
    """A basic string of TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _listed(items: list[str]) -> str:
    """A list of strings, over several lines where it is long."""
    flat = ", ".join(map(_quoted, items))
    return f"[{flat}]" if len(flat) < 90 else "[\n" + "".join(f"    {_quoted(item)},\n" for item in items) + "]"


def _value(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _key(name: str) -> str:
    """A key of TOML, bare where that will do."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _quoted(name)


def _flat(text: str) -> str:
    """A remark on one line, without what a comment of TOML may not hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _line(remark: str) -> str:
    return _flat(remark)
