"""Records as a pandas DataFrame, for notebooks: one row a run, typed columns; curves, predictions and stresses."""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import typing
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import (
    is_bool_dtype,
    is_datetime64_any_dtype,
    is_list_like,
    is_numeric_dtype,
    is_object_dtype,
)

from fgmae_bench.config.names import ENGINES
from fgmae_bench.config.run import sections
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.metrics.table import METRICS
from fgmae_bench.records import Record, read_record
from fgmae_bench.report.predictions import Predictions, find_predictions, read_predictions
from fgmae_bench.report.provenance import each_held
from fgmae_bench.system.files import replacing

FRAME_VERSION = 1  # of the columns' names and types: an exported frame of another version is refused
STAMP = b"fgmae_bench.frame"
WRITTEN = "give one that export() wrote"
INT, FLOAT, BOOL, TEXT, TIME = "Int64", "Float64", "boolean", "string", "datetime64[ns, UTC]"

log = logging.getLogger("fgmae_bench")


def _at(*keys: str) -> Callable[[Record], Any]:
    """What stands at a key path of a record, None where it ends early."""

    def find(record: Record) -> Any:
        place: Any = record
        for key in keys:
            place = place.get(key) if isinstance(place, dict) else None
        return place

    return find


# Column -> (its type, how it is read from a record). Flags and scores follow from the tables of flags and metrics.
COLUMNS: dict[str, tuple[str, Callable[[Record], Any]]] = {
    **{name: (TEXT, _at(name)) for name in ("run_id", "protocol", "recipe", "status")},
    "created": (TIME, _at("created")),
    "dataset": (TEXT, _at("dataset", "name")),
    "synthetic": (BOOL, _at("dataset", "synthetic")),
    "split": (TEXT, _at("dataset", "split")),
    **{name: (INT, _at("dataset", name)) for name in ("card_version", "split_seed", "n_train", "n_val", "n_test")},
    "groups": (INT, _at("dataset", "groups", "test")),
    "group_kind": (TEXT, _at("dataset", "groups", "kind")),
    "content_sha256": (TEXT, _at("dataset", "content_sha256", "test")),
    "train_scheme": (TEXT, _at("dataset", "label_scheme", "train")),
    "eval_scheme": (TEXT, _at("dataset", "label_scheme", "eval")),
    "model": (TEXT, _at("model", "name")),
    "weights": (TEXT, _at("model", "weights", "source")),
    "weights_sha256": (TEXT, _at("model", "weights", "sha256")),
    **{name: (INT, _at("model", name)) for name in ("params_total", "params_trainable", "feature_dim")},
    "contract_assumed": (BOOL, _at("model", "contract", "assumed")),
    "best_epoch": (INT, _at("metrics", "best", "epoch")),
    "intervals_over": (TEXT, _at("metrics", "intervals", "over")),
    "gflops": (FLOAT, _at("cost", "gflops")),
    "energy_joules": (FLOAT, _at("cost", "energy_joules")),
    **{name: (FLOAT, _at("timing", name)) for name in ("total_seconds", "train_seconds", "eval_seconds")},
    "images_per_second": (FLOAT, _at("timing", "images_per_second")),
    "peak_memory_bytes": (INT, _at("timing", "peak_anonymous_memory_bytes")),
    **{name: (TEXT, _at("environment", name)) for name in ("device", "device_name", "torch", "git_commit")},
    "world_size": (INT, _at("environment", "world_size")),
    "git_dirty": (BOOL, _at("environment", "git_dirty")),
    "notes": (TEXT, lambda record: " ".join(note["code"] for note in record["notes"])),
    "has_predictions": (BOOL, lambda record: record["predictions"] is not None),
    "stresses": (INT, lambda record: len(record.get("stress") or ())),
    "sha256": (TEXT, _at("sha256")),
}
SUBMITTED = {"submitted_by": TEXT, "submitted_commit": TEXT, "submitted_at": TIME, "confirmed_by": TEXT}
KINDS: dict[str, tuple[type, ...]] = {INT: (int,), FLOAT: (int, float), BOOL: (bool,), TEXT: (str,), TIME: (str,)}


class Results(pd.DataFrame):
    """A DataFrame of runs. Rows that are left after any selection know their records: `curves()`, `predictions()` and
    `stress()` read them.
    """

    @property
    def _constructor(self) -> type[Results]:
        return Results

    def curves(self) -> pd.DataFrame:
        """One row an evaluation: `run_id`, `epoch`, `step`, `lr`, `train_loss`, `val_<metric>` and the times."""
        rows = []
        for _, record in self._records("curves"):
            for entry in record["history"]:
                scores = {f"val_{name}": value for name, value in (entry.get("val") or {}).items() if name != "epoch"}
                rows.append({"run_id": record["run_id"], **{k: v for k, v in entry.items() if k != "val"}, **scores})
        return _tidy(rows, ("run_id", "epoch"))

    def stress(self) -> pd.DataFrame:
        """One row a severity of a stress: `run_id`, `name`, `severity`, `unit` and its metrics, with the bounds of
        the change as `change_low` and `change_high`.
        """
        rows = []
        for _, record in self._records("stress"):
            for item in record.get("stress") or ():
                scores = dict(item["metrics"])
                low, high = scores.pop("change_interval", None) or (None, None)
                place = {"run_id": record["run_id"], **{k: item[k] for k in ("name", "severity", "unit")}}
                rows.append({**place, **scores, "change_low": low, "change_high": high})
        return _tidy(rows, ("run_id", "name", "severity", "unit"))

    def predictions(self) -> pd.DataFrame:
        """One row a test sample: `run_id`, `id`, `group`, and `target`, `predicted`, `logit_<class>` (of several
        labels `target_<class>` too); of segmentation the image's `pixels` and overall accuracy `oa`.

        Runs that kept no predictions have no rows. Raises BenchError where a file is missing or was changed.
        """
        parts = []
        for folder, record in self._records("predictions"):
            if record["predictions"] is not None:
                found = read_predictions(record, find_predictions(record, folder))
                parts.append(_samples(record["run_id"], found))
        return pd.concat(parts, ignore_index=True) if parts else _tidy([], ("run_id", "id", "group"))

    def export(self, path: str | Path) -> Path:
        """Write the rows as parquet, by rename, stamped with the version of the columns; `results(path)` reads it.

        Raises BenchError on a name that does not end in `.parquet`, and on columns of the user's that it cannot hold.
        """
        if Path(path).suffix != ".parquet":
            raise BenchError(f"export writes parquet, {path} has another ending", "give a name that ends in .parquet")
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pa.Table.from_pandas(pd.DataFrame(self), preserve_index=False)
        except (pa.ArrowException, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BenchError(f"{path}: columns that parquet cannot hold ({reason})", "leave them out") from error
        stamped = table.replace_schema_metadata({**(table.schema.metadata or {}), STAMP: str(FRAME_VERSION).encode()})
        with replacing(Path(path)) as temporary:
            pq.write_table(stamped, temporary)
        return Path(path)

    def _records(self, what: str) -> Iterable[tuple[Path, Record]]:
        """(folder of the results, record) of each row; raises BenchError where it is gone or another."""
        for name in ("path", "sha256"):
            if name not in self.columns:
                raise BenchError(f"{what}() needs the column '{name}'", "keep it in the selection")
        for path, digest in zip(self["path"], self["sha256"], strict=True):
            record = read_record(Path(path))
            if record["sha256"] != digest:
                raise BenchError(f"{path} is another record than this row's", "read the results again")
            yield Path(path).parents[3], record


def results(
    folder: str | Path = "results", *, pulled: str | Path | Sequence[str | Path] = (), **filters: Any
) -> Results:
    """The records below `folder` as a frame, one row a run in path order, or the frame that `export` wrote.

    Args:
        folder: a results folder, or a parquet file of `Results.export`.
        pulled: folder or folders of others' records (`board pull`); a run that `folder` holds too is taken from there.
        filters: `column=value` or `column=[values]`; rows that have none of them are left out, None is a missing value.
            Texts count as the numbers, truth values or times that they say, where the column holds such.

    A file that is not a valid record is said and left out. Flags that a run does not have, and values of another type
    than the flag's, are <NA>. Raises BenchError on a folder that is not there, a parquet file of something else, of
    another version or among pulled folders, an unknown column, and a value that a column cannot hold.

    """
    others = [Path(pulled)] if isinstance(pulled, str | Path) else list(map(Path, pulled))
    if Path(folder).suffix == ".parquet":
        if others:
            raise BenchError(f"{folder} is a file among pulled folders", "give the results folder, or the file alone")
        found = _imported(Path(folder))
    else:
        found = _read([Path(folder), *others])
    for name, wanted in filters.items():
        if name not in found.columns:
            raise unknown("column", name, found.columns)
        values = [_as_held(name, found[name].dtype, value) for value in (wanted if is_list_like(wanted) else [wanted])]
        missing = found[name].isna() & any(value is None or value is pd.NA for value in values)
        found = found[found[name].isin(values) | missing]
    return Results(found.reset_index(drop=True))


def _as_held(name: str, dtype: Any, value: Any) -> Any:
    """A filter's value as its column holds it: a text as the number, truth value or time that it says, a number as the
    text. Raises BenchError where it can be none of the column's.
    """
    if value is None or value is pd.NA or is_object_dtype(dtype):
        return value
    problem = BenchError(
        f"{name}={value!r} is not a value of a column of {dtype}", f"give one of the type {dtype}, or None"
    )
    try:
        if is_bool_dtype(dtype):
            truth = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
            if truth not in (True, False):
                raise problem
            return bool(truth)
        if is_numeric_dtype(dtype):
            return float(value)
        if is_datetime64_any_dtype(dtype):
            return pd.to_datetime(value, utc=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise problem from error
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _read(folders: Sequence[Path]) -> Results:
    """The rows of several folders; of one run the first counts."""
    held: dict[str, list[Any]] = {}
    count = 0
    collecting = gc.isenabled()
    gc.disable()  # records are many small objects, and none of them is ever part of a circle
    try:
        for each in each_held(folders[0], folders[1:]):
            if isinstance(each, str):
                log.warning("left out: %s", each)
            else:
                _append(held, count, _row(each.path, each.record, each.said))
                count += 1
    finally:
        if collecting:
            gc.enable()
    return _typed(held, count)


def _row(path: Path, record: Record, said: dict[str, Any]) -> dict[str, Any]:
    """Everything of one run by column; values are of the column's type or None."""
    row = {name: _of_type(kind, read(record)) for name, (kind, read) in COLUMNS.items()}
    config = record["config"]
    row |= {name: _of_type(kind, config[part].get(name)) for name, (part, kind) in _flags().items()}
    row["path"] = str(path)
    row |= {name: said.get(name) for name in SUBMITTED}
    metrics = record["metrics"]
    row |= {f"test_{name}": value for name, value in metrics["test"].items() if name != "epoch" and _number(value)}
    best = metrics["best"] or {}
    row |= {f"val_{name}": value for name, value in best.items() if name != "epoch" and _number(value)}
    for name, pair in ((metrics["intervals"] or {}).get("test") or {}).items():
        if pair is not None:
            row[f"test_{name}_low"], row[f"test_{name}_high"] = pair
    return row


def _append(held: dict[str, list[Any]], count: int, row: dict[str, Any]) -> None:
    """Add a row to the columns; one that was left out before is filled up first."""
    for name, value in row.items():
        column = held.setdefault(name, [])
        if len(column) < count:
            column.extend([None] * (count - len(column)))
        column.append(value)


def _typed(held: dict[str, list[Any]], count: int) -> Results:
    """The columns as a frame: those of every record first, then scores in the order of the metrics table."""
    flags = {name: kind for name, (_, kind) in _flags().items()}
    kinds = {**{name: kind for name, (kind, _) in COLUMNS.items()}, **flags, "path": TEXT, **SUBMITTED}
    scores = sorted((name for name in held if name not in kinds), key=_score_order)
    first = [name for name in kinds if name in COLUMNS]
    rest = [name for name in kinds if name not in COLUMNS]
    columns = {}
    for name in (*first, *scores, *rest):
        values = held.get(name, [])
        columns[name] = _series(kinds.get(name, FLOAT), values + [None] * (count - len(values)))
    return Results(columns)


def _series(kind: Any, values: list[Any]) -> Any:
    """Values of a column's type, None as its null."""
    if kind == TIME:
        return pd.to_datetime(pd.Series(values, dtype=object), utc=True, format="ISO8601", errors="coerce").astype(kind)
    return pd.Series(values, dtype=kind)


def _score_order(name: str) -> tuple[int, int, str, int]:
    """Test before val, metrics as in their table, a score before its bounds."""
    part, _, metric = name.partition("_")
    plain, known = metric.removesuffix("_low").removesuffix("_high"), list(METRICS)
    bound = 2 if metric.endswith("_high") else int(metric.endswith("_low"))
    return (("test", "val").index(part), known.index(plain) if plain in known else len(known), plain, bound)


@cache
def _flags() -> dict[str, tuple[str, str]]:
    """Every flag of every module that can change a number: its section of the configuration, and its column's type."""
    found: dict[str, tuple[str, str]] = {}
    for module in ENGINES:
        for part, kind in sections(module).items():
            hints = typing.get_type_hints(kind)
            for field in dataclasses.fields(kind) if part != "execution" else ():
                if field.name not in COLUMNS:
                    found.setdefault(field.name, (part, _kind(hints[field.name])))
    return found


def _kind(hint: Any) -> str:
    """The type of a flag's column: of numbers or truth values where the flag takes nothing else, else text."""
    options = {option for option in typing.get_args(hint) or (hint,) if option is not type(None)}
    plain: dict[Any, str] = {int: INT, float: FLOAT, bool: BOOL}
    return plain.get(next(iter(options)), TEXT) if len(options) == 1 else TEXT


def _of_type(kind: str, value: Any) -> Any:
    """A value as its column holds it, None where it is of another type; in a column of texts lists are JSON."""
    if value is None or type(value) in KINDS[kind]:
        return value
    return json.dumps(value) if kind == TEXT else None


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _tidy(rows: list[dict[str, Any]], first: tuple[str, ...]) -> pd.DataFrame:
    """Rows as a frame whose leading columns are there even without a row; null is NaN."""
    found = pd.DataFrame(rows)
    for name in first:
        if name not in found:
            found[name] = pd.Series(dtype=object)
    return found[[*first, *(name for name in found if name not in first)]].infer_objects()


def _samples(run_id: str, held: Predictions) -> pd.DataFrame:
    """A run's predictions, one row a sample."""
    columns: dict[str, Any] = {"run_id": run_id, "id": held.ids, "group": held.groups or [None] * len(held.ids)}
    if held.targets is None:
        if held.sums is None:
            pixels = held.scores.sum((1, 2))
            right = np.einsum("nkk->n", held.scores[:, :, : held.scores.shape[1]])
            columns |= {"pixels": pixels, "oa": right / np.where(pixels, pixels, np.nan)}
        return pd.DataFrame(columns)
    if held.kind == "regression":
        return pd.DataFrame({**columns, "target": held.targets[:, 0], "predicted": held.scores[:, 0]})
    logits = {f"logit_{name}": held.scores[:, i] for i, name in enumerate(held.classes)}
    if held.kind == "multi_label":
        labels = {f"target_{name}": held.targets[:, i].astype(bool) for i, name in enumerate(held.classes)}
        return pd.DataFrame({**columns, **labels, **logits})
    names = np.array(held.classes, dtype=object)
    return pd.DataFrame({**columns, "target": names[held.targets], "predicted": names[held.decisions()], **logits})


def _imported(path: Path) -> Results:
    """The frame that `export` wrote; raises BenchError on anything else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:100]
        raise BenchError(f"{path}: no parquet file that can be read ({reason})", WRITTEN) from error
    stamp = (table.schema.metadata or {}).get(STAMP)
    if stamp is None:
        raise BenchError(f"{path}: not an exported frame of results", WRITTEN)
    if stamp != str(FRAME_VERSION).encode():
        what = f"{path}: a frame of version {stamp.decode(errors='replace')[:20]}, this one reads {FRAME_VERSION}"
        raise BenchError(what, "export it again from its records")
    return Results(table.to_pandas())
