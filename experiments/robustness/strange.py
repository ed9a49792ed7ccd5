"""Values that no reader of JSON or TOML expects, and texts that hold them."""

from __future__ import annotations

import copy
import json
import tomllib
from typing import Any

import numpy as np
import tomli_w

Rng = np.random.Generator
DEEP = 2000


def strange(rng: Rng) -> Any:
    """A JSON value: of another type, beyond every range, deep, long, or with letters that act on terminals."""
    deep: Any = 1
    for _ in range(int(rng.integers(1, 900))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    values = [
        None,
        True,
        -1,
        0,
        10**18,
        10**400,
        -(10**400),
        1e308,
        -1e308,
        5e-324,
        0.5,
        1.5,
        "",
        "x",
        "x" * 50_000,
        [],
        [1, 2],
        [[]],
        {},
        {"a": [1]},
        deep,
        "\x1b[2J\x07",
        "\u202e\u200b\ufeff",
        "../../../etc/passwd",
        "\ud800",
        "=HYPERLINK(1)",
        "$x^{$",
        "<script>",
        "\0",
        ["a"] * 5000,
        "9" * 5000,
        "NaN",
    ]
    return values[int(rng.integers(len(values)))]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value that is at most six levels deep."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = parts if len(at) < 6 else ()
    return [at, *(place for key, part in inner for place in places(part, (*at, key)))]


def changed(rng: Rng, value: Any) -> Any:
    """The value with one to three of its parts replaced by strange ones, removed, or joined by others."""
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        known = [place for place in places(value) if place]
        if not known:
            return value
        *path, last = known[int(rng.integers(len(known)))]
        part = value
        for key in path:
            part = part[key]
        kind = rng.random()
        if kind < 0.75:
            part[last] = strange(rng)
        elif kind < 0.9:
            del part[last]
        elif isinstance(part, dict):
            part["\x1b[31mnew"] = strange(rng)
    return value


def dumped(value: Any) -> str:
    """JSON text, of a value of any depth."""
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * DEEP + "]" * DEEP


def changed_toml(rng: Rng, text: bytes) -> bytes:
    """A TOML text with one to three of its values replaced by strange ones: it can be parsed, where TOML can say it."""
    try:
        return tomli_w.dumps(without_none(changed(rng, tomllib.loads(text.decode())))).encode(errors="replace")
    except (ValueError, TypeError, RecursionError, OverflowError):
        return text + b"\nx = " + b"[" * DEEP


def without_none(value: Any) -> Any:
    """The value with False in place of None, which TOML does not know."""
    if isinstance(value, dict):
        return {key: without_none(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_none(part) for part in value]
    return False if value is None else value
