"""A dataset made ready for a run: card, index, split and the notes that the check against the card left."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card, facts_sha256, is_shipped
from fgmae_bench.config.contract import parse_bands
from fgmae_bench.config.run import Run
from fgmae_bench.data.audit import audit, keep_audit
from fgmae_bench.data.content import Hashes, part_sha256
from fgmae_bench.data.few_labels import PURPOSE as FEW
from fgmae_bench.data.few_labels import Subset, few_labels, subset_of
from fgmae_bench.data.groups import groups_sha256, torn, with_groups
from fgmae_bench.data.index import Index, Miscount, Rows, check_counts, ids_sha256, require_data
from fgmae_bench.data.packs.read import is_pack, open_index
from fgmae_bench.data.samples import Samples, sample_facts
from fgmae_bench.data.signal import DECIBELS
from fgmae_bench.data.splits import LEAVE_OUT, PARTS, Parts, left_out_split, limited, make_split
from fgmae_bench.errors import BenchError, note
from fgmae_bench.system.files import write_text
from fgmae_bench.system.progress import Progress

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
    before_content: Hashes | None = None  # (N,) of the earlier images of the rows that are used, where both are seen
    source: dict[str, str] | None = None  # content of each part in what a pack of eight bits was made of, where known
    pool: Rows = None  # type: ignore[assignment]  # the training part that few labels are drawn from; filled in below

    def __post_init__(self) -> None:
        held = self.samples
        if held is None or held.card is not self.card or held.index is not self.index:
            object.__setattr__(self, "samples", Samples(card=self.card, index=self.index))
        if self.pool is None:
            object.__setattr__(self, "pool", self.parts.train)

    def ids(self, part: str) -> list[str]:
        """Sample ids of a part, in the order of the split."""
        return [self.index.ids[row] for row in getattr(self.parts, part)]

    def groups(self, part: str) -> list[str] | None:
        """Scene or other group of each sample of a part, None where they are not known."""
        return None if self.index.groups is None else [self.index.groups[row] for row in getattr(self.parts, part)]

    def group_counts(self) -> dict[str, Any] | None:
        """What a group is, as `kind`, and how many each part has; None where they are not known."""
        if self.index.groups is None:
            return None
        return {"kind": self.index.group_kind, **{part: len(set(self.groups(part) or ())) for part in PARTS}}


def require_same_facts(card: Card, cache: Path) -> None:
    """Raise BenchError where a card says something else than when its version was first used with this cache folder.

    A version is of a card where it is: another card of the same name elsewhere is another dataset's, which records
    tell by facts and content. A shipped card is one wherever the suite is.
    """
    own = facts_sha256(card)
    if _first_facts(card, cache, card.version) in (None, own):
        return
    free = next(n for n in itertools.count(card.version + 1) if _first_facts(card, cache, n) in (None, own))
    what = f"{card.path}: its facts have changed since version {card.version} was first used"
    raise BenchError(what, f"write version = {free} in it, or another name where it is now another dataset's")


def _first_facts(card: Card, cache: Path, version: int) -> str | None:
    """The facts under which a card's version was first used, None where it has not been."""
    path = _facts_file(card, cache, version)
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _facts_file(card: Card, cache: Path, version: int) -> Path:
    """Where the facts of a card's version are kept, once data has passed under them."""
    place = "" if is_shipped(card) else f"-{hashlib.sha256(os.fsencode(card.path.resolve())).hexdigest()[:16]}"
    return cache / "cards" / f"{card.name}{place}-{version}.sha256"


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
    notes: list[dict[str, str]] = check_classes(len(card.outputs), card.label_scheme, run.data.nb_classes)
    trust = run.execution.trust_data
    contradiction = check_counts(card, index)
    if contradiction:
        notes.append(accept_count(contradiction, run.execution.partial))
    if index.left_out and card.layout == "table":
        notes.append(note("unlabelled_left_out", f"{index.left_out} samples without a label or target were left out"))
    name = run.data.split or card.default_split
    split = left_out_split(card, name) or card.splits.get(name)
    # blocks are read later, with the pixels, unless the split goes by them: what is refused leaves nothing behind
    layout_groups = index.groups
    index = with_groups(card, index, cache, read=split is not None and split.kind in ("groups", LEAVE_OUT))
    parts = make_split(card, index, run.data, cache, layout_groups)
    if run.data.limit is not None:
        index, parts = limited(index, parts, run.data.limit, run.data.split_seed)
        notes.append(note("limited", f"by --limit: at most {run.data.limit} samples of each part"))
    samples = Samples(card=card, index=index)
    verdict, tagged = audit(card, index, order, samples, cache)
    if verdict.refusal:
        _refuse(verdict.refusal, trust, notes)
    notes += verdict.warnings
    synthetic = bool(index.synthetic) or tagged
    notes += _split_notes(name, parts)
    if synthetic:
        notes.append(note("synthetic", "synthetic data: the numbers say nothing about real scenes"))
    facts = {
        "card": card.name,
        "split": name if split is not None else "lists",
        "card_version": card.version,
        "card_sha256": facts_sha256(card),
        "synthetic": index.synthetic or ("tagged" if tagged else None),
    }
    few = few_labels(index, parts.train, subset_of(run), card.classes)
    return Dataset(
        card=card,
        index=index,
        parts=dataclasses.replace(parts, train=few),
        synthetic=synthetic,
        facts=facts,
        notes=tuple(notes),
        samples=samples,
        pool=parts.train,
    )


def only_usable(dataset: Dataset, run: Run, cache: Path, others: Sequence[Run] = ()) -> Dataset:
    """The dataset without images that have too many invalid pixels, with the hashes of the samples that are used:
    of their ids, and of their pixels and labels.

    Reads every file once, ever: a broken one is named here, before anything is computed. What fits into memory is held
    for the pass that comes next, of `others` too, which differ in the labels they see (see `with_labels_of`). Raises
    BenchError when a part or a class of it is left without images.
    """
    card, index, samples = dataset.card, dataset.index, dataset.samples
    names = ("invalid", "content", *(("quadrants",) if card.per_pixel else ()))
    names += ("floored",) if card.signal.units in DECIBELS else ()
    with Progress("checking pixels", len(index.files), "images", show=os.environ.get("RANK", "0") == "0") as progress:
        facts = sample_facts(samples, names, cache, run.execution.num_workers, progress.step)
    index = with_groups(card, index, cache) if index.groups is None else index
    usable = facts["invalid"] <= card.signal.max_invalid_fraction
    before = {"train": dataset.pool, "val": dataset.parts.val, "test": dataset.parts.test}
    kept = {part: rows[usable[rows]] for part, rows in before.items()}
    pool = kept["train"]
    _refuse_emptied(dataset, before, kept)
    if not card.per_pixel:  # there the bank of labels needs every image once more
        seen = [few_labels(index, pool, subset_of(each), card.classes) for each in (run, *others)]
        used = set(np.concatenate([*seen, kept["val"], kept["test"]]).tolist())
        samples.let_go(row for row in range(len(index.files)) if row not in used)
    left_out = sum(len(before[part]) - len(kept[part]) for part in PARTS)
    share = card.signal.max_invalid_fraction
    text = f"{left_out} images with more than {share:.0%} invalid pixels were left out{_named(dataset, before, kept)}"
    notes = (*dataset.notes, *([note("invalid_left_out", text)] if left_out else []), *_floored(card, facts, kept))
    notes += tuple(_group_notes(index, dataset.parts, dataset.facts["split"]))
    if index.source_content is not None and not index.eight_bits and run.data.band_order is None:
        _require_content(index, facts["content"])
    keep_audit(samples, cache)
    if _first_facts(card, cache, card.version) is None:
        write_text(_facts_file(card, cache, card.version), f"{facts_sha256(card)}\n")
    parts = dataclasses.replace(dataset.parts, train=pool, val=kept["val"], test=kept["test"])
    samples = dataclasses.replace(samples, index=index)  # with the images that are held
    whole = dataclasses.replace(
        dataset, index=index, samples=samples, parts=parts, notes=notes, content=facts["content"], pool=pool
    )
    return with_labels_of(whole, run)


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
    the label source of each part, None where labels are not maps.
    """
    if index.source_content is None:
        return None
    content, found = index.source_content[:, 0], {}
    for part, source in maps.items():
        column = None if source is None else index.source_content[:, 1 + index.source_maps.index(source)]
        found[part] = part_sha256(content, index.labels, rows[part], column)
    return found


def seen_by(dataset: Dataset, run: Run) -> Rows:
    """The training rows whose labels a run sees. Raises BenchError where a class has fewer than it asks for."""
    return few_labels(dataset.index, dataset.pool, subset_of(run), dataset.card.classes)


def with_labels_of(dataset: Dataset, run: Run) -> Dataset:
    """The dataset, whose pixels have been read, with the training labels that a run sees, and the hashes of its parts.

    The pool that few labels are drawn from is a fact of theirs: in another pool a draw is another one.
    """
    index, subset = dataset.index, subset_of(run)
    assert dataset.content is not None
    parts = dataclasses.replace(dataset.parts, train=seen_by(dataset, run))
    rows = {part: getattr(parts, part) for part in PARTS}
    identity = {name: value for name, value in dataset.facts.items() if name != FEW} | {
        "samples_sha256": {part: ids_sha256([index.ids[row] for row in rows[part]]) for part in PARTS},
        "content_sha256": {part: part_sha256(dataset.content, index.labels, rows[part]) for part in PARTS},
    }
    # of the whole pool: which labels are drawn from it is chance
    grouped = groups_sha256(dataset.card, index, np.concatenate([dataset.pool, parts.val, parts.test]))
    if grouped is not None:
        identity["groups_sha256"] = grouped
    if not subset.whole:
        identity[FEW] = {"pool": ids_sha256([index.ids[row] for row in dataset.pool])}
    others = [found for found in dataset.notes if found["code"] != FEW]
    return dataclasses.replace(
        dataset,
        parts=parts,
        facts=identity,
        notes=(*others, *_few_notes(dataset, subset)),
        source=source_content(index, dict.fromkeys(rows), rows)
        if index.eight_bits and not dataset.card.per_pixel
        else None,
    )


def _few_notes(dataset: Dataset, subset: Subset) -> list[dict[str, str]]:
    if subset.whole:
        return []
    share = f"{subset.fraction:.3g} of the labels" if subset.shots is None else f"{subset.shots} labels a class"
    over = ", dealt over the groups in turn" if dataset.index.groups is not None else ""
    return [
        note("few_labels", f"{share}, drawn by seed and draw{over}; smaller subsets of a draw are part of larger ones")
    ]


def _floored(card: Card, facts: dict[str, NDArray[Any]], kept: dict[str, NDArray[np.int64]]) -> list[dict[str, str]]:
    """A note on pixels without positive power, which the card's floor stands for."""
    used = np.concatenate(list(kept.values()))
    count = int(facts["floored"][used].sum()) if "floored" in facts else 0
    if not count:
        return []
    text = (
        f"{count} pixels without positive power, as noise subtraction leaves over water, are {card.signal.floor:g} dB"
    )
    return [note("floored", text)]


def _named(dataset: Dataset, before: dict[str, NDArray[np.int64]], kept: dict[str, NDArray[np.int64]]) -> str:
    """The first images that are left out."""
    out = [int(row) for part in PARTS for row in np.setdiff1d(before[part], kept[part])]
    return f": {', '.join(dataset.index.ids[row] for row in out[:3])}{', …' if len(out) > 3 else ''}" if out else ""


def _refuse_emptied(dataset: Dataset, before: dict[str, NDArray[np.int64]], kept: dict[str, NDArray[np.int64]]) -> None:
    labels = dataset.index.labels
    for part in PARTS:
        if len(before[part]) and not len(kept[part]):
            raise BenchError(
                f"every image of the {part} split has too many invalid pixels", "look at the data with prepare inspect"
            )
    if labels.ndim == 1:
        for label in sorted(set(labels[before["train"]].tolist()) - set(labels[kept["train"]].tolist())):
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


def _group_notes(index: Index, parts: Parts, name: str) -> list[dict[str, str]]:
    """Notes on samples whose groups nobody knows, and on groups that lists tear apart without saying so."""
    if index.groups is None:
        text = (
            "no groups: nothing tells which samples belong together, each counts as independent, and where neighbours "
            "are alike intervals are too narrow and p-values too small; state [groups] on the card"
        )
        log.warning(text)
        return [note("no_groups", text)]
    both = [] if parts.leaky else torn(index, {part: getattr(parts, part) for part in PARTS})
    if not both:
        return []
    text = f"split '{name}' has samples of {len(both)} {index.group_kind}s in more than one part, such as {both[0]}"
    log.warning(text)
    return [note("torn_groups", text)]


def _split_notes(name: str, parts: Parts) -> list[dict[str, str]]:
    notes = []
    if not len(parts.val):
        notes.append(note("test_is_val", "no val split: nothing was selected, the last epoch is reported"))
    if parts.leaky:
        notes.append(note("leaky_split", f"split '{name}' tears neighbouring images apart between train and test"))
    if parts.left_out:
        notes.append(note("left_out_by_split", f"split '{name}' leaves out {parts.left_out} images (buffer or lists)"))
    return notes
