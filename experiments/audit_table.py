"""Audit of genuine Sentinel-1 chips changed every way that data arrives in: verdict and advice of each.

  python experiments/audit_table.py [--realdata ../shared/realdata] [--advice]
For each set of genuine chips and each change: the units that the audit recognises, what a run under a card that states
VV and VH in dB would be told, and whether that is right. Wrong verdicts and abstentions ("ask") are counted apart.
Expected: none wrong. About a minute.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card, load_card
from fgmae_bench.data.audit import MIN_IMAGES, Verdict, judge, measure
from fgmae_bench.data.signal import band_places, valid_mask
from fgmae_bench.errors import BenchError
from fgmae_bench.views.chip import Chip

Pixels = NDArray[np.float64]  # (2, H, W) dB, VV first
SIDE = 64


def unit_interval(db: Pixels) -> Pixels:
    """-30..0 dB on 0..1."""
    return np.clip((db + 30) / 30, 0, 1)


def filled(value: float) -> Callable[[Pixels], Pixels]:
    """A corner of each chip without data, and `value` there."""

    def change(db: Pixels) -> Pixels:
        changed = db.copy()
        changed[:, : db.shape[1] // 4, : db.shape[2] // 3] = value
        return changed

    return change


def stretched(db: Pixels) -> Pixels:
    """-35..7.5 dB on 1..255."""
    return np.round(np.clip((db + 35) * 6, 1, 255))


def angle_third(db: Pixels) -> Pixels:
    """The third band of an export of Earth Engine."""
    ramp = np.linspace(0, 0.1, db.shape[2]) + np.zeros(db.shape[1:])
    return np.concatenate([db, ramp[None] + 38.2])


# Name -> (change, units that are right, what the refusal must say: nothing where a run may go on).
CHANGES: dict[str, tuple[Callable[[Pixels], Pixels], str, str]] = {
    "dB": (lambda db: db, "dB", ""),
    "linear power": (lambda db: 10 ** (db / 10), "linear_power", 'units = "linear_power"'),
    "amplitude": (lambda db: 10 ** (db / 20), "amplitude", 'units = "amplitude"'),
    "amplitude, digital numbers": (lambda db: np.round(10 ** (db / 20) * 1000), "amplitude", 'units = "amplitude"'),
    "dB x 100, int16": (lambda db: np.round(db * 100), "scaled", "scale = 0.01"),
    "8 bit of dB": (stretched, "eight_bit", "scale and offset"),
    "8 bit of amplitude": (lambda db: np.round(np.clip(10 ** (db / 20) * 255, 0, 255)), "eight_bit", "8 bits"),
    "dB on 0..1": (unit_interval, "scaled", "scale and offset"),
    "dB on -1..1": (lambda db: 2 * unit_interval(db) - 1, "scaled", "scale and offset"),
    "log10 of power": (lambda db: db / 10, "logarithm", "10.0 for log10"),
    "ln of power": (lambda db: db * np.log(10) / 10, "logarithm", "4.343"),
    "ln of amplitude": (lambda db: db * np.log(10) / 20, "logarithm", "8.686"),
    "20 log10 of power": (lambda db: 2 * db, "logarithm", "0.5"),
    "half dB: 10 log10 of amplitude": (lambda db: db / 2, "half_dB", "scale = 2.0"),
    "swapped": (lambda db: db[::-1], "dB", "--band_order VH,VV"),
    "swapped, linear power": (lambda db: 10 ** (db[::-1] / 10), "linear_power", 'units = "linear_power"'),
    "VV twice": (lambda db: db[[0, 0]], "dB", "one band twice"),
    "angle third": (angle_third, "dB", "index under [signal]"),
    "clipped to -25..0 dB": (lambda db: np.clip(db, -25, 0), "dB", ""),
    "clipped to -30..-5 dB": (lambda db: np.clip(db, -30, -5), "dB", ""),
    **{f"fill {value:g}": (filled(value), "dB", f"nodata = [{value}]") for value in (-9999.0, -32768.0, -50.0, -99.0)},
    "fill NaN": (filled(np.nan), "dB", ""),
    "fill 0 dB": (filled(0.0), "dB", ""),
    "linear power, fill -9999": (lambda db: filled(-9999.0)(10 ** (db / 10)), "linear_power", "nodata = [-9999.0]"),
}


def genuine_sets(root: Path) -> Iterator[tuple[str, list[Pixels]]]:
    """(name, chips (2, 64, 64) dB, VV first) of each set of genuine pixels; whole scenes are cut."""
    for name in ("eurosat_layout_chips", "s1f_chips"):
        yield name, [_pixels(path) for path in sorted((root / name).rglob("*.tif"))]
    scenes = [_pixels(path) for path in sorted((root / "terramesh_s1rtc" / "S1RTC").glob("*.tif"))]
    yield "terramesh_s1rtc", [chip for scene in scenes for chip in _cut(scene)]
    for name in ("bigearthnet_s1_v1", "bigearthnet_v2_rico_hdl", "ssl4eo_s12_s1"):
        pairs = [
            np.concatenate([_pixels(path), _pixels(path.with_name(path.name.replace("VV.tif", "VH.tif")))])
            for path in sorted((root / name).rglob("*VV.tif"))
        ]
        yield name, [chip for scene in pairs for chip in _cut(scene, 32)]
    flooded = [_pixels(path) for path in sorted((root / "sen1floods11_hand" / "S1").glob("*.tif"))]
    for path, scene in zip(sorted((root / "sen1floods11_hand" / "S1").glob("*.tif")), flooded, strict=True):
        chips = [chip for chip in _cut(scene) if np.isfinite(chip).all()]
        if chips:
            yield path.stem, chips


def _pixels(path: Path) -> Pixels:
    with rasterio.open(path) as source:
        values: Pixels = source.read().astype(np.float64)
    return values


def _cut(scene: Pixels, side: int = SIDE) -> list[Pixels]:
    height, width = (length // side * side for length in scene.shape[1:])
    return [scene[:, y : y + side, x : x + side] for y in range(0, height, side) for x in range(0, width, side)]


def audited(chips: list[Pixels], change: Callable[[Pixels], Pixels], card: Card) -> tuple[str, str]:
    """(units recognised, why a run under `card` is refused, empty where it goes on) of changed chips."""
    changed = [change(chip) for chip in chips]
    try:
        places = band_places(card, len(changed[0]), ("VV", "VH", "angle")[: len(changed[0])], Path("chip.tif"))
    except BenchError as refused:  # a reader refuses before any pixel is judged; under the index that it asks for:
        return verdict_of([chip[:2] for chip in changed], card).units, str(refused)
    verdict = verdict_of([chip[places] for chip in changed], card)
    refusal = verdict.refusal
    return verdict.units, str(refusal) if refusal else ""


def verdict_of(chips: list[Pixels], card: Card) -> Verdict:
    """The audit's verdict on arrays as they would be read: float32, runs of zeros and NaN masked."""
    held = []
    for chip in chips:
        stored = chip.astype(np.float32)
        valid = valid_mask(stored, card.signal)
        held.append(Chip(db=stored, valid=None if valid.all() else valid, synthetic=False))
    return judge(card, measure(held, card.signal.bands), "the data")


def table(root: Path, most: int = 64) -> Iterator[tuple[str, str, str, str, str]]:
    """(set, change, units recognised, refusal, "right", "wrong" or "asks") of every set and change."""
    shipped = load_card("eurosat")
    card = dataclasses.replace(shipped, title="the card", signal=dataclasses.replace(shipped.signal, nodata=()))
    for name, chips in genuine_sets(root):
        some = chips[:: max(1, len(chips) // most)]
        while len(some) < MIN_IMAGES:  # a verdict needs so many images: the same ones again
            some = some + some
        for change, (function, units, wanted) in CHANGES.items():
            found, refusal = audited(some, function, card)
            right = found == units and (wanted in refusal if wanted else not refusal)
            yield name, change, found, refusal, "right" if right else "asks" if found == "ask" else "wrong"


def main() -> None:
    """Print the table and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "realdata"
    parser.add_argument("--realdata", type=Path, default=default, help="folder of the genuine samples")
    parser.add_argument("--advice", action="store_true", help="print what a run is told in full")
    given = parser.parse_args()
    counts: Counter[str] = Counter()
    for name, change, found, refusal, how in table(given.realdata):
        counts[how] += 1
        shown = refusal if given.advice else refusal.rpartition(", or pass --trust_data")[0].rpartition("; ")[2][:70]
        print(f"{how:<6} {name[:24]:<25} {change:<31} {found:<13} {shown or refusal or 'goes on'}")
    print(", ".join(f"{counts[how]} {how}" for how in ("right", "wrong", "asks")))


if __name__ == "__main__":
    main()
