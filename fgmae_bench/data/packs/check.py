"""A pack re-read: every value against its checksum, and against the source bit by bit where that is at hand."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fgmae_bench.config.cards import Card
from fgmae_bench.data.index import Index
from fgmae_bench.data.packs.format import LABELS, META, Encoder, Meta, sample_keys
from fgmae_bench.data.packs.labels import same_labels
from fgmae_bench.data.packs.read import checked_labels, open_pack
from fgmae_bench.data.packs.store import get, stamp_of, views
from fgmae_bench.data.packs.write import encoded
from fgmae_bench.errors import BenchError
from fgmae_bench.views.classification import make_view

SHOWN = 3  # faults that are named, the others are counted
Step = Callable[[int], object]


def check_values(card: Card, root: Path, meta: Meta, step: Step) -> Index:
    """The index of our pack at `root` once every value has its checksum; raises BenchError naming those that have
    not.
    """
    root = root.resolve()
    index, stamp = open_pack(card, root), stamp_of(root)
    sums = checked_labels(root, stamp, meta, card).crc32.tolist()
    keys, faults, at = sample_keys(index), [], 0
    for name, value in views(root, stamp):
        if name in (META, LABELS):
            continue
        key, row = keys[at]
        if name != key:
            raise BenchError(
                f"{root}: {name.decode(errors='replace')} is not among the samples that it states",
                "write the pack again",
            )
        if zlib.crc32(value) != sums[row]:
            faults.append(name.decode())
        at += 1
        step(1)
    _refuse(faults, f"of {len(keys)} values of {root} do not have their checksum")
    for row in range(len(keys)) if len(keys) < 1000 else range(0, len(keys), len(keys) // 1000):
        index.read(row, card)
        for source in index.maps.sources if index.maps else ():
            if index.maps is not None and index.maps.has(row, source):
                (index.targets if card.task == "regression" else index.codes)(row, source)
    return index


def check_source(card: Card, packed: Index, meta: Meta, source: Index, workers: int, step: Step) -> None:
    """Raise BenchError unless the pack holds exactly the samples, labels, groups, pixels and label maps of `source`."""
    if packed.ids != source.ids:
        missing, extra = len(set(source.ids) - set(packed.ids)), len(set(packed.ids) - set(source.ids))
        what = f"{packed.root} lacks {missing} samples of {source.root} and has {extra} that are not there"
        raise BenchError(what, "write the pack again")
    held, given = ((index.groups, index.aliases, index.parts, index.size) for index in (packed, source))
    if not np.array_equal(packed.labels, source.labels) or held != given or not same_labels(packed, source):
        raise BenchError(f"{packed.root}: labels or groups are not those of {source.root}", "write the pack again")
    view = make_view(card, meta.contract.contract(), ",".join(meta.bands)) if meta.contract else None
    stated = packed.source_content
    encoder = Encoder(card=card, reader=source.reader, bands=meta.bands, view=view, maps=source.maps)
    stamp, faults = stamp_of(packed.root), []
    for keys, samples in encoded(source, sample_keys(source), encoder, workers):
        faults += [
            key.decode()
            for (key, row), sample in zip(keys, samples, strict=True)
            if get(packed.root, stamp, key) != sample.value
            or (stated is not None and stated[row].tolist() != list(sample.hashes))
        ]
        step(len(keys))
    _refuse(faults, f"of {len(packed.files)} samples of {packed.root} are not those of {source.root}")


def _refuse(faults: list[str], what: str) -> None:
    if faults:
        named = ", ".join(faults[:SHOWN]) + (", …" if len(faults) > SHOWN else "")
        raise BenchError(f"{len(faults)} {what}: {named}", "write the pack again, or restore it")
