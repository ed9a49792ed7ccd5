"""Every format shows names, paths and notes as text, marks what is synthetic, and is the same again; figures of
matrices and steps.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from make_records import make_record

from fgmae_bench.config.experiments import Experiment, Layout, PlannedRun
from fgmae_bench.records import problem_of
from fgmae_bench.report import figures, pictures
from fgmae_bench.report.formats.html_table import html
from fgmae_bench.report.formats.latex import tex_escaped
from fgmae_bench.report.output import FORMATS
from fgmae_bench.report.row import Note, Row, Table
from fgmae_bench.report.table import build

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
    return Table(
        name="t",
        title=label,
        protocol="p",
        expect="",
        columns=("dataset", "run", "oa"),
        rows=(row,),
        planned_runs=1,
        measured_runs=1,
    )


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


@pytest.mark.parametrize("ending", sorted(FORMATS))
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


# Pictures


def experiment(**common) -> Experiment:
    runs = (PlannedRun(label="vit", flags={"dataset": "eurosat", "recipe": "published"}, nproc_per_node=2),)
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


def test_heatmap_and_waterfall_are_drawn_with_their_numbers(tmp_path):
    figures.heatmap([[1.0, None], [0.25, 0.5]], ["lc <b>", "dfc"], ["lc", "$dfc$"], tmp_path / "h.png", title="schemes")
    figures.waterfall(
        [("published", 0.8), ("per-batch", -0.05), ("leak", 0.02)], tmp_path / "w.png", axis="OA (fraction)"
    )
    heat, water = (tmp_path / "h.svg").read_text(), (tmp_path / "w.svg").read_text()
    assert all(text in heat for text in ("0.25", "$dfc$", "lc &lt;b&gt;"))
    assert all(text in water for text in ("0.800", "0.050", "+0.020", "0.770"))
