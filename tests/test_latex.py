"""Tables for papers in a real LaTeX: they compile, and no line or page is too full. Skipped where none is found."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from boards import record, row, table

from fgmae_bench.metrics.jackknife import Estimate
from fgmae_bench.report.formats.latex import latex
from fgmae_bench.report.formats.sheets import SHEETS
from fgmae_bench.report.pivot import shas
from fgmae_bench.report.pivots import pivots
from fgmae_bench.report.row import Note, Table
from fgmae_bench.report.sheet import of_pivot
from fgmae_bench.report.tested import with_tests

from make_records import resealed  # isort: skip

PAPER = r"""\documentclass{article}
\usepackage[a4paper,margin=25mm]{geometry}
\usepackage{booktabs,graphicx,textcomp}
\begin{document}
\input{table.tex}
\end{document}
"""
DATASETS = ("EuroSAT-SAR", "BigEarthNet-S1", "SEN12MS", "TerraMesh S1-RTC chips", "Sen1Floods11 hand-labelled chips")


def paper_table() -> Table:
    """12 models x 5 datasets x 3 seeds, with intervals and a null baseline."""
    rows = []
    for d, title in enumerate(DATASETS):
        for m in range(12):
            name = "backscatter_stats" if m == 11 else f"model_{m}"
            mean = 0.62 + 0.02 * m - 0.03 * d if m < 11 else 0.55
            made = []
            for seed in range(3):
                each = record(name, f"data{d}", oa=mean + 0.004 * seed, seed=seed, source="fgmae" if m < 11 else "none")
                bounds = {"level": 0.95, "over": "groups", "units": 40, "replicates": 1000}
                each = resealed(each, "metrics", "intervals", {**bounds, "test": {"oa": [mean - 0.05, mean + 0.05]}})
                groups = {"kind": "scene", "train": 60, "val": 0, "test": 40}
                made.append(resealed(each, "dataset", "groups", groups))
            label = f"Encoder_{m} & co. (ViT-B/16)" if m < 11 else "backscatter statistics"
            rows.append(row(label, *made, title=title))
    return table(*rows)


def sheet_of(made: Table):
    """The sheet of a table with every pair tested."""
    (pivot,) = pivots([made])
    known = {}
    for c in range(len(pivot.places)):
        held = [cell for _, cell in pivot.column(c)]
        for i, a in enumerate(held):
            for b in held[i + 1 :]:
                gap = a.value.mean - b.value.mean
                known["oa", shas(a.row), shas(b.row)] = Estimate(value=gap, error=0.008, degrees=39.0)
    return of_pivot(with_tests(pivot, known), {})


def compiled(text: str, folder: Path) -> str:
    """The log of a document that holds just this table."""
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("no pdflatex: what LaTeX makes of the table is not known")
    (folder / "table.tex").write_text(text)
    (folder / "paper.tex").write_text(PAPER)
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    return (folder / "paper.log").read_text(errors="replace")


def assert_fits(log: str) -> None:
    assert "Overfull" not in log
    assert not re.search(r"Float too large|LaTeX Warning: (?!Label|There were)|Missing character", log)
    assert "(1 page" in log


def test_a_pivot_of_12_models_5_datasets_and_3_seeds_fits_a_page(tmp_path):
    sheet = sheet_of(paper_table())
    assert len(sheet.rows) == 12
    assert np.sum([entry.bold for line in sheet.rows for entry in line]) >= 5
    text = SHEETS["tex"](sheet)
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert_fits(compiled(text, tmp_path))


def test_a_run_list_of_all_that_tex_would_act_on_fits_a_page(tmp_path):
    hostile = r"50 % & $x$ #1 ~ ^ {y} \input{z} [a] *b* <c> --'' „ü“ «ą» Đ 中 → ± ≥ |"
    made = paper_table()
    rows = tuple(dataclasses.replace(each, label=hostile, notes=(Note(code="x", text=hostile),)) for each in made.rows)
    assert_fits(compiled(latex(dataclasses.replace(made, rows=rows[:30], title=hostile)), tmp_path))
