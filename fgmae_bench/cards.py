"""Dataset cards: everything known of a dataset as data, checked on loading; the one place facts come from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.strict import from_plain, load_toml

REPOSITORY_CARDS = Path(__file__).resolve().parent.parent / "datasets"
WHEEL_CARDS = Path(__file__).resolve().parent / "_cards"


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What the files hold: `bands` in file order, `units`, `calibration` (a statement, pixels cannot show it)."""

    bands: tuple[str, ...]
    units: Literal["dB", "linear_power", "amplitude"]
    calibration: str
    size: tuple[int, ...]  # (height, width) in pixels
    dtype: str
    nodata: tuple[float, ...] = ()  # values that mean "no measurement", beside NaN, infinities and runs of exact 0
    max_invalid_fraction: float = 0.5  # an image with a larger share of invalid pixels is left out and counted


@dataclass(frozen=True, kw_only=True)
class Split:
    """How samples are divided. `train` and `val` are fractions, the rest is test; `leaky` where neighbours are torn apart."""

    kind: Literal["stratified", "spatial", "lists"]
    train: float | None = None
    val: float = 0.0
    leaky: bool = False
    block_km: float | None = None  # spatial: side of a block
    buffer_m: float | None = None  # spatial: chips nearer than this to another split's chip are left out
    files: dict[str, str] = field(default_factory=dict)  # lists: split name to file name
    origin: str = ""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many samples the complete dataset holds; data that contradicts it is refused."""

    total: int
    per_class: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the data comes from and how to get it."""

    url: str
    licence: str
    citation: str = ""
    get: str = ""  # the command that gets it


@dataclass(frozen=True, kw_only=True)
class Card:
    """One dataset. `path` is the file it was read from; the folder beside it named `data` is the default data path."""

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
    synthetic: str | None = None  # None for genuine data, else what made it
    notes: tuple[str, ...] = ()
    path: Path = field(default=Path(), metadata={"derived": True})

    @property
    def data_path(self) -> Path:
        """Default place of the data: `data` beside the card, or below ./datasets when the card came with the wheel."""
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
        path = Path(dataset)
        path = path / "card.toml" if path.is_dir() else path
        if not path.is_file():
            raise BenchError(f"card {path} does not exist", "give the path of a card.toml, or a name from: " + ", ".join(card_names()))
        return path.resolve()
    for root in (REPOSITORY_CARDS, WHEEL_CARDS):
        if (root / dataset / "card.toml").is_file():
            return root / dataset / "card.toml"
    raise unknown("dataset", dataset, card_names())


def load_card(dataset: str) -> Card:
    """Load and check the card named `dataset`, or the card file at that path."""
    path = find_card(dataset)
    card = dataclasses.replace(from_plain(Card, load_toml(path), str(path)), path=path)
    _check(card)
    return card


def _check(card: Card) -> None:
    def refuse(what: str, todo: str) -> BenchError:
        return BenchError(f"{card.path}: {what}", todo)

    if len(set(card.classes)) != len(card.classes) or len(card.classes) < 2:
        raise refuse("classes must be two or more different names", "correct the list")
    if sorted(card.signal.bands) != ["VH", "VV"]:
        raise refuse(f"signal.bands is {list(card.signal.bands)}", 'give ["VV", "VH"] or ["VH", "VV"], in the order of the files')
    if len(card.signal.size) != 2 or min(card.signal.size) < 2:
        raise refuse(f"signal.size is {list(card.signal.size)}", "give height and width in pixels")
    if not 0 <= card.signal.max_invalid_fraction < 1:
        raise refuse("signal.max_invalid_fraction is outside [0, 1)", "correct it")
    for name in (card.default_split, card.recommended_split):
        if name not in card.splits:
            raise refuse(f"split '{name}' is not defined", f"define [splits.{name}] or name one of {', '.join(sorted(card.splits))}")
    for name, split in card.splits.items():
        if split.kind == "lists":
            if not {"train", "test"} <= set(split.files) <= {"train", "val", "test"}:
                raise refuse(f"splits.{name}.files must name train and test, val at will", "correct the table")
        elif split.train is None or not (split.train > 0 and split.val >= 0 and split.train + split.val < 1):
            raise refuse(f"splits.{name}: fractions leave no train or no test", "give train > 0, val >= 0 and train + val < 1")
        if split.kind == "spatial" and (split.block_km is None or split.buffer_m is None):
            raise refuse(f"splits.{name} is spatial without block_km and buffer_m", "add both")
    if card.counts and card.counts.per_class:
        if set(card.counts.per_class) != set(card.classes):
            raise refuse("counts.per_class does not name exactly the classes", "correct the table")
        if sum(card.counts.per_class.values()) != card.counts.total:
            raise refuse("counts.per_class does not add up to counts.total", "correct the numbers")
