"""One BigEarthNet patch: its files, and its two bands as one image."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from fgmae_bench.config.cards import Card
from fgmae_bench.data.bigearthnet.labels import parse_s1
from fgmae_bench.data.raster import read_chip
from fgmae_bench.data.signal import valid_mask
from fgmae_bench.data.synthetic import SYNTHETIC_TAG
from fgmae_bench.data.tiff import read_plain
from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip

METADATA = "_labels_metadata.json"


def band_file(folder: Path, band: str) -> Path:
    """Where a patch keeps one band."""
    return folder / f"{folder.name}_{band}.tif"


def image_of(folder: Path) -> Path:
    """The file of a patch that its georeference is read from."""
    return band_file(folder, "VV")


def image_of_v2(path: Path) -> Path:
    """The same of v2, see `read_patch_v2`."""
    return image_of(_folder_v2(path))


def _folder_v2(path: Path) -> Path:
    return path.parent / parse_s1(path.name).scene / path.name


def read_patch(folder: Path, card: Card) -> Chip:
    """Chip (2, H, W) dB of `<S1>/<S1>_VV.tif` and `<S1>/<S1>_VH.tif`, in the card's order of bands.

    Raises BenchError naming the file: a band that is missing, empty, truncated, of another size, constant or without
    valid pixels.
    """
    chip = _read_faultless(folder, card)
    return chip if chip is not None else _read_any(folder, card)


def read_patch_v2(path: Path, card: Card) -> Chip:
    """The same of v2, where patches are in the folder of their scene: `path` is `<root>/<S1>`, the files
    `<root>/<scene>/<S1>/…`.
    """
    return read_patch(_folder_v2(path), card)


def _read_faultless(folder: Path, card: Card) -> Chip | None:
    """The chip of two plain files of which every pixel is valid, as nearly all are; None for any other."""
    if card.signal.converted:
        return None
    db, synthetic = np.empty((len(card.signal.bands), *card.signal.size), np.float32), False
    for plane, band in zip(db, card.signal.bands, strict=True):
        plain = read_plain(band_file(folder, band))
        if plain is None or plain.nodata or plain.db.shape != (1, *plane.shape):
            return None
        plane[...] = plain.db[0]
        synthetic |= SYNTHETIC_TAG.encode() in plain.metadata
        if plane.min() == plane.max():
            return None
    return Chip(db=db, valid=None, synthetic=synthetic) if valid_mask(db, card.signal).all() else None


def _read_any(folder: Path, card: Card) -> Chip:
    chips = []
    for band in card.signal.bands:
        path = band_file(folder, band)
        if not path.is_file():
            raise BenchError(f"{path} is missing", "restore it from the archive, or remove the patch")
        chips.append(read_chip(path, dataclasses.replace(card, signal=dataclasses.replace(card.signal, bands=(band,)))))
    valid = None
    if any(chip.valid is not None for chip in chips):
        valid = np.concatenate([np.ones(chip.db.shape, bool) if chip.valid is None else chip.valid for chip in chips])
    return Chip(
        db=np.concatenate([chip.db for chip in chips]), valid=valid, synthetic=any(chip.synthetic for chip in chips)
    )
