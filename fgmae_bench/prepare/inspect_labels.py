"""What `prepare inspect` says of label maps: every source under every scheme and split, distances, overlaps."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fgmae_bench.checkpoints.registry import default_cache
from fgmae_bench.config.cards import Card
from fgmae_bench.config.run import Data
from fgmae_bench.data.dfc.ready import (
    Histograms,
    check_label_codes,
    find_overlaps,
    label_histograms,
    labelled,
    shares,
    total_variation,
)
from fgmae_bench.data.groups import with_groups
from fgmae_bench.data.index import Index
from fgmae_bench.data.labels import LabelMap, Scheme, histogram_text
from fgmae_bench.data.packs.read import open_index
from fgmae_bench.data.samples import Samples, sample_facts
from fgmae_bench.data.schemes import card_scheme, card_source
from fgmae_bench.data.splits import Parts, make_split
from fgmae_bench.data.water import check_water
from fgmae_bench.errors import BenchError
from fgmae_bench.prepare.label_sheet import write_label_sheet
from fgmae_bench.system.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Histograms of every source of a dataset that can be read, and what speaks against the others."""

    histograms: dict[str, Histograms]
    refusals: tuple[BenchError, ...]


def report_labels(card: Card, root: Path, out: Path, synthetic: bool) -> list[BenchError]:
    """Print what the label maps at `root` hold and draw some next to `out`; returns what speaks against them."""
    index, cache = open_index(card, root), default_cache()
    labels = read_labels(card, index, cache)
    print_labels(card, index, labels, cache)
    sheet = out.with_name(f"{out.stem}-labels.png")
    if write_label_sheet(sheet, card, index, f"{card.title}{' (synthetic data)' if synthetic else ''}"):
        print(f"\nlabel sheet: {sheet}")
    return list(labels.refusals)


def read_labels(card: Card, index: Index, cache: Path) -> Labels:
    """Count the codes of every source; a source that cannot be read, or looks like another kind, is a refusal."""
    histograms, refusals = {}, []
    workers = min(8, os.cpu_count() or 1)
    for source in index.maps.sources if index.maps else ():
        try:
            with Progress(f"counting {source}", len(index.files), "label maps") as progress:
                counts = label_histograms(index, source, cache, workers, progress.step)
        except BenchError as error:
            refusals.append(error)
            continue
        histograms[source] = counts
        refusals += [
            refusal
            for refusal in (
                check_label_codes(card_source(card, source), counts, str(index.root)),
                check_water(card, index, source),
            )
            if refusal
        ]
    return Labels(histograms=histograms, refusals=tuple(refusals))


def print_labels(card: Card, index: Index, labels: Labels, cache: Path) -> None:
    """Print the histogram of each source, then of each split the overlaps and the classes under each scheme."""
    for source, counts in labels.histograms.items():
        total = counts.sum(axis=0, dtype=np.int64)
        found = histogram_text({code: int(count) for code, count in enumerate(total)}, card_source(card, source))
        print(f"labels   {source}: {int((counts.sum(axis=1) > 0).sum())} maps: {found}")
    if index.left_out:
        print(f"left out {index.left_out} images that are known to be damaged: {', '.join(card.broken)}")
    workers = min(8, os.cpu_count() or 1)
    hashes = None
    grouped = with_groups(card, index, cache, read=False)
    for name in card.splits:
        try:
            parts = make_split(card, grouped, Data(dataset=card.name, split=name), cache, index.groups)
        except BenchError as error:
            print(f"\nsplit {name}: cannot be made here: {error.what}")
            continue
        print(
            f"\nsplit {name}: {len(parts.train)} train, {len(parts.val)} val, {len(parts.test)} test, "
            f"{parts.left_out} in no part"
        )
        if hashes is None:
            with Progress("hashing quadrants", len(index.files), "images") as progress:
                samples = Samples(card=card, index=index)
                hashes = sample_facts(samples, ("quadrants",), cache, workers, progress.step)["quadrants"]
        for overlap in find_overlaps(index, {"train": parts.train, "val": parts.val, "test": parts.test}, hashes):
            print(f"  overlap: {overlap}")
        for scheme in card.label_schemes:
            _print_scheme(card, card_scheme(card, scheme), labels.histograms, parts)


def _print_scheme(card: Card, scheme: Scheme, histograms: dict[str, Histograms], parts: Parts) -> None:
    """Print the share of each class by source and part, then the distances from training to scoring labels."""
    maps = {source: LabelMap(card_source(card, source), scheme) for source in histograms if source in scheme.ids}
    if not maps:
        return
    rows = {"train": parts.train, "val": parts.val, "test": parts.test}
    held = {
        (s, part): histograms[s][found]
        for s in maps
        for part, found in rows.items()
        if len(found) and histograms[s][found].any()
    }
    columns = {key: shares(counts, maps[key[0]]) for key, counts in held.items()}
    print(f"  {scheme.name:<38}" + "".join(f"{f'{source} {part}':>13}" for source, part in columns))
    for number, title in enumerate(scheme.classes):
        print(f"    {title:<36}" + "".join(f"{column[number]:>13.2%}" for column in columns.values()))
    empty = {key: int((~labelled(counts, maps[key[0]])).sum()) for key, counts in held.items()}
    if any(empty.values()):
        print(f"    {'images without any of these':<36}" + "".join(f"{count:>13}" for count in empty.values()))
    for trained in maps:
        for scored in maps:
            if (trained, "train") in columns and (scored, "test") in columns:
                distance = total_variation(columns[trained, "train"], columns[scored, "test"])
                print(f"    distance (total variation), {trained} train to {scored} test: {distance:.3f}")
