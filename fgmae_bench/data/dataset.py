"""A dataset made ready for a run: card, index, split and the notes that the check against the card left."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgmae_bench.cards import Card
from fgmae_bench.config import Run
from fgmae_bench.data.audit import audit
from fgmae_bench.data.index import Index, build_index, check_counts, ids_sha256
from fgmae_bench.data.splits import Parts, few_labels, make_split
from fgmae_bench.errors import BenchError
from fgmae_bench.records import note

log = logging.getLogger("fgmae_bench")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Everything of the data that a run needs. `facts` enter the run id; `notes` enter the record."""

    card: Card
    index: Index
    parts: Parts
    synthetic: bool
    facts: dict[str, Any]
    notes: tuple[dict[str, str], ...]

    def ids(self, part: str) -> list[str]:
        """Sample ids of a part, in the order of the split."""
        return [self.index.ids[row] for row in getattr(self.parts, part)]


def data_root(card: Card, run: Run) -> Path:
    """Where the data is: `--data_path`, else beside the card."""
    return Path(run.execution.data_path).expanduser() if run.execution.data_path else card.data_path


def open_dataset(card: Card, run: Run, cache: Path) -> Dataset:
    """Index, check and split the data of a run.

    Raises BenchError when data is missing or contradicts its card; with `--trust_data` contradictions become notes.
    """
    index = build_index(card, data_root(card, run))
    check_classes(card, run.data.nb_classes)
    notes: list[dict[str, str]] = []
    trust = run.execution.trust_data
    contradiction = check_counts(card, index)
    if contradiction:
        _refuse(BenchError(contradiction, "complete the data, correct the card, or pass --trust_data"), trust, notes)
    order = tuple(part.strip().upper() for part in run.data.band_order.split(",")) if run.data.band_order else None
    parts = make_split(card, index, run.data, cache)
    verdict, tagged = audit(card, index, order)
    if verdict.refusal:
        _refuse(verdict.refusal, trust, notes)
    notes += verdict.warnings
    parts = dataclasses.replace(parts, train=few_labels(index, parts.train, run.data.train_frac, run.data.split_seed))
    synthetic = bool(index.synthetic) or tagged
    notes += _split_notes(run.data.split or card.default_split, parts)
    if synthetic:
        notes.append(note("synthetic", "synthetic data: the numbers say nothing about real scenes"))
    name = run.data.split or card.default_split
    facts = {
        "card": card.name, "split": name if name in card.splits else "lists", "card_version": card.version,
        "synthetic": index.synthetic or ("tagged" if tagged else None),
        "samples_sha256": {part: ids_sha256([index.ids[row] for row in getattr(parts, part)]) for part in ("train", "val", "test")},
    }  # fmt: skip
    return Dataset(card=card, index=index, parts=parts, synthetic=synthetic, facts=facts, notes=tuple(notes))


def check_classes(card: Card, given: int | None) -> None:
    """Hold `--nb_classes` against the label scheme: K + 1 (class 0 counted) warns, anything else is refused."""
    expected = len(card.classes)
    if given in (None, expected):
        return
    if given == expected + 1:
        log.warning("--nb_classes %d counts a class 0 that %s does not have: %d outputs are used", given, card.label_scheme, expected)
        return
    raise BenchError(f"--nb_classes is {given}, label scheme {card.label_scheme} has {expected}", f"give {expected} or leave the flag out")


def _refuse(error: BenchError, trust: bool, notes: list[dict[str, str]]) -> None:
    if not trust:
        raise error
    notes.append(note("data_trusted", f"by --trust_data: {error.what}"))


def _split_notes(name: str, parts: Parts) -> list[dict[str, str]]:
    notes = []
    if not len(parts.val):
        notes.append(note("test_is_val", "no val split: nothing was selected, the last epoch is reported"))
    if parts.leaky:
        notes.append(note("leaky_split", f"split '{name}' tears neighbouring images apart between train and test"))
    if parts.left_out:
        notes.append(note("left_out_by_split", f"split '{name}' leaves out {parts.left_out} images (buffer or lists)"))
    return notes
