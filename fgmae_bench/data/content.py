"""What a dataset is: its decoded pixels and its labels, as hashes that follow neither paths, names nor file formats."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.labels import Codes
from fgmae_bench.views.chip import Chip

Hashes = NDArray[np.uint64]  # (N,), one a sample


def content_of(chip: Chip) -> np.uint64:
    """Hash (64 bits of BLAKE2b) of an image as it is decoded: float32 in the order of the card's bands, with its size.

    Every invalid pixel counts as the same NaN, whatever stands for it in the file, and -0 as 0. An image that a pack
    keeps in eight bits counts by those: it is another dataset than its source.
    """
    if chip.ready is not None:
        return hash_of("uint8", np.ascontiguousarray(chip.ready.image))
    values = chip.db + np.float32(0)
    good = np.isfinite(values) if chip.valid is None else chip.valid & np.isfinite(values)
    if not good.all():
        values[~good] = np.nan
    return hash_of("float32", values.astype("<f4", copy=False))


def codes_of(codes: Codes) -> np.uint64:
    """Hash (64 bits) of a label map (H, W) as its source's codes."""
    return hash_of(codes.source.name, np.ascontiguousarray(codes.values, "<i4"))


def hash_of(kind: str, values: NDArray[np.generic]) -> np.uint64:
    """Hash (64 bits) of an array with its shape and what it is."""
    digest = hashlib.blake2b(f"{kind} {values.shape}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(values).data)
    return np.uint64(int.from_bytes(digest.digest()))


def part_sha256(
    content: Hashes, labels: NDArray[np.generic], rows: NDArray[np.int64], maps: Hashes | None = None
) -> str:
    """SHA-256 of a part of a split: the images, labels (N, …) and label maps of `rows`, whatever their order."""
    rows = np.sort(rows)
    digest = hashlib.sha256(content[rows].astype("<u8").tobytes())
    digest.update(np.ascontiguousarray(labels[rows]).astype("<f8" if labels.dtype.kind == "f" else "<i8").tobytes())
    if maps is not None:
        digest.update(maps[rows].astype("<u8").tobytes())
    return digest.hexdigest()
