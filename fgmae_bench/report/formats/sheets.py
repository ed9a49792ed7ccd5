"""Sheets in each format: Markdown, CSV in full precision, LaTeX with booktabs, and HTML without script."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable

from fgmae_bench.report.formats.html_table import document, html_escaped
from fgmae_bench.report.formats.latex import FITTED, tex_escaped
from fgmae_bench.report.formats.markdown import escaped, line
from fgmae_bench.report.formats.spreadsheet import begins_formula
from fgmae_bench.report.sheet import Entry, Heading, Sheet

WRAPPED = 18  # letters of a heading on one line of a paper's table


def markdown(sheet: Sheet) -> str:
    """The sheet in GitHub's Markdown; what stands below an entry follows it in its cell."""
    lines = [f"# {escaped(sheet.title)}", ""]
    for sentence in sheet.sentences:
        lines += [escaped(sentence), ""]
    lines += [line([_md_heading(head.text, head.below) for head in sheet.headings])]
    lines += [line(["---:" if head.number else "---" for head in sheet.headings])]
    lines += [line([_md_entry(entry) for entry in row]) for row in sheet.rows]
    lines += ["", *(f"- {escaped(note)}" for note in sheet.notes)] if sheet.notes else []
    for caption, file in sheet.figures.items():
        lines += ["", f"![{escaped(caption)}](../figures/{file})"]
    return "\n".join(lines) + "\n"


def _md_heading(text: str, below: str) -> str:
    return escaped(text) + (f"<br>{escaped(below)}" if below else "")


def _md_entry(entry: Entry) -> str:
    text = f"**{escaped(entry.text)}**" if entry.bold else escaped(entry.text)
    return text + (f"<br>{escaped(entry.below)}" if entry.below else "")


def comma_separated(sheet: Sheet) -> str:
    """The sheet as CSV: numbers in full precision, empty where nothing is known, no cell that begins a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([name for head in sheet.headings for name in head.plain])
    for row in sheet.rows:
        writer.writerow([_csv_cell(value) for entry in row for value in entry.plain])
    return stream.getvalue()


def _csv_cell(value: float | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if begins_formula(value) else value
    return repr(value)


def latex(sheet: Sheet) -> str:
    """A `table*` no wider than the page; needs the packages booktabs, graphicx and textcomp."""
    kinds = "".join("r" if head.number else "l" for head in sheet.headings)
    below = dict.fromkeys(head.below for head in sheet.headings if head.below)
    said = [sheet.title + ".", *sheet.sentences, *(f"Below a score: {text}." for text in below)]
    lines = [
        "% Made from the records; not to be edited. Needs booktabs, graphicx and textcomp.",
        r"\begin{table*}",
        r"\centering",
        r"\setlength{\belowcaptionskip}{6pt}",
        rf"\caption{{{tex_escaped(' '.join(said))}}}",
        rf"\label{{tab:{''.join(c if c.isalnum() and c.isascii() else '-' for c in sheet.name)}}}",
        FITTED,
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        " & ".join(_tex_heading(head) for head in sheet.headings) + r" \\",
        r"\midrule",
        *(" & ".join(_tex_entry(entry) for entry in row) + r" \\" for row in sheet.rows),
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    if sheet.notes:
        lines += [r"\par\smallskip", r"\begin{minipage}{\textwidth}\footnotesize"]
        lines += [rf"{tex_escaped(note)}\\" for note in sheet.notes]
        lines.append(r"\end{minipage}")
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def _tex_heading(head: Heading) -> str:
    """A heading; a long one on several lines."""
    lines = [tex_escaped(part) for part in textwrap.wrap(head.text, WRAPPED)] or [""]
    if len(lines) == 1:
        return lines[0]
    return rf"\begin{{tabular}}[b]{{@{{}}{'r' if head.number else 'l'}@{{}}}}" + r"\\".join(lines) + r"\end{tabular}"


def _tex_entry(entry: Entry) -> str:
    """An entry, and below it in small type what belongs to it: a range with a dash, as papers have it."""
    text = tex_escaped(entry.text)
    text = rf"\textbf{{\boldmath {text}}}" if entry.bold else text
    if not entry.below:
        return text
    below = rf"\scriptsize {tex_escaped(entry.below.replace(' to ', '–').replace(';', ','))}"
    return rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{text}\\[-2pt]{below}\end{{tabular}}"


def html(sheet: Sheet) -> str:
    """The sheet as a document of its own."""
    head = "".join(f"<th>{html_escaped(each.text)}{_html_below(each.below)}</th>" for each in sheet.headings)
    rows = ["<tr>" + "".join(_html_entry(entry) for entry in row) + "</tr>" for row in sheet.rows]
    lines = [
        *(f"<p>{html_escaped(sentence)}</p>" for sentence in sheet.sentences),
        f"<div><table><thead><tr>{head}</tr></thead><tbody>",
        *rows,
        "</tbody></table></div>",
    ]
    if sheet.notes:
        lines += ["<ul>", *(f"<li>{html_escaped(note)}</li>" for note in sheet.notes), "</ul>"]
    return document(sheet.title, lines, sheet.figures.items())


def _html_entry(entry: Entry) -> str:
    text = html_escaped(entry.text)
    text = f"<strong>{text}</strong>" if entry.bold else text
    kind = ' class="n"' if entry.number else ""
    return f"<td{kind}>{text}{_html_below(entry.below)}</td>"


def _html_below(text: str) -> str:
    return f"<br><small>{html_escaped(text)}</small>" if text else ""


SHEETS: dict[str, Callable[[Sheet], str]] = {"md": markdown, "csv": comma_separated, "tex": latex, "html": html}
