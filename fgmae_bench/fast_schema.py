"""A JSON Schema compiled to plain functions: quick to say that a value fits; what does not fit is left to jsonschema to explain."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Fits = Callable[[Any], bool]
ANNOTATIONS = {"$schema", "title"}
TYPES: dict[str, Fits] = {
    "object": lambda value: type(value) is dict,
    "array": lambda value: type(value) is list,
    "string": lambda value: type(value) is str,
    "boolean": lambda value: type(value) is bool,
    "null": lambda value: value is None,
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
}


def compiled(schema: Any) -> Fits:
    """A function that is true only of values that fit `schema`; it may turn down what jsonschema accepts, such as the integer 1.0.

    Raises ValueError on a keyword that it does not know.
    """
    if schema is True:
        return lambda value: True
    if schema is False:
        return lambda value: False
    unknown = set(schema) - set(KEYWORDS) - ANNOTATIONS
    if unknown:
        raise ValueError(f"unknown keywords {sorted(unknown)}")
    makers = dict.fromkeys(KEYWORDS[name] for name in schema if name not in ANNOTATIONS)
    checks = [make(schema) for make in makers]
    if len(checks) == 1:
        return checks[0]
    return lambda value: all(check(value) for check in checks)


def _type(schema: Any) -> Fits:
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if len(names) == 1:
        return TYPES[names[0]]
    tests = [TYPES[name] for name in names]
    return lambda value: any(test(value) for test in tests)


def _values(schema: Any) -> Fits:
    allowed = schema["enum"] if "enum" in schema else [schema["const"]]
    return lambda value: any(type(value) is type(item) and value == item for item in allowed)


def _any_of(schema: Any) -> Fits:
    options = [compiled(option) for option in schema["anyOf"]]
    return lambda value: any(option(value) for option in options)


def _pattern(schema: Any) -> Fits:
    search = re.compile(schema["pattern"]).search
    return lambda value: type(value) is not str or search(value) is not None


def _range(schema: Any) -> Fits:
    low, high = schema.get("minimum", float("-inf")), schema.get("maximum", float("inf"))
    return lambda value: type(value) not in (int, float) or low <= value <= high


def _items(schema: Any) -> Fits:
    each = compiled(schema["items"])
    return lambda value: type(value) is not list or all(map(each, value))


def _object(schema: Any) -> Fits:
    named = {name: compiled(inner) for name, inner in schema.get("properties", {}).items()}
    required, other = set(schema.get("required", ())), compiled(schema.get("additionalProperties", True))

    def fits(value: Any) -> bool:
        if type(value) is not dict:
            return True
        return required <= value.keys() and all(named.get(name, other)(inner) for name, inner in value.items())

    return fits


KEYWORDS: dict[str, Callable[[Any], Fits]] = {
    "type": _type,
    "enum": _values,
    "const": _values,
    "anyOf": _any_of,
    "pattern": _pattern,
    "minimum": _range,
    "maximum": _range,
    "items": _items,
    "properties": _object,
    "required": _object,
    "additionalProperties": _object,
}
