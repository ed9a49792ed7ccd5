"""Rows and tables of made-up models on several datasets, for tests of the board."""

from __future__ import annotations

from make_records import make_record, resealed, sha

from fgmae_bench.records import Record
from fgmae_bench.report.row import Row, Table


def record(model: str, dataset: str = "eurosat", *, oa: float = 0.8, source: str = "fgmae", **more) -> Record:
    """A record of a named model whose weights are its own; `content` stands for the pixels."""
    made = make_record(dataset=dataset, model=model, test={"oa": oa}, content=more.pop("content", dataset), **more)
    made = resealed(made, "model", "weights", "source", source)
    return resealed(made, "model", "weights", "sha256", None if source in ("random", "none") else sha(model))


def row(label: str, *records: Record, title: str = "", **more) -> Row:
    return Row(label=label, dataset=title or records[0]["dataset"]["name"], records=records, **more)


def table(*rows: Row, name: str = "t", title: str = "T") -> Table:
    return Table(
        name=name,
        title=title,
        protocol="linear_probe",
        expect="",
        columns=("dataset", "run", "oa"),
        rows=rows,
        planned_runs=len(rows),
        measured_runs=len(rows),
    )


def league(scores: dict[str, list[float]], seeds: int = 1, datasets: int | None = None) -> Table:
    """A table of models on datasets d0, d1, ..., scores by model; seeds differ by a thousandth."""
    rows = []
    for d in range(datasets or max(map(len, scores.values()))):
        for model, values in scores.items():
            if d < len(values):
                made = [record(model, f"d{d}", oa=values[d] + s / 1000, seed=s) for s in range(seeds)]
                rows.append(row(model, *made))
    return table(*rows)
