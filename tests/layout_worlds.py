"""Tiny datasets of every layout that is read, each with what changes one pixel of one training image in place."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from test_layouts import CLASSES, KINDS, SIDE, make_card, pixels, tiff

COUNT = 8
LAYOUTS = {}
PLACED = ("lon", "lat")


def layout(name):
    """Register a writer (folder) -> (card, root, what of one image changes)."""
    return lambda write: LAYOUTS.setdefault(name, write)


def in_place(path, change, grows=False):
    """Do `change` to a file; its times, and where it is no database also its size, as before."""
    status = os.stat(path)
    change(path)
    assert grows or os.stat(path).st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def nudge_tiff(path):
    with rasterio.open(path, "r+") as source:
        band = source.read(1)
        at = band.shape[0] // 2, band.shape[1] // 2  # where no dataset has an edge without data
        band[at] = band[at] * 1.001 if band.dtype.kind == "f" else band[at] ^ 1
        source.write(band, 1)


def nudge_npy(path):
    held = np.load(path, mmap_mode="r+")
    held[(0,) * held.ndim] += 0.25
    held.flush()


def nudge_chunk(path):
    held = path.read_bytes()
    path.write_bytes(bytes([held[0] ^ 1]) + held[1:])


def nudge(path):
    """One pixel of the file is another one."""
    known = {".npy": nudge_npy, ".tif": nudge_tiff}
    in_place(path, known.get(path.suffix, nudge_chunk))


def referenced(path, values, lon, lat):
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"driver": "GTiff", "count": 2, "height": SIDE, "width": SIDE, "dtype": "float32"}
    with rasterio.open(path, "w", **facts, crs="EPSG:4326", transform=from_origin(lon, lat, 1e-4, 1e-4)) as to:
        to.write(values)


for _kind in KINDS:

    def _class_folders(folder, kind=_kind):
        pattern, write = KINDS[kind]
        for n in range(COUNT):
            write(folder / "data" / ("Ice", "Water")[n % 2], n)
        stated = f'[layout]\nkind = "class_folders"\nimages = "{pattern}"'
        card = make_card(folder / "card.toml", stated, top=CLASSES)
        return card, folder / "data", lambda root: sorted(root.rglob("a*.*"))

    layout(f"class_folders {_kind}")(_class_folders)


@layout("class_folders in parts")
def _parted(folder):
    for part, numbers in (("train", range(4)), ("test", range(4, 8))):
        for n in numbers:
            tiff(folder / "data" / part / ("Ice", "Water")[n % 2] / f"a{n}.tif", pixels(n))
    card = make_card(folder / "card.toml", 'layout = "class_folders"', top=CLASSES, kind="stated")
    return card, folder / "data", lambda root: sorted(root.rglob("*.tif"))


def rows(n):
    part = "train" if n < COUNT // 2 else "test"
    return {"file": f"chips/a{n}.tif", "cover": ("Ice", "Water")[n % 2], "site": f"s{n // 2}", "part": part}


def chips(folder):
    for n in range(COUNT):
        tiff(folder / "data" / "chips" / f"a{n}.tif", pixels(n))
    return lambda root: sorted(root.rglob("chips/*.tif"))


def in_table(folder, name, more="", **stated):
    named = {"table": name, "label": "cover", "group": "site", "split": "part"} | stated
    lines = "".join(f'{key} = "{value}"\n' for key, value in named.items() if value)
    return make_card(folder / "card.toml", f'[layout]\nkind = "table"\n{lines}{more}', top=CLASSES, kind="stated")


@layout("table csv")
def _csv(folder):
    images = chips(folder)
    with open(folder / "data" / "labels.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows(0).keys())
        writer.writeheader()
        writer.writerows(map(rows, range(COUNT)))
    return in_table(folder, "labels.csv"), folder / "data", images


@layout("table parquet")
def _parquet(folder):
    import pyarrow
    import pyarrow.parquet

    images = chips(folder)
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(list(map(rows, range(COUNT)))), folder / "data/labels.parquet"
    )
    return in_table(folder, "labels.parquet"), folder / "data", images


@layout("table geoparquet")
def _geoparquet(folder, shift=0.0):
    import json

    import pyarrow
    import pyarrow.parquet
    import shapely

    images = chips(folder)
    table = pyarrow.Table.from_pylist(list(map(rows, range(COUNT))))
    points = [shapely.to_wkb(shapely.Point(10 + n // 2 + shift * (n % 2), 50)) for n in range(COUNT)]
    table = table.append_column("geometry", pyarrow.array(points, pyarrow.binary()))
    geo = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}}
    table = table.replace_schema_metadata({"geo": json.dumps(geo)})
    pyarrow.parquet.write_table(table, folder / "data/labels.parquet")
    card = in_table(folder, "labels.parquet", 'place = ["geometry"]\n', group="")
    return card, folder / "data", images


@layout("paired_folders")
def _paired(folder):
    for n in range(COUNT):
        tiff(folder / "data" / "S1" / f"e{n}_img.tif", pixels(n))
        tiff(folder / "data" / "L" / f"e{n}_mask.tif", np.tile(np.array([0, 1], np.int16), (SIDE, SIDE // 2)))
    stated = '[layout]\nkind = "paired_folders"\nimages = "*_img.tif"\nmasks = "*_mask.tif"'
    more = "[label_sources.hand]\nfolder = 'L'\ncodes = { 0 = 'Land', 1 = 'Water' }\nignore = [-1]\n"
    card = make_card(folder / "card.toml", stated, "segmentation", tables=more, folder="S1")
    return card, folder / "data", lambda root: sorted(root.rglob("*_img.tif"))


@layout("paired_folders of a number")
def _targets(folder):
    for n in range(COUNT):
        tiff(folder / "data" / "S1" / f"e{n}.tif", pixels(n))
        tiff(folder / "data" / "agb" / f"e{n}.tif", np.abs(pixels(n)[0]))
    more = "[label_sources.agb]\nfolder = 'agb'\n[target]\nname = 'agb'\n"
    card = make_card(
        folder / "card.toml", 'layout = "paired_folders"', "regression", 'label_source = "agb"', more, folder="S1"
    )
    return card, folder / "data", lambda root: sorted((root / "S1").glob("*.tif"))


for _form in (2, 3):

    def _zarr(folder, form=_form):
        zarr = pytest.importorskip("zarr")
        values = np.stack([pixels(n) for n in range(COUNT)])
        store = zarr.create_group(folder / "data", zarr_format=form)
        held = {"s1": values, "label": np.arange(COUNT) % 2, "scene": np.arange(COUNT) // 2}
        for name, array in held.items():
            made = store.create_array(
                name, shape=array.shape, dtype=array.dtype, chunks=(1, *array.shape[1:]), compressors=None
            )
            made[...] = array
            made.attrs["_ARRAY_DIMENSIONS"] = ["sample", "band", "y", "x"][: array.ndim]
        store["label"].attrs.update({"flag_values": [0, 1], "flag_meanings": "Ice Water"})
        stated = '[layout]\nkind = "zarr"\nvariable = "s1"\nlabel = "label"\ngroup = "scene"'
        card = make_card(folder / "card.toml", stated, top=CLASSES)

        def images(root):
            lead = root / "s1" if form == 2 else root / "s1" / "c"
            return [
                lead / name.replace("/", "." if form == 2 else "/") for name in (f"{n}/0/0/0" for n in range(COUNT))
            ]

        return card, folder / "data", images

    layout(f"zarr {_form}")(_zarr)


WRITE = """
import sys, lmdb
with lmdb.open(sys.argv[1], map_size=1 << 28) as pack, pack.begin(write=True) as writing:
    value = bytearray(writing.get(sys.argv[2].encode()))
    value[int(sys.argv[3])] ^= 1
    writing.put(sys.argv[2].encode(), bytes(value))
"""


def flip(pack, key, at):
    """One bit of a value of a pack, by a process of its own: LMDB opens a file once a process."""
    path = pack / "data.mdb"
    in_place(path, lambda _: subprocess.run([sys.executable, "-c", WRITE, pack, key, str(at)], check=True), grows=True)


def copied(root, place):
    """A copy of a dataset elsewhere, whatever it is."""
    return Path(shutil.copytree(root, place))
