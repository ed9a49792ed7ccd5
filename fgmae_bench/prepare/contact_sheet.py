"""A picture of what a dataset holds: a few images a class as VV, VH and a composite."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.system.files import replacing
from fgmae_bench.system.fonts import letters_of_all_scripts
from fgmae_bench.views.chip import Chip

PER_CLASS = 3
MAX_CLASSES = 12
LEFT, TOP = 1.7, 0.75  # inches for class names and titles
VV_DB, VH_DB, DIFFERENCE_DB = (-25.0, 0.0), (-32.0, -5.0), (0.0, 15.0)


def composite(db: NDArray[np.float32]) -> NDArray[np.float64]:
    """(2, H, W) dB, VV first, to RGB (H, W, 3) in [0, 1]: red VV, green VH, blue VV - VH; grey of one band alone."""
    if len(db) == 1:
        return np.nan_to_num(np.repeat(_scaled(db[0], VV_DB)[..., None], 3, axis=-1))
    planes = [_scaled(db[0], VV_DB), _scaled(db[1], VH_DB), _scaled(db[0] - db[1], DIFFERENCE_DB)]
    return np.nan_to_num(np.stack(planes, axis=-1))


@letters_of_all_scripts()
def write_contact_sheet(
    path: Path, title: str, groups: dict[str, list[Chip]], in_db: bool, bands: tuple[str, ...] = ("VV", "VH")
) -> None:
    """Write a PNG: a row a class, and of a few images each band (of one or two) and, in dB, the composite; other units
    are stretched.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(groups)[:MAX_CLASSES]
    shown = max(min(PER_CLASS, len(groups[name])) for name in names)
    figure, axes = plt.subplots(
        len(names), 3 * shown, figsize=(1.25 * 3 * shown + LEFT, 1.3 * len(names) + TOP), squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for row, name in enumerate(names):
        for i, chip in enumerate(groups[name][:shown]):
            db = chip.db if chip.valid is None else np.where(chip.valid, chip.db, np.nan)
            for k, (band, window) in enumerate(zip(db, (VV_DB, VH_DB), strict=False)):
                low, high = window if in_db else np.nanquantile(band, (0.02, 0.98))
                axes[row, 3 * i + k].imshow(band, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            if in_db and len(db) > 1:
                axes[row, 3 * i + 2].imshow(composite(db), interpolation="nearest")
        for i in range(3 * shown):
            if row == 0:
                axes[row, i].set_title((*bands, "composite", "")[i % 3], fontsize=8)
        axes[row, 0].text(-0.12, 0.5, name[:24], transform=axes[row, 0].transAxes, ha="right", va="center", fontsize=8)
    hidden = len(groups) - len(names)
    more = f"   ({hidden} more classes not shown)" if hidden else ""
    scale = f"VV {VV_DB[0]:g}..{VV_DB[1]:g} dB, VH {VH_DB[0]:g}..{VH_DB[1]:g} dB; red VV, green VH, blue VV-VH 0..15 dB"
    width, height = figure.get_size_inches()
    figure.suptitle(
        f"{title}{more}\n{scale if in_db else 'stretched to 2-98 %'}", fontsize=9, y=1 - 0.08 / height, va="top"
    )
    figure.subplots_adjust(left=LEFT / width, right=0.99, bottom=0.01, top=1 - TOP / height, wspace=0.04, hspace=0.06)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def _scaled(band: NDArray[np.float32], window: tuple[float, float]) -> NDArray[np.float64]:
    low, high = window
    return np.clip((band.astype(np.float64) - low) / (high - low), 0, 1)


def fair_share(total: int, groups: int) -> int:
    """How many of `total` each of `groups` may have, at least one."""
    return max(1, math.ceil(total / max(groups, 1)))
