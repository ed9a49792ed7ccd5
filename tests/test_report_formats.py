"""Every format shows names, paths and notes as text, marks what is synthetic, and is the same again; figures of
matrices and steps.
"""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from make_records import make_record, resealed
from test_report import LEGACY, parsed, table_of

from fgmae_bench.config.experiments import Experiment, Layout, PlannedRun
from fgmae_bench.records import problem_of
from fgmae_bench.report import figures, pictures
from fgmae_bench.report.columns import CALIBRATION, COLUMNS, RETRIEVAL
from fgmae_bench.report.formats.html_table import html
from fgmae_bench.report.formats.latex import tex_escaped
from fgmae_bench.report.formats.markdown import escaped, markdown
from fgmae_bench.report.output import FORMATS
from fgmae_bench.report.row import Note, Row, Table
from fgmae_bench.report.table import build

MARKED = "a|b `c`\n<script>x</script> [d](e) *f* _g_ \\h"
NASTY = [
    "<script>alert(1)</script>",
    "\\input{/etc/passwd}",
    "=HYPERLINK(1)",
    "[x](javascript:y)",
    "*a*",
    "a & b % c # d ~ ^ $x$ {z}",
    "--''",
]


def table(label: str = "run", note: str = "a note", *, synthetic: bool = False) -> Table:
    row = Row(label=label, dataset="D", records=(make_record(synthetic=synthetic),), notes=(Note(code="x", text=note),))
    return of_row(row, "oa")


def of_row(row: Row, column: str) -> Table:
    """A table of one row."""
    columns = ("dataset", "run", column)
    return Table(
        name="t",
        title=row.label,
        protocol="p",
        expect="",
        columns=columns,
        rows=(row,),
        planned_runs=1,
        measured_runs=len(row.records),
    )


def one_row(label: str, *notes: Note) -> Table:
    return of_row(Row(label=label, dataset="D", notes=notes), "remarks")


TAGS = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "h1",
    "p",
    "div",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "ol",
    "li",
    "a",
}


class Reader(HTMLParser):
    """The elements and the text that a browser would find."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("text", NASTY)
def test_html_shows_names_and_notes_as_text(text):
    reader = Reader()
    reader.feed(html(table(text, text)))
    assert reader.tags <= TAGS
    assert reader.text.count(text) == 4  # title, heading, cell, note


@pytest.mark.parametrize("text", NASTY)
def test_latex_shows_names_and_notes_as_text(text):
    escaped = tex_escaped(text)
    assert escaped in FORMATS["tex"](table(text, text))
    left = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater)\{\}|\\[{}$&#%_]", "", escaped)
    assert not re.search(r"[\\$&#%_~^<>]|--|''", left), "nothing is left that TeX would act on"
    assert not re.match(r"[*\[]", left), "a line break takes no star or bracket"
    assert left.count("{") == left.count("}")


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_every_format_marks_synthetic_rows_and_only_them(ending):
    assert "(synthetic)" in FORMATS[ending](table(synthetic=True))
    assert "synthetic)" not in FORMATS[ending](table())
    assert FORMATS[ending](table()) == FORMATS[ending](table())


@pytest.mark.parametrize("ending", sorted(set(FORMATS) - {"tex"}))
def test_no_table_lacks_what_a_doubt_needs(ending):
    text = FORMATS[ending](table()).replace(" ", "_")
    for name in (
        "recipe",
        "split",
        "leaks",
        "effective_batch",
        "seeds",
        "images_per_second",
        "memory_gib",
        "seconds",
        "remarks",
    ):
        assert name in text


def test_a_table_for_a_paper_has_the_columns_that_were_asked_for_and_no_others():
    heads = FORMATS["tex"](table()).split(r"\toprule")[1].splitlines()[1]
    assert heads == r"dataset & run & OA \\"
    unasked = dataclasses.replace(table(synthetic=True), columns=("run", "oa"))
    assert "D (synthetic) & run & " in FORMATS["tex"](unasked)


def test_the_quick_check_of_records_agrees_with_jsonschema():
    record = make_record()
    assert problem_of(record) is None
    for path, value in (
        ("status", "x"),
        ("schema", True),
        ("run_id", "a b"),
        ("history", [{}]),
        ("metrics", {}),
        ("extra", 1),
    ):
        broken = {**record, path: value}
        assert "sha256" not in (problem_of(broken) or "sha256")


def test_markdown_shows_labels_and_notes_as_text():
    text = markdown(one_row(MARKED, Note(code="x", text=MARKED), Note(code="y", text="=1")))
    assert "<script" not in text
    assert escaped(MARKED) == r"a\|b \`c\` &lt;script&gt;x&lt;/script&gt; \[d\](e) \*f\* \_g\_ \\h"
    lines = text.splitlines()
    assert any(line.startswith(f"| D | {escaped(MARKED)} | ") and line.endswith(" | [^1] [^2] |") for line in lines)
    assert f"[^1]: {escaped(MARKED)}" in lines
    assert escaped("vit_small_patch16") == "vit_small_patch16"


@pytest.mark.parametrize("label", ["=1+1", "+1", "-1", "@x", " =1", "\t=1", "\n=1"])
def test_csv_cells_are_never_formulas(label):
    (row,) = parsed(one_row(label))
    assert row["run"] == "'" + label
    assert parsed(one_row(MARKED))[0]["run"] == MARKED


def test_negative_difference_stays_a_number():
    table = table_of([make_record(legacy={"oa": 0.7, "aa": 0.5})])
    cells = next(cells for cells in parsed(table) if cells["oa"])
    assert float(cells["delta_oa"]) == 0.7 - 0.795
    assert "| -0.095 |" in markdown(table)


def test_notes_are_numbered_once_and_counted_by_code():
    shared = ("still_improving", "Still improving at the end.")
    records = [make_record(notes=(shared,)), make_record(model="vit_base_patch16", batch_size=256, notes=(shared,))]
    table = table_of(records)
    assert markdown(table).count("Still improving at the end.") == 1
    assert [cells["codes"].split(";")[0] for cells in parsed(table) if cells["oa"]] == ["still_improving"] * 2
    assert all(cells["remarks"].startswith("Still improving at the end; ") for cells in parsed(table) if cells["oa"])


def test_every_column_can_be_shown():
    bounds = {"level": 0.95, "over": "groups", "units": 40, "replicates": 1000, "test": {"oa": [0.7, 0.9]}}
    records = [resealed(make_record(seed=i, legacy=LEGACY), "metrics", "intervals", bounds) for i in (0, 1)]
    records = [resealed(record, "timing", "peak_anonymous_memory_bytes", 2**30) for record in records]
    table = dataclasses.replace(table_of(records), columns=tuple(COLUMNS))
    cells = next(cells for cells in parsed(table) if cells["oa"])
    other = ("map", "f1_micro", "miou", "fwiou", "rmse", "mae", "bias", "r2", "rank_correlation")  # of other tasks
    few = ("shots", "label_area", "draws", "penalty", "candidates")  # of few labels and choices: test_report_labels.py
    other += (*few, *CALIBRATION, *RETRIEVAL, "gflops", "energy_joules", "gate")
    single = ("_low", "_high", "published_", "delta_")  # one metric has an interval, two have a published value
    empty = [
        name for name, value in cells.items() if value == "" and not any(part in name for part in (*other, *single))
    ]
    assert empty == []
    assert (cells["oa_low"], cells["oa_high"], cells["memory_gib"], cells["leaks"]) == ("0.7", "0.9", "1.0", "false")
    assert "| 21,590,000 |" in markdown(table)
    assert "| 0.700 to 0.900 |" in markdown(table)
    assert cells["params_total"] == "21590000"


# Pictures


def experiment(**common) -> Experiment:
    flags = {"dataset": "eurosat", "recipe": "published", "batch_size": 16, "train_frac": [0.01, 0.1, 1.0]}
    runs = (PlannedRun(label="vit", flags=flags, nproc_per_node=2),)
    return Experiment(
        title="T", module="linear", protocol="linear_probe", layout=Layout(columns=("dataset", "run", "oa")), runs=runs
    )


def test_few_label_curves_appear_where_fractions_vary(tmp_path):
    records = [
        make_record(train_frac=f, seed=s, test={"oa": 0.5 + f / 4 + s / 100}) for f in (0.01, 0.1, 1.0) for s in (0, 1)
    ]
    found = build(experiment(), records, [[]])
    (points,) = pictures.few_label_lines(found).values()
    assert [point[0] for point in points] == [0.01, 0.1, 1.0]
    assert points[1][1] == pytest.approx(0.53)
    assert "few-label curves" in pictures.available(found)
    pictures.draw(found, "few-label curves", tmp_path / "f.png")
    assert (tmp_path / "f.svg").read_text().count("share of the training labels") >= 1
    assert "few-label curves" not in pictures.available(build(experiment(), records[:2], [[]]))


def test_a_matrix_and_a_waterfall_are_drawn_with_their_numbers(tmp_path):
    figure, axes = figures.new_axes(4, 4)
    figures.draw_matrix(axes, [[1.0, None], [0.25, 0.5]], ["lc <b>", "dfc"], ["lc", "$dfc$"], title="schemes")
    figures.save(figure, tmp_path / "h.png")
    figures.waterfall(
        [("published", 0.8), ("per-batch", -0.05), ("leak", 0.02)], tmp_path / "w.png", axis="OA (fraction)"
    )
    heat, water = (tmp_path / "h.svg").read_text(), (tmp_path / "w.svg").read_text()
    assert all(text in heat for text in ("0.25", "$dfc$", "lc &lt;b&gt;"))
    assert all(text in water for text in ("0.800", "0.050", "+0.020", "0.770"))
