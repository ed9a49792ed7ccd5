"""What all figures share: colours, axes, text shown as it is, and saving as PNG and SVG without anything that changes by the hour."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from fgmae_bench.files import replacing

# Okabe & Ito 2008, without the yellow that vanishes on white; beyond these, markers tell curves apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv*PX<>hp"
GRID = "#dddddd"
PNG_DPI = 120


def new_axes(width: float = 9, height: float = 4.5) -> tuple[Any, Any]:
    """(figure, axes) of a size in inches, with a light grid, without the state of pyplot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=PNG_DPI)
    axes = figure.add_subplot()
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def outer_legend(axes: Any) -> None:
    """The legend at the right of the axes."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)


def literal(text: str, width: int = 48) -> str:
    """Text that matplotlib shows as it is: no mathematics, no hidden legend entry, lines of readable length."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split()).replace("$", r"\$")
    return "\n".join(textwrap.wrap(f" {clean}" if clean.startswith("_") else clean, width, drop_whitespace=False))


def save(figure: Any, path: Path) -> None:
    """Write the figure as `path` (PNG) and as SVG beside it; neither holds a date, a version or a random name."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            with replacing(path.with_suffix(f".{ending}")) as temporary:
                figure.savefig(temporary, format=ending, bbox_inches="tight", metadata=metadata)
