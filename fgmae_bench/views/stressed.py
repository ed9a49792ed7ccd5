"""The view of a backbone on stressed images: the stress acts on backscatter, the contract's normaliser afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import BenchError
from fgmae_bench.system.randomness import generator
from fgmae_bench.views.chip import Chip
from fgmae_bench.views.classification import Augmentation, View
from fgmae_bench.views.stress import LOOKS, Despeckle, Scene
from fgmae_bench.views.stress_table import apply

SWATH = (30.5, 45.5)  # degrees of incidence over which angles are drawn where none is stated


@dataclass(frozen=True, kw_only=True)
class StressedView(View):
    """A view whose images are put under `stress` of `severity` first; `draw` and `seed` key what chance decides.

    `groups` maps sample ids to acquisitions; `theta` is the incidence angle in degrees, None for one drawn for each
    acquisition, or sample where none is known. `bands` and `means` (dB) are in the order of the files; `looks` are
    those that the data has; `despeckle` is a learned filter.
    """

    stress: str
    severity: float
    draw: int = 0
    seed: int = 0
    groups: Mapping[str, str] = field(default_factory=dict)
    theta: float | None = None
    bands: tuple[str, ...] = ("VV", "VH")
    means: tuple[float, ...] = (-12.59, -20.26)
    looks: float = LOOKS
    despeckle: Despeckle | None = None

    def batch(self, chips: Iterable[Chip], ids: list[str], augmentation: Augmentation | None = None) -> NDArray[Any]:
        """Stressed chips to (B, C, S, S), as the view without a stress makes of clean ones."""
        changed = (self.seen(chip, id) for chip, id in zip(chips, ids, strict=True))
        return super().batch(changed, ids, augmentation)

    def seen(self, chip: Chip, id: str) -> Chip:
        """A chip under the stress. Raises BenchError for input of a pack that holds no backscatter."""
        if chip.ready is not None:
            raise BenchError("a uint8 pack holds no backscatter", "give the files, or a float32 pack")
        db, valid = apply(self.stress, chip.db, chip.valid, self.severity, self._scene(id))
        return Chip(db=db, valid=valid, synthetic=chip.synthetic)

    def before_geometry(self, chips: list[Chip]) -> NDArray[Any]:
        """Chips that were `seen` to (B, C, H, W) in the contract's range; a band without a valid pixel is its mean."""
        return super().before_geometry([self._with_means(chip) for chip in chips])

    def _with_means(self, chip: Chip) -> Chip:
        """The chip with means in place of bands that nothing is left of: normalisers need something to go by, and the
        mean is what they put in place of invalid pixels.
        """
        if chip.valid is None or chip.valid.any((1, 2)).all():
            return chip
        db, valid = chip.db.copy(), chip.valid.copy()
        empty = ~valid.any((1, 2))
        db[empty] = np.asarray(self.means, np.float32)[empty, None, None]
        valid[empty] = True
        return Chip(db=db, valid=valid, synthetic=chip.synthetic)

    def _scene(self, id: str) -> Scene:
        group = self.groups.get(id, "")
        theta = self.theta
        if theta is None:
            theta = float(generator(self.seed, "theta", group or id).uniform(*SWATH))
        return Scene(
            sample=id,
            group=group or id,
            seed=self.seed,
            draw=self.draw,
            angle=theta,
            bands=self.bands,
            means=self.means,
            looks=self.looks,
            despeckle=self.despeckle,
        )
