"""Tables in LaTeX (booktabs), to be read in with `\\input`: every text escaped, notes below the table."""

from __future__ import annotations

import re
import unicodedata

from fgmae_bench.config.layout import heading
from fgmae_bench.report.columns import COLUMNS
from fgmae_bench.report.formats.common import (
    EMPTY,
    asked_columns,
    explanations,
    footnotes,
    is_number,
    note_numbers,
    note_texts,
    one_line,
    readable,
)
from fgmae_bench.report.row import Note, Row, Table

# Characters that mean something to TeX, and those that its usual encodings lack.
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "±": r"\ensuremath{\pm}",
    "−": r"\ensuremath{-}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\dots{}",
    "≤": r"\ensuremath{\leq}",
    "≥": r"\ensuremath{\geq}",
    "×": r"\ensuremath{\times}",
    "σ": r"\ensuremath{\sigma}",
    "γ": r"\ensuremath{\gamma}",
    "Δ": r"\ensuremath{\Delta}",
    "→": r"\ensuremath{\rightarrow}",
    "½": r"\ensuremath{\frac{1}{2}}",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "’": r"\textquoteright{}",
    "‘": r"\textquoteleft{}",
    "„": r"\textquotedblright{}",
    "²": r"\textsuperscript{2}",
}
UNSET = "«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲų"  # Latin letters and marks that the encoding OT1 lacks
# A table no wider than the page: what is narrower keeps its size.
FITTED = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%"
LIGATURE = re.compile(r"([-',])(?=\1)")


def tex_escaped(text: str) -> str:
    """Text that LaTeX sets as it is: no command, no star or bracket after a line break, no ligature of two marks."""
    return LIGATURE.sub(r"\1{}", "".join(map(_letter, one_line(text))))


def _letter(c: str) -> str:
    """A character as pdfTeX's default encoding can set it: itself, without its accent, or by its number."""
    if c in SPECIAL or c.isascii() or ("¡" <= c <= "ž" and c not in UNSET):
        return SPECIAL.get(c, c)
    plain = "".join(each for each in unicodedata.normalize("NFKD", c) if each.isascii())
    return "".join(SPECIAL.get(each, each) for each in plain) or f"U+{ord(c):04X}"


def latex(table: Table) -> str:
    """A `table*` with caption, label, booktabs rules and notes; needs the packages booktabs, graphicx and textcomp."""
    names, numbers = asked_columns(table), footnotes(table)
    kinds = "".join("r" if any(is_number(row, name) for row in table.rows) else "l" for name in names)
    said = [f"{table.title}; protocol: {table.protocol}.", *explanations(table)]
    lines = [
        "% Made from the records; not to be edited. Needs booktabs, graphicx and textcomp.",
        r"\begin{table*}",
        r"\centering",
        r"\setlength{\belowcaptionskip}{6pt}",
        rf"\caption{{{tex_escaped(' '.join(said))}}}",
        rf"\label{{tab:{''.join(c if c.isalnum() and c.isascii() else '-' for c in table.name)}}}",
        FITTED,
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        _line([tex_escaped(heading(name)[0]) for name in names]),
        r"\midrule",
        *(_line([_cell(name, row, numbers) for name in names]) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    if numbers:
        lines += [r"\par\smallskip", r"\begin{minipage}{\textwidth}\footnotesize"]
        lines += [rf"\textsuperscript{{{number}}}~{tex_escaped(text)}\\" for number, text in note_texts(numbers)]
        lines.append(r"\end{minipage}")
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def _cell(name: str, row: Row, numbers: dict[Note, int]) -> str:
    if name == "remarks":
        marks = ",".join(map(str, note_numbers(row.notes, numbers)))
        return rf"\textsuperscript{{{marks}}}" if marks else tex_escaped(EMPTY)
    return tex_escaped(readable(COLUMNS[name], COLUMNS[name].value(row)))


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
