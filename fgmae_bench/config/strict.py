"""Plain data (TOML, JSON) to frozen dataclasses, refusing every key and type that the class does not name."""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from fgmae_bench.errors import BenchError, closest

MAX_BYTES, MAX_DEPTH = 4 << 20, 64  # of a file of settings: size, and how deep it may be nested
_PART = rb"[\w\"'-]++[ \t]*+\.[ \t]*+"
LONG_KEY = re.compile(rb"(?<![\w\"'-])(?:%s){%d}" % (_PART, MAX_DEPTH))
T = TypeVar("T")


def load_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; raises BenchError naming the file when it is missing or malformed."""
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})", "check the path") from error
    return parse_toml(content, path)


def parse_toml(content: bytes, path: Path) -> dict[str, Any]:
    """What the text of a TOML file holds; raises BenchError naming the file when it is malformed or too large."""
    if len(content) > MAX_BYTES:
        raise BenchError(f"{path}: more than {MAX_BYTES} bytes, which is too large for settings", "give a smaller file")
    if LONG_KEY.search(content):  # tomllib takes minutes for a key of 50,000 parts
        raise BenchError(f"{path}: a dotted key of more than {MAX_DEPTH} parts", "correct the file")
    try:
        loaded = tomllib.loads(content.decode("utf-8-sig"))
    except ValueError as error:  # of TOML, of UTF-8, or of a number with thousands of digits
        raise BenchError(f"{path}: not valid TOML ({error})", "correct the file") from error
    except RecursionError as error:
        raise BenchError(f"{path}: nested too deeply", "correct the file") from error
    if deeper_than(loaded, MAX_DEPTH):
        raise BenchError(f"{path}: nested more than {MAX_DEPTH} levels deep", "correct the file")
    return loaded


_SINGLE = frozenset({int, float, str, bool, type(None)})


def deeper_than(value: Any, depth: int) -> bool:
    """Whether lists and tables are nested more than `depth` levels deep; asked without recursion."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(depth):
        if not level:
            return False
        held = [item.values() if isinstance(item, dict) else item for item in level]
        # most hold single values alone, which takes little time to see
        level = [
            part
            for parts in held
            if not _SINGLE.issuperset(map(type, parts))
            for part in parts
            if isinstance(part, (dict, list))
        ]
    return bool(level)


def plain_path(value: Any, where: str) -> Any:
    """A flag's value with `~` expanded where it begins with it; lists item by item, other values as they are.

    Raises BenchError on a text that is not UTF-8: it could be neither recorded nor printed once the work is done.
    """
    if isinstance(value, list | tuple):
        return type(value)(plain_path(item, where) for item in value)
    if isinstance(value, dict):
        return {key: plain_path(item, f"{where}.{key}") for key, item in value.items()}
    if not isinstance(value, str | os.PathLike):
        return value
    text = os.fspath(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode(errors="backslashreplace").decode()
        raise BenchError(f"{where} is {shown}, which is not UTF-8", "rename the file or folder") from None
    if not text.startswith("~"):
        return value
    return Path(text).expanduser() if isinstance(value, Path) else os.path.expanduser(text)


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Types of a dataclass's fields, resolved."""
    return typing.get_type_hints(kind)


def from_plain(kind: type[T], value: Any, where: str) -> T:
    """Build the frozen dataclass `kind` from a dict; `where` names the file and key path in errors.

    Raises BenchError on unknown keys (with the closest known one), missing keys and wrong types.
    """
    if not isinstance(value, dict):
        raise BenchError(f"{where} is not a table", f"give {', '.join(f.name for f in dataclasses.fields(kind))}")  # type: ignore[arg-type]
    hints = _hints(kind)  # type: ignore[arg-type]
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init and not f.metadata.get("derived")}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise BenchError(f"{where}: unknown key {_shown(key)}", closest(key[:200], fields))
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise BenchError(f"{where}: key '{name}' is missing", "add it")
    return kind(**{key: convert(hints[key], item, f"{where}: {key}") for key, item in value.items()})


def convert(hint: Any, value: Any, where: str) -> Any:
    """Check `value` against a type hint and turn lists into tuples and tables into dataclasses."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise BenchError(f"{where} is {_shown(value)}", closest(str(value)[:200], map(str, arguments)))
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise BenchError(f"{where} is {_shown(value)}", "give a list")
        return tuple(convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise BenchError(f"{where} is {_shown(value)}", "give a table")
        return {key: convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_plain(hint, value, where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023:
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise BenchError(f"{where} is {_shown(value)}", f"give a value of type {hint.__name__}")
    return value


def _shown(value: Any) -> str:
    """A value as a message names it."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _convert_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    problem: BenchError | None = None
    for option in arguments:
        if option is type(None):
            continue
        try:
            return convert(option, value, where)
        except BenchError as error:
            problem = error
    raise problem or BenchError(f"{where} is {_shown(value)}", "remove it")
