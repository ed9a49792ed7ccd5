"""The input contract: what a backbone was trained on, to be met by what a dataset holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BANDS = ("VV", "VH")


def parse_bands(text: str) -> tuple[str, ...]:
    """`"vh, vv"` to `("VH", "VV")`."""
    return tuple(part.strip().upper() for part in text.split(","))


@dataclass(frozen=True, kw_only=True)
class InputContract:
    """Input that a backbone expects. `mean` and `std` in dB per band; `size` in pixels, 0 = the dataset's own.

    `assumed` where nobody stated what the weights were trained on: such a run fills no row of a table. `transductive`
    where an image's input depends on the others of its batch: such a run is in tables, but in no rank.
    """

    bands: tuple[str, ...] = BANDS
    normalizer: str = "fgmae"
    mean: tuple[float, ...] = (-12.59, -20.26)
    std: tuple[float, ...] = (5.26, 5.91)
    size: int = 224
    calibration: str = "sigma0"  # of the pre-training data; cannot be seen in pixels
    geometry: Literal["resize_crop", "native"] = "resize_crop"
    assumed: bool = False
    transductive: bool = False


# FGMAE, MAE and SoftCon weights for Sentinel-1: constants of the transfer code of zhu-xlab/FGMAE.
FGMAE_CONTRACT = InputContract()
# Statistics of raw backscatter: dB values at the dataset's own size, invalid pixels as NaN.
RAW_CONTRACT = InputContract(normalizer="db", size=0, geometry="native")
