"""Figures of matrices and of steps: heat maps (confusion, label schemes) and waterfalls (what each trap adds or takes)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgmae_bench.report.canvas import COLOURS, GRID, PNG_DPI, literal, new_axes, save

MAX_NUMBERED = 20  # cells a side beyond which numbers would not be read


def heatmap(
    matrix: Sequence[Sequence[float | None]], rows: Sequence[str], cols: Sequence[str], path: Path, *,
    title: str = "", row_title: str = "", col_title: str = "", digits: int = 2,
) -> None:  # fmt: skip
    """A matrix of fractions in [0, 1] with its numbers, as PNG and SVG; None is left white."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.5 + 0.55 * len(cols), 1.8 + 0.45 * len(rows)), dpi=PNG_DPI)
    draw_matrix(figure.add_subplot(), matrix, rows, cols, title=title, row_title=row_title, col_title=col_title, digits=digits)
    save(figure, path)


def draw_matrix(
    axes: Any, matrix: Sequence[Sequence[float | None]], rows: Sequence[str], cols: Sequence[str], *,
    title: str = "", row_title: str = "", col_title: str = "", digits: int = 2,
) -> None:  # fmt: skip
    """Draw a matrix of fractions onto axes."""
    values = [[float("nan") if value is None else float(value) for value in line] for line in matrix]
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(cols)), [literal(name, 24) for name in cols], rotation=45, ha="right", fontsize=7)
    axes.set_yticks(range(len(rows)), [literal(name, 32) for name in rows], fontsize=7)
    axes.set_title(literal(title, 60), fontsize=9)
    axes.set_xlabel(literal(col_title), fontsize=8)
    axes.set_ylabel(literal(row_title), fontsize=8)
    if max(len(rows), len(cols)) > MAX_NUMBERED:
        return
    for i, line in enumerate(values):
        for j, value in enumerate(line):
            if value == value:
                colour = "white" if value > 0.6 else "black"
                axes.text(j, i, f"{value:.{digits}f}", ha="center", va="center", fontsize=6, color=colour)


def waterfall(steps: Sequence[tuple[str, float]], path: Path, *, title: str = "", axis: str = "") -> None:
    """Bars from the first step's value through what each further step adds or takes, to the sum, as PNG and SVG.

    `steps` are (label, value): the first value stands for itself, the others are differences.
    """
    figure, axes = new_axes(1.5 + 0.9 * (len(steps) + 1), 4.2)
    level = 0.0
    for i, (_, value) in enumerate(steps):
        start, level = level, level + value
        colour = COLOURS[0] if i == 0 else COLOURS[2] if value >= 0 else COLOURS[1]
        axes.bar(i, value, bottom=start, color=colour, width=0.7)
        axes.text(i, max(start, level), f"{value:.3f}" if i == 0 else f"{value:+.3f}", ha="center", va="bottom", fontsize=8)
        axes.plot([i + 0.35, i + 0.65], [level, level], color="#666666", linewidth=0.8)
    axes.bar(len(steps), level, color=COLOURS[0], width=0.7)
    axes.text(len(steps), level, f"{level:.3f}", ha="center", va="bottom", fontsize=8)
    labels = [*(literal(label, 16) for label, _ in steps), "all together"]
    axes.set_xticks(range(len(labels)), labels, fontsize=8, rotation=30, ha="right")
    axes.set_ylabel(literal(axis))
    axes.set_title(literal(title, 60), fontsize=10)
    axes.grid(visible=False, axis="x")
    axes.grid(visible=True, axis="y", color=GRID)
    save(figure, path)
