"""The bank: features computed once, memory-mapped, checked by checksum, and found again by what they were made of."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fgmae_bench.config.encoders import adapter_of
from fgmae_bench.data.index import Rows, ids_sha256
from fgmae_bench.errors import BenchError, RunFailed, os_error
from fgmae_bench.features.extract import Extractor, Features, Spent, extract
from fgmae_bench.system.distributed import World
from fgmae_bench.system.files import missing_folders, remove_empty, replacing, wait_for_lock, write_json
from fgmae_bench.views.classification import Augmentation

ABSENT, LEFT_OUT, FIRST_CHECKSUM = 0, 1, 2


class Bank:
    """Features of one dataset under one backbone, view and precision; rows are filled on demand.

    Each row carries a checksum of its features and a hash of the pixels they came from: a row torn by a crash, changed
    since, or of an image that has changed counts as absent, and the others stay.
    """

    def __init__(self, folder: Path, count: int, dim: int):
        self.folder = folder
        self.features: Features = np.memmap(folder / "features.f32", np.float32, "r+", shape=(count, dim))
        self.marks: NDArray[np.uint32] = np.memmap(folder / "marks.u32", np.uint32, "r+", shape=(count,))
        self.stamps: NDArray[np.uint64] = np.memmap(folder / "stamps.u64", np.uint64, "r+", shape=(count,))

    def forget(self, stamps: NDArray[np.uint64]) -> None:
        """Mark rows as absent whose file was replaced, or whose features do not match their checksum."""
        # features of pixels that have changed since
        self.marks[self.stamps != stamps] = ABSENT
        # rows that a crash tore, or a disk changed
        held = np.flatnonzero(self.marks >= FIRST_CHECKSUM)
        self.marks[[row for row in held if self.marks[row] != _checksum(self.features[row])]] = ABSENT

    def put(self, rows: Rows, features: Features, usable: NDArray[np.bool_], stamps: NDArray[np.uint64]) -> None:
        """Store features and stamps first, then the checksums that make them count."""
        # a crash between these lines leaves a row whose mark does not fit, which counts as absent
        self.features[rows] = np.where(usable[:, None], features, 0)
        self.stamps[rows] = stamps
        self.marks[rows] = [
            _checksum(row) if ok else LEFT_OUT for row, ok in zip(self.features[rows], usable, strict=True)
        ]

    def piece(self, row: int, number: int, pieces: int) -> Features:
        """One of so many equal pieces (F / pieces,) of a row."""
        width = self.features.shape[1] // pieces
        return np.array(self.features[row, number * width : (number + 1) * width])

    def usable(self, rows: Rows) -> Rows:
        """`rows` without the images that were left out for their invalid pixels."""
        return rows[self.marks[rows] != LEFT_OUT]


class TwoBanks:
    """Banks of the later and the earlier date, whose rows are read as one, (n, 2F), the later one first.

    Rows of several `pieces` (windows of a scene) are read piece by piece: both dates of one, then both of the next.
    """

    def __init__(self, later: Bank, earlier: Bank, pieces: int = 1):
        self.later, self.earlier, self.pieces = later, earlier, pieces

    @property
    def features(self) -> TwoBanks:
        """What rows are taken from, as of `Bank.features`."""
        return self

    def __getitem__(self, rows: Rows) -> Features:
        dates = [held.features[rows].reshape(len(rows), self.pieces, -1) for held in (self.later, self.earlier)]
        return np.concatenate(dates, axis=2).reshape(len(rows), -1)

    def piece(self, row: int, number: int, pieces: int) -> Features:
        """As of `Bank.piece`, of both dates (2 F / pieces,)."""
        return np.concatenate([held.piece(row, number, pieces) for held in (self.later, self.earlier)])


def bank_key(extractor: Extractor, augmentation: Augmentation | None) -> dict[str, Any]:
    """What a bank is made of: weights, contract, view, samples and their files, precision, device type, versions."""
    index = extractor.dataset.index
    return {
        "format": 2,
        "backbone": extractor.backbone.fingerprint(),
        "behaviour": extractor.backbone.behaviour(),
        "contract": asdict(extractor.view.contract),  # with what stands for a band that the data lacks
        "band_order": list(extractor.view.order),
        **({"shift": list(extractor.view.shift)} if any(extractor.view.shift) else {}),
        "input_resize": extractor.view.input_resize,
        "view": asdict(augmentation) if augmentation else "evaluation",
        "root": str(index.root.resolve()),
        "samples": ids_sha256(index.ids),
        "max_invalid_fraction": extractor.dataset.card.signal.max_invalid_fraction,
        "nodata": list(extractor.dataset.card.signal.nodata),
        "amp": extractor.amp,
        "compiled": extractor.compiled,
        "device": extractor.device.type,
        "torch": torch.__version__,
        "timm": importlib.metadata.version("timm"),
        "opencv": cv2.__version__,
        # equal tensors under another patch, wavelength or month give other features
        **({"fed": extractor.backbone.inputs} if extractor.backbone.inputs else {}),
        **({"code": version_of(extractor.backbone.name)} if adapter_of(extractor.backbone.name) else {}),
        **({"statistics": sorted(extractor.view.statistics.items())} if extractor.view.statistics else {}),
        **{name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in sorted(extractor.extra.items())},
    }


def version_of(model: str) -> str | None:
    """Version of the library that carries an encoder, None where it is not installed as a package of its own."""
    entry = adapter_of(model)
    try:
        return None if entry is None else importlib.metadata.version(entry.carrier)
    except importlib.metadata.PackageNotFoundError:
        return None


def fill_bank(
    extractor: Extractor,
    rows: Rows,
    cache: Path,
    augmentation: Augmentation | None,
    spent: Spent,
    step: Callable[[int], object],
) -> Bank:
    """The bank that holds `rows`, computing what is missing or damaged; `step` is called with the number of images
    done.

    Two processes never compute the same bank at once. Raises BenchError when the cache folder cannot be written or is
    full.
    """
    key = bank_key(extractor, augmentation)
    # the folder's name is what the bank is made of: another backbone or view is another folder
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    dataset = extractor.dataset
    # each row is known by the pixels it came from, not by its file; by the file only before the pixels have been read
    folder, stamps = cache / "features" / name, dataset.index.stamps if dataset.content is None else dataset.content
    bank: Bank | None = None
    world = extractor.world
    with _writing(folder, world):
        if world.rank == 0:
            bank = _create(folder, key, stamps, extractor.backbone.feature_dim)
        # rank 0 alone has the bank; sorted, so that reading follows the disk
        missing = world.broadcast(None if bank is None else np.sort(rows[bank.marks[rows] == ABSENT]))
        step(len(rows) - len(missing))
        for chunk, features, usable in extract(extractor, missing, augmentation, spent):
            if bank is not None:
                bank.put(chunk, features, usable, stamps[chunk])
            step(len(chunk))
        # nobody opens the bank before its last row is written
        world.barrier()
    extractor.dataset.samples.let_go(rows)  # what was in the bank already, and what other processes have read
    if bank is None:
        if not (folder / "marks.u32").exists():
            raise BenchError(f"{folder} is not there on every machine", "give a --cache_dir that all processes share")
        bank = Bank(folder, len(stamps), extractor.backbone.feature_dim)
    return bank


@contextmanager
def _writing(folder: Path, world: World) -> Iterator[None]:
    """Rank 0 holds the bank's lock; errors of the operating system become one line.

    A new bank that failed before its first row is taken back; one that holds rows stays until the fault is repaired.
    """
    made: list[Path] = []
    try:
        if world.rank:
            yield
            return
        made = missing_folders(folder)
        with wait_for_lock(folder / "lock"):
            try:
                yield
            except (BenchError, RunFailed, OSError):
                if made and not _holds_rows(folder):  # under the lock: who waits for it makes the folder anew
                    shutil.rmtree(folder, ignore_errors=True)
                raise
    except (BenchError, RunFailed, OSError) as error:
        remove_empty(made)
        if isinstance(error, OSError):
            raise os_error(error, folder) from error
        raise


def _holds_rows(folder: Path) -> bool:
    marks = folder / "marks.u32"
    return marks.exists() and bool(np.fromfile(marks, np.uint32).any())


def _create(folder: Path, key: dict[str, Any], stamps: NDArray[np.uint64], dim: int) -> Bank:
    """The bank in `folder`, made if need be, without its damaged and outdated rows."""
    # float32 features, uint32 marks, uint64 stamps
    _allocate(folder / "features.f32", len(stamps) * dim * 4)
    _allocate(folder / "marks.u32", len(stamps) * 4)
    _allocate(folder / "stamps.u64", len(stamps) * 8)
    if not (folder / "made_of.json").exists():
        write_json(folder / "made_of.json", key)
    bank = Bank(folder, len(stamps), dim)
    bank.forget(stamps)
    return bank


def _allocate(path: Path, size: int) -> None:
    """Make a file of `size` bytes with its blocks reserved, so that a full disk is an error here and no crash later."""
    if path.exists() and path.stat().st_size == size:
        return
    path.unlink(missing_ok=True)
    with replacing(path, durable=False) as temporary, open(temporary, "rb+") as handle:
        os.posix_fallocate(handle.fileno(), 0, size)


def _checksum(row: NDArray[np.float32]) -> int:
    return max(zlib.crc32(row.tobytes()), FIRST_CHECKSUM)
