"""Dataset cards: everything known of a dataset as data, checked on loading; the one place facts come from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from fgmae_bench.config.strict import from_plain, load_toml
from fgmae_bench.errors import BenchError, closest, unknown

REPOSITORY_CARDS = Path(__file__).resolve().parents[2] / "datasets"
WORDS = ("title", "origin", "notes", "download", "path")  # no facts of the data
WHEEL_CARDS = Path(__file__).resolve().parents[1] / "_cards"


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What the files hold: `bands` in file order, `units`, `calibration` (a statement, pixels cannot show it)."""

    bands: tuple[str, ...]
    units: Literal["dB", "linear_power", "amplitude"]
    calibration: str
    size: tuple[int, ...]  # (height, width) in pixels
    dtype: str
    nodata: tuple[float, ...] = ()  # values that mean "no measurement", besides NaN, infinities and runs of exact 0
    input_resize: int | None = (
        None  # side that images are brought to first (cubic, in the card's units), as the published data was
    )
    max_invalid_fraction: float = 0.5  # an image with a larger share of invalid pixels is left out and counted
    folder: str = ""  # layouts with label maps: the kind of folder that the images are in
    looks: float | None = None  # equivalent number of looks, where it is known to differ from a GRDH product's
    filtered: bool = False  # despeckled, composite or averaged in dB: speckle is no longer that of one acquisition


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
    task: Literal["single_label", "multi_label", "segmentation"]
    layout: str
    label_scheme: str
    classes: tuple[str, ...]
    signal: Signal
    splits: dict[str, Split]
    default_split: str
    recommended_split: str
    origin: Origin
    recipes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # module -> recipe name -> flags
    counts: Counts | None = None
    download: Download | None = None
    label_sources: dict[str, LabelFile] = field(default_factory=dict)  # segmentation: label maps that the data holds
    label_schemes: tuple[str, ...] = ()  # segmentation: schemes that make sense here; `label_scheme` is the usual one
    label_source: str = ""  # segmentation: the usual source
    broken: tuple[str, ...] = ()  # samples that are known to be damaged: left out and counted
    synthetic: str | None = None  # None for genuine data, else what made it
    notes: tuple[str, ...] = ()
    path: Path = field(default=Path(), metadata={"derived": True})

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
    return dataclasses.replace(from_plain(Card, load_toml(path), str(path)), path=path)


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
    require(len(set(card.classes)) == len(card.classes) >= 2, "classes", "give two or more different names")
    _check_signal(card.signal, require)
    for folder in (card.signal.folder, *(source.folder for source in card.label_sources.values())):
        require(_inside(folder), f"folder '{folder}'", "name a folder of the data's, without .. or a leading /")
    for name in (card.default_split, card.recommended_split):
        require(
            name in card.splits,
            f"split '{name}' is not defined",
            f"define [splits.{name}], or {closest(name, card.splits)}",
        )
    for name, split in card.splits.items():
        _check_split(split, f"splits.{name}", require)
    if card.task == "segmentation":
        source = card.label_source
        require(source in card.label_sources, f"label_source '{source}'", f"define [label_sources.{source or 'NAME'}]")
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


def _check_signal(signal: Signal, require: _Requirement) -> None:
    require(
        sorted(signal.bands) == ["VH", "VV"],
        f"signal.bands is {list(signal.bands)}",
        "give VV and VH in the order of the files",
    )
    require(
        len(signal.size) == 2 and min(signal.size) >= 2,
        f"signal.size is {list(signal.size)}",
        "give height and width in pixels",
    )
    require(0 <= signal.max_invalid_fraction < 1, "signal.max_invalid_fraction is outside [0, 1)", "correct it")


def _check_split(split: Split, where: str, require: _Requirement) -> None:
    for name in split.files.values():
        require(
            _inside(name),
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


def _inside(name: str) -> bool:
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
