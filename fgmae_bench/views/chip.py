"""An image as data hands it over: backscatter with its validity mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.contract import InputContract


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What the view of `contract` makes of a chip before its geometry, kept in a pack: `image` (2, H, W) uint8.

    `order` and `input_resize` are those of the view that made it.
    """

    image: NDArray[np.uint8]
    contract: InputContract
    order: tuple[int, ...]
    input_resize: int | None


@dataclass(frozen=True, kw_only=True)
class Chip:
    """Backscatter `db` (2, H, W) float32 in file order of the bands and units of the card; `valid` (2, H, W), None when
    all are.

    Where `ready` is given, `db` is a thumbnail read back from eight bits: enough to recognise units and band order.
    """

    db: NDArray[np.float32]
    valid: NDArray[np.bool_] | None
    synthetic: bool
    ready: Ready | None = None

    @property
    def invalid_fraction(self) -> float:
        """Share of invalid pixels over both bands."""
        return 0.0 if self.valid is None else 1.0 - float(self.valid.mean())
