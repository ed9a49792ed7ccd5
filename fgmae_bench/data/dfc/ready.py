"""A dataset made ready for segmentation: label codes checked, overlaps of parts found, unlabelled images left out."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.content import Hashes, codes_of, part_sha256
from fgmae_bench.data.dataset import Dataset, source_content
from fgmae_bench.data.index import Index, Rows
from fgmae_bench.data.labels import LabelMap, Source, histogram_text, mismatch
from fgmae_bench.data.sample_cache import cached_arrays
from fgmae_bench.data.samples import NONE, Samples, sample_facts
from fgmae_bench.data.schemes import DFC, IGBP
from fgmae_bench.data.splits import PARTS
from fgmae_bench.data.water import check_water
from fgmae_bench.errors import BenchError, note
from fgmae_bench.system.progress import Progress

Histograms = NDArray[np.uint32]
CODES = 256


def label_histograms(
    index: Index,
    source: str,
    cache: Path,
    workers: int = 4,
    step: Callable[[int], object] = lambda _: None,
    samples: Samples | None = None,
) -> Histograms:
    """Pixels (N, 256) of each code of a source, zeros where a sample has no such labels.

    Hashes of the label maps come from the same pass, see `label_content`. Validity of the image is not looked at.
    `step` is called with the number of files read, `samples` holds them for the next pass. Raises BenchError naming a
    file that cannot be read or holds other codes.
    """
    return _label_facts(index, source, cache, workers, step, samples)["labels"]


def label_content(dataset: Dataset, source: str, cache: Path, workers: int) -> Hashes:
    """Hashes (N,) of the label maps of a source, 0 where a sample has none."""
    return _label_facts(dataset.index, source, cache, workers, lambda _: None, dataset.samples)["label_content"]


def _label_facts(
    index: Index,
    source: str,
    cache: Path,
    workers: int,
    step: Callable[[int], object],
    samples: Samples | None,
) -> dict[str, NDArray[Any]]:
    if index.maps is None or source not in index.maps.sources:
        held = ", ".join(index.maps.sources) if index.maps else "none"
        raise BenchError(f"{index.root} holds no {source} labels", f"there are: {held}")
    maps, codes = index.maps, samples.codes if samples else index.codes

    def look(row: int) -> tuple[NDArray[np.uint32], np.uint64]:
        if not maps.has(row, source):
            return np.zeros(CODES, np.uint32), np.uint64(0)
        held = codes(row, source)
        step(1)
        return held.histogram().astype(np.uint32), codes_of(held)

    def compute(missing: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            counts, hashes = zip(*pool.map(look, range(len(index.files))), strict=True)
        both = {"labels": np.stack(counts), "label_content": np.stack(hashes)}
        return {kind: both[kind] for kind in missing}

    facts = getattr(maps, "known", {}).get(source)  # how values of the files became codes, where that is not one to one
    key = f"{facts.facts if facts else source} {maps_key(index, source)}"
    return cached_arrays(cache, index, dict.fromkeys(("labels", "label_content"), key), compute)


def maps_key(index: Index, source: str) -> str:
    """Which files hold the label maps of a source, and which band of theirs: an archive may give equal size and time to
    the files of two sources, by which alone the index knows them.
    """
    stated = getattr(index.maps, "stated", {}).get(source)
    files = getattr(index.maps, "files", {}).get(stated.folder, ()) if stated else ()
    return hashlib.sha256(f"{stated!r} {files!r}".encode(errors="surrogateescape")).hexdigest()


def labelled(histograms: Histograms, label_map: LabelMap) -> NDArray[np.bool_]:
    """True (N,) where a sample has at least one pixel of a class of the scheme; the others are left out and counted."""
    return label_map.counts(histograms).sum(axis=1) > 0


def shares(histograms: Histograms, label_map: LabelMap) -> NDArray[np.float64]:
    """Share (K,) of each class in the labelled pixels of some samples; NaN where there are none."""
    counts = label_map.counts(histograms.sum(axis=0, dtype=np.int64))
    total = counts.sum()
    return counts / total if total else np.full(len(counts), np.nan)


def total_variation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Half the sum of the differences of two distributions: 0 where they agree, 1 where they share nothing."""
    return float(np.abs(first - second).sum() / 2)


MIN_TILES = 30
MOST_SAVANNA_AND_SNOW = 0.1
ABSENT_IN_DFC = (3, 8)


def check_label_codes(source: Source, histograms: Histograms, where: str) -> BenchError | None:
    """The refusal, with the histogram, of labels (N, 256 codes) that look like another kind, or None.

    Tiles without labels of the source do not count.
    """
    held = histograms[histograms[:, list(source.codes)].sum(axis=1) > 0]
    if len(held) < MIN_TILES:
        return None
    total = held.sum(axis=0, dtype=np.int64)
    if source.name == IGBP.name and not total[11:18].any() and not total[list(ABSENT_IN_DFC)].any():
        return _refusal(source, DFC, total, where, "no code above 10, and neither 3 nor 8")
    if source.name == DFC.name:
        share = total[list(ABSENT_IN_DFC)].sum() / total[list(source.codes)].sum()
        if share > MOST_SAVANNA_AND_SNOW:
            return _refusal(source, IGBP, total, where, f"{share:.0%} of the pixels are 3 or 8")
    return None


def _refusal(stated: Source, seen: Source, total: NDArray[np.int64], where: str, cue: str) -> BenchError:
    found = histogram_text({code: int(count) for code, count in enumerate(total)}, stated)
    what = f"{where}: labels said to be {stated.title} look like {seen.title} ({cue}), found {found}"
    return BenchError(
        what, f"name them as what they are (label source {seen.name}), or pass --trust_data if you know better"
    )


NAMED = 3  # pairs that a message names


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Samples of two parts that overlap `by` name or pixels: how many of `second`, and some pairs."""

    first: str
    second: str
    by: str
    count: int
    pairs: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        named = ", ".join(f"{a} and {b}" for a, b in self.pairs[:NAMED])
        same = "the same name" if self.by == "name" else "a quadrant with the same pixels"
        return f"{self.count} {self.second} images share {same} with a {self.first} image: {named}"


def find_overlaps(index: Index, parts: dict[str, Rows], hashes: NDArray[np.uint64]) -> tuple[Overlap, ...]:
    """Overlaps between each two of the parts, by file name and by quadrants."""
    found = []
    for (first, a), (second, b) in combinations(((name, rows) for name, rows in parts.items() if len(rows)), 2):
        names = {os.path.basename(index.ids[row]): row for row in a}
        by_name = [(names[name], int(row)) for row in b if (name := os.path.basename(index.ids[row])) in names]
        owner = {int(value): int(row) for row in a for value in hashes[row] if value != NONE}
        by_pixels = [
            (owner[value], int(row))
            for row in b
            if (value := next((v for v in hashes[row].tolist() if v in owner), NONE))
        ]
        for by, pairs in (("name", by_name), ("pixels", by_pixels)):
            if pairs:
                shown = tuple((index.ids[x], index.ids[y]) for x, y in pairs[:NAMED])
                found.append(Overlap(first=first, second=second, by=by, count=len(pairs), pairs=shown))
    return tuple(found)


def overlap_notes(overlaps: tuple[Overlap, ...], *, strict: bool) -> list[dict[str, str]]:
    """A note `overlapping_splits` for each overlap; under `strict` the first is a BenchError."""
    if overlaps and strict:
        raise BenchError(str(overlaps[0]), "choose a split whose parts are apart, or leave --strict out")
    return [note("overlapping_splits", str(overlap)) for overlap in overlaps]


def with_labels(
    dataset: Dataset,
    train: LabelMap,
    evaluated: LabelMap,
    cache: Path,
    *,
    workers: int,
    strict: bool = False,
    trust: bool = False,
) -> Dataset:
    """The dataset without images of no labelled pixel: by the map `train` in its part, by `evaluated` in val and test.

    Notes are added: `label_scheme_mismatch`, `all_ignore_left_out`, `overlapping_splits`. Reads every label map and
    every image once, ever. Raises BenchError naming a label file that is absent or broken, on labels that look like
    another kind (a note under `trust`), on a part that is left empty and, under `strict`, on parts that overlap.
    """
    index, parts, notes = dataset.index, dataset.parts, list(dataset.notes)
    rows: dict[str, Rows] = {part: getattr(parts, part) for part in PARTS}
    difference = mismatch(train, evaluated)
    if difference:
        notes.append(note("label_scheme_mismatch", difference))
    maps = {"train": train, "val": evaluated, "test": evaluated}
    held: dict[str, Histograms] = {}
    for source in {label_map.source.name: label_map.source for label_map in maps.values()}.values():
        held[source.name] = _histograms(dataset, source.name, cache, workers)
        refusal = check_label_codes(source, held[source.name], str(index.root))
        refusal = refusal or check_water(dataset.card, index, source.name, dataset.samples)
        if refusal and not trust:
            raise refusal
        if refusal:
            notes.append(note("data_trusted", f"by --trust_data: {refusal.what}"))
    kept = {
        part: chosen[_labelled(dataset, part, chosen, held[maps[part].source.name], maps[part])]
        for part, chosen in rows.items()
    }
    left_out = sum(len(rows[part]) - len(kept[part]) for part in PARTS)
    if left_out:
        out = [index.ids[row] for part in PARTS for row in np.setdiff1d(rows[part], kept[part])]
        text = f"{left_out} images without a pixel of any class were left out: {', '.join(out[:3])}"
        notes.append(note("all_ignore_left_out", text + (", …" if len(out) > 3 else "")))
    hashes = sample_facts(dataset.samples, ("quadrants",), cache, workers)["quadrants"]
    notes += overlap_notes(find_overlaps(index, kept, hashes), strict=strict)
    parts = dataclasses.replace(parts, train=kept["train"], val=kept["val"], test=kept["test"])
    facts = dataset.facts | {"content_sha256": _content(dataset, kept, maps, cache, workers)}
    of_parts = {part: label_map.source.name for part, label_map in maps.items()}
    made_of = source_content(index, of_parts, kept) if index.eight_bits else None
    return dataclasses.replace(dataset, parts=parts, notes=tuple(notes), facts=facts, source=made_of)


def _content(
    dataset: Dataset, rows: dict[str, Rows], maps: dict[str, LabelMap], cache: Path, workers: int
) -> dict[str, str]:
    """Hash of each part: its images, and the label maps that it is learnt or scored by."""
    content = sample_facts(dataset.samples, ("content",), cache, workers)["content"]
    held = {name: label_content(dataset, name, cache, workers) for name in {m.source.name for m in maps.values()}}
    return {
        part: part_sha256(content, dataset.index.labels, chosen, held[maps[part].source.name])
        for part, chosen in rows.items()
    }


def _labelled(
    dataset: Dataset, part: str, rows: Rows, histograms: Histograms, label_map: LabelMap
) -> NDArray[np.bool_]:
    """True where an image has a labelled pixel. Raises BenchError on an image without labels or a part without any."""
    index = dataset.index
    for row in rows:
        if index.maps is not None and not index.maps.has(int(row), label_map.source.name):
            index.codes(int(row), label_map.source.name)
    found = labelled(histograms[rows], label_map)
    if len(rows) and not found.any():
        what = f"no image of the {part} split has a {label_map.source.name} label of a class of {label_map.scheme.name}"
        raise BenchError(what, "choose another label source, scheme or split")
    return found


def _histograms(dataset: Dataset, source: str, cache: Path, workers: int) -> Histograms:
    index, first = dataset.index, os.environ.get("RANK", "0") == "0"
    with Progress(f"counting {source}", len(index.files), "label maps", show=first) as progress:
        return label_histograms(index, source, cache, workers, progress.step, dataset.samples)
