"""What a card is held against on loading, besides the types of its fields: every fault names the card's file."""

from __future__ import annotations

import math
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from fgmae_bench.config.card import Arrangement, Card, Download, Groups, PermanentWater, Signal, Split, Texts
from fgmae_bench.config.contract import POLARISATIONS
from fgmae_bench.errors import BenchError, closest

TRAPS = ("swapped", "whole_numbers", "codes", "pre_event", "units")  # faults of which a card may know copies
WITHIN = "of the data's, without a leading / and without names that begin with a dot"


def check(card: Card) -> None:
    """Raise BenchError on what the types alone cannot rule out."""
    require = _Requirement(card.path)
    require(re.fullmatch(r"[a-z0-9_]+", card.name), f"name '{card.name}'", "use lower-case letters, digits and _")
    if card.task == "regression":
        require(card.target and not card.classes, "a regression has a target and no classes", "give [target] name = …")
        bins = card.target.bins if card.target else ()
        require(list(bins) == sorted(set(bins)), f"target.bins are {list(bins)}", "give rising numbers")
    else:
        require(len(set(card.classes)) == len(card.classes) >= 2, "classes", "give two or more different names")
        require(card.target is None, f"[target] on a {card.task} card", 'leave it out, or say task = "regression"')
    _check_signal(card.signal, require)
    for folder in (card.signal.folder, *(source.folder for source in card.label_sources.values())):
        require(
            inside(folder),
            f"folder '{folder}'",
            f"name a folder {WITHIN}",
        )
    for name in (card.default_split, card.recommended_split):
        require(
            name in card.splits,
            f"split '{name}' is not defined",
            f"define [splits.{name}], or {closest(name, card.splits)}",
        )
    for name, split in card.splits.items():
        _check_split(split, f"splits.{name}", require)
    stated = {"groups": card.groups} | {f"strata.{name}": ways for name, ways in card.strata.items()}
    for name, ways in stated.items():
        _check_groups(ways, require, name)
    _check_arrangement(card, card.arrangement, require)
    _check_tables(card.arrangement, require)
    _check_download(card, card.download, require)
    for name in card.traps:
        require(name in TRAPS, f"traps names '{name}'", closest(name, TRAPS))
    if card.per_pixel:
        source = card.label_source
        require(source in card.label_sources, f"label_source '{source}'", f"define [label_sources.{source or 'NAME'}]")
    if card.permanent_water is not None:
        _check_permanent(card, card.permanent_water, require)
    if card.texts is not None:
        _check_texts(card, card.texts, require)
    if card.task == "segmentation":
        require(
            card.label_scheme in card.label_schemes,
            f"label_scheme '{card.label_scheme}'",
            "name it in label_schemes too",
        )
    _check_schemes(card, require)
    if card.counts and card.counts.per_class:
        counts = card.counts.per_class
        require(
            set(counts) == set(card.classes), "counts.per_class does not name exactly the classes", "correct the table"
        )
        require(
            sum(counts.values()) == card.counts.total,
            "counts.per_class does not add up to counts.total",
            "correct the numbers",
        )


def _check_schemes(card: Card, require: _Requirement) -> None:
    require(not card.schemes or card.task == "segmentation", f"[schemes] on a {card.task} card", "leave it out")
    for name, joined in card.schemes.items():
        where = f"schemes.{name}"
        require(name in card.label_schemes, where, "name it in label_schemes too")
        require(name != card.label_scheme, f"{where} has the name of the card's own scheme", "give it another")
        require(len(joined) >= 2, f"{where} has {len(joined)} class", "give two or more")
        held = [label for labels in joined.values() for label in labels]
        for label in held:
            require(label in card.classes, f"{where} joins '{label}'", closest(label, card.classes))
            require(held.count(label) == 1, f"{where} joins '{label}' twice", "keep it in one class")
        require(all(joined.values()), f"{where} has a class that joins none", "name classes of the card for each")


def _check_texts(card: Card, held: Texts, require: _Requirement) -> None:
    for name, candidates in held.candidates.items():
        require(name in card.classes, f"texts.candidates of '{name}'", closest(name, card.classes))
        require(candidates and all(text.strip() for text in candidates), f"texts.candidates of '{name}'", "give texts")
    for template in held.templates:
        require(template.count("{}") == 1, f"texts.templates: '{template}'", "give sentences with one {} each")


def _check_permanent(card: Card, held: PermanentWater, require: _Requirement) -> None:
    require(card.task == "segmentation", f"[permanent_water] on a {card.task} card", "leave it out")
    stated = card.label_sources.get(held.source)
    require(stated, f"permanent_water.source '{held.source}'", f"define [label_sources.{held.source or 'NAME'}]")
    lacking = [code for code in held.codes if stated and stated.codes and str(code) not in stated.codes]
    require(held.codes and not lacking, f"permanent_water.codes are {list(held.codes)}", "give codes of its source")


def _check_arrangement(card: Card, held: Arrangement, require: _Requirement) -> None:
    patterns = {"layout.images": held.images, "layout.masks": held.masks}
    if card.before is not None:
        patterns |= {"before.images": card.before.images, "before.earlier": card.before.earlier}
        fits = card.layout in ("paired_folders", "sample_folders")
        require(fits, f"[before] on the layout {card.layout}", "use paired_folders")
        require(inside(card.before.folder), f"before.folder is '{card.before.folder}'", "name a folder of the data's")
        other = (card.before.folder, card.before.images or held.images) != (card.signal.folder, held.images)
        require(other, "[before] names the images themselves", "give their folder, or names such as *_pre.tif")
    patterns |= {f"label_sources.{name}.masks": stated.masks for name, stated in card.label_sources.items()}
    patterns["layout.valid"] = held.valid
    for name, pattern in patterns.items():
        most = 2 if card.layout == "paired_folders" and "{band}" not in pattern else 1
        fits = not pattern or (1 <= pattern.count("*") <= most and not set("?[]") & set(pattern))
        require(fits, f"{name} is '{pattern}'", "give a file name with one *, such as *_S1.tif")
        require(inside(pattern), f"{name} is '{pattern}'", "name files of the data's folder")
        of_masks = name.endswith("masks") and "{band}" in pattern
        require(not of_masks, f"{name} is '{pattern}'", "leave {band} to images")
    named: dict[str, str] = {}
    for stated in card.label_sources.values():
        both = named.setdefault(stated.folder, stated.masks)
        what = f"label sources of the folder '{stated.folder}' name their masks {both!r} and {stated.masks!r}"
        require(both == stated.masks, what, "give each a folder of its own")
    require(inside(held.table), f"layout.table is '{held.table}'", "name a file of the data's folder")
    require(inside(held.store), f"layout.store is '{held.store}'", "name a Zarr store of the data's folder")
    require(len(held.place) <= 2, f"layout.place is {list(held.place)}", "name longitude and latitude, or a geometry")


def _check_tables(held: Arrangement, require: _Requirement) -> None:
    require(held.levels >= 1, f"layout.levels is {held.levels}", "give 1 or more")
    if not held.tables:
        return
    parts = {"train", "test"} <= set(held.tables) <= {"train", "val", "test"}
    require(parts, f"layout.tables names {', '.join(held.tables)}", "name train and test, val at will")
    require(not (held.table or held.split), "layout states tables and table or split", "keep tables alone")
    for name in held.tables.values():
        require(inside(name), f"layout.tables names '{name}'", "name a file of the data's folder")


def _check_signal(signal: Signal, require: _Requirement) -> None:
    bands = signal.bands
    require(
        bands and len(set(bands)) == len(bands) and set(bands) <= set(POLARISATIONS),
        f"signal.bands is {list(bands)}",
        f"give one or more of {', '.join(POLARISATIONS)} in the order of the files, each once",
    )
    _check_places(signal, require)
    numbers = (signal.scale, signal.offset, signal.floor)
    require(signal.scale and all(map(math.isfinite, numbers)), "signal.scale, offset or floor", "give finite numbers")
    looks = signal.looks
    require(looks is None or 1 <= looks < math.inf, f"signal.looks is {looks}", "give equivalent looks, 1 or more")
    for item in signal.fill:
        ends = item if isinstance(item, tuple) else (item, item)
        require(len(ends) == 2 and ends[0] <= ends[1], f"signal.fill holds {item}", "give values, or [lowest, highest]")
    require(
        len(signal.size) == 2 and min(signal.size) >= 2,
        f"signal.size is {list(signal.size)}",
        "give height and width in pixels",
    )
    require(0 <= signal.max_invalid_fraction < 1, "signal.max_invalid_fraction is outside [0, 1)", "correct it")


def _check_places(signal: Signal, require: _Requirement) -> None:
    """Hold `index` and `described` against `bands`."""
    require(not (signal.index and signal.described), "signal states index and described", "keep one of the two")
    for name, places in (("index", signal.index), ("described", signal.described)):
        one_each = not places or len(set(places)) == len(places) == len(signal.bands)
        require(one_each, f"signal.{name} is {list(places)}", f"give one for each of {', '.join(signal.bands)}")
    require(not signal.index or min(signal.index) >= 1, f"signal.index is {list(signal.index)}", "count bands from 1")


def _check_groups(groups: Groups | None, require: _Requirement, where: str) -> None:
    if groups is None:
        return
    ways = [groups.pattern, groups.file, groups.block_km is not None]
    require(sum(map(bool, ways)) == 1, where, "give one of pattern, file with column, and block_km")
    require(
        not groups.pattern or re.search(r"\{\w+\}", groups.pattern), f"{where}.pattern", "name the group: {scene}_#_#"
    )
    require(bool(groups.file) == bool(groups.column), f"{where}.file and {where}.column", "give both")
    require(
        inside(groups.file),
        f"{where}.file",
        f"name a file {WITHIN}",
    )
    require(groups.block_km is None or groups.block_km > 0, f"{where}.block_km", "give kilometres above 0")


def _check_split(split: Split, where: str, require: _Requirement) -> None:
    for name in split.files.values():
        require(
            inside(name),
            f"{where}.files names '{name}'",
            f"name a file {WITHIN}",
        )
    if split.kind == "lists":
        require(
            {"train", "test"} <= set(split.files) <= {"train", "val", "test"},
            f"{where}.files",
            "name train and test, val at will",
        )
        return
    if split.kind == "groups":
        require(
            {"train", "test"} <= set(split.groups) <= {"train", "val", "test"},
            f"{where}.groups",
            "name train and test, val at will",
        )
    require(split.by is None or split.kind == "leave_out", f"{where}.by", 'give it with kind = "leave_out" alone')
    _check_groups(split.by, require, f"{where}.by")
    if split.kind in ("groups", "leave_out", "everything", "stated"):
        return
    train = split.train or 0.0
    require(
        train > 0 and split.val >= 0 and train + split.val < 1,
        f"{where}: fractions",
        "give train > 0, val >= 0 and train + val < 1",
    )
    if split.kind == "spatial":
        require(split.block_km and split.buffer_m is not None, f"{where}: block_km or buffer_m is missing", "add both")
    if split.kind == "tile":
        require(split.buffer_patches is not None, f"{where}: buffer_patches is missing", "add it")


def _check_download(card: Card, held: Download | None, require: _Requirement) -> None:
    if held is None:
        return
    hub, listed = bool(held.repo and held.file), any(split.kind == "lists" for split in card.splits.values())
    require(hub != bool(held.url), "download names no source, or two", "give repo and file, or url")
    require(not (held.repo or held.file) or hub, "download has one of repo and file", "give both")
    for url in (held.url, *(each.url for each in held.lists)):
        require(
            not url or _is_address(url),
            f"download: '{url}' is not an address",
            "give https://host/path, without a user",
        )
    for md5 in (held.md5, *(each.md5 for each in held.lists)):
        require(not md5 or re.fullmatch("[0-9a-f]{32}", md5), f"download: md5 '{md5}'", "give 32 lower-case hex digits")
    require(held.size >= 0, f"download.size is {held.size}", "give the bytes of the archive, or leave it out")
    if held.each:
        require(held.url and listed, "download.each without url or a split by lists", "give both")
        stated = held.md5 or held.sha256 or held.size or held.lists
        require(not stated, "download.each with what is said of one archive", "leave out md5, sha256, size and lists")
    for name in held.each:
        require(inside(name) and "{id}" in name, f"download.each: '{name}'", f"name a file {WITHIN}, with {{id}}")


def _is_address(url: str) -> bool:
    """Whether `url` is of https, or of http on this very machine, and names a host, no user, and a path."""
    try:
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost"))
        return safe and bool(parts.hostname) and parts.username is None and len(parts.path) > 1 and url.isprintable()
    except ValueError:
        return False


def inside(name: str) -> bool:
    """Whether a name that a card gives stays in the folder it is joined to, and in none that is hidden: what changes
    in these is not looked for.
    """
    path = PurePosixPath(name)
    return not path.is_absolute() and not any(part.startswith(".") for part in path.parts) and "\0" not in name


class _Requirement:
    """Raises BenchError naming the card's file where a condition does not hold."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, ok: object, what: str, todo: str) -> None:
        """Check one condition."""
        if not ok:
            raise BenchError(f"{self.path}: {what}", todo)
