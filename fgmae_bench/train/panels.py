"""Panels of segmentation samples as PNG: VV, VH, a composite, label, prediction and error, in the colours of the label
scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.segmentation import IGNORE
from fgmae_bench.system.files import replacing

Picture = NDArray[np.float64]  # (H, W, 3) in [0, 1]
COLUMNS = ("VV (dB)", "VH (dB)", "VV, VH, VV-VH", "label", "prediction", "error")
INVALID = (0.25, 0.25, 0.45)  # backscatter that is not there
IGNORED, OTHER = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
RIGHT, WRONG = (0.85, 0.85, 0.85), (0.80, 0.15, 0.15)
RATIO_DB = (2.0, 14.0)  # VV-VH of land and water in genuine scenes
MAX_PANELS = 12


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One sample: `db` (2, H, W) VV and VH, NaN where invalid; `label` and `prediction` (H, W) class numbers of one
    scheme.

    255 is ignored; in `prediction` the number K stands for a class that the scheme does not have.
    """

    name: str
    db: NDArray[np.floating[Any]]
    label: NDArray[np.uint8]
    prediction: NDArray[np.integer[Any]]


def band_window(band: int) -> tuple[float, float]:
    """Decibels shown as black and white: mean -/+ 2 standard deviations of the input contract."""
    mean, std = FGMAE_CONTRACT.mean[band], FGMAE_CONTRACT.std[band]
    return mean - 2 * std, mean + 2 * std


def grey(values_db: NDArray[Any], window: tuple[float, float]) -> Picture:
    """Backscatter (H, W) as grey (H, W, 3), invalid pixels in a colour of their own."""
    return _marked(np.repeat(_scaled(values_db, window)[..., None], 3, axis=-1))


def composite(db: NDArray[Any]) -> Picture:
    """VV in red, VH in green, VV-VH in blue: water dark, forest yellow-green, towns bright."""
    bands = [_scaled(db[0], band_window(0)), _scaled(db[1], band_window(1)), _scaled(db[0] - db[1], RATIO_DB)]
    return _marked(np.stack(bands, axis=-1))


def coloured(labels: NDArray[Any], colours: Sequence[str]) -> Picture:
    """Class numbers (H, W) in the scheme's `#rrggbb` colours; K is black, 255 white. Raises BenchError on other
    numbers.
    """
    table = np.full((256, 3), np.nan)
    table[: len(colours)] = [_rgb(colour) for colour in colours]
    table[len(colours)], table[IGNORE] = OTHER, IGNORED
    labels = np.asarray(labels)
    picture = table[np.clip(labels, 0, 255)]
    if labels.size and (labels.min() < 0 or labels.max() > 255 or np.isnan(picture).any()):
        raise BenchError(
            f"a mask holds classes outside 0..{len(colours) - 1}", "give masks in the scheme of the colours"
        )
    return picture


def error_picture(label: NDArray[Any], prediction: NDArray[Any]) -> Picture:
    """Right, wrong and ignored pixels (H, W, 3)."""
    wrong = np.asarray(label) != np.asarray(prediction)
    picture = np.where(wrong[..., None], WRONG, RIGHT)
    picture[np.asarray(label) == IGNORE] = IGNORED
    return picture


def draw_panels(
    panels: Sequence[Panel],
    classes: Sequence[str],
    colours: Sequence[str],
    path: Path,
    *,
    title: str,
    synthetic: bool = False,
) -> None:
    """One row a sample, six columns, a legend of the classes that are seen; PNG at 150 dpi, written by rename.

    Raises BenchError on no or too many samples, on sizes that differ, on colours that are not one a class.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    _check(panels, classes, colours)
    rows = sum(2.1 * panel.label.shape[0] / panel.label.shape[1] + 0.1 for panel in panels)  # inches, as wide as 2.1
    figure = Figure(figsize=(2.1 * len(COLUMNS), rows + 1.2), dpi=150, layout="constrained")
    axes = figure.subplots(len(panels), len(COLUMNS), squeeze=False)
    for row, panel in zip(axes, panels, strict=True):
        for axis, picture in zip(row, _pictures(panel, colours), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(_plain(panel.name), fontsize=7)
    for axis, name in zip(axes[0], COLUMNS, strict=True):
        axis.set_title(name, fontsize=9)
    entries = [
        Patch(facecolor=colour, edgecolor="#666666", label=_plain(name))
        for name, colour in legend(panels, classes, colours)
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=min(6, len(entries)), fontsize=8, frameon=False)
    figure.suptitle(_plain(title) + (" (synthetic data)" if synthetic else ""), fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def legend(panels: Sequence[Panel], classes: Sequence[str], colours: Sequence[str]) -> list[tuple[str, Any]]:
    """(name, colour) of what the pictures show, classes in scheme order, then what is no class."""
    seen = set(
        np.unique(
            np.concatenate([np.ravel(mask) for panel in panels for mask in (panel.label, panel.prediction)])
        ).tolist()
    )
    entries: list[tuple[str, Any]] = [pair for k, pair in enumerate(zip(classes, colours, strict=True)) if k in seen]
    if len(classes) in seen:
        entries.append(("class outside the scheme", OTHER))
    if IGNORE in seen:
        entries.append(("ignored", IGNORED))
    if any(not np.isfinite(panel.db).all() for panel in panels):
        entries.append(("no backscatter", INVALID))
    return [*entries, ("right", RIGHT), ("wrong", WRONG)]


def _pictures(panel: Panel, colours: Sequence[str]) -> list[Picture]:
    """The six columns of a row."""
    bands = [grey(panel.db[band], band_window(band)) for band in (0, 1)]
    masks = [coloured(panel.label, colours), coloured(panel.prediction, colours)]
    return [*bands, composite(panel.db), *masks, error_picture(panel.label, panel.prediction)]


def _check(panels: Sequence[Panel], classes: Sequence[str], colours: Sequence[str]) -> None:
    if not 1 <= len(panels) <= MAX_PANELS:
        raise BenchError(f"{len(panels)} samples for a picture of panels", f"give 1 to {MAX_PANELS}")
    if len(classes) != len(colours) or len(classes) >= IGNORE:
        raise BenchError(f"{len(colours)} colours for {len(classes)} classes", "give one colour a class")
    for panel in panels:
        if not panel.db.shape[1:] == panel.label.shape == panel.prediction.shape:
            shapes = f"{panel.db.shape[1:]}, {panel.label.shape}, {panel.prediction.shape}"
            raise BenchError(
                f"{panel.name}: image, label and prediction differ in size: {shapes}",
                "give all at the size of the label",
            )


def _scaled(values_db: NDArray[Any], window: tuple[float, float]) -> NDArray[np.float64]:
    """`window` to [0, 1], clipped; NaN and infinity become NaN."""
    low, high = window
    values = np.where(np.isfinite(values_db), values_db, np.nan).astype(np.float64)
    return np.clip((values - low) / (high - low), 0, 1)


def _marked(picture: Picture) -> Picture:
    return np.where(np.isnan(picture).any(axis=-1, keepdims=True), INVALID, picture)


def _rgb(colour: str) -> tuple[float, ...]:
    try:
        if len(colour) != 7 or colour[0] != "#":
            raise ValueError(colour)
        return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    except ValueError as error:
        raise BenchError(f"'{colour}' is no colour", "give #rrggbb") from error


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is."""
    clean = "".join(c if c.isprintable() else " " for c in text).replace("$", r"\$")
    return f" {clean}" if clean.startswith("_") else clean
