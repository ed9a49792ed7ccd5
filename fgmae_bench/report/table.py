"""The rows of an experiment's table: which records share a row, in which order, with which published number."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from fgmae_bench.config.experiments import YOUNGER_DEFAULTS, Experiment, PlannedRun, batches, matches
from fgmae_bench.config.same_run import as_json, effective_batch
from fgmae_bench.records import Record
from fgmae_bench.report.chosen import chance, few_labels, with_areas, with_budgets, with_selected
from fgmae_bench.report.columns import source_title
from fgmae_bench.report.deltas import differences, statement
from fgmae_bench.report.published import Published, title_of
from fgmae_bench.report.row import Note, Row, Table, unique, verdicts

SYNTHETIC = Note(code="synthetic", text="Synthetic data: a generated world, not measurements of Sentinel-1.")
DATASET_FACTS = (
    "name",
    "card_version",
    "split",
    "split_seed",
    "eval_split",
    "sample_ids_sha256",
    "label_scheme",
    "band_order",
    "units",
    "calibration",
    "synthetic",
)


def build(experiment: Experiment, records: list[Record], published: list[list[Published]]) -> Table:
    """The table of an experiment; `published` holds the published rows of each planned run."""
    rows: list[Row] = []
    measured = 0
    protocols = sorted({run.protocol or experiment.protocol for run in experiment.runs})
    records = [record for record in records if record["protocol"] in protocols]
    for run, stated in zip(experiment.runs, published, strict=True):
        fitting = [record for record in records if matches(experiment, run, record)]
        measured += bool(fitting)
        rows += _rows_of(experiment, run, fitting, stated)
    rows = with_areas(with_budgets(rows), settings)
    return Table(
        name=experiment.name,
        title=experiment.title,
        protocol=", ".join(protocols),
        expect=experiment.expect,
        columns=experiment.layout.columns,
        rows=tuple(rows),
        planned_runs=len(experiment.runs),
        measured_runs=measured,
    )


def _rows_of(experiment: Experiment, run: PlannedRun, records: list[Record], published: list[Published]) -> list[Row]:
    """Rows of one planned run: measured with the first published row, further published rows, then synthetic ones.

    A synthetic row never shares a line with a published number, so where only synthetic records exist, that number
    keeps its own.
    """
    records = current(records)
    genuine = [record for record in records if not record["dataset"]["synthetic"]]
    synthetic = [record for record in records if record["dataset"]["synthetic"]]
    first = published[0] if published else None
    title = title_of(str({**experiment.common, **run.flags}["dataset"]))
    rows = [_measured(label, group, first, run.weights_files) for label, group in _labelled(run.label, genuine)]
    rows = with_selected(
        [replace(row, gates=verdicts(experiment, run, published, row.records)) for row in rows], settings
    )
    if not genuine and (first or not synthetic):
        rows.append(
            Row(
                label=run.label,
                dataset=title,
                planned=planned(experiment, run),
                published=first,
                gates=verdicts(experiment, run, published, ()),
                notes=_statement(first),
            )
        )
    rows += [Row(label=run.label, dataset=title, published=other, notes=_statement(other)) for other in published[1:]]
    return rows + with_selected(
        [_measured(label, group, None) for label, group in _labelled(run.label, synthetic)], settings
    )


def unplanned(records: list[Record]) -> tuple[Row, ...]:
    """Rows of records that no experiment plans, seeds and draws of one configuration together as in a planned table, in
    order of dataset, protocol and model: each is called by its model and weights, and the settings in which it differs.
    """
    by_run: dict[tuple[str, ...], list[Record]] = {}
    for record in current(records):
        by_run.setdefault(_named_by(record), []).append(record)
    rows: list[Row] = []
    for key in sorted(by_run):
        several = by_run[key]
        source = source_title(several[0]["model"]["weights"]["source"])
        named = _labelled(f"{several[0]['model']['name']} ({source})", several)
        rows += with_selected([_measured(label, group, None) for label, group in named], settings)
    return tuple(with_areas(with_budgets(rows), settings))


def _named_by(record: Record) -> tuple[str, ...]:
    """What tells a record from others in columns of its own, labels few before all: rows that share it need labels."""
    dataset, model, data = record["dataset"], record["model"], record["config"]["data"]
    shots, fraction = data.get("shots"), float(data.get("train_frac", 1.0))
    size = ("1" if shots is None else "0", f"{shots or 0:09}", f"{fraction:.9f}")
    return (
        dataset["name"], str(dataset["synthetic"]), record["protocol"], dataset["split"], model["name"],
        model["weights"]["source"], record["recipe"], *size,
    )  # fmt: skip


# What a row says of a run, besides the seed: records that agree in these are of one run, made by different versions.
SAME_RUN = (
    "train_frac",
    "split_seed",
    "lr",
    "weight_decay",
    "epochs",
    "max_steps",
    "probe",
    "features",
    "views",
    "seed",
    "shots",
    "draw",
)


def current(records: list[Record]) -> list[Record]:
    """The records without those of an older schema whose run a newer record repeats."""
    newest = max((record["schema"] for record in records), default=0)
    repeated = {_run(record) for record in records if record["schema"] == newest}
    return [record for record in records if record["schema"] == newest or _run(record) not in repeated]


def _run(record: Record) -> str:
    config, dataset = record["config"], record["dataset"]
    flat = {**config["data"], **config["recipe"]}
    own = {name: flat.get(name) for name in SAME_RUN}
    named = [record["model"]["name"], record["model"]["weights"]["sha256"], record["protocol"], record["recipe"]]
    where = [dataset["name"], dataset["split"], dataset["synthetic"], effective_batch(record)]
    return json.dumps([own, named, where], sort_keys=True)


def _measured(label: str, group: tuple[Record, ...], published: Published | None, files: tuple[str, ...] = ()) -> Row:
    """A row of records that differ by seed only, with a published row where there is one; `files` hold the weights that
    the plan names.
    """
    deltas, comparison = differences(group, published, files) if published else ({}, ())
    synthetic = group[0]["dataset"]["synthetic"]
    remarks = [Note(code=note["code"], text=note["text"]) for record in group for note in record["notes"]]
    remarks = [note for note in remarks if note.code != "pretraining_places"]  # a column of its own
    if synthetic and all(note.code != "synthetic" for note in remarks):
        remarks.insert(0, SYNTHETIC)
    return Row(
        label=label,
        dataset=title_of(group[0]["dataset"]["name"]),
        records=group,
        published=published,
        deltas=deltas,
        notes=unique([*remarks, *_units(group), *_statement(published), *comparison]),
    )


def _units(records: tuple[Record, ...]) -> list[Note]:
    """What the intervals of a row are over: `Intervals over 37 scenes.`; or that there is none to show."""
    found = []
    for record in records:
        intervals = record["metrics"]["intervals"]
        pairs = [pair for pair in ((intervals or {}).get("test") or {}).values() if pair]
        if not pairs or "units" not in intervals:
            continue
        kind = (record["dataset"].get("groups") or {}).get("kind") or "group"
        unit = kind if intervals["over"] == "groups" else "sample"
        count = f"{intervals['units']:,} {unit}{'' if intervals['units'] == 1 else 's'}"
        alike = "" if intervals["over"] == "groups" else ": none is taken to be like its neighbours"
        shown = any(high > low for low, high in pairs)
        text = f"Intervals over {count}{alike}." if shown else f"No interval: all of the {count} score the same."
        found.append(Note(code="interval_units", text=text))
    return found


def _statement(published: Published | None) -> tuple[Note, ...]:
    return statement(published) if published else ()


def settings(record: Record) -> dict[str, Any]:
    """Everything of a record that can change a number, as one flat dict, without the seed of the recipe and, of few
    labels, which were drawn.
    """
    config, dataset = record["config"], record["dataset"]
    flat = {name: value for part in ("data", "model", "recipe") for name, value in config[part].items()}
    for name in ("seed", "blr", "weights"):  # blr follows from lr; the weights stand below by their content
        flat.pop(name, None)
    flat |= {f"dataset {name}": dataset[name] for name in DATASET_FACTS}
    ids = flat.pop("dataset sample_ids_sha256")
    flat |= {f"ids of {split}": digest for split, digest in ids.items()}
    flat |= {f"fact {name}": value for name, value in config.get("facts", {}).items()}
    for name in [name for name, default in YOUNGER_DEFAULTS.items() if as_json(flat.get(name)) == default]:
        flat.pop(name, None)
    if few_labels(record):  # which labels were drawn is chance, as the seed is; the pool and the test split are not
        for name in ("draw", "ids of train"):
            flat.pop(name, None)
        for name in ("fact samples_sha256", "fact content_sha256"):
            flat[name] = {part: value for part, value in (flat.get(name) or {}).items() if part != "train"}
    flat |= {"protocol": record["protocol"], "recipe": record["recipe"], "status": record["status"]}
    flat |= {"effective batch": effective_batch(record), "weights sha256": record["model"]["weights"]["sha256"]}
    return flat


def groups(records: list[Record]) -> list[tuple[Record, ...]]:
    """Records that differ by seed, or draw of labels, only, together; in order of shots, lr, weight decay, then every
    other number of their settings, and run ids.

    Where a seed and draw come twice, something unseen differs too: each of those records stands alone.
    """
    by_key: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda each: (*chance(each), each["run_id"])):
        by_key.setdefault(json.dumps(settings(record), sort_keys=True), []).append(record)
    found: list[tuple[Record, ...]] = []
    for together in by_key.values():
        seeds = {chance(record) for record in together}
        found += [tuple(together)] if len(seeds) == len(together) else [(record,) for record in together]
    return sorted(found, key=_order)


def _order(group: tuple[Record, ...]) -> tuple[Any, ...]:
    config = group[0]["config"]
    flat = {**config["data"], **config["model"], **config["recipe"]}
    first = ("shots", "lr", "weight_decay")
    rest = [name for name in sorted(flat) if name not in (*first, "seed", "draw") and type(flat[name]) in (int, float)]
    numbers = [flat.get(name) for name in (*first, *rest)]
    return ([(value is None, value or 0.0) for value in numbers], [record["run_id"] for record in group])


def _labelled(label: str, records: list[Record]) -> list[tuple[str, tuple[Record, ...]]]:
    """The groups with labels that distinguish them: by their settings or, where these read the same, by run id."""
    found = groups(records)
    labels = distinct([label] * len(found), [group[0] for group in found])
    count = Counter(labels)
    return [
        (text if count[text] == 1 else f"{text} {group[0]['run_id'][-10:]}", group)
        for text, group in zip(labels, found, strict=True)
    ]


def distinct(labels: list[str], records: list[Record]) -> list[str]:
    """The labels with the settings in which records of one label differ (facts only where no plain setting does)."""
    every = [settings(record) for record in records]
    rivals: dict[str, list[dict[str, Any]]] = {}
    for label, own in zip(labels, every, strict=True):
        rivals.setdefault(label, []).append(own)
    differing = {label: _differing(several) for label, several in rivals.items()}
    result = []
    for label, own in zip(labels, every, strict=True):
        names = [name for name in own if name in differing[label]]
        plain = [name for name in names if " " not in name] or names
        result.append(label + (f" ({', '.join(f'{name} {_short(own[name])}' for name in plain)})" if plain else ""))
    return result


def _differing(several: list[dict[str, Any]]) -> set[str]:
    """The settings that have more than one value; an absent one is null."""
    first = several[0]
    names = dict.fromkeys(name for own in several for name in own)
    return {name for name in names if any(own.get(name) != first.get(name) for own in several[1:])}


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 24 else "…" + text[-12:]


def planned(experiment: Experiment, run: PlannedRun) -> dict[str, Any]:
    """The settings that a planned run states, by column name; several values as text."""
    flags = {"recipe": "published", **experiment.common, **run.flags}
    stated = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in flags.items()}
    stated["world_size"] = run.nproc_per_node
    if "batch_size" in flags:
        products = {batch * run.nproc_per_node for batch in batches(flags["batch_size"], flags.get("accum_iter", 1))}
        stated["effective_batch"] = ", ".join(map(str, sorted(products))) if len(products) > 1 else products.pop()
    return stated
