"""Tables as plain HTML files: no script, nothing loaded but the figures, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from fgmae_bench.report.columns import COLUMNS
from fgmae_bench.report.formats.common import (
    EMPTY,
    explanations,
    footnotes,
    is_number,
    note_numbers,
    note_texts,
    one_line,
    readable,
    shown_columns,
)
from fgmae_bench.report.row import Note, Row, Table

STYLE = (
    ":root{color-scheme:light dark}body{font:14px/1.5 system-ui,sans-serif;margin:2rem}table{border-collapse:collapse}"
    "th,td{padding:.2rem .6rem;border-bottom:1px solid #8886;text-align:left;white-space:nowrap}td.n{text-align:right;"
    "font-variant-numeric:tabular-nums}tr.synthetic{font-style:italic}div{overflow-x:auto}img{max-width:100%;background:#fff}"
)


def html_escaped(text: str) -> str:
    """Text that a browser shows as it is, on one line."""
    return escape(one_line(text))


def document(title: str, body: list[str], pictures: Iterable[tuple[str, str]]) -> str:
    """A document without script: lines of HTML under a title, then pictures (caption, file) from ../figures."""
    title = html_escaped(title)
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        (
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src '
            "'unsafe-inline'; img-src 'self' file:\">"
        ),
        f"<title>{title}</title><style>{STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        *body,
        *(
            f'<p><img src="../figures/{html_escaped(file)}" alt="{html_escaped(caption)}"></p>'
            for caption, file in pictures
        ),
    ]
    return "\n".join([*lines, "</body></html>"]) + "\n"


def html(table: Table) -> str:
    """The table as a document of its own, with notes and figures."""
    names, numbers = shown_columns(table), footnotes(table)
    lines = [f"<p>Protocol: {html_escaped(table.protocol)}.</p>"]
    if table.expect:
        lines.append(f"<p>Expected: {html_escaped(table.expect.rstrip('.'))}.</p>")
    lines += [f"<p>{html_escaped(sentence)}</p>" for sentence in explanations(table)]
    lines.append(
        "<div><table><thead><tr>" + "".join(f"<th>{html_escaped(name)}</th>" for name in names) + "</tr></thead><tbody>"
    )
    lines += [_row(names, row, numbers) for row in table.rows]
    lines.append("</tbody></table></div>")
    if numbers:
        lines.append("<ol>")
        lines += [f'<li id="note{number}">{html_escaped(text)}</li>' for number, text in note_texts(numbers)]
        lines.append("</ol>")
    curves = [(f"{metric} over epochs", file) for metric, file in table.figures.items()]
    return document(table.title, lines, [*curves, *table.pictures.items()])


def _row(names: tuple[str, ...], row: Row, numbers: dict[Note, int]) -> str:
    cells = []
    for name in names:
        if name == "remarks":
            links = [f'<a href="#note{number}">{number}</a>' for number in note_numbers(row.notes, numbers)]
            cells.append(f"<td>{' '.join(links) or EMPTY}</td>")
        else:
            kind = ' class="n"' if is_number(row, name) else ""
            cells.append(f"<td{kind}>{html_escaped(readable(COLUMNS[name], COLUMNS[name].value(row)))}</td>")
    opening = '<tr class="synthetic">' if row.synthetic else "<tr>"
    return opening + "".join(cells) + "</tr>"
