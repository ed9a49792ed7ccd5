"""Dataset cards: everything known of a dataset as data, checked on loading; the one place facts come from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from fgmae_bench.config.card import (
    WHEEL_CARDS,
    Arrangement,
    Before,
    Card,
    Counts,
    Download,
    Groups,
    LabelFile,
    Origin,
    PermanentWater,
    Signal,
    Split,
    Target,
    Texts,
)
from fgmae_bench.config.card_checks import check
from fgmae_bench.config.strict import from_plain, load_toml
from fgmae_bench.errors import BenchError, unknown

__all__ = [
    "REPOSITORY_CARDS",
    "WHEEL_CARDS",
    "Arrangement",
    "Before",
    "Card",
    "Counts",
    "Download",
    "Groups",
    "LabelFile",
    "Origin",
    "PermanentWater",
    "Signal",
    "Split",
    "Target",
    "Texts",
    "card_names",
    "facts",
    "facts_sha256",
    "find_card",
    "is_shipped",
    "load_card",
]
REPOSITORY_CARDS = Path(__file__).resolve().parents[2] / "datasets"
WORDS = ("title", "origin", "notes", "traps", "download", "texts", "strata", "path")  # no facts of the data


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
        path = root / dataset / "card.toml"
        if os.path.isfile(path):
            return path
    raise unknown("dataset", dataset, card_names())


def load_card(dataset: str) -> Card:
    """Load and check the card named `dataset`, or the card file at that path."""
    path = find_card(dataset)
    card = _read(path)
    check(card)
    _refuse_shipped_name(card)
    return card


def is_shipped(card: Card) -> bool:
    """Whether a card comes with the suite, in its repository or its wheel."""
    return card.path.is_relative_to(REPOSITORY_CARDS) or card.path.is_relative_to(WHEEL_CARDS)


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
        more["label_schemes"] = card.label_schemes or (scheme, *card.schemes)
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
    if is_shipped(card) or card.name not in card_names():
        return
    shipped, own = facts(_read(find_card(card.name))), facts(card)
    other = [name for name in own if own[name] != shipped[name]]
    if other:
        raise BenchError(
            f"{card.path}: name = '{card.name}' is a card of the suite, and {', '.join(other)} differ from it",
            "give the card a name of its own",
        )
