"""Damage Zarr stores of samples, their metadata and chunks, and the geometries of GeoParquet tables.

python experiments/robustness/fuzz.py zarr [--readers metadata chunk geometry]
"""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray
from fuzz_tables import CARD, CLASSES, silent, used
from fuzzing import Reader, Work, command, mutated

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.geometry import places_of_geometry

Rng = np.random.Generator
SIDE, COUNT = 16, 12
SEEDS = Path(tempfile.mkdtemp(prefix="fuzz_zarr_"))
LAYOUT = 'store = "s{}.zarr"\nvariable = "s1"\nlabel = "label"\ngroup = "site"\nplace = ["lon", "lat"]'
# What a number, a name or a list in the metadata may be changed to.
VALUES: tuple[Any, ...] = (
    *(0, -1, 2**31, 2**62, 1e300, None, True, "", "NaN", [], {}, [1], [2**40], [COUNT, 2, 10**6, 10**6]),
    *(
        "pickle",
        "|O",
        "<U1000000",
        "<c8",
        "string",
        "sharding_indexed",
        "blosc",
        "gzip",
        "lz4",
        "vlen-utf8",
        "..",
        "\0",
    ),
)
PICKLED = b"cposix\nsystem\n(S'touch payload'\ntR."


def stores() -> None:
    """A store of each format, with compression of several kinds."""
    rng = np.random.default_rng(0)
    data = xarray.Dataset(
        {
            "s1": (("sample", "band", "y", "x"), rng.normal(-12, 3, (COUNT, 2, SIDE, SIDE)).astype(np.float32)),
            "label": (("sample",), np.array(["Ice", "Water"] * (COUNT // 2), object)),
            "site": (("sample",), [f"s{n // 3}" for n in range(COUNT)]),
            "lon": (("sample",), np.linspace(0, 9, COUNT)),
            "lat": (("sample",), np.linspace(40, 49, COUNT)),
        },
        coords={"sample": [f"a{n:02}" for n in range(COUNT)], "band": ["VV", "VH"]},
    )
    for number, (form, codec) in enumerate(((2, numcodecs.GZip()), (2, numcodecs.Zstd()), (2, numcodecs.LZ4()))):
        encoding = {"s1": {"chunks": (4, 2, SIDE, SIDE), "compressors": [codec]}}
        data.to_zarr(SEEDS / f"s{number}.zarr", zarr_format=form, encoding=encoding, consolidated=False)
    data.to_zarr(SEEDS / "s3.zarr", zarr_format=3, encoding={"s1": {"chunks": (4, 2, SIDE, SIDE)}}, consolidated=True)
    data.to_zarr(SEEDS / "s4.zarr", zarr_format=2, encoding={"s1": {"chunks": (4, 2, SIDE, SIDE)}})


def copied(folder: Path, rng: Rng) -> tuple[Path, Work, Work]:
    """One of the stores in the folder; what a run does with it, and `prepare card`."""
    number = int(rng.integers(5))
    shutil.copytree(SEEDS / f"s{number}.zarr", folder / f"s{number}.zarr")
    layout = LAYOUT.format(number)
    (folder / "card.toml").write_text(
        CARD.format(kind="zarr", layout=layout, task="single_label", top=CLASSES, more="")
    )
    card = load_card(str(folder / "card.toml"))
    store = folder / f"s{number}.zarr"
    return store, silent(lambda: used(card, folder)), command("fgmae_bench.prepare", "card", store, "--out", "new.toml")


def changed_json(rng: Rng, held: Any) -> Any:
    """A value somewhere in nested metadata replaced, left out or added to."""
    if isinstance(held, dict) and held and rng.random() < 0.8:
        key = list(held)[int(rng.integers(len(held)))]
        if rng.random() < 0.1:
            return {name: value for name, value in held.items() if name != key}
        return held | {key: changed_json(rng, held[key])}
    if isinstance(held, list) and held and rng.random() < 0.7:
        at = int(rng.integers(len(held)))
        return [*held[:at], changed_json(rng, held[at]), *held[at + 1 :]]
    return VALUES[int(rng.integers(len(VALUES)))]


def metadata(rng: Rng, folder: Path) -> Work:
    """A store whose metadata says other things."""
    store, run, draft = copied(folder, rng)
    files = sorted(path for path in store.rglob("*") if path.name in ("zarr.json", ".zarray", ".zattrs"))
    path = files[int(rng.integers(len(files)))]
    if rng.random() < 0.2:
        path.write_bytes(mutated(rng, path.read_bytes(), 2))
    else:
        path.write_text(json.dumps(changed_json(rng, json.loads(path.read_text()))))
    return run if rng.random() < 0.6 else draft


def chunk(rng: Rng, folder: Path) -> Work:
    """A store with a chunk that is damaged, or small and vast when it is decoded."""
    store, run, draft = copied(folder, rng)
    files = sorted(path for path in store.rglob("*") if path.is_file() and path.name[0] in "0123456789")
    path, kind = files[int(rng.integers(len(files)))], int(rng.integers(5))
    vast = bytes(200_000_000)
    if kind == 0:
        path.write_bytes(gzip.compress(vast, 1) if rng.random() < 0.5 else zlib.compress(vast, 1))
    elif kind == 1:
        path.write_bytes(bytes(numcodecs.Zstd().encode(vast)))
    elif kind == 2:
        path.write_bytes(struct.pack("<I", 2**31 - 1) + bytes(64) if rng.random() < 0.5 else b"\xff" * 64)
    elif kind == 3:
        path.write_bytes(PICKLED)
    else:
        path.write_bytes(mutated(rng, path.read_bytes(), 2))
    return run if rng.random() < 0.6 else draft


def geometry(rng: Rng, folder: Path) -> Work:
    """A GeoParquet table with other geometries, or other facts about them."""
    points = [struct.pack("<BIdd", 1, 1, n, 40 + n) for n in range(COUNT)]
    points[0] = struct.pack("<BIII", 1, 3, 1, 4) + struct.pack("<8d", 0, 0, 1, 0, 1, 1, 0, 0)
    at = int(rng.integers(COUNT))
    points[at] = mutated(rng, points[at] if rng.random() < 0.5 else points[0] * 3, 2)
    facts: Any = {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}}
    if rng.random() < 0.4:
        facts["columns"]["geometry"]["crs"] = (None, "/vsicurl/http://x", {"type": "Point"}, {})[int(rng.integers(4))]
    if rng.random() < 0.3:
        facts = changed_json(rng, facts)
    table = pa.table({"geometry": points}).replace_schema_metadata({"geo": json.dumps(facts)})
    pq.write_table(table, folder / "t.parquet")
    return silent(lambda: places_of_geometry(folder / "t.parquet", "geometry"))


READERS: dict[str, Reader] = {"metadata": metadata, "chunk": chunk, "geometry": geometry}


def prepare() -> None:
    """Make the whole stores."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stores()
