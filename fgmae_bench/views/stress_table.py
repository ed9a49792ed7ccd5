"""The table of stresses: each one's function, severities in physical units, what it needs of data, and its budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.views import stress
from fgmae_bench.views.stress import Db, Scene, Stressed, Valid

Function = Callable[[Db, Valid, float, Scene], Stressed]
Needs = Literal["angle", "groups", "two bands", "VV", "VH", "sigma0", "speckle", "despeckler"]


@dataclass(frozen=True, kw_only=True)
class Stress:
    """One axis: `ladder` of severities in `unit`, rising in harm; `clean` is the severity that changes nothing.

    `needs` names what data must have; `draws` whether chance is in it; `whole` where a severity is a whole number.
    `budget` is what real products differ by, with its meaning: a ruler, not a mark to pass.
    """

    function: Function
    unit: str
    ladder: tuple[float, ...]
    low: float
    high: float
    clean: float = 0.0
    needs: tuple[Needs, ...] = ()
    draws: bool = False
    whole: bool = False
    linear: bool = False  # severity is a level in dB whose clean end is zero power: positions are in linear power
    budget: tuple[float, str] | None = None

    def position(self, severity: float) -> float:
        """Where a severity stands on the axis that curves are interpolated and integrated over; 0 is clean."""
        if severity == self.clean:
            return 0.0
        return 10 ** (severity / 10) if self.linear else abs(severity - (0.0 if math.isinf(self.clean) else self.clean))

    def severity(self, position: float) -> float:
        """The severity at a position of the axis; of a level, the lowest of its range at the least."""
        if self.linear:
            return max(10 * math.log10(position), self.low) if position > 0 else self.low
        return self.clean + position


BOTH: tuple[Needs, ...] = ("two bands",)
SPECKLE: tuple[Needs, ...] = ("speckle",)
NO_POWER = -math.inf
STABILITY, ACCURACY = (0.5, "stability, 3 sigma"), (1.0, "absolute accuracy, 3 sigma")
PROCESSING = (1.0, "absolute accuracy, 3 sigma; gamma nought of RTC against sigma nought on flat land .6 to 1.6 up")
FLOOR = (-22.0, "noise-equivalent sigma nought, specified")
STRESSES: dict[str, Stress] = {
    "offset_acquisition": Stress(
        function=stress.offset_acquisition,
        unit="dB",
        ladder=(0.3, 0.5, 1, 2, 3),
        low=0,
        high=20,
        needs=("groups",),
        draws=True,
        budget=STABILITY,
    ),
    "offset": Stress(function=stress.offset, unit="dB", ladder=(0.3, 0.5, 1, 2, 3), low=0, high=20, budget=PROCESSING),
    "offset_down": Stress(
        function=stress.offset_down, unit="dB", ladder=(0.3, 0.5, 1, 2, 3), low=0, high=20, budget=ACCURACY
    ),
    "imbalance": Stress(function=stress.imbalance, unit="dB", ladder=(0.5, 1, 2, 3), low=0, high=20, needs=BOTH),
    "imbalance_reverse": Stress(
        function=stress.imbalance_reverse, unit="dB", ladder=(0.5, 1, 2, 3), low=0, high=20, needs=BOTH
    ),
    "slope": Stress(
        function=stress.slope, unit="dB/degree", ladder=(0.06, 0.1, 0.15, 0.2, 0.25), low=0, high=1, needs=("angle",)
    ),
    "gamma0": Stress(
        function=stress.gamma0, unit="of the conversion", ladder=(0.5, 1), low=0, high=1, needs=("angle", "sigma0")
    ),
    "speckle": Stress(
        function=stress.speckle,
        unit="dB of looks lost",
        ladder=(1, 2, 3.4, 5, 6.4),
        low=0,
        high=10,
        needs=SPECKLE,
        draws=True,
    ),
    "speckle_white": Stress(
        function=stress.speckle_white,
        unit="dB of looks lost",
        ladder=(1, 2, 3.4, 5, 6.4),
        low=0,
        high=10,
        needs=SPECKLE,
        draws=True,
    ),
    "noise": Stress(
        function=stress.noise,
        unit="dB of noise added",
        ladder=(-28, -25, -22, -19, -16),
        low=-60,
        high=0,
        clean=NO_POWER,
        linear=True,
        needs=SPECKLE,
        draws=True,
        budget=FLOOR,
    ),
    "noise_denoised": Stress(
        function=stress.noise_denoised,
        unit="dB of noise added",
        ladder=(-28, -25, -22, -19, -16),
        low=-60,
        high=0,
        clean=NO_POWER,
        linear=True,
        needs=SPECKLE,
        draws=True,
        budget=FLOOR,
    ),
    "resolution": Stress(
        function=stress.resolution, unit="pixels a cell", ladder=(2, 3, 4), low=1, high=16, clean=1, whole=True
    ),
    "shift": Stress(function=stress.shift, unit="pixels", ladder=(0.5, 1, 2, 4), low=0, high=16),
    "resampling": Stress(function=stress.resampling, unit="of a pixel", ladder=(0.1, 0.25, 0.5), low=0, high=0.5),
    "missing_vv": Stress(
        function=stress.missing_vv, unit="", ladder=(1,), low=0, high=1, needs=(*BOTH, "VV"), whole=True
    ),
    "missing_vh": Stress(
        function=stress.missing_vh, unit="", ladder=(1,), low=0, high=1, needs=(*BOTH, "VH"), whole=True
    ),
    "swapped": Stress(function=stress.swapped, unit="", ladder=(1,), low=0, high=1, needs=BOTH, whole=True),
    "border": Stress(
        function=stress.border, unit="of the image", ladder=(0.05, 0.1, 0.25, 0.5), low=0, high=0.9, draws=True
    ),
    "border_low": Stress(
        function=stress.border_low, unit="of the image", ladder=(0.05, 0.1, 0.25, 0.5), low=0, high=0.9, draws=True
    ),
    "stripes": Stress(function=stress.stripes, unit="lines", ladder=(1, 2, 4), low=0, high=64, draws=True, whole=True),
    "lost": Stress(function=stress.lost, unit="of the pixels", ladder=(0.05, 0.2, 0.5), low=0, high=0.9, draws=True),
    "contrast": Stress(function=stress.contrast, unit="of the scale", ladder=(0.05, 0.1, 0.25), low=0, high=2),
    "quantised": Stress(function=stress.quantised, unit="dB a step", ladder=(0.1, 0.5, 1, 2), low=0.001, high=10),
    "eight_bit": Stress(
        function=stress.eight_bit,
        unit="dB, the lowest of 256 levels",
        ladder=(-45, -35, -25, -20),
        low=-200,
        high=0,
        clean=NO_POWER,
        linear=True,
    ),
    "floor": Stress(
        function=stress.floor, unit="dB", ladder=(-30, -25, -22, -19), low=-80, high=0, clean=NO_POWER, linear=True
    ),
    "boxcar": Stress(
        function=stress.boxcar,
        unit="pixels a side",
        ladder=(3, 5, 7),
        low=1,
        high=31,
        clean=1,
        needs=SPECKLE,
        whole=True,
    ),
    "lee": Stress(
        function=stress.lee, unit="pixels a side", ladder=(3, 5, 7), low=1, high=31, clean=1, needs=SPECKLE, whole=True
    ),
    "sar2sar": Stress(
        function=stress.sar2sar,
        unit="of the filter",
        ladder=(0.25, 0.5, 1),
        low=0,
        high=1,
        needs=(*SPECKLE, "despeckler"),
    ),
}


def find_stress(name: str) -> Stress:
    """The stress of that name. Raises BenchError for an unknown one."""
    if name not in STRESSES:
        raise unknown("stress", name, STRESSES)
    return STRESSES[name]


def require_severity(name: str, severity: float) -> None:
    """Raise BenchError for a severity outside the range of the stress, or no number."""
    axis = find_stress(name)
    if severity == axis.clean:
        return
    if not axis.low <= severity <= axis.high:  # NaN fails too
        what = f"{name} of {severity:g} {axis.unit}".rstrip()
        raise BenchError(what, f"give a severity from {axis.low:g} to {axis.high:g}")
    if axis.whole and not float(severity).is_integer():
        raise BenchError(f"{name} of {severity:g}", "give a whole number")


def apply(name: str, db: Db, valid: NDArray[np.bool_] | None, severity: float, scene: Scene) -> tuple[Db, Valid | None]:
    """A chip (C, H, W) under a stress; at the clean severity the very arrays that were given.

    Invalid pixels stay invalid and keep their values out of every filter. Raises BenchError for an unknown stress, a
    severity outside its range, or a band that the chip does not have.
    """
    require_severity(name, severity)
    axis = STRESSES[name]
    if severity == axis.clean:
        return db, valid
    if "two bands" in axis.needs and len(db) != 2:
        raise BenchError(f"{name} needs two bands, the image has {len(db)}", "leave it out")
    changed, kept = axis.function(db, np.ones(db.shape, bool) if valid is None else valid, severity, scene)
    kept = kept & np.isfinite(changed)
    if kept.all():
        return changed, None
    return np.where(kept, changed, np.float32(np.nan)), kept
