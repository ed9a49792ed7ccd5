"""A layout: all images in one folder, the class in front of two underscores, such as `River__0012.tif`.

A card names it by `layout = "flat_names"`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from fgmae_bench.config.cards import Card
from fgmae_bench.data.index import Index
from fgmae_bench.data.synthetic import read_marker
from fgmae_bench.errors import BenchError


def flat_names(card: Card, root: Path) -> Index:
    """Index of `<root>/<Class>__<any name>.tif`; raises BenchError on a name without a class of the card."""
    paths = sorted(root.glob("*.tif"))
    labels = []
    for path in paths:
        name, mark, _ = path.name.partition("__")
        if not mark or name not in card.classes:
            raise BenchError(f"{path}: no class of {card.title} is in front of __", "rename it, or correct the card")
        labels.append(card.classes.index(name))
    marker = read_marker(root)  # a synthetic world says so, and its runs are marked
    return Index(
        root=root,
        files=tuple(path.name for path in paths),
        labels=np.array(labels, np.int64),
        stamps=np.array([_stamp(path) for path in paths], np.uint64),
        synthetic=marker["fingerprint"] if marker else None,
    )


def _stamp(path: Path) -> int:
    """A number that changes with a file's size and time."""
    status = path.stat()
    digest = hashlib.sha256(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
