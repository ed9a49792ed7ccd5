"""A dataset made ready for a regression of pixels: its maps of targets read once, images without any left out."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.content import hash_of, part_sha256
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.dfc.ready import find_overlaps, maps_key, overlap_notes
from fgmae_bench.data.sample_cache import cached_arrays
from fgmae_bench.data.samples import sample_facts
from fgmae_bench.data.splits import PARTS
from fgmae_bench.errors import BenchError, note

QUANTILES = 33  # of each image's targets, from which levels and bins are taken


def target_facts(dataset: Dataset, source: str, cache: Path, workers: int) -> dict[str, NDArray[Any]]:
    """Of every sample: `target_sums` (N, 3) number, mean and mean square of its targets, `target_quantiles` (N, Q), and
    `target_content` (N,). Raises BenchError naming a map that cannot be read.
    """
    index, stated = dataset.index, dataset.card.label_sources[source]

    def look(row: int) -> tuple[NDArray[np.float64], NDArray[np.float64], np.uint64]:
        values = index.targets(row, source)
        y = values[np.isfinite(values)].astype(np.float64)
        content = hash_of("targets", np.where(np.isfinite(values), values + np.float32(0), np.nan).astype("<f4"))
        if not len(y):
            return np.zeros(3), np.full(QUANTILES, np.nan), content
        return (
            np.array([len(y), y.mean(), (y**2).mean()]),
            np.quantile(y, np.linspace(0, 1, QUANTILES)),
            content,
        )

    def compute(missing: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            sums, quantiles, content = zip(*pool.map(look, range(len(index.files))), strict=True)
        found = {
            "target_sums": np.stack(sums),
            "target_quantiles": np.stack(quantiles),
            "target_content": np.array(content, np.uint64),
        }
        return {kind: found[kind] for kind in missing}

    kinds = ("target_sums", "target_quantiles", "target_content")
    return cached_arrays(cache, index, dict.fromkeys(kinds, f"{source} {stated!r} {maps_key(index, source)}"), compute)


def with_targets(
    dataset: Dataset, source: str, cache: Path, *, workers: int, strict: bool = False
) -> tuple[Dataset, dict[str, NDArray[Any]]]:
    """(the dataset without images that have no target, the facts of `target_facts`), with notes as of segmentation.

    Raises BenchError on a part that is left empty and, under `strict`, on parts that overlap.
    """
    facts = target_facts(dataset, source, cache, workers)
    rows = {part: getattr(dataset.parts, part) for part in PARTS}
    kept = {part: each[facts["target_sums"][each, 0] > 0] for part, each in rows.items()}
    for part, each in rows.items():
        if len(each) and not len(kept[part]):
            raise BenchError(f"no image of the {part} split has a {source} target", "choose another split")
    out = [dataset.index.ids[row] for part in PARTS for row in np.setdiff1d(rows[part], kept[part])]
    notes = list(dataset.notes)
    if out:
        text = f"{len(out)} images without a target were left out: {', '.join(out[:3])}{', …' if len(out) > 3 else ''}"
        notes.append(note("all_ignore_left_out", text))
    hashes = sample_facts(dataset.samples, ("quadrants", "content"), cache, workers)
    notes += overlap_notes(find_overlaps(dataset.index, kept, hashes["quadrants"]), strict=strict)
    content = {
        part: part_sha256(hashes["content"], dataset.index.labels, each, facts["target_content"])
        for part, each in kept.items()
    }
    parts = dataclasses.replace(dataset.parts, **kept)
    changed = dataset.facts | {"content_sha256": content}
    return dataclasses.replace(dataset, parts=parts, notes=tuple(notes), facts=changed), facts
