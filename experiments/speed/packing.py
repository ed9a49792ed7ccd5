"""Packing BigEarthNet-S1 patches, and reading training views from the pack, side by side with the usual way.

  python experiments/speed/packing.py [--patches 10000] [--workers 2]
The usual way is that of published SAR code: two rasterio opens a patch, cubic resize 120 -> 128, pickle, six loader
workers,
one writer that commits every 10,000; then per sample unpickle, two `np.quantile` over the bands, eight bits, random
crop to
224. Wanted on two cores: packing 4x, training views 10x from uint8 and 4x from float32. Measured there, files in the
page cache, several times: packing 3.1x to 4.3x as float32 (the disk decides) and 8.6x to 11.3x as uint8, views 10.1x to
10.3x from uint8
and 3.8x to 4.0x from float32; anonymous memory flat at 240 MiB.
"""

from __future__ import annotations

import argparse
import dataclasses
import pickle
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import psutil
import rasterio
from measured import keep
from rasterio.transform import Affine

from fgmae_bench.config.cards import Card, load_card
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.data.bigearthnet.patch import read_patch
from fgmae_bench.data.index import Index
from fgmae_bench.data.packs.read import open_pack
from fgmae_bench.data.packs.write import write_pack
from fgmae_bench.views.classification import Augmentation, make_view

FULL = 590_326
TEMPLATES, SIDE, RESIZED, BATCH, ROUNDS = 64, 120, 128, 32, 5
AUGMENTATION = Augmentation(seed=0, epoch=0, crop_scale=0.2)


def write_patches(root: Path, count: int, classes: int) -> Index:
    """Patch folders in the true layout, from a few speckled templates, and their index."""
    dice, contents = np.random.default_rng(0), []
    for number in range(TEMPLATES):
        for mean in (-12, -19):
            speckle = cv2.GaussianBlur(dice.gamma(4.4, 1 / 4.4, (SIDE, SIDE)).astype(np.float32), (3, 3), 0.6)
            image, path = (
                (10 * np.log10(speckle) + mean + dice.normal(0, 3)).astype(np.float32),
                root / f"template{number}.tif",
            )
            profile = {
                "driver": "GTiff",
                "dtype": "float32",
                "count": 1,
                "height": SIDE,
                "width": SIDE,
                "crs": "EPSG:32633",
            }
            with rasterio.open(path, "w", **profile, transform=Affine(10, 0, 384000, 0, -10, 5342400)) as target:
                target.write(image, 1)
            contents.append(path.read_bytes())
            path.unlink()
    names = sorted(f"S1A_IW_GRDH_1SDV_20170613T165043_33UUP_{i // 100}_{i % 100}" for i in range(count))
    for i, name in enumerate(names):
        (root / name).mkdir()
        for k, band in enumerate(("VV", "VH")):
            (root / name / f"{name}_{band}.tif").write_bytes(contents[2 * (i % TEMPLATES) + k])
    labels = (dice.random((count, classes)) < 0.15).astype(np.uint8)
    stamps = np.arange(count, dtype=np.uint64)
    return Index(
        root=root,
        files=tuple(names),
        labels=labels,
        stamps=stamps,
        synthetic="speed",
        groups=("33UUP",) * count,
        reader=read_patch,
    )


class UsualDataset:
    """One patch as the published preparation reads it."""

    def __init__(self, index: Index):
        self.index = index

    def __len__(self) -> int:
        return len(self.index.files)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (128, 128, 2) float32 and target (19,) float32."""
        folder, bands = self.index.path(row), []
        for band in ("VV", "VH"):
            with rasterio.open(folder / f"{folder.name}_{band}.tif") as source:
                bands.append(cv2.resize(source.read(1), (RESIZED, RESIZED), interpolation=cv2.INTER_CUBIC))
        return np.stack(bands, axis=-1), self.index.labels[row].astype(np.float32)


def first(samples: list[Any]) -> Any:
    """A batch of one without its batch."""
    return samples[0]


def usual_pack(index: Index, out: Path) -> None:
    """The usual writer."""
    import torch  # here, so that our readers, which import this file, are not slower to start than the command's

    loader: Any = torch.utils.data.DataLoader(UsualDataset(index), num_workers=6, batch_size=1, collate_fn=first)
    environment = lmdb.open(str(out), map_size=1 << 40)
    writing = environment.begin(write=True)
    for number, (image, target) in enumerate(loader):
        writing.put(str(number).encode(), pickle.dumps((image.tobytes(), image.shape, target.tobytes())))
        if number % 10_000 == 0:
            writing.commit()
            writing = environment.begin(write=True)
    writing.commit()
    environment.sync()
    environment.close()


def usual_views(path: Path, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Training views (2, 224, 224) uint8 of the usual pack, sample by sample."""
    import torch
    from torchvision.transforms import RandomResizedCrop

    torch.set_num_threads(1)
    environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, meminit=False)
    whole = torch.empty(1, RESIZED, RESIZED)
    for row in rows:
        with environment.begin() as reading:
            data, shape, _ = pickle.loads(reading.get(str(row).encode()))
        image = np.frombuffer(data, np.float32).reshape(shape)
        high, low = (np.quantile(image.reshape(-1, 2), q, axis=0) for q in (0.99, 0.01))
        bands = []
        for band, (mean, std) in enumerate(zip(FGMAE_CONTRACT.mean, FGMAE_CONTRACT.std, strict=True)):
            plane = image[..., band].copy()
            plane[plane > high[band]] = high[band]
            plane[plane < low[band]] = low[band]
            plane = (plane - (mean - 2 * std)) / (4 * std) * 255.0
            bands.append(np.clip(plane, 0, 255).astype(np.uint8)[..., None])
        top, left, height, width = RandomResizedCrop.get_params(whole, (0.2, 1.0), (3 / 4, 4 / 3))
        view = cv2.resize(
            np.concatenate(bands, axis=2)[top : top + height, left : left + width],
            (224, 224),
            interpolation=cv2.INTER_LINEAR,
        )
        yield np.ascontiguousarray((cv2.flip(view, 1) if torch.rand(1) < 0.5 else view).transpose(2, 0, 1))
    environment.close()


def our_views(card: Card, path: Path, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The same from one of our packs, in batches as a run reads them."""
    index, view = open_pack(card, path), make_view(card, FGMAE_CONTRACT, None)
    for start in range(0, len(rows), BATCH):
        chunk = rows[start : start + BATCH]
        yield from view.batch([index.read(row, card) for row in chunk], [index.ids[row] for row in chunk], AUGMENTATION)


class Memory:
    """Peak anonymous memory of this process and its children in bytes, sampled while the block runs."""

    def __enter__(self) -> Memory:
        self.peak, self.over = 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.over.wait(0.05):
            total = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    held = process.memory_info()
                    total += held.rss - held.shared
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def timed(work: Callable[[], object]) -> tuple[float, int]:
    """(seconds, peak anonymous bytes)."""
    with Memory() as memory:
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
    return seconds, memory.peak


def size(path: Path) -> int:
    """Bytes of a pack."""
    return (path / "data.mdb").stat().st_size


def packing(card: Card, index: Index, root: Path, workers: int) -> None:
    """Pack three ways and print patches/s, ratios, and what the whole dataset would take."""
    count, view = len(index.files), make_view(card, FGMAE_CONTRACT, None)
    part, ours = count // 10, {}
    tenth = dataclasses.replace(
        index,
        files=index.files[:part],
        labels=index.labels[:part],
        stamps=index.stamps[:part],
        groups=index.groups and index.groups[:part],
    )
    for name, kind in (("float32", None), ("uint8", view)):  # first, as the usual writer leaves memory behind
        _, small = timed(
            lambda kind=kind, name=name: write_pack(card, tenth, root / f"tenth-{name}", view=kind, workers=workers)
        )
        seconds, peak = timed(
            lambda kind=kind, name=name: write_pack(card, index, root / name, view=kind, workers=workers)
        )
        ours[name] = (seconds, f"{peak / 2**20:.0f} MiB, for a tenth of them {small / 2**20:.0f}")
    usual, peak = timed(lambda: usual_pack(index, root / "usual"))
    print(f"packing {count} patches with {workers} workers; anonymous memory of all processes")
    print(f"  usual    {count / usual:>7.0f} patches/s, {peak / 2**20:.0f} MiB")
    for name, (seconds, memory) in ours.items():
        whole, gib = seconds * FULL / count / 60, size(root / name) * FULL / count / 2**30
        print(f"  {name:<8} {count / seconds:>7.0f} patches/s, {usual / seconds:.1f}x (wanted: 4x), {memory}")
        print(f"           {FULL} patches: {whole:.0f} min, {gib:.1f} GiB")
    keep(**{f"pack_{name}": usual / seconds for name, (seconds, _) in ours.items()})


def reading(card: Card, root: Path, count: int) -> None:
    """Training views on one core, three ways in turns."""
    rows = np.random.default_rng(1).permutation(count)[:2048]
    ways = {
        "usual": lambda: usual_views(root / "usual", rows),
        "float32": lambda: our_views(card, root / "float32", rows),
        "uint8": lambda: our_views(card, root / "uint8", rows),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            for _view in way():
                pass
            seconds[name].append(time.perf_counter() - start)
    usual = statistics.median(seconds["usual"])
    print("training views on one core")
    for name, wanted in (("usual", ""), ("float32", " (wanted: 4x)"), ("uint8", " (wanted: 10x)")):
        median = statistics.median(seconds[name])
        print(f"  {name:<8} {len(rows) / median:>7.0f} views/s, {usual / median:.1f}x{wanted}")
    keep(**{f"read_{name}": usual / statistics.median(seconds[name]) for name in ("float32", "uint8")})


def main() -> None:
    """Write patches, pack, read."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--patches", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    card = load_card("bigearthnet")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "patches").mkdir()
        index = write_patches(root / "patches", options.patches, len(card.classes))
        packing(card, index, root, options.workers)
        cv2.setNumThreads(1)
        reading(card, root, options.patches)


if __name__ == "__main__":
    main()
