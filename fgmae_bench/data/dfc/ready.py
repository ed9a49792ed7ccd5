"""A dataset made ready for segmentation: labels that look like what they are said to be, parts apart, and no image without labels."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.dfc.histograms import Histograms, label_histograms, labelled
from fgmae_bench.data.dfc.looks import labels_look
from fgmae_bench.data.dfc.overlap import find_overlaps, overlap_notes, quadrant_hashes
from fgmae_bench.data.splits import PARTS
from fgmae_bench.errors import BenchError
from fgmae_bench.label_schemes import LabelMap, mismatch
from fgmae_bench.progress import Progress
from fgmae_bench.records import note

Rows = NDArray[np.int64]


def with_labels(
    dataset: Dataset, train: LabelMap, evaluated: LabelMap, cache: Path, *, workers: int, strict: bool = False, trust: bool = False
) -> Dataset:
    """The dataset without images that have no labelled pixel: by the map of `train` in its part, by `evaluated` in val and test.

    Notes are added: `label_scheme_mismatch`, `all_ignore_left_out`, `overlapping_splits`. Reads every label map and every image
    once, ever. Raises BenchError naming a label file that is absent or broken, on labels that look like another kind (a note
    under `trust`), on a part that is left empty and, under `strict`, on parts that overlap.
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
        refusal = labels_look(source, held[source.name], str(index.root))
        if refusal and not trust:
            raise refusal
        if refusal:
            notes.append(note("data_trusted", f"by --trust_data: {refusal.what}"))
    kept = {part: chosen[_labelled(dataset, part, chosen, held[maps[part].source.name], maps[part])] for part, chosen in rows.items()}
    left_out = sum(len(rows[part]) - len(kept[part]) for part in PARTS)
    if left_out:
        notes.append(note("all_ignore_left_out", f"{left_out} images without a pixel of any class were left out"))
    with _progress("hashing quadrants", len(index.files), "images") as progress:
        hashes = quadrant_hashes(dataset.card, index, cache, workers, progress.step)
    notes += overlap_notes(find_overlaps(index, kept, hashes), strict=strict)
    parts = dataclasses.replace(parts, train=kept["train"], val=kept["val"], test=kept["test"])
    return dataclasses.replace(dataset, parts=parts, notes=tuple(notes))


def _labelled(dataset: Dataset, part: str, rows: Rows, histograms: Histograms, label_map: LabelMap) -> NDArray[np.bool_]:
    """True where an image of a part has a labelled pixel; an image without labels of the source, or a part without any, is an error."""
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
    with _progress(f"counting {source}", len(dataset.index.files), "label maps") as progress:
        return label_histograms(dataset.index, source, cache, workers, progress.step)


def _progress(title: str, total: int, unit: str) -> Progress:
    """Progress that the first process alone shows."""
    return Progress(title, total, unit, show=os.environ.get("RANK", "0") == "0")
