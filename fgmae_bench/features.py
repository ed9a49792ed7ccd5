"""The bank: features of a frozen backbone, computed once, memory-mapped, found again by what they were made of."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fgmae_bench.backbones import Backbone
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.raster import Chip, read_chip
from fgmae_bench.device import Precision, autocast
from fgmae_bench.distributed import World
from fgmae_bench.errors import BenchError, RunFailed, os_error
from fgmae_bench.files import write_json
from fgmae_bench.views import Augmentation, View

Rows = NDArray[np.int64]
Features = NDArray[np.float32]  # (N, D)
ABSENT, LEFT_OUT, FIRST_CHECKSUM = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """All that turns rows of a dataset into features: backbone, view, device and precision."""

    dataset: Dataset
    backbone: Backbone
    view: View
    device: torch.device
    amp: Precision
    workers: int
    world: World

    @property
    def batch_size(self) -> int:
        """Images a forward pass; no part of the recipe, features do not depend on it."""
        return 32 if self.device.type == "cpu" else 256


@dataclass
class Spent:
    """Where the time of extraction went, and how many images it was."""

    images: int = 0
    forward_seconds: float = 0.0
    wait_seconds: float = 0.0


def extract(
    extractor: Extractor, rows: Rows, augmentation: Augmentation | None, spent: Spent
) -> Iterator[tuple[Rows, Features, NDArray[np.bool_]]]:
    """Yield (rows, features (n, D), usable (n,)) batch by batch in the order of `rows`.

    Reading and view run in threads ahead of the forward pass. Images with too many invalid pixels are not usable.
    """
    world = extractor.world
    step = extractor.batch_size * world.size
    chunks = [rows[i : i + step] for i in range(0, len(rows), step)]
    prepared = _ahead(lambda chunk: _prepare(extractor, chunk[world.rank :: world.size], augmentation), chunks, extractor.workers)
    for chunk in chunks:
        start = time.perf_counter()
        batch, usable = world.together(lambda: next(prepared))
        waited = time.perf_counter()
        features = world.interleaved(_forward(extractor, batch), len(chunk))
        usable = world.interleaved(usable[:, None], len(chunk))[:, 0]
        spent.images += len(chunk)
        spent.wait_seconds += waited - start
        spent.forward_seconds += time.perf_counter() - waited
        finite = np.isfinite(features).all(axis=1)
        if not finite[usable].all():
            bad = extractor.dataset.index.ids[chunk[usable & ~finite][0]]
            raise RunFailed(f"the backbone's features of {bad} are not finite; try --amp off, or verify the weights")
        yield chunk, features, usable


def _forward(extractor: Extractor, batch: NDArray[Any]) -> Features:
    """Features (n, D) of a prepared batch (n, 2, S, S); uint8 input is brought to [0, 1] on the device."""
    if not len(batch):
        return np.zeros((0, extractor.backbone.feature_dim), np.float32)
    with torch.inference_mode(), autocast(extractor.amp, extractor.device):
        images = torch.from_numpy(batch).to(extractor.device, non_blocking=True)
        images = images.float().div_(255) if images.dtype == torch.uint8 else images
        features: Features = extractor.backbone.module(images).float().cpu().numpy()
    return features


def _prepare(extractor: Extractor, rows: Rows, augmentation: Augmentation | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read and view a batch: (B, 2, S, S) and which images are usable."""
    dataset = extractor.dataset
    if not len(rows):
        return np.zeros((0, 0), np.uint8), np.zeros(0, bool)
    chips: list[Chip] = [read_chip(dataset.index.path(row), dataset.card) for row in rows]
    usable = np.array([chip.invalid_fraction <= dataset.card.signal.max_invalid_fraction for chip in chips])
    return extractor.view.batch(chips, [dataset.index.ids[row] for row in rows], augmentation), usable


def _ahead(work: Callable[[Rows], Any], chunks: list[Rows], workers: int) -> Iterator[Any]:
    """Results of `work` over chunks in order, computed by threads a few chunks ahead."""
    if workers == 0:
        yield from map(work, chunks)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Any] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(work, chunk))
                if len(waiting) > workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Bank:
    """Features of one dataset under one backbone, view and precision; rows are filled on demand and checked by checksum."""

    def __init__(self, folder: Path, count: int, dim: int):
        self.folder = folder
        self.features: Features = np.memmap(folder / "features.f32", np.float32, "r+", shape=(count, dim))
        self.marks: NDArray[np.uint32] = np.memmap(folder / "marks.u32", np.uint32, "r+", shape=(count,))

    def damaged(self) -> Rows:
        """Rows whose stored features do not match their checksum: torn by a crash, or changed since."""
        rows = np.flatnonzero(self.marks >= FIRST_CHECKSUM)
        return rows[[self.marks[row] != _checksum(self.features[row]) for row in rows]] if len(rows) else rows

    def put(self, rows: Rows, features: Features, usable: NDArray[np.bool_]) -> None:
        """Store features first, then the checksums that make them count."""
        self.features[rows] = np.where(usable[:, None], features, 0)
        self.marks[rows] = [_checksum(row) if ok else LEFT_OUT for row, ok in zip(self.features[rows], usable, strict=True)]

    def usable(self, rows: Rows) -> Rows:
        """`rows` without the images that were left out for their invalid pixels."""
        return rows[self.marks[rows] != LEFT_OUT]


def bank_key(extractor: Extractor, augmentation: Augmentation | None) -> dict[str, Any]:
    """What a bank is made of: weights, contract, view, samples and their files, precision, device type, versions."""
    index = extractor.dataset.index
    return {
        "format": 1, "backbone": extractor.backbone.fingerprint(), "behaviour": extractor.backbone.behaviour(),
        "contract": asdict(extractor.backbone.contract),
        "band_order": list(extractor.view.order), "view": asdict(augmentation) if augmentation else "evaluation",
        "files": index.signature,
        "max_invalid_fraction": extractor.dataset.card.signal.max_invalid_fraction, "nodata": list(extractor.dataset.card.signal.nodata),
        "amp": extractor.amp, "device": extractor.device.type, "torch": torch.__version__,
    }  # fmt: skip


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; a process that dies lets go of it."""
    with open(path, "a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def fill_bank(
    extractor: Extractor, rows: Rows, cache: Path, augmentation: Augmentation | None, spent: Spent, step: Callable[[int], object]
) -> Bank:
    """The bank that holds `rows`, computing what is missing or damaged; `step` is called with the number of images done.

    Two processes never compute the same bank at once. Raises BenchError when the cache folder cannot be written or is full.
    """
    key = bank_key(extractor, augmentation)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    folder, count = cache / "features" / name, len(extractor.dataset.index.files)
    bank: Bank | None = None
    world = extractor.world
    with _writing(folder, world):
        if world.rank == 0:
            bank = _create(folder, key, count, extractor.backbone.feature_dim)
        missing = world.broadcast(None if bank is None else np.sort(rows[bank.marks[rows] == ABSENT]))
        step(len(rows) - len(missing))
        for chunk, features, usable in extract(extractor, missing, augmentation, spent):
            if bank is not None:
                bank.put(chunk, features, usable)
            step(len(chunk))
        world.barrier()
    if bank is None:
        if not (folder / "marks.u32").exists():
            raise BenchError(f"{folder} is not there on every machine", "give a --cache_dir that all processes share")
        bank = Bank(folder, count, extractor.backbone.feature_dim)
    return bank


@contextmanager
def _writing(folder: Path, world: World) -> Iterator[None]:
    """Rank 0 holds the bank's lock; errors of the operating system become one line."""
    try:
        if world.rank:
            yield
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder / "lock"):
                yield
    except OSError as error:
        raise os_error(error, folder) from error


def _create(folder: Path, key: dict[str, Any], count: int, dim: int) -> Bank:
    """The bank in `folder`, made if need be, without its damaged rows."""
    _allocate(folder / "features.f32", count * dim * 4)
    _allocate(folder / "marks.u32", count * 4)
    write_json(folder / "made_of.json", key)
    bank = Bank(folder, count, dim)
    bank.marks[bank.damaged()] = ABSENT
    return bank


def _allocate(path: Path, size: int) -> None:
    """Make a file of `size` bytes with its blocks reserved, so that a full disk is an error here and no crash later."""
    if path.exists() and path.stat().st_size == size:
        return
    path.unlink(missing_ok=True)
    temporary = path.with_suffix(".partial")
    try:
        with open(temporary, "wb") as handle:
            os.posix_fallocate(handle.fileno(), 0, size)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _checksum(row: NDArray[np.float32]) -> int:
    return max(zlib.crc32(row.tobytes()), FIRST_CHECKSUM)
