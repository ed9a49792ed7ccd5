"""Immutable records: one JSON a run, carrying the hash of its own body, checked against a published schema."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import fastjsonschema

from fgmae_bench.config.strict import deeper_than
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import replacing

SCHEMA_VERSION = 2  # records of earlier versions stay readable, see `problem_of`
Record = dict[str, Any]

log = logging.getLogger("fgmae_bench")
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
MAX_BYTES = 32 << 20  # of a record's file
MAX_DEPTH = 32  # of its lists and tables: everything that reads or writes one works through them recursively
MAX_INTEGER, MAX_REAL = 2**63, 1e100  # of its numbers, so that sums and squares of them are numbers as well
MAX_TEXT = 20_000  # letters of one of its texts


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a record: the file of the package, with the bounds of the metrics table."""
    from fgmae_bench.metrics.table import FRACTION, METRICS  # here: `--help` needs no numpy

    text = resources.files("fgmae_bench").joinpath("record.schema.json").read_text(encoding="utf-8")
    scores: dict[str, Any] = {}  # stands where the file refers to it: compiled, a reference is slower
    loaded: dict[str, Any] = json.loads(text, object_hook=lambda node: scores if "$ref" in node else node)
    scores.update(loaded["$defs"]["scores"])
    # Any score is a fraction unless the table says otherwise, one of another version too: a percentage is refused.
    other = {name: metric.bounds for name, metric in METRICS.items() if metric.bounds != FRACTION}
    scores["properties"] |= {name: _number(bounds) for name, bounds in other.items()}
    scores["additionalProperties"] = _number(FRACTION)
    return loaded


def _number(bounds: tuple[float, float] | None) -> dict[str, Any]:
    """The schema of a number within bounds, null where undefined."""
    limits = {} if bounds is None else dict(zip(("minimum", "maximum"), bounds, strict=True))
    return {"type": ["number", "null"], **limits}


@cache
def _validator() -> Callable[[Any], Any]:
    """The schema compiled to Python: quick to say yes; what it turns down is left to jsonschema to explain."""
    compiled: Callable[[Any], Any] = fastjsonschema.compile(schema())
    return compiled


def fits(record: Any) -> bool:
    """Whether a record fits the schema; its hash is not looked at."""
    if isinstance(record, dict) and _plain_history(record.get("history")):
        record = {**record, "history": []}  # most of a record: looked at by column, which takes a third of the time
    try:
        _validator()(record)
    except fastjsonschema.JsonSchemaValueException:
        return False
    return True


def _plain_history(history: Any) -> bool:
    """Whether a history surely fits: entries of the same names, numbers within their bounds. False leaves it open."""
    required, entries, scores, other = _columns()
    if not _alike(history) or not required <= history[0].keys() <= {*entries, "val"}:
        return False
    held = [entry["val"] for entry in history]
    return (
        _alike(held)
        and all(_within([entry[name] for entry in history], *entries[name]) for name in history[0] if name != "val")
        and all(_within([entry[name] for entry in held], *scores.get(name, other)) for name in held[0])
    )


_Limits = tuple[set[type], float | None, float | None]


@cache
def _columns() -> tuple[set[str], dict[str, _Limits], dict[str, _Limits], _Limits]:
    """(names that every entry of a history holds, limits of its numbers, of scores of the table, of other scores)."""
    entry = schema()["properties"]["history"]["items"]
    scores = entry["properties"]["val"]
    plain = {name: _limits(wanted) for name, wanted in entry["properties"].items() if name != "val"}
    known = {name: _limits(wanted) for name, wanted in scores["properties"].items()}
    return set(entry["required"]), plain, known, _limits(scores["additionalProperties"])


def _limits(wanted: dict[str, Any]) -> _Limits:
    """The types that the schema of a number has in Python, and its bounds; a whole 1.0 is left to the validator."""
    named = wanted["type"] if isinstance(wanted["type"], list) else [wanted["type"]]
    types: dict[str, set[type]] = {"integer": {int}, "number": {int, float}, "null": {type(None)}}
    return set().union(*(types[name] for name in named)), wanted.get("minimum"), wanted.get("maximum")


def _alike(tables: Any) -> bool:
    """Whether these are a list of tables, at least one, that have the same names."""
    if type(tables) is not list or {*map(type, tables)} != {dict}:
        return False
    return all(map(tables[0].keys().__eq__, map(dict.keys, tables)))


def _within(values: list[Any], kinds: set[type], low: float | None, high: float | None) -> bool:
    """Whether numbers are of these types and surely within the bounds. NaN leaves it open."""
    found = {*map(type, values)}
    if not found <= kinds:
        return False
    if low is None and high is None:
        return True
    numbers = [value for value in values if value is not None] if type(None) in found else values
    return not numbers or bool((low is None or low <= min(numbers)) and (high is None or max(numbers) <= high))


def body_sha256(record: Record) -> str:
    """SHA-256 of the canonical body: keys sorted, no spaces, UTF-8, without the field `sha256` itself."""
    body = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(_CANONICAL.encode(body).encode()).hexdigest()


def seal(record: Record) -> Record:
    """The record with its body hash; raises ValueError (an error of ours) when it does not fit the schema."""
    sealed = {**record, "sha256": body_sha256(record)}
    problem = problem_of(sealed)
    if problem:
        raise ValueError(f"record does not fit its schema: {problem}")
    return sealed


def problem_of(record: Any) -> str | None:
    """What is wrong with a record, in one line, or None."""
    fitting = fits(record)  # then the history is as deep as the schema says
    if deeper_than({**record, "history": None} if fitting else record, MAX_DEPTH):
        return f"nested more than {MAX_DEPTH} levels deep"
    made = record.get("schema") if isinstance(record, dict) else None
    if type(made) is int and made > SCHEMA_VERSION:
        return f"made by a newer version (its schema is {made}, this version reads {SCHEMA_VERSION})"
    if not fitting:
        import jsonschema

        error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema()).iter_errors(record))
        if error is not None:
            place = "/".join(map(str, error.absolute_path)) or "record"
            return f"{place[:200]}: {error.message[:200]}"
    if problem := _beyond(record):
        return problem
    try:
        return (
            None if record["sha256"] == body_sha256(record) else "sha256 does not match the body: the file was edited"
        )
    except ValueError as error:  # a number or a letter that JSON in UTF-8 cannot hold
        return f"the body cannot be hashed ({error})"


def _beyond(record: Record) -> str | None:
    """What is wrong with a record that the schema cannot say: confusion matrices that are not rectangular, long texts.

    Texts of tables and pictures are looked at, not those of the history or the configuration's execution.
    """
    matrix, classes = record["metrics"].get("confusion") or [], record["metrics"]["per_class"]
    sides = {len(line) for line in matrix}
    if (
        matrix
        and classes
        and (len(matrix) != len(classes) or not sides <= {len(classes), len(classes) + 1} or len(sides) > 1)
    ):
        return f"metrics/confusion: not {len(classes)} rows of as many columns, or of one more"
    parts = [record[name] for name in ("dataset", "model", "environment")] + [record, *record["notes"]]
    texts = [text for part in parts for text in part.values() if isinstance(text, str)]
    if any(len(text) > MAX_TEXT for text in [*texts, *classes, record["model"]["weights"]["source"]]):
        return f"a text of more than {MAX_TEXT} letters"
    return None


def record_path(results_dir: Path, record_or_parts: Record | tuple[str, str, str]) -> Path:
    """`records/<dataset>/<protocol>/<run_id>.json` below `results_dir`; parts are (dataset, protocol, run_id)."""
    if isinstance(record_or_parts, tuple):
        dataset, protocol, run_id = record_or_parts
    else:
        dataset, protocol, run_id = (
            record_or_parts["dataset"]["name"],
            record_or_parts["protocol"],
            record_or_parts["run_id"],
        )
    return results_dir / "records" / dataset / protocol / f"{run_id}.json"


def clean_id(run_id: str) -> str:
    """The run whose configuration and predictions a record holds: of a record of stresses the one that was stressed."""
    return re.sub(r"-stress-[0-9a-f]{10}$", "", run_id)


def read_record(path: Path) -> Record:
    """Load and check one record; raises BenchError naming the file and the fault."""
    try:
        with open(path, "rb", opener=_regular) as stream:
            size = os.fstat(stream.fileno()).st_size  # as much memory is taken as may be read
            content = stream.read(min(size, MAX_BYTES) + 1)
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: not a readable record ({error})", "remove it and run again") from error
    return record_of(content, path)


def record_of(content: bytes, name: object) -> Record:
    """The record that the bytes of a file are; raises BenchError naming the file and the fault."""
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        record = _parsed(content)
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{name}: not a readable record ({error})", "remove it and run again") from error
    problem = problem_of(record)
    if problem:
        raise BenchError(f"{name}: {problem}", "remove it and run again")
    return dict(record)


def as_text(record: Record) -> str:
    """A record as its file holds it."""
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def store(record: Record, results_dir: Path) -> Path:
    """Put a sealed record under its final name; a record that is already there stays as it is. Returns the path."""
    path = record_path(results_dir, record)
    with replacing(path) as temporary:
        temporary.write_text(as_text(record), encoding="utf-8")
        if path.exists():
            temporary.write_bytes(path.read_bytes())
    return path


def all_records(results_dir: Path) -> tuple[list[tuple[Path, Record]], list[str]]:
    """(readable records with their paths in path order, one line for each file that is not a valid record).

    Hidden files are passed over. A record under another name in the folder of the run's own record is a copy, as those
    that synchronise folders make: it is said and does not count.
    """
    good: list[tuple[Path, Record]] = []
    bad: list[str] = []
    for path, found in each_record(results_dir):
        if isinstance(found, str):
            bad.append(found)
        else:
            good.append((path, found))
    return good, bad


def each_record(results_dir: Path) -> Iterator[tuple[Path, Record | str]]:
    """The same one by one, in path order: a path with its record, or with the line that says why there is none."""
    top = str(results_dir / "records")
    for path in record_files(results_dir):
        try:
            record = read_record(path)
            if str(path) == f"{top}/{record['dataset']['name']}/{record['protocol']}/{record['run_id']}.json":
                yield path, record
                continue
            named = record_path(results_dir, record)
            if path != named and path.parent == named.parent and named.exists():
                log.warning("left out: %s is a copy of %s", path, named.name)
                continue
            if path != named:
                raise BenchError(f"{path}: name or folder does not match the run inside", "restore it")
            yield path, record
        except BenchError as error:
            yield path, str(error)


def record_files(results_dir: Path) -> list[Path]:
    """The files below `records` that may be records, in path order; folders that go meanwhile are passed over."""
    return sorted(
        Path(folder, name)
        for folder, _, names in os.walk(results_dir / "records")
        for name in names
        if name.endswith(".json") and not name.startswith(".")
    )


def _regular(path: str, flags: int) -> int:
    """Opens a file without waiting for the other end of a FIFO, which is not read."""
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file")
    return handle


PLAIN = bytes.maketrans(b"123456789E", b"000000000e")
LONG, POINT = b"0" * 19, ord(".")
LARGE_EXPONENT = re.compile(rb"e00+(?:[\s,}\]]|\Z)")  # what follows tells a number from a hash in quotes


def _parsed(content: bytes) -> Any:
    """What JSON holds; raises ValueError on what is none, or a number beyond the bounds.

    Looking at each number costs more than all other reading: it is done where the text may hold a large one. A number
    of fewer than 19 digits before its point, times 1e9 at most, is within the bounds.
    """
    digits = content.translate(PLAIN, b"+")
    utf8 = b"\0" not in content and content[:2] not in (b"\xff\xfe", b"\xfe\xff")
    if utf8 and not _long_number(digits) and not LARGE_EXPONENT.search(digits):
        return json.loads(content, parse_constant=_refuse_constant)
    return json.loads(content, parse_constant=_refuse_constant, parse_int=_whole, parse_float=_real)


def _long_number(digits: bytes) -> bool:
    """Whether 19 digits follow each other, all of them 0 here, but those right after a point, which are a fraction."""
    at = digits.find(LONG)
    while at > 0 and digits[at - 1] == POINT:
        at = digits.find(LONG, at + len(LONG))
    return at >= 0


def _whole(text: str) -> int:
    if len(text) > 20 or not -MAX_INTEGER <= (value := int(text)) < MAX_INTEGER:
        raise ValueError(f"{text[:20]}... is too large a number")
    return value


def _real(text: str) -> float:
    value = float(text)
    if not -MAX_REAL < value < MAX_REAL:
        raise ValueError(f"{text[:20]}... is too large a number")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def relative(path: Path) -> str:
    """A path as it may stand in a record: relative to the working directory where that holds it."""
    return os.path.relpath(path) if Path(path).resolve().is_relative_to(Path.cwd()) else str(path)
