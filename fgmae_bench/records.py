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
    try:
        _validator()(record)
    except fastjsonschema.JsonSchemaValueException:
        return False
    return True


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
    if deeper_than(record, MAX_DEPTH):
        return f"nested more than {MAX_DEPTH} levels deep"
    made = record.get("schema") if isinstance(record, dict) else None
    if type(made) is int and made > SCHEMA_VERSION:
        return f"made by a newer version (its schema is {made}, this version reads {SCHEMA_VERSION})"
    if not fits(record):
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
            content = stream.read(MAX_BYTES + 1)
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
    for path in record_files(results_dir):
        try:
            record = read_record(path)
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
LARGE_EXPONENT = re.compile(rb"e00+(?:[\s,}\]]|\Z)")  # what follows tells a number from a hash in quotes


def _parsed(content: bytes) -> Any:
    """What JSON holds; raises ValueError on what is none, or a number beyond the bounds.

    Looking at each number costs more than all other reading: it is done where the text may hold a large one. A number
    of fewer than 19 digits in a row, times 1e9 at most, is within the bounds.
    """
    digits = content.translate(PLAIN, b"+")
    utf8 = b"\0" not in content and content[:2] not in (b"\xff\xfe", b"\xfe\xff")
    if utf8 and b"0" * 19 not in digits and not LARGE_EXPONENT.search(digits):
        return json.loads(content, parse_constant=_refuse_constant)
    return json.loads(content, parse_constant=_refuse_constant, parse_int=_whole, parse_float=_real)


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
