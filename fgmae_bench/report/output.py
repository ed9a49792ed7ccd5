"""What the report leaves on disk: tables, index and figures; writing them, and saying which are stale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fgmae_bench.config.recipes import PROTOCOLS
from fgmae_bench.records import Record
from fgmae_bench.report import figures, pictures
from fgmae_bench.report.board import Board
from fgmae_bench.report.formats.html_table import html
from fgmae_bench.report.formats.latex import latex
from fgmae_bench.report.formats.markdown import index, markdown
from fgmae_bench.report.formats.sheets import SHEETS
from fgmae_bench.report.formats.spreadsheet import comma_separated
from fgmae_bench.report.row import Table
from fgmae_bench.system.files import write_text

FORMATS: dict[str, Callable[[Table], str]] = {"md": markdown, "csv": comma_separated, "tex": latex, "html": html}


BOARD = ("rank-agreement", *(f"{kind}-{protocol}" for protocol in PROTOCOLS for kind in ("pivot", "rank")))
KINDS = (
    *figures.AXES,
    "lr",
    "confusion",
    "few-labels",
    "shots",
    "penalty",
    "reliability",
)  # what the figures of a table are named by


def texts(
    tables: list[Table], board: Board, formats: list[str], records: list[Record], folder: Path
) -> dict[Path, str]:
    """All text files by path: each sheet of the board and each table with records in each format, and the index."""
    measured, sheets = [table for table in tables if table.records], board.sheets()
    found = {folder / f"{sheet.name}.{name}": SHEETS[name](sheet) for sheet in sheets for name in formats}
    found |= {folder / f"{table.name}.{name}": FORMATS[name](table) for table in measured for name in formats}
    used = {record["sha256"] for table in tables for record in table.records}
    unused = [record["run_id"] for record in records if record["sha256"] not in used]
    listed = [(sheet.title, sheet.name) for sheet in sheets]
    return {**found, folder / "README.md": index(tables, formats, unused, listed, board.unranked())}


def remove_empty(tables: list[Table], board: Board, folder: Path) -> None:
    """Remove the files of tables that have nothing left to show, and of sheets that the board does not have."""
    kept = {sheet.name for sheet in board.sheets()} | {table.name for table in tables if table.records}
    for name in {*BOARD, *(table.name for table in tables)} - kept:
        for ending in FORMATS:
            (folder / f"{name}.{ending}").unlink(missing_ok=True)


def write_texts(found: dict[Path, str], say: Callable[[str], None]) -> None:
    """Write every text whose file holds anything else."""
    for path, text in found.items():
        if not holds(path, text):
            write_text(path, text)
        say(str(path))


def holds(path: Path, text: str) -> bool:
    """Whether the file holds just that text; another report may replace or remove it meanwhile."""
    try:
        return path.read_bytes() == text.encode() if path.is_file() else False
    except FileNotFoundError:
        return False


def write_figures(tables: list[Table], board: Board, folder: Path, say: Callable[[str], None]) -> None:
    """Draw every figure, as PNG and SVG; remove those of these tables that have nothing left to show."""
    drawn: set[Path] = set()

    def done(path: Path) -> None:
        drawn.update((path, path.with_suffix(".svg")))
        say(str(path))

    for table in tables:
        for metric, file in table.figures.items():
            figures.draw(table, metric, folder / file)
            done(folder / file)
        for caption, file in table.pictures.items():
            pictures.draw(table, caption, folder / file)
            done(folder / file)
    if any(table.records for table in tables):
        pictures.draw_across(tables, folder / pictures.ACROSS)
        done(folder / pictures.ACROSS)
    for path in board.draw(folder):
        done(path)
    old = [folder / f"{name}-{kind}.png" for name in BOARD for kind in ("cost", "critical-difference")]
    ours = (
        old + [folder / f"{table.name}-{kind}.png" for table in tables for kind in KINDS] + [folder / pictures.ACROSS]
    )
    ours += folder.glob("card-*-stress-*.png")  # of cards whose records are gone
    for path in (each for png in ours for each in (png, png.with_suffix(".svg"))):
        if path not in drawn:
            path.unlink(missing_ok=True)


def stale(found: dict[Path, str], formats: list[str], folder: Path) -> list[str]:
    """A line for each table on disk that differs from what the records give, or that belongs to no experiment."""
    lines = [
        f"stale: {path}; write it by the same command without --check"
        for path, text in found.items()
        if not holds(path, text)
    ]
    left = [path for name in formats for path in sorted(folder.glob(f"*.{name}")) if path not in found]
    return lines + [f"stale: {path} belongs to no experiment; remove it" for path in left]
