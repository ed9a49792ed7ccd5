"""The label sources and schemes that a card names: known ones, and those that the card itself states as codes."""

from __future__ import annotations

from fgmae_bench.cards import Card
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.label_schemes import SCHEMES, SOURCES, LabelMap, Scheme, Source, own_scheme


def card_source(card: Card, name: str | None = None) -> Source:
    """The label source called `name`, by default the card's usual one. Raises BenchError where the card has none of that name."""
    name = name or card.label_source
    if name not in card.label_sources:
        raise unknown(f"label source of {card.title}", name, card.label_sources)
    stated = card.label_sources[name]
    if not stated.codes:
        if name not in SOURCES:
            raise unknown("label source", name, SOURCES)
        return SOURCES[name]
    if not all(code.isdecimal() and 0 < int(code) < 255 for code in stated.codes):
        raise BenchError(f"{card.path}: label_sources.{name}.codes are {', '.join(stated.codes)}", "give whole numbers from 1 to 254")
    return Source(name=name, title=f"{card.title} '{name}'", codes={int(code): title for code, title in stated.codes.items()})


def card_scheme(card: Card, name: str | None = None) -> Scheme:
    """The label scheme called `name`, by default the card's usual one; a scheme that is not known is that of the card's own codes."""
    name = name or card.label_scheme
    if name not in card.label_schemes:
        raise unknown(f"label scheme of {card.title}", name, card.label_schemes)
    if name in SCHEMES:
        return SCHEMES[name]
    own = next((source for source, stated in card.label_sources.items() if stated.codes), None)
    if own is None:
        raise unknown("label scheme", name, SCHEMES)
    colours, source = card.label_sources[own].colours, card_source(card, own)
    absent = [str(code) for code in source.codes if str(code) not in colours]
    if absent:
        raise BenchError(f"{card.path}: label_sources.{own}.colours lacks {', '.join(absent)}", "give every code a colour")
    return own_scheme(source, {int(code): colour for code, colour in colours.items()}, name)


def card_map(card: Card, source: str | None = None, scheme: str | None = None) -> LabelMap:
    """The map from a source to a scheme of a card, by default the usual ones. Raises BenchError where the scheme does not know it."""
    return LabelMap(card_source(card, source), card_scheme(card, scheme))
