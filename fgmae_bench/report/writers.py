"""Writers of tables: a literal registry from the format (the file's ending) to a function from table to text."""

from __future__ import annotations

from collections.abc import Callable

from fgmae_bench.report.html_table import html
from fgmae_bench.report.latex import latex
from fgmae_bench.report.markdown import markdown
from fgmae_bench.report.row import Table
from fgmae_bench.report.spreadsheet import comma_separated

FORMATS: dict[str, Callable[[Table], str]] = {"md": markdown, "csv": comma_separated, "tex": latex, "html": html}
