"""A dataset made ready for a run: card, index, split and the notes that the check against the card left."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card, facts_sha256
from fgmae_bench.config.contract import parse_bands
from fgmae_bench.config.run import Run
from fgmae_bench.data.audit import audit, keep_audit
from fgmae_bench.data.content import Hashes, part_sha256
from fgmae_bench.data.index import Index, Miscount, check_counts, ids_sha256, require_data
from fgmae_bench.data.packs.read import is_pack, open_index
from fgmae_bench.data.samples import Samples, sample_facts
from fgmae_bench.data.splits import PARTS, Parts, few_labels, make_split
from fgmae_bench.errors import BenchError, note
from fgmae_bench.system.files import write_text
from fgmae_bench.system.progress import Progress
from fgmae_bench.system.stamps import remember

log = logging.getLogger("fgmae_bench")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Everything of the data that a run needs. `facts` enter the run id; `notes` enter the record.

    `samples` reads its images and label maps; a copy with another card or index reads them anew.
    """

    card: Card
    index: Index
    parts: Parts
    synthetic: bool
    facts: dict[str, Any]
    notes: tuple[dict[str, str], ...]
    samples: Samples = None  # type: ignore[assignment]  # filled in below where it is not given or of another card
    content: Hashes | None = None  # (N,) of the pixels of each sample of the index, once they have been read
    source: dict[str, str] | None = None  # content of each part in what a pack of eight bits was made of, where known

    def __post_init__(self) -> None:
        held = self.samples
        if held is None or held.card is not self.card or held.index is not self.index:
            object.__setattr__(self, "samples", Samples(card=self.card, index=self.index))

    def ids(self, part: str) -> list[str]:
        """Sample ids of a part, in the order of the split."""
        return [self.index.ids[row] for row in getattr(self.parts, part)]

    def groups(self, part: str) -> list[str] | None:
        """Tile or scene of each sample of a part, None where they are not known."""
        return None if self.index.groups is None else [self.index.groups[row] for row in getattr(self.parts, part)]


def require_same_facts(card: Card, cache: Path) -> None:
    """Raise BenchError where a card says something else than when its version was first used with this cache folder."""
    path = _facts_file(card, cache)
    held = path.read_text(encoding="utf-8").strip() if path.is_file() else None
    if held not in (None, facts_sha256(card)):
        what = f"{card.path}: its facts have changed since version {card.version} was first used"
        raise BenchError(what, "raise its version, so that runs before and after can be distinguished")


def _facts_file(card: Card, cache: Path) -> Path:
    """Where the facts of a card's version are kept, once data has passed under them."""
    return cache / "cards" / f"{card.name}-{card.version}.sha256"


def data_root(card: Card, run: Run) -> Path:
    """Where the data is: `--data_path`, else next to the card."""
    return Path(run.execution.data_path) if run.execution.data_path else card.data_path


def open_dataset(card: Card, run: Run, cache: Path) -> Dataset:
    """Index, check and split the data of a run.

    Raises BenchError when data is missing or contradicts its card. Two contradictions can become notes: fewer samples
    than the card counts with `--partial`, pixels that are not as it says with `--trust_data`.
    """
    order = parse_bands(run.data.band_order) if run.data.band_order else None
    if order is not None and sorted(order) != sorted(card.signal.bands):
        bands = card.signal.bands
        raise BenchError(f"--band_order is {run.data.band_order}", f"give {','.join(bands)} or {','.join(bands[::-1])}")
    require_same_facts(card, cache)
    root = data_root(card, run)
    if not is_pack(root):
        require_data(card, root)
    index = open_index(card, root, order)
    notes: list[dict[str, str]] = check_classes(len(card.classes), card.label_scheme, run.data.nb_classes)
    trust = run.execution.trust_data
    contradiction = check_counts(card, index)
    if contradiction:
        notes.append(accept_count(contradiction, run.execution.partial))
    parts = make_split(card, index, run.data, cache)
    samples = Samples(card=card, index=index)
    verdict, tagged = audit(card, index, order, samples, cache)
    if verdict.refusal:
        _refuse(verdict.refusal, trust, notes)
    notes += verdict.warnings
    synthetic = bool(index.synthetic) or tagged
    name = run.data.split or card.default_split
    notes += _split_notes(name, parts)
    if synthetic:
        notes.append(note("synthetic", "synthetic data: the numbers say nothing about real scenes"))
    facts = {
        "card": card.name,
        "split": name if name in card.splits else "lists",
        "card_version": card.version,
        "card_sha256": facts_sha256(card),
        "synthetic": index.synthetic or ("tagged" if tagged else None),
    }
    few = few_labels(index, parts.train, run.data.train_frac, run.data.split_seed)
    parts = dataclasses.replace(parts, train=few)
    return Dataset(
        card=card, index=index, parts=parts, synthetic=synthetic, facts=facts, notes=tuple(notes), samples=samples
    )


def only_usable(dataset: Dataset, run: Run, cache: Path) -> Dataset:
    """The dataset without images that have too many invalid pixels, with the hashes of the samples that are used:
    of their ids, and of their pixels and labels.

    Reads every file once, ever: a broken one is named here, before anything is computed. What fits into memory is held
    for the pass that comes next. Raises BenchError when a part or a class of it is left without images.
    """
    card, index, samples = dataset.card, dataset.index, dataset.samples
    names = ("invalid", "content", *(("quadrants",) if card.task == "segmentation" else ()))
    with Progress("checking pixels", len(index.files), "images", show=os.environ.get("RANK", "0") == "0") as progress:
        facts = sample_facts(samples, names, cache, run.execution.num_workers, progress.step)
    usable = facts["invalid"] <= card.signal.max_invalid_fraction
    kept = {part: rows[usable[rows]] for part, rows in ((name, getattr(dataset.parts, name)) for name in PARTS)}
    if card.task != "segmentation":  # there the bank of labels needs every image once more
        used = set(np.concatenate(list(kept.values())).tolist())
        samples.let_go(row for row in range(len(index.files)) if row not in used)
    _refuse_emptied(dataset, kept)
    parts = dataclasses.replace(dataset.parts, **kept)
    left_out = sum(len(getattr(dataset.parts, part)) - len(kept[part]) for part in PARTS)
    share = card.signal.max_invalid_fraction
    text = f"{left_out} images with more than {share:.0%} invalid pixels were left out"
    notes = (*dataset.notes, *([note("invalid_left_out", text)] if left_out else []))
    if index.source_content is not None and not index.eight_bits and run.data.band_order is None:
        _require_content(index, facts["content"])
    keep_audit(samples, cache)
    if not _facts_file(card, cache).is_file():
        write_text(_facts_file(card, cache), f"{facts_sha256(card)}\n")
    identity = dataset.facts | {
        "samples_sha256": {part: ids_sha256([index.ids[row] for row in kept[part]]) for part in PARTS},
        "content_sha256": {part: part_sha256(facts["content"], index.labels, kept[part]) for part in PARTS},
    }
    if card.task != "segmentation":  # there the label maps count as well
        remember(cache, data_root(card, run), identity["content_sha256"])
    source = source_content(index, dict.fromkeys(kept), kept) if index.eight_bits else None
    return dataclasses.replace(
        dataset, parts=parts, notes=notes, facts=identity, content=facts["content"], source=source
    )


def _require_content(index: Index, content: Hashes) -> None:
    """Raise BenchError where a pack says other pixels of its samples than it holds."""
    assert index.source_content is not None
    other = np.flatnonzero(index.source_content[:, 0] != content)
    if len(other):
        what = f"{index.root}: {len(other)} samples are not those that it was made of, first {index.ids[other[0]]}"
        raise BenchError(what, "restore the pack, or write it again")


def source_content(
    index: Index, maps: Mapping[str, str | None], rows: Mapping[str, NDArray[np.int64]]
) -> dict[str, str] | None:
    """Content hash of each part as a run on the source of a pack has it, None where the pack does not say; `maps` is
    the label source of each part, None where labels are no maps.
    """
    if index.source_content is None:
        return None
    content, found = index.source_content[:, 0], {}
    for part, source in maps.items():
        column = None if source is None else index.source_content[:, 1 + index.source_maps.index(source)]
        found[part] = part_sha256(content, index.labels, rows[part], column)
    return found


def _refuse_emptied(dataset: Dataset, kept: dict[str, NDArray[np.int64]]) -> None:
    parts, labels = dataset.parts, dataset.index.labels
    for part in PARTS:
        if len(getattr(parts, part)) and not len(kept[part]):
            raise BenchError(
                f"every image of the {part} split has too many invalid pixels", "look at the data with prepare inspect"
            )
    if labels.ndim == 1:
        for label in sorted(set(labels[parts.train].tolist()) - set(labels[kept["train"]].tolist())):
            what = f"every training image of class '{dataset.card.classes[label]}' has too many invalid pixels"
            raise BenchError(what, "look at the data with prepare inspect")


def check_classes(expected: int, scheme: str, given: int | None) -> list[dict[str, str]]:
    """Hold `--nb_classes` against a label scheme: K + 1 (class 0 counted) leaves a note, all else is refused."""
    if given in (None, expected):
        return []
    if given == expected + 1:
        text = f"--nb_classes {given} counts a class 0 that {scheme} does not have: {expected} outputs are used"
        log.warning(text)
        return [note("nb_classes", text)]
    raise BenchError(
        f"--nb_classes is {given}, label scheme {scheme} has {expected}", f"give {expected} or leave the flag out"
    )


def accept_count(contradiction: Miscount, partial: bool) -> dict[str, str]:
    """The note on an incomplete dataset; raises BenchError unless `partial` allows it, and on more samples."""
    if contradiction.found > contradiction.stated:
        raise BenchError(contradiction.text, "remove what does not belong there, or correct the card")
    if not partial:
        raise BenchError(contradiction.text, "complete the data, correct the card, or pass --partial")
    return note("partial", f"by --partial: {contradiction.text}")


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
