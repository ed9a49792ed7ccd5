"""What the metadata of a Zarr store says of its variables, in format 2 and 3, with limits."""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import read_bounded

MOST_METADATA = 4 << 20
MOST_VARIABLES = 1000
MOST_ROWS = 2_000_000
COMPRESSIONS = ("blosc", "zstd", "lz4", "gzip", "zlib")
# Filters and codecs that keep the number of values; not among them are `pickle` and others that make objects.
OTHERS = (
    "bytes",
    "transpose",
    "crc32",
    "crc32c",
    "adler32",
    "fletcher32",
    "shuffle",
    "delta",
    "fixedscaleoffset",
    "quantize",
    "bitround",
    "vlen-utf8",
)
TEXT = "vlen-utf8"
KINDS = "fiubUSM"  # of numpy, that a variable may have
TODO = "restore the store, or write it again"


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One array of a store as its metadata has it. `nodata`, `scale` and `offset` are those of the CF conventions."""

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]  # object where texts are of any length
    codecs: tuple[str, ...]
    dims: tuple[str, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    nodata: tuple[float, ...] = ()

    @property
    def scale(self) -> tuple[float, float]:
        """(scale, offset) by which stored numbers are meant."""
        return float(self.attrs.get("scale_factor", 1)), float(self.attrs.get("add_offset", 0))

    @property
    def codes(self) -> dict[str, str]:
        """Names of the codes that `flag_values` and `flag_meanings` give, empty without them."""
        values, names = self.attrs.get("flag_values", []), str(self.attrs.get("flag_meanings", "")).split()
        if not isinstance(values, list) or len(values) != len(names):
            return {}
        return {str(value): name for value, name in zip(values, names, strict=True)}


def metadata_of(path: Path) -> dict[str, tuple[str, str]]:
    """Variable -> (text of its metadata, text of its attributes in format 2), of the arrays right in a store."""
    found: dict[str, tuple[str, str]] = {}
    try:
        for entry in sorted(os.scandir(path), key=lambda each: each.name):
            place = Path(entry.path)
            mark = next((mark for mark in ("zarr.json", ".zarray") if os.path.isfile(place / mark)), "")
            if not mark:
                continue
            texts = [read_bounded(place / mark, MOST_METADATA).decode()]
            attributes = place / ".zattrs"
            texts.append(read_bounded(attributes, MOST_METADATA).decode() if attributes.is_file() else "{}")
            found[entry.name] = texts[0], texts[1]
            if len(found) > MOST_VARIABLES:
                raise ValueError(f"more than {MOST_VARIABLES} variables")
    except (OSError, ValueError) as error:
        raise BenchError(f"{path} cannot be read as a Zarr store ({error})", TODO) from error
    return found


def variable_of(name: str, texts: tuple[str, str]) -> Variable:
    """A variable from its metadata. Raises one of FAULTS, with the reason, where it is none that is read."""
    held = json.loads(texts[0])
    made = _of_format_2(name, held, json.loads(texts[1])) if held["zarr_format"] == 2 else _of_format_3(name, held)
    whole = all(type(n) is int and n >= 0 for n in made.shape) and all(type(n) is int and n > 0 for n in made.chunks)
    if not whole or len(made.shape) != len(made.chunks) or not 1 <= len(made.shape) <= 5:
        raise ValueError(f"its shape is {made.shape} in chunks of {made.chunks}"[:100])
    if made.shape[0] > MOST_ROWS:
        raise ValueError(f"{made.shape[0]} samples, at most {MOST_ROWS} are read")
    unknown = [codec for codec in made.codecs if codec not in (*COMPRESSIONS, *OTHERS)]
    if unknown:
        raise ValueError(f"its codec {unknown[0]} is not read")
    if made.dtype.kind not in KINDS and not (made.dtype.kind == "O" and TEXT in made.codecs):
        raise ValueError(f"values of the type {made.dtype}")
    if not all(map(math.isfinite, made.scale)) or made.scale[0] == 0:
        raise ValueError(f"a scale of {made.scale[0]} and an offset of {made.scale[1]}")
    return made


def _of_format_2(name: str, held: dict[str, Any], attrs: dict[str, Any]) -> Variable:
    compressor, filters = held["compressor"], held["filters"] or []
    codecs = [each["id"] for each in (*filters, *([compressor] if compressor else []))]
    kind, fill = np.dtype(held["dtype"]), held["fill_value"]
    stated = _nodata(attrs, kind)
    if not stated and kind.kind in "fiu" and isinstance(fill, int | float) and fill != 0:
        stated = (float(fill),)  # where xarray keeps _FillValue; 0 is what zarr writes where nobody says anything
    return Variable(
        name=name,
        shape=tuple(held["shape"]),
        chunks=tuple(held["chunks"]),
        dtype=kind,
        codecs=tuple(codecs),
        dims=tuple(map(str, attrs.get("_ARRAY_DIMENSIONS", ()))),
        attrs=attrs,
        nodata=stated,
    )


def _of_format_3(name: str, held: dict[str, Any]) -> Variable:
    if held["node_type"] != "array" or held["chunk_grid"]["name"] != "regular" or held.get("storage_transformers"):
        raise ValueError("no array of regular chunks")
    kind, attrs = held["data_type"], held.get("attributes", {})
    codecs = [each if isinstance(each, str) else each["name"] for each in held["codecs"]]
    dtype = _type_of(kind)
    return Variable(
        name=name,
        shape=tuple(held["shape"]),
        chunks=tuple(held["chunk_grid"]["configuration"]["chunk_shape"]),
        dtype=dtype,
        codecs=tuple(codec.removeprefix("numcodecs.") for codec in codecs),
        dims=tuple(str(dim) for dim in held.get("dimension_names") or ()),
        attrs=attrs,
        nodata=_nodata(attrs, dtype),
    )


def _type_of(kind: Any) -> np.dtype[Any]:
    """A data type of format 3 as numpy's."""
    if kind == "string":
        return np.dtype(object)
    if isinstance(kind, dict):
        name, more = kind["name"], kind.get("configuration", {})
        if name == "fixed_length_utf32":
            return np.dtype(f"<U{int(more['length_bytes']) // 4}")
        if name == "numpy.datetime64":
            return np.dtype(f"<M8[{more.get('scale_factor', 1)}{more['unit']}]")
        raise ValueError(f"values of the type {name}")
    return np.dtype(kind)


def _nodata(attrs: dict[str, Any], dtype: np.dtype[Any]) -> tuple[float, ...]:
    """Values of `_FillValue` and `missing_value`; xarray writes those of real numbers in format 3 as base64."""
    found = []
    for name in ("_FillValue", "missing_value"):
        value = attrs.get(name)
        if isinstance(value, str) and dtype.kind == "f":
            try:
                value = struct.unpack("<d", base64.b64decode(value, validate=True))[0]
            except (binascii.Error, struct.error):
                value = float(value)  # "NaN"
        if isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
            found.append(float(value))
    return tuple(found)
