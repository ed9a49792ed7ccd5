"""Tables and figures of the ablations, written by rename: Markdown, CSV, PNG and SVG."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgmae_bench.ablate.matrix import Matrix, rows_of, shown
from fgmae_bench.ablate.series import Series
from fgmae_bench.records import Record
from fgmae_bench.report.figures import PNG_DPI, draw_matrix, literal, save, waterfall
from fgmae_bench.report.formats.markdown import escaped, line
from fgmae_bench.system.files import write_text

KINDS = {"measured": "Measured", "perfect": "Perfect predictor", "constant": "Constant predictor"}
SYNTHETIC = "Synthetic data: a generated world. The numbers say nothing about real scenes."
MEANING = (
    "mIoU over the classes that have reference pixels. The perfect predictor gives each test pixel the "
    "class that the training "
    "labels of that very pixel would have taught, the constant one the most frequent class of the "
    "training split; pixels are "
    "counted as the label files hold them. Classes of different schemes are matched by name; one that "
    "the other scheme lacks can "
    "only be wrong. *Mapped twice*: DFC labels taken for IGBP codes, a published mistake."
)


def write_matrix(matrix: Matrix, stem: Path, figure: Path) -> list[Path]:
    """Write a grid of labels as Markdown and CSV; the paths."""
    lines = [*heading(matrix.title, matrix.synthetic), MEANING]
    measured = next((filled.record for filled in matrix.cells if filled.record), None)
    lines += ["", setting(measured)] if measured else []
    for kind, title in KINDS.items():
        lines += ["", f"## {title}", "", line(["trained on \\ scored by", *map(escaped, matrix.columns)])]
        lines.append(line(["---"] * (len(matrix.columns) + 1)))
        values = matrix.values(kind)
        lines += [line([escaped(name), *map(shown, row)]) for name, row in zip(matrix.rows, values, strict=True)]
    reasons = matrix.reasons()
    if reasons:
        lines += ["", "## Not run", "", *(f"- {escaped(pair)}: {escaped(reason)}" for pair, reason in reasons.items())]
    lines += ["", f"![{escaped(matrix.title)}]({link(figure, stem)})", ""]
    return write_table(stem, lines, rows_of(matrix))


def draw_matrix_figure(matrix: Matrix, path: Path) -> None:
    """Heat maps of what was measured and of both references, side by side."""
    from matplotlib.figure import Figure

    width, height = 2.6 + 0.6 * len(matrix.columns), 2.4 + 0.45 * len(matrix.rows)
    figure = Figure(figsize=(3 * width, height), dpi=PNG_DPI, layout="constrained")
    for i, (kind, title) in enumerate(KINDS.items(), 1):
        draw_matrix(
            figure.add_subplot(1, 3, i),
            matrix.values(kind),
            matrix.rows,
            matrix.columns,
            title=f"{title}: mIoU",
            row_title="trained on" if i == 1 else "",
            col_title="scored by",
            digits=2,
        )
    figure.suptitle(literal(matrix.title, 100), fontsize=10)
    save(figure, path)


def write_series(series: Series, stem: Path, figure: Path) -> list[Path]:
    """Write a series of repairs as Markdown and CSV; the paths."""
    rows = series.rows()
    lines = [*heading(series.title, series.synthetic), *series.explained(), "", setting(series.records[-1]), ""]
    lines += [line(["step", "mIoU", "gain", "a perfect predictor", "OA", "run"]), line(["---"] * 6)]
    for row in rows:
        numbers = [
            shown(row["miou"]),
            shown(row["gain"], "{:+.3f}".format),
            shown(row["perfect_miou"]),
            shown(row["oa"]),
        ]
        lines.append(line([escaped(str(row["step"])), *numbers, escaped(str(row["run_id"]))]))
    lines += ["", f"![{escaped(series.title)}]({link(figure, stem)})", ""]
    return write_table(stem, lines, rows)


def draw_series_figure(series: Series, path: Path) -> None:
    """The waterfall of a series: where it starts, and what each repair adds or takes."""
    steps = [(str(row["step"]), row["miou"] or 0.0 if row["gain"] is None else row["gain"]) for row in series.rows()]
    waterfall(steps, path, title=series.title, axis="mean IoU over classes with reference (fraction)")


def heading(title: str, synthetic: bool) -> list[str]:
    """The first lines of a table."""
    return [f"# {escaped(title)}", "", *([SYNTHETIC, ""] if synthetic else [])]


def setting(record: Record) -> str:
    """One sentence on what was trained."""
    recipe, dataset = record["config"]["recipe"], record["dataset"]
    length = f"{recipe['max_steps']} steps" if recipe.get("max_steps") else f"{recipe['epochs']} epochs"
    words = (
        f"{record['model']['name']} with weights {record['model']['weights']['source']}, {record['protocol']}, recipe "
        f"{record['recipe']}, {length} of batch "
        f"{recipe['batch_size'] * recipe['accum_iter'] * record['environment']['world_size']}, "
        f"split {dataset['split']}: {dataset['n_train']} train, {dataset['n_val']} val, {dataset['n_test']} test."
    )
    return escaped(words)


def link(figure: Path, stem: Path) -> str:
    """The figure as seen from the table."""
    return Path(os.path.relpath(figure, stem.parent)).as_posix()


def write_table(stem: Path, lines: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[Path]:
    """Write a table as Markdown and its rows as CSV, by rename; the paths."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    paths = [stem.with_name(f"{stem.name}.md"), stem.with_name(f"{stem.name}.csv")]
    for path, content in zip(paths, ("\n".join(lines), text.getvalue()), strict=True):
        write_text(path, content)
    return paths
