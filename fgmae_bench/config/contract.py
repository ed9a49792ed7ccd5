"""The input contract: what a backbone was trained on, to be met by what a dataset holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fgmae_bench.errors import BenchError

BANDS = ("VV", "VH")
POLARISATIONS = ("VV", "VH", "HH", "HV")
COPOL_ABOVE_CROSSPOL_DB = 7.7  # VV - VH of the means of SSL4EO-S12, -12.59 and -20.26 dB


def parse_bands(text: str) -> tuple[str, ...]:
    """`"vh, vv"` to `("VH", "VV")`."""
    return tuple(part.strip().upper() for part in text.split(","))


@dataclass(frozen=True, kw_only=True)
class InputContract:
    """Input that a backbone expects. `mean` and `std` in dB per band; `size` in pixels, 0 = the dataset's own.

    `assumed` where nobody stated what the weights were trained on: such a run fills no row of a table. `transductive`
    where an image's input depends on the others of its batch: such a run is in tables, but not ranked.
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
    # What stands for a band that the data does not have. mean: the band's mean after the normaliser, as for invalid
    # pixels; mask: NaN, which the encoder leaves out by a mask of its own.
    missing_band: Literal["mean", "mask"] = "mean"

    def of(self, bands: tuple[str, ...]) -> InputContract:
        """The contract for some of its bands alone."""
        places = [self.bands.index(band) for band in bands]
        mean, std = (tuple(values[place] for place in places) for values in (self.mean, self.std))
        return replace(self, bands=bands, mean=mean, std=std)


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Which bands of a dataset stand for those of a contract.

    `order` holds for each band of the contract its place in the data, -1 where it is missing; `shift` what is added to
    it, dB; `words` say in a sentence what is not as usual, empty where nothing is.
    """

    order: tuple[int, ...]
    shift: tuple[float, ...] = (0.0, 0.0)
    words: tuple[str, ...] = ()


def feed(
    held: tuple[str, ...], contract: InputContract, missing_band: str | None = None, bands_as: str | None = None
) -> Feed:
    """How data with the bands `held` is fed to a backbone.

    A band that the data lacks is the encoder's own mask, or the band's mean after the normaliser; with `missing_band`
    "offset" it is the other band, 7.7 dB away. Nothing is repeated as it is, and HH or HV never stand for VV or VH
    unless `bands_as`, such as "HH=VV,HV=VH", says so. Raises BenchError where no band of the contract is left.
    """
    named, words = _renamed(held, contract, bands_as)
    order = [named.index(band) if band in named else -1 for band in contract.bands]
    if max(order) < 0:
        wanted = ",".join(f"{band}={wanted}" for band, wanted in (("HH", "VV"), ("HV", "VH")) if band in held)
        todo = f"pass --bands_as {wanted} to feed them nevertheless, which is noted"
        raise BenchError(f"the data holds {' and '.join(held)}, the backbone expects {', '.join(contract.bands)}", todo)
    shift = [0.0] * len(order)
    there = next(place for place, found in enumerate(order) if found >= 0)
    for place, band in enumerate(contract.bands):
        if order[place] >= 0:
            continue
        if missing_band == "offset":
            shift[place] = _away(band)
            order[place] = order[there]
            words.append(f"{band} is missing: fed as {contract.bands[there]} {shift[place]:+.1f} dB")
        else:
            masked = contract.missing_band == "mask" and missing_band != "mean"
            rule = "masked by the encoder" if masked else "fed as its mean after the normaliser"
            words.append(f"{band} is missing: {rule}")
    return Feed(order=tuple(order), shift=tuple(shift), words=tuple(words))


def _away(band: str) -> float:
    """What is added to the other band, dB, for it to stand for `band`."""
    return COPOL_ABOVE_CROSSPOL_DB * (1 if band == BANDS[0] else -1)


def require_read(
    reader: str, band: str, held: tuple[str, ...], missing_band: str | None = None, bands_as: str | None = None
) -> None:
    """Raise BenchError where `band`, all that `reader` looks at, has no place in data with the bands `held`.

    Every image would be the same constant to it. `missing_band` and `bands_as` as of `feed`.
    """
    place = BANDS.index(band)
    if feed(held, FGMAE_CONTRACT, missing_band, bands_as).order[place] >= 0:
        return
    alike, other = ("HH", "HV")[place], BANDS[1 - place]
    todo = (
        f"add {alike}={band} to --bands_as"
        if alike in held
        else f"pass --missing_band offset to feed {other} {_away(band):+.1f} dB in its place, which is noted"
    )
    what = f"{reader} reads {band} alone, for which data with {' and '.join(held)} has nothing"
    raise BenchError(what, f"{todo}, or choose one that reads {other}")


def _renamed(held: tuple[str, ...], contract: InputContract, bands_as: str | None) -> tuple[tuple[str, ...], list[str]]:
    """(names that the bands of the data have for the backbone, what was renamed in words)."""
    names, words = dict(zip(held, held, strict=True)), []
    for pair in filter(None, (bands_as or "").split(",")):
        own, _, wanted = (part.strip().upper() for part in pair.partition("="))
        if own not in held or wanted not in contract.bands or wanted in names.values():
            missing = ", ".join(band for band in contract.bands if band not in held) or "no band"
            todo = f"give pairs such as HH=VV: a band of {', '.join(held)} for one that is missing ({missing})"
            raise BenchError(f"--bands_as is {bands_as}", todo)
        names[own] = wanted
        words.append(f"{own} stands for {wanted}, as asked")
    return tuple(names.values()), words


# FGMAE, MAE and SoftCon weights for Sentinel-1: constants of the transfer code of zhu-xlab/FGMAE.
FGMAE_CONTRACT = InputContract()
# Statistics of raw backscatter: dB values at the dataset's own size, invalid pixels as NaN.
RAW_CONTRACT = InputContract(normalizer="db", size=0, geometry="native")
