"""A pack that is being written: whole batches are committed in the order of keys, and what a killed process left is
taken up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.packs.format import LABELS, META, PROGRESS, Encoded, Meta, meta_bytes
from fgmae_bench.data.packs.store import Writer, data_file
from fgmae_bench.errors import BenchError

TAGGED = "tagged"  # `synthetic` of a pack whose files, not whose index, say that they are synthetic
Keys = list[tuple[bytes, int]]  # (key, row of the index) in the order of keys

log = logging.getLogger("fgmae_bench")


@dataclass
class Partial:
    """`done` keys from the first on are committed; `checksums` (N,) is the CRC-32 of their values in the order of
    keys.
    """

    folder: Path
    pack: Writer
    meta: Meta
    checksums: NDArray[np.uint32]
    done: int = 0

    def add(self, keys: Keys, encoded: list[Encoded]) -> None:
        """Commit one batch."""
        items = [(key, sample.value) for (key, _), sample in zip(keys, encoded, strict=True)]
        if self.meta.synthetic is None and any(sample.tagged for sample in encoded):
            self.meta = dataclasses.replace(self.meta, synthetic=TAGGED)
            items.append((PROGRESS, meta_bytes(self.meta)))
        self.checksums[self.done : self.done + len(keys)] = [zlib.crc32(sample.value) for sample in encoded]
        self.pack.commit(items)
        self.done += len(keys)


@contextlib.contextmanager
def partial_pack(folder: Path, meta: Meta, keys: Keys) -> Iterator[Partial]:
    """What an earlier process left of the same pack in `folder`, else a new one; closed at the end."""
    partial = _resumed(folder, meta, keys)
    if partial is None:
        if folder.exists():
            log.info("%s is of another source or damaged; starting anew", folder)
            shutil.rmtree(folder)
        folder.mkdir()
        partial = Partial(folder, Writer(folder), meta, np.zeros(len(keys), np.uint32))
        partial.pack.commit([(PROGRESS, meta_bytes(meta))])
    try:
        yield partial
    finally:
        partial.pack.close()


def same_facts(held: bytes, meta: Meta) -> bool:
    """Whether a pack's `__meta__` states what `meta` does, but for a tag that only the files carry."""
    return _untagged(json.loads(held)) == _untagged(json.loads(meta_bytes(meta)))


def _untagged(facts: dict[str, Any]) -> dict[str, Any]:
    return {**facts, "synthetic": None} if facts.get("synthetic") == TAGGED else facts


def _resumed(folder: Path, meta: Meta, keys: Keys) -> Partial | None:
    """The partial pack in `folder` if it is whole, states the same facts and holds exactly a beginning of `keys`."""
    if not data_file(folder).is_file():
        return None
    try:
        pack = Writer(folder)
    except BenchError:
        return None
    partial = Partial(folder, pack, meta, np.zeros(len(keys), np.uint32))
    try:
        if _take_up(partial, keys):
            return partial
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):  # its facts are not as we write them
        pass
    pack.close()
    return None


def _take_up(partial: Partial, keys: Keys) -> bool:
    """Count and checksum the committed values; False when they are not a beginning of `keys` or of another source."""
    held = partial.pack.get(PROGRESS) or partial.pack.get(META)
    if held is None or not same_facts(held, partial.meta):
        return False
    if json.loads(held)["synthetic"] == TAGGED:
        partial.meta = dataclasses.replace(partial.meta, synthetic=TAGGED)
    for key, value in partial.pack.items():
        if key in (PROGRESS, META, LABELS):
            continue
        if partial.done == len(keys) or key != keys[partial.done][0]:
            return False
        partial.checksums[partial.done] = zlib.crc32(value)
        partial.done += 1
    return True
