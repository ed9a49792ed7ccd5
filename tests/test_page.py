"""The page's data and files: same records same bytes, a change touches its own lines, hostile text cannot leave its
place.
"""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
import sys
from pathlib import Path

import pytest
from make_records import entry, make_record, resealed, store_all

from fgmae_bench.config.experiments import load_experiment
from fgmae_bench.errors import BenchError
from fgmae_bench.records import Record, seal
from fgmae_bench.report import __main__ as report
from fgmae_bench.report import page, page_data, published
from fgmae_bench.report.columns import COLUMNS
from fgmae_bench.report.page_data import heading
from fgmae_bench.report.row import Note, Row, Table
from fgmae_bench.report.table import build

REPOSITORY = Path(__file__).resolve().parent.parent
EXPERIMENTS = REPOSITORY / "experiments"
TEMPLATES = REPOSITORY / "fgmae_bench/report/templates"
HOSTILE = "</script><script>window.hit=1</script><img src=x onerror='window.hit=2'> & \u2028 \" ${window.hit=3} <!-- @@data@@ javascript:1"


def table_of(records: list[Record]) -> Table:
    experiment = load_experiment(EXPERIMENTS / "eurosat_linear.toml")
    rows = published.read_rows(REPOSITORY / "results/published/published_results.csv")
    return dataclasses.replace(
        build(experiment, records, published.for_runs(experiment, rows)), figures={"loss": "", "oa": "", "aa": ""}
    )


def hostile_table() -> tuple[Table, list[Record]]:
    """A table and its record in which everything that people name holds HTML and script."""
    record = make_record(notes=(("hostile", HOSTILE),))
    for path in (
        ("environment", "command"),
        ("dataset", "split"),
        ("model", "weights", "source"),
        ("recipe",),
        ("environment", "device_name"),
    ):
        record = resealed(record, *path, HOSTILE)
    record = resealed(record, "metrics", "per_class", {HOSTILE: {HOSTILE: 0.5, "support": 3}, "b": {"support": 1}})
    record = resealed(record, "metrics", "confusion", [[2, 1], [0, 1]])
    row = Row(label=HOSTILE, dataset=HOSTILE, records=(record,), notes=(Note(code="x", text=HOSTILE),))
    names = ("dataset", "run", "model", "weights", "split", "recipe", "oa", "remarks")
    table = Table(
        name="hostile",
        title=HOSTILE,
        protocol=HOSTILE,
        expect=HOSTILE,
        columns=names,
        rows=(row,),
        planned_runs=1,
        measured_runs=1,
    )
    return table, [record]


def many_records(count: int, epochs: int = 50) -> list[Record]:
    """Records that differ in everything a big table differs in, with as many epochs as the published protocol has."""
    models = ("vit_small_patch16", "vit_base_patch16", "vit_large_patch16", "backscatter_stats")
    found = []
    for i in range(count):
        scores = {
            "oa": 0.5 + (i * 37 % 997) / 2500,
            "aa": 0.5 + (i * 61 % 997) / 2600,
            "loss": 0.4 + (i * 17 % 991) / 700,
        }
        made = make_record(
            model=models[i % 4], lr=0.001 * (1 + i // 4), seed=i, synthetic=i % 3 == 0, test=scores, history_epochs=0
        )
        body = {
            **made,
            "history": [
                entry(epoch, {**scores, "kappa": 0.123456789 * epoch / epochs}) for epoch in range(1, epochs + 1)
            ],
        }
        found.append(seal(body))
    return found


def parsed(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def data_lines(records: list[Record]) -> list[str]:
    return page.data([table_of(records)], records).splitlines()


# Same records, same bytes


def test_page_is_the_same_twice_and_a_changed_record_changes_exactly_its_lines():
    records = [make_record(), make_record(model="vit_base_patch16", batch_size=256), make_record(lr=0.3)]
    before = data_lines(records)
    assert before == data_lines(list(records))
    changed = resealed(records[1], "metrics", "test", "oa", 0.9)
    after = data_lines([records[0], changed, records[2]])
    differing = [old for old, new in zip(before, after, strict=True) if old != new]
    assert len(differing) == 1
    assert "ViT-B, batch 256" in differing[0]
    history = [{**entry, "train_loss": 9.0} for entry in changed["history"]]
    again = data_lines([records[0], resealed(changed, "history", history), records[2]])
    differing = [old for old, new in zip(after, again, strict=True) if old != new]
    assert len(differing) == 1
    assert differing[0].startswith(f'"{changed["run_id"]}":')


def test_write_leaves_one_script_a_run_and_removes_its_own_only(tmp_path):
    records = [make_record(), make_record(lr=0.3)]
    path = page.write([table_of(records)], records, tmp_path)
    assert path == tmp_path / "index.html"
    assert sorted(file.stem for file in (tmp_path / "runs").iterdir()) == sorted(record["run_id"] for record in records)
    first = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    stamps = {file: file.stat().st_mtime_ns for file in first}
    page.write([table_of(records)], records, tmp_path)
    assert first == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert stamps == {file: file.stat().st_mtime_ns for file in first}, "what did not change is not written again"
    (tmp_path / "runs/mine.js").write_text("alert(1)")
    (tmp_path / "runs/log.jsonl").write_text("{}")
    page.write([table_of(records[:1])], records[:1], tmp_path)
    assert sorted(file.name for file in (tmp_path / "runs").iterdir()) == sorted(
        ["log.jsonl", "mine.js", f"{records[0]['run_id']}.js"]
    )


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(BenchError, match="runs: a file is where a folder is needed"):
        page.write([], [make_record()], tmp_path)
    assert not (tmp_path / "index.html").exists()


def test_side_script_holds_the_whole_record():
    record = json.loads(json.dumps(hostile_table()[1][0]))
    script = page.run_script(record["run_id"], record)
    assert json.loads("[" + script.removeprefix("fgmaeBenchRun(").removesuffix(");\n") + "]") == [
        record["run_id"],
        record,
    ]
    assert not set("<>&\u2028") & set(script)


def test_runs_of_one_id_but_two_bodies_have_names_of_their_own():
    twin = resealed(make_record(), "metrics", "test", "oa", 0.1)
    names = page_data.keys([make_record(), twin, make_record(lr=0.3)])
    assert len(set(names.values())) == 3
    assert names[twin["sha256"]] == f"{twin['run_id']}-{twin['sha256'][:10]}"
    assert names[make_record(lr=0.3)["sha256"]] == make_record(lr=0.3)["run_id"]


@pytest.mark.usefixtures("no_pictures")
def test_command_writes_the_page_and_gives_the_same_bytes_twice(monkeypatch, tmp_path):
    store_all([make_record(), make_record(synthetic=True), make_record(lr=0.3)], tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", "--results_dir", str(tmp_path), "--experiments", str(EXPERIMENTS)])
    contents = []
    for _ in range(2):
        assert report.main() == 0
        contents.append(
            {path.name: path.read_bytes() for path in [tmp_path / "index.html", *(tmp_path / "runs").iterdir()]}
        )
    assert contents[0] == contents[1]
    assert len(contents[0]) == 4


# What the data holds


def test_rows_hold_what_the_tables_hold():
    records = [make_record(seed=0), make_record(seed=1, test={"oa": 0.9}), make_record(synthetic=True)]
    table = table_of(records)
    (shown,) = parsed(page.page([table], records))["tables"]
    assert [row["kind"] for row in shown["rows"]].count("synthetic") == 1
    row = next(row for row in shown["rows"] if row["kind"] == "measured")
    text, value = row["cells"][shown["columns"].index("oa")]
    assert text == "0.850 ± 0.071"
    assert value == pytest.approx(0.85)
    assert row["runs"] == [record["run_id"] for record in records[:2]]
    assert "seeds" in shown["columns"]
    texts = [shown["notes"][number - 1] for number in row["notes"]]
    assert any("--legacy_metrics" in text for text in texts)
    only = next(row for row in shown["rows"] if row["kind"] == "published")
    assert (
        only["cells"][shown["columns"].index("published_oa")][1] in (0.81, 0.815, 0.755, 0.78, 0.82, 0.795)
        or only["runs"] == []
    )


def test_runs_of_no_table_have_a_table_of_their_own():
    stray = make_record(lr=0.3)
    tables = parsed(page.page([table_of([stray])], [stray]))["tables"]
    assert [table["name"] for table in tables] == ["eurosat_linear", page_data.OTHER_RUNS]
    assert tables[1]["rows"][0]["runs"] == [stray["run_id"]]
    assert len(parsed(page.page([table_of([])], []))["tables"]) == 1


def test_curves_are_thinned_and_keep_their_ends():
    (record,) = many_records(1, epochs=1000)
    run = page_data.run_data(record, ["loss", "oa"], page_data.points_of(1))
    assert len(run["epoch"]) == len(run["lr"]) == len(run["val"]["oa"]) == 100
    assert (run["epoch"][0], run["epoch"][-1]) == (1, 1000)
    assert run["val"]["loss"][-1] == float(f"{record['history'][-1]['val']['loss']:.5g}")
    assert page_data.thinned([], 20) == []
    assert page_data.points_of(1000) == 50
    assert page_data.points_of(10**6) == 20


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        (0.123456789, 0.12346),
        (50.0, 50),
        (1e-9, 1e-9),
        (21590000, 21590000),
    ],
)
def test_numbers_are_short_and_always_json(value, kept):
    assert page_data.short(value) == kept


def test_every_column_has_a_heading():
    assert all(heading(name)[0] for name in COLUMNS)
    assert heading("published_oa")[0] == "OA published"
    assert heading("delta_aa")[0] == "Δ AA"
    assert heading("never_heard_of") == ("never heard of", "")


@pytest.mark.slow
def test_page_of_a_thousand_runs_is_small():
    records = many_records(1000)
    text = page.page([table_of(records)], records)
    assert len(text.encode()) < 5_000_000
    assert len(parsed(text)["runs"]) == 1000


# Text stays text


class Elements(html.parser.HTMLParser):
    """Counts elements, and keeps what the scripts hold."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


def test_hostile_text_leaves_the_markup_as_it_is():
    table, records = hostile_table()
    hostile, harmless = page.page([table], records), page.page([], [])
    assert Elements(hostile).tags == Elements(harmless).tags
    assert "<script>window.hit" not in hostile
    data = parsed(hostile)
    assert data["tables"][0]["title"] == HOSTILE
    assert HOSTILE in data["tables"][0]["rows"][0]["cells"]
    assert hostile.replace(page.data([table], records), "") == harmless.replace(page.data([], []), ""), (
        "only the data differs"
    )


def test_page_is_one_file_that_asks_for_nothing():
    text = page.page([], [])
    assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[\w.]+\.\w+", re.sub(r"(?m)^\s*//.*$", "", text))
    assert "default-src 'none'" in text
    assert not re.search(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"(?!data:)", text)
    assert "@@" not in text.replace("/@@(", "")


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("page*.js")), ids=lambda path: path.name)
def test_scripts_never_parse_text_as_markup_or_code(path):
    code = path.read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc|\bfetch\b", code
    )
