"""One BigEarthNet-S1 patch from its two files to backscatter, bands told apart by file name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from fgmae_bench.cards import Card
from fgmae_bench.data.raster import Chip, read_chip
from fgmae_bench.errors import BenchError

METADATA = "_labels_metadata.json"


def band_file(folder: Path, band: str) -> Path:
    """Where a patch keeps one band."""
    return folder / f"{folder.name}_{band}.tif"


def read_patch(folder: Path, card: Card) -> Chip:
    """Chip (2, H, W) dB of `<S1>/<S1>_VV.tif` and `<S1>/<S1>_VH.tif`, in the card's order of bands.

    Raises BenchError naming the file: a band that is missing, empty, truncated, of another size, constant or without valid pixels.
    """
    chips = []
    for band in card.signal.bands:
        path = band_file(folder, band)
        if not path.is_file():
            raise BenchError(f"{path} is missing", "restore it from the archive, or remove the patch")
        chips.append(read_chip(path, dataclasses.replace(card, signal=dataclasses.replace(card.signal, bands=(band,)))))
    valid = None
    if any(chip.valid is not None for chip in chips):
        valid = np.concatenate([np.ones(chip.db.shape, bool) if chip.valid is None else chip.valid for chip in chips])
    return Chip(db=np.concatenate([chip.db for chip in chips]), valid=valid, synthetic=any(chip.synthetic for chip in chips))
