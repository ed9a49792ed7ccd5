"""The bank of labels: codes of one source for every image as one memory-mapped file, found again by what they were made
of.

With the bank of features it leaves a training batch on frozen maps nothing to read but rows of two files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.dfc.ready import maps_key
from fgmae_bench.data.index import Index, Rows
from fgmae_bench.data.labels import Codes, Source
from fgmae_bench.data.sample_cache import BROKEN_ARRAY
from fgmae_bench.data.samples import Samples
from fgmae_bench.data.schemes import card_source
from fgmae_bench.data.splits import PARTS
from fgmae_bench.errors import BenchError, os_error
from fgmae_bench.features.loader import ahead
from fgmae_bench.metrics.segmentation import IGNORE
from fgmae_bench.system.files import lock_and_clean_up, replacing
from fgmae_bench.system.progress import Progress

CHUNK = 64  # images that a thread reads before it hands them over


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelBank:
    """`values` (N, H, W) uint8 by row of the index: codes of `source`, 255 under invalid pixels and where a sample has
    no labels.
    """

    values: NDArray[np.uint8]
    source: Source

    def codes(self, rows: Rows) -> Codes:
        """Labels (B, H, W) of some rows."""
        return Codes(values=self.values[rows], source=self.source)


class SeveralSizes(Exception):
    """The images of a dataset are not of one size."""


def label_key(card: Card, index: Index, source: Source) -> str:
    """What a bank is made of: the files, all that the card says of reading images, which makes pixels invalid, and of
    the label maps, and the codes that the source allows.
    """
    facts = {
        "format": 2,
        "card": card.name,
        "version": card.version,
        "files": index.signature,
        "signal": repr(card.signal),
        "arrangement": repr(card.arrangement),
        "source": source.name,
        "maps": maps_key(index, source.name),
        "codes": sorted({*source.codes, *source.unlabelled}),
        **({"raw": source.facts} if source.raw else {}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def label_banks(dataset: Dataset, sources: set[str], cache: Path, *, workers: int, show: bool) -> dict[str, LabelBank]:
    """Banks by label source, without sources whose images are of several sizes; `show` the progress."""
    banks, index = {}, dataset.index
    for source in sorted(sources):
        with Progress(f"{source} labels", len(index.files), "images", show=show) as progress:
            bank = fill_label_bank(
                dataset.card, index, source, cache, samples=dataset.samples, workers=workers, step=progress.step
            )
        if bank is not None:
            banks[source] = bank
    used = set(np.concatenate([getattr(dataset.parts, part) for part in PARTS]).tolist())
    dataset.samples.let_go(row for row in range(len(index.files)) if row not in used)
    return banks


def fill_label_bank(
    card: Card,
    index: Index,
    name: str,
    cache: Path,
    *,
    samples: Samples | None = None,
    workers: int = 4,
    step: Callable[[int], object] = lambda count: None,
) -> LabelBank | None:
    """The bank of the label source `name`, read from the files once, ever; None where the images are of several sizes.

    `samples` holds what was read before; `step` is called with the number of images done. The file appears whole; of
    two processes one writes, the other waits. Raises BenchError: a broken image or label map, a cache folder that
    cannot be written or is full.
    """
    source, count = card_source(card, name), len(index.files)
    path = cache / "labels" / f"{label_key(card, index, source)}.npy"
    try:
        values = _stored(path, count)
        if values is not None:
            step(count)
            return LabelBank(values=values, source=source)
        # looked at again under the lock: another process may have written it meanwhile
        with lock_and_clean_up(path.with_suffix(".lock")):
            if _stored(path, count) is None:
                _write(samples or Samples(card=card, index=index), name, path, workers, step)
        values = _stored(path, count)
    except SeveralSizes:
        return None
    except OSError as error:
        raise os_error(error, path) from error
    if values is None:
        raise BenchError(f"{path} was changed while it was in use", "run the command again")
    return LabelBank(values=values, source=source)


def _stored(path: Path, count: int) -> NDArray[np.uint8] | None:
    """The array in a file, None where there is none of `count` images."""
    try:
        values: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, *BROKEN_ARRAY):
        return None
    if not isinstance(values, np.ndarray) or values.dtype != np.uint8 or values.ndim != 3:
        return None
    return values if len(values) == count else None


def _write(samples: Samples, name: str, path: Path, workers: int, step: Callable[[int], object]) -> None:
    """Write the file by rename; raises SeveralSizes, and leaves no file."""
    rows = np.arange(len(samples.index.files))
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    shape: tuple[int, ...] | None = None
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        for images in ahead(lambda chunk: [_labels(samples, int(row), name) for row in chunk], chunks, workers):
            if shape is None:
                shape = images[0].shape
                # numpy's own header first, then the rows as they come: the whole array is never in memory
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *shape)}
                np.lib.format.write_array_header_1_0(stream, header)
            if any(image.shape != shape for image in images):
                raise SeveralSizes
            stream.write(np.stack(images).data)
            step(len(images))


def _labels(samples: Samples, row: int, name: str) -> NDArray[np.uint8]:
    """Codes (H, W) of one sample with IGNORE where there is nothing to learn."""
    chip, index = samples.chip(row), samples.index  # the bank of features takes the image
    if index.maps is not None and not index.maps.has(row, name):
        return np.full(index.size or samples.card.signal.size, IGNORE, np.uint8)
    codes = samples.take_codes(row, name)
    return codes.where(chip.valid if chip.ready is None else None).values  # those of a uint8 pack have it already
