"""Splits of a card that is drafted: those that its data allows, each tried on it."""

from __future__ import annotations

import itertools
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.run import Data
from fgmae_bench.errors import BenchError
from fgmae_bench.prepare.card_text import Draft

if TYPE_CHECKING:
    from fgmae_bench.data.index import Index

log = logging.getLogger("fgmae_bench")
FRACTIONS = (0.6, 0.2)
LESS = ((20.0, (0.7, 0.1)), (20.0, (0.8, 0.0)), (10.0, FRACTIONS), (10.0, (0.8, 0.0)), (5.0, FRACTIONS))
MOST_PATTERNS = 400
TEST_GROUPS = 5  # below which no interval is shown


def splits_of(draft: Draft) -> dict[str, tuple[dict[str, Any], str]]:
    """Splits that can be made of this data, each with its facts and a remark, the recommended last.

    Every one is tried on the data itself, with the card that it would be on. Raises BenchError where none can be made.
    """
    usable: dict[str, tuple[dict[str, Any], str]] = {}
    problem: BenchError | None = None
    for name, wanted in _suggested(draft):
        failed: BenchError | None = None
        for split in itertools.chain([wanted], _instead(draft, name, wanted)):
            try:
                draft.train = _try(draft, name, split)
            except BenchError as error:
                failed = failed or error
                continue
            usable[name] = split
            break
        if failed is not None:
            end = f"; made instead with {usable[name][1]}" if name in usable else ""
            draft.plan.remark("splits", f"a split '{name}' cannot be made: {failed.what}{end}")
            problem = failed
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
    by_names = plan.kind != "paired_folders" and not plan.groups
    seen = by_name(stem_of(image.name) for image in plan.images) if by_names else None
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
        parts = dealt(groups, [groups[place] for place in plan.unusable])
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


def _instead(draft: Draft, name: str, wanted: tuple[dict[str, Any], str]) -> Iterator[tuple[dict[str, Any], str]]:
    """Splits by groups or places to try where the wanted one fails, the nearest to it first."""
    facts, remark = wanted
    if facts["kind"] == "spatial":
        for block, (train, val) in LESS:
            words = f"blocks of {block:g} km, {train:.0%} of them for training, with a buffer between the parts"
            yield {**facts, "train": train, "val": val, "block_km": block}, words
    if facts["kind"] != "groups" or draft.plan.task != "single_label":
        return
    try:
        index = _index(draft, name, wanted)
    except BenchError:  # what cannot be read is said by the first try
        return
    if index.groups is None or index.labels.ndim != 1:
        return
    names = [re.sub(r"([*?\[])", r"[\1]", group) for group in index.groups]
    kept = holding_all(names, index.labels.tolist())
    if set(names) - set(kept):
        yield {**facts, "groups": dealt(names, [], kept)}, f"{remark}, dealt so that train holds every class"


def holding_all(groups: list[str], labels: list[int]) -> list[str]:
    """Few groups that together hold every class: of each class, the one that fewest groups hold first, the group with
    the most samples of it, unless a chosen one holds it.
    """
    held: dict[int, Counter[str]] = {}
    for group, label in zip(groups, labels, strict=True):
        held.setdefault(label, Counter())[group] += 1
    chosen: list[str] = []
    for _, count in sorted(held.items(), key=lambda pair: (len(pair[1]), pair[0])):
        if not any(group in count for group in chosen):
            chosen.append(min(count, key=lambda group: (-count[group], group)))
    return sorted(chosen)


def dealt(groups: list[str], unusable: list[str], train: Sequence[str] = ()) -> dict[str, list[str]]:
    """Groups by part, those of `train` there; val only where there are five groups or more, five groups of test where
    there are eight or more.

    Groups that are all `unusable` count for nothing, and go to train.
    """
    counts = Counter(groups)
    counts.subtract(unusable)
    whole = Counter({group: count for group, count in counts.items() if count > 0})
    test = 0.2 if len(whole) >= 5 else 0.3
    few = len(whole) < 5 or len(whole) - len(train) < 3
    while True:
        val = 0.0 if few else 0.2 if test < 0.4 else 0.1
        parts = _dealt_by({"train": 1 - test - val, **({"val": val} if val else {}), "test": test}, whole, train)
        if len(parts["test"]) >= TEST_GROUPS or len(whole) < TEST_GROUPS + 3 or test > 0.6:
            return parts | {"train": sorted([*parts["train"], *(counts.keys() - whole.keys())])}
        test += 0.05


def _dealt_by(shares: dict[str, float], counts: Counter[str], train: Sequence[str]) -> dict[str, list[str]]:
    """Groups by part, those of `train` first, then the largest, each where most is lacking of the part's share."""
    parts: dict[str, list[str]] = {name: [] for name in shares}
    parts["train"] += train
    lacking = {name: share * counts.total() for name, share in shares.items()}
    lacking["train"] -= sum(counts[group] for group in train)
    rest = [pair for pair in counts.items() if pair[0] not in train]
    for group, count in sorted(rest, key=lambda pair: (-pair[1], pair[0])):
        empty = [name for name in parts if not parts[name]]
        left = len(counts) - sum(map(len, parts.values()))
        name = max(empty if left <= len(empty) else parts, key=lambda part: lacking[part])
        parts[name].append(group)
        lacking[name] -= count
    return {name: sorted(members) for name, members in parts.items()}


def _index(draft: Draft, name: str, split: tuple[dict[str, Any], str]) -> Index:
    """The index of the data with its groups, by a card with this split."""
    from fgmae_bench.data.groups import with_groups
    from fgmae_bench.data.layouts import build_index

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "card.toml"
        path.write_text(draft.text({name: split}), encoding="utf-8")
        card = load_card(str(path))
        return with_groups(card, build_index(card, draft.plan.root), Path(place), read=False)


def _try(draft: Draft, name: str, split: tuple[dict[str, Any], str]) -> int:
    """Images for training. Raises BenchError where the data cannot be read and divided by a card with this split."""
    from fgmae_bench.data.groups import with_groups
    from fgmae_bench.data.layouts import build_index
    from fgmae_bench.data.splits import make_split

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "card.toml"
        path.write_text(draft.text({name: split}), encoding="utf-8")
        card = load_card(str(path))
        level = log.level
        log.setLevel(logging.ERROR)  # what is left out stands on the draft, once
        try:
            index = build_index(card, draft.plan.root)
            index.read(0, card)
            known = with_groups(card, index, Path(place), read=False)
            parts = make_split(card, known, Data(dataset=card.name, split=name), Path(place), index.groups)
            return len(parts.train)
        except BenchError as error:
            raise BenchError(error.what.replace(str(path), "the draft"), error.todo) from error
        finally:
            log.setLevel(level)
