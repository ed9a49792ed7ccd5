"""Dataset cards: everything known of a dataset as data, checked on loading; the one place facts come from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from fgmae_bench.config.contract import POLARISATIONS
from fgmae_bench.config.strict import from_plain, load_toml
from fgmae_bench.errors import BenchError, closest, unknown

REPOSITORY_CARDS = Path(__file__).resolve().parents[2] / "datasets"
WORDS = ("title", "origin", "notes", "download", "path")  # no facts of the data
WHEEL_CARDS = Path(__file__).resolve().parents[1] / "_cards"


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What the files hold: the `bands` that are read, in this order, `units`, `calibration` (a statement, pixels cannot
    show it).

    Everything becomes dB once, on reading: number in `units` = stored number x `scale` + `offset`.
    """

    bands: tuple[str, ...]  # of POLARISATIONS
    units: Literal["dB", "linear_power", "amplitude"]
    calibration: str
    size: tuple[int, ...]  # (height, width) in pixels
    dtype: str
    nodata: tuple[float, ...] = ()  # stored values that mean "no measurement", besides NaN and infinities
    fill: tuple[float | tuple[float, ...], ...] = ()  # more of them, or ranges [lowest, highest] of stored values
    index: tuple[int, ...] = ()  # which bands of the file, from 1, `bands` are; without it the file holds no other
    described: tuple[str, ...] = ()  # the same by the descriptions of the bands in the file
    scale: float = 1.0
    offset: float = 0.0
    floor: float = -40.0  # dB of isolated pixels without positive power, which noise subtraction leaves over water
    zeros: Literal["auto", "missing", "measured"] = "auto"  # runs of exact 0 dB; auto: measured where data is clipped
    input_resize: int | None = (
        None  # side that images are brought to first (cubic, in the card's units), as the published data was
    )
    max_invalid_fraction: float = 0.5  # an image with a larger share of invalid pixels is left out and counted
    folder: str = ""  # layouts with label maps: the kind of folder that the images are in
    looks: float | None = None  # equivalent number of looks, where it is known to differ from a GRDH product's
    filtered: bool = False  # despeckled, composite or averaged in dB: speckle is no longer that of one acquisition

    @property
    def converted(self) -> bool:
        """Whether stored numbers are other than dB."""
        return self.units != "dB" or (self.scale, self.offset) != (1.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Split:
    """How samples are divided. `train` and `val` are fractions, the rest is test; `leaky` where neighbours are torn
    apart.
    """

    kind: Literal["stratified", "spatial", "lists", "random", "tile", "groups", "everything", "stated"]
    train: float | None = None
    val: float = 0.0
    leaky: bool = False
    block_km: float | None = None  # spatial: side of a block
    buffer_m: float | None = None  # spatial: chips nearer than this to another split's, from edge to edge, are left out
    block_patches: int | None = None  # tile: side of the blocks that tiles are cut into; None keeps tiles whole
    buffer_patches: int | None = None  # tile: patches left out between two parts
    files: dict[str, str] = field(default_factory=dict)  # lists: split name to file name
    header: str = ""  # lists: how a first line begins that names columns
    suffix: str = ""  # lists: what stands between the name of a sample and the ending of its file
    absent_tolerance: float = 0.0  # lists: share of a list's names that the data may lack
    counts: dict[str, int] = field(
        default_factory=dict
    )  # lists: published sizes of train, val, test, and what is excluded
    groups: dict[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # groups: patterns such as `ROIs1158_spring/s1_63` by part
    origin: str = ""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Which samples belong together, in one of three ways: by name, by a column of a table, or by blocks of ground."""

    pattern: str = ""  # of the last part of a sample's id, the whole id where it holds a /: `{scene}_#_#`
    file: str = ""  # a CSV with the data or beside the card, whose first column names samples
    column: str = ""  # of `file`
    block_km: float | None = None  # side of the blocks; the samples are georeferenced files
    unit: str = ""  # what a group is, for tables; by default the name in braces, the column, or the block


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many samples the complete dataset holds; data that contradicts it is refused."""

    total: int
    per_class: dict[str, int] = field(default_factory=dict)
    per_collection: dict[str, int] = field(default_factory=dict)  # of those parts of the dataset that are there at all


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """Where one source of label maps is: `band` (from 1) of the `bands` of the files in `folder`.

    `codes` and `colours`, by code, define a source that is the card's own; without them the source is a known one.
    """

    folder: str
    bands: int = 1
    band: int = 1
    codes: dict[str, str] = field(default_factory=dict)
    colours: dict[str, str] = field(default_factory=dict)
    masks: str = ""  # names of its files, where they are others than layout.masks says: `*_JRCWaterHand.tif`
    ignore: tuple[float, ...] = ()  # values that mean "no label"; without any 255, and 0 where 0 is not a class


@dataclass(frozen=True, kw_only=True)
class PermanentWater:
    """Which pixels are water at all times: `codes` of a label source, which flood maps are also scored without."""

    source: str
    codes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """How the files of a layout are named, and which columns of a table say what.

    `images` and `masks` are file names with one `*`, which must match the same text in both, such as `*_S1Hand.tif`
    and `*_LabelHand.tif`; `{band}` in `images` stands for a file of its own for each band, such as `*_{band}.tif`.
    """

    images: str = ""
    masks: str = ""
    table: str = ""  # file of the samples: .csv, .parquet or .geoparquet, in the data's folder
    path: str = "file"  # column that names the image
    label: str = ""  # column of classes; without it one column of 0 and 1 a class
    separator: str = ""  # multi-label: what stands between the classes in `label`
    target: str = ""  # regression: column of numbers
    group: str = ""  # column of the scene or site
    split: str = ""  # column of train, val, test


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a regression predicts; `bins` are bounds of target values within which errors are also given."""

    name: str
    unit: str = ""
    bins: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the data comes from and how to get it."""

    url: str
    licence: str
    citation: str = ""
    get: str = ""  # the command that gets it


@dataclass(frozen=True, kw_only=True)
class Download:
    """The archive on the hub that holds the data; `sha256` may be empty, the hub states its own."""

    repo: str
    file: str
    revision: str = "main"
    sha256: str = ""
    repo_type: Literal["model", "dataset"] = "dataset"


@dataclass(frozen=True, kw_only=True)
class Card:
    """One dataset. `path` is the file it was read from; the folder next to it named `data` is the default data path."""

    name: str
    title: str
    version: int
    task: Literal["single_label", "multi_label", "segmentation", "regression"]
    layout: str
    signal: Signal
    splits: dict[str, Split]
    default_split: str
    recommended_split: str
    origin: Origin
    label_scheme: str = ""  # by default the card's name
    classes: tuple[str, ...] = ()  # none in regression; of segmentation, by default the codes of its label source
    arrangement: Arrangement = field(default_factory=Arrangement)  # of [layout] where that is a table
    target: Target | None = None  # regression
    recipes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # module -> recipe name -> flags
    counts: Counts | None = None
    download: Download | None = None
    groups: Groups | None = None
    label_sources: dict[str, LabelFile] = field(default_factory=dict)  # segmentation: label maps that the data holds
    label_schemes: tuple[str, ...] = ()  # segmentation: schemes that make sense here; `label_scheme` is the usual one
    label_source: str = ""  # segmentation: the usual source
    permanent_water: PermanentWater | None = None  # segmentation: scores are also given without these pixels
    broken: tuple[str, ...] = ()  # samples that are known to be damaged: left out and counted
    synthetic: str | None = None  # None for genuine data, else what made it
    notes: tuple[str, ...] = ()
    path: Path = field(default=Path(), metadata={"derived": True})

    @property
    def per_pixel(self) -> bool:
        """Whether every pixel has a label or a target of its own."""
        return self.task == "segmentation" or (self.task == "regression" and bool(self.label_sources))

    @property
    def outputs(self) -> tuple[str, ...]:
        """What a model has an output for: the classes, or the target of a regression."""
        return (self.target.name,) if self.target else self.classes

    @property
    def data_path(self) -> Path:
        """Default place of the data: `data` next to the card, or below ./datasets when the card came with the wheel."""
        if self.path.is_relative_to(WHEEL_CARDS):
            return Path("datasets") / self.name / "data"
        beside = self.path.parent / "data"
        return beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside


def card_names() -> list[str]:
    """Names of the cards that come with the suite, sorted."""
    return sorted({file.parent.name for root in (REPOSITORY_CARDS, WHEEL_CARDS) for file in root.glob("*/card.toml")})


def find_card(dataset: str) -> Path:
    """Path of a card given its name or its own path; the repository's copy wins over the wheel's."""
    if dataset.endswith(".toml") or "/" in dataset:
        path = Path(dataset).expanduser()
        path = path / "card.toml" if os.path.isdir(path) else path
        if not os.path.isfile(path):  # false for names that no file system takes, where pathlib raises
            raise BenchError(
                f"card {path} does not exist",
                "give the path of a card.toml, or a name from: " + ", ".join(card_names()),
            )
        return path.resolve()
    for root in (REPOSITORY_CARDS, WHEEL_CARDS):
        if os.path.isfile(root / dataset / "card.toml"):
            return root / dataset / "card.toml"
    raise unknown("dataset", dataset, card_names())


def load_card(dataset: str) -> Card:
    """Load and check the card named `dataset`, or the card file at that path."""
    path = find_card(dataset)
    card = _read(path)
    _check(card)
    _refuse_shipped_name(card)
    return card


def _read(path: Path) -> Card:
    plain = load_toml(path)
    layout = plain.get("layout")
    if isinstance(layout, dict):  # [layout] kind = "table", table = "labels.csv", …
        if not isinstance(layout.get("kind"), str):
            raise BenchError(f"{path}: layout has no kind", 'name it, such as kind = "paired_folders"')
        plain |= {"layout": layout["kind"], "arrangement": {k: v for k, v in layout.items() if k != "kind"}}
    return _completed(dataclasses.replace(from_plain(Card, plain, str(path)), path=path))


def _completed(card: Card) -> Card:
    """The card with what follows from the rest of it where it is left out."""
    scheme = card.label_scheme or card.name
    more: dict[str, Any] = {"label_scheme": scheme}
    if card.per_pixel and not card.label_source and len(card.label_sources) == 1:
        more["label_source"] = next(iter(card.label_sources))
    if card.task == "segmentation":
        more["label_schemes"] = card.label_schemes or (scheme,)
        stated = card.label_sources.get(more.get("label_source", card.label_source))
        if not card.classes and stated:
            more["classes"] = tuple(stated.codes[code] for code in sorted(stated.codes, key=_number))
    return dataclasses.replace(card, **more)


def _number(code: str) -> float:
    try:
        return int(code)
    except ValueError:
        return math.inf


def facts(card: Card) -> dict[str, Any]:
    """What a card says of its data, without what may differ between copies: titles, sources, notes, its own path."""
    return {f.name: getattr(card, f.name) for f in dataclasses.fields(card) if f.name not in WORDS}


def facts_sha256(card: Card) -> str:
    """SHA-256 of the facts that a card states; a field at its default, which a card may leave out, does not count."""
    return hashlib.sha256(json.dumps(_stated(card, WORDS), sort_keys=True).encode()).hexdigest()


def _stated(value: Any, without: tuple[str, ...] = ()) -> Any:
    """A dataclass as plain data without its fields at their defaults."""
    if isinstance(value, dict):
        return {key: _stated(item) for key, item in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    kept = {}
    for f in dataclasses.fields(value):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        held = getattr(value, f.name)
        if f.name not in without and held != default:
            kept[f.name] = _stated(held)
    return kept


def _refuse_shipped_name(card: Card) -> None:
    """Raise BenchError where a card of the user's has the name of a shipped one and other facts.

    Its records would otherwise stand in the published tables of that name.
    """
    if card.path.is_relative_to(REPOSITORY_CARDS) or card.path.is_relative_to(WHEEL_CARDS):
        return
    if card.name not in card_names():
        return
    shipped, own = facts(_read(find_card(card.name))), facts(card)
    other = [name for name in own if own[name] != shipped[name]]
    if other:
        raise BenchError(
            f"{card.path}: name = '{card.name}' is a card of the suite, and {', '.join(other)} differ from it",
            "give the card a name of its own",
        )


def _check(card: Card) -> None:
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
        require(inside(folder), f"folder '{folder}'", "name a folder of the data's, without .. or a leading /")
    for name in (card.default_split, card.recommended_split):
        require(
            name in card.splits,
            f"split '{name}' is not defined",
            f"define [splits.{name}], or {closest(name, card.splits)}",
        )
    for name, split in card.splits.items():
        _check_split(split, f"splits.{name}", require)
    if card.groups is not None:
        _check_groups(card.groups, require)
    _check_arrangement(card, card.arrangement, require)
    if card.per_pixel:
        source = card.label_source
        require(source in card.label_sources, f"label_source '{source}'", f"define [label_sources.{source or 'NAME'}]")
    if card.permanent_water is not None:
        _check_permanent(card, card.permanent_water, require)
    if card.task == "segmentation":
        require(
            card.label_scheme in card.label_schemes,
            f"label_scheme '{card.label_scheme}'",
            "name it in label_schemes too",
        )
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


def _check_permanent(card: Card, held: PermanentWater, require: _Requirement) -> None:
    require(card.task == "segmentation", f"[permanent_water] on a {card.task} card", "leave it out")
    stated = card.label_sources.get(held.source)
    require(stated, f"permanent_water.source '{held.source}'", f"define [label_sources.{held.source or 'NAME'}]")
    lacking = [code for code in held.codes if stated and stated.codes and str(code) not in stated.codes]
    require(held.codes and not lacking, f"permanent_water.codes are {list(held.codes)}", "give codes of its source")


def _check_arrangement(card: Card, held: Arrangement, require: _Requirement) -> None:
    patterns = {"layout.images": held.images, "layout.masks": held.masks}
    patterns |= {f"label_sources.{name}.masks": stated.masks for name, stated in card.label_sources.items()}
    for name, pattern in patterns.items():
        fits = not pattern or (pattern.count("*") == 1 and not set("?[]") & set(pattern))
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


def _check_groups(groups: Groups, require: _Requirement) -> None:
    ways = [groups.pattern, groups.file, groups.block_km is not None]
    require(sum(map(bool, ways)) == 1, "groups", "give one of pattern, file with column, and block_km")
    require(
        not groups.pattern or re.search(r"\{\w+\}", groups.pattern), "groups.pattern", "name the group: {scene}_#_#"
    )
    require(bool(groups.file) == bool(groups.column), "groups.file and groups.column", "give both")
    require(inside(groups.file), "groups.file", "name a file of the data's, without .. or a leading /")
    require(groups.block_km is None or groups.block_km > 0, "groups.block_km", "give kilometres above 0")


def _check_split(split: Split, where: str, require: _Requirement) -> None:
    for name in split.files.values():
        require(
            inside(name),
            f"{where}.files names '{name}'",
            "name a file of the data's folder, without .. or a leading /",
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
    if split.kind in ("groups", "everything", "stated"):
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


def inside(name: str) -> bool:
    """Whether a name that a card gives stays in the folder it is joined to."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


class _Requirement:
    """Raises BenchError naming the card's file where a condition does not hold."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, ok: object, what: str, todo: str) -> None:
        """Check one condition."""
        if not ok:
            raise BenchError(f"{self.path}: {what}", todo)
