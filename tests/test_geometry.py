"""Places from geometries and columns of tables, held against shapely, geopandas and pyproj; blocks and splits by them."""

import dataclasses
import json
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import call

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.geometry import envelope, places_of_columns, places_of_geometry
from fgmae_bench.data.groups import with_groups
from fgmae_bench.data.layouts import build_index
from fgmae_bench.errors import BenchError

shapely = pytest.importorskip("shapely")
geopandas = pytest.importorskip("geopandas")
COUNT, SIDE = 12, 32

GEOMETRIES = (
    "POINT (3 4)",
    "POINT Z (3 4 100)",
    "LINESTRING (0 0, 2 5)",
    "POLYGON ((0 0, 4 0, 4 3, 0 3, 0 0), (1 1, 2 1, 2 2, 1 1))",
    "MULTIPOLYGON (((0 0, 1 0, 1 1, 0 0)), ((5 5, 7 5, 7 9, 5 5)))",
    "GEOMETRYCOLLECTION (POINT (9 1), LINESTRING (0 0, 1 1))",
    "POLYGON M ((0 0 7, 4 0 7, 4 3 7, 0 0 7))",
)


@pytest.mark.parametrize("text", GEOMETRIES)
@pytest.mark.parametrize("flavor", ["iso", "extended"])
@pytest.mark.parametrize("order", [0, 1])
def test_envelopes_are_those_of_shapely(text, flavor, order):
    made = shapely.from_wkt(text)
    srid = 4326 if flavor == "extended" else 0
    held = shapely.set_srid(made, srid) if srid else made
    wkb = shapely.to_wkb(held, flavor=flavor, byte_order=order, output_dimension=4, include_srid=bool(srid))
    assert envelope(wkb) == made.bounds
    for damaged in (wkb[:-1], wkb + b"\0", b"", b"\2" + wkb[1:]):
        with pytest.raises((ValueError, struct.error)):
            envelope(damaged)


def test_nothing_is_nowhere():
    with pytest.raises(ValueError, match="it is empty"):
        envelope(shapely.to_wkb(shapely.from_wkt("POLYGON EMPTY")))
    with pytest.raises(ValueError, match="not WKB"):
        envelope(b"\1\7\0\0\0\1\0\0\0" * 50)


@pytest.fixture
def chips(tmp_path):
    """Arrays and a GeoParquet table of squares of 320 m in UTM, two places 200 km apart."""
    rng = np.random.default_rng(0)
    west = 500_000 + np.arange(COUNT) * 5_000 + (np.arange(COUNT) >= COUNT // 2) * 200_000
    boxes = shapely.box(west, 5_000_000, west + 320, 5_000_320)
    for number in range(COUNT):
        db = np.array([-11, -18])[:, None, None] + 10 * np.log10(rng.gamma(4.4, 1 / 4.4, (2, SIDE, SIDE)))
        np.save(tmp_path / f"{number:02}.npy", db.astype(np.float32))
    held = {"file": [f"{n:02}.npy" for n in range(COUNT)], "cover": ["Ice", "Water"] * (COUNT // 2)}
    frame = geopandas.GeoDataFrame(held, geometry=boxes, crs="EPSG:32633")
    frame.to_parquet(tmp_path / "t.parquet")
    return tmp_path, frame


def test_places_of_geoparquet_are_those_of_geopandas(chips):
    folder, frame = chips
    places = places_of_geometry(folder / "t.parquet", "geometry")
    centres = frame.geometry.centroid.to_crs("EPSG:4326")
    assert np.allclose(places[:, 0], np.stack([centres.x, centres.y], 1), rtol=0, atol=1e-8)
    corners = frame.to_crs("EPSG:4326").geometry.get_coordinates().to_numpy().reshape(COUNT, 5, 2)[:, :4]
    for one, other in zip(places[:, 1:], corners, strict=True):
        assert np.allclose(sorted(one.tolist()), sorted(other.tolist()), rtol=0, atol=1e-8)
    frame.to_crs("EPSG:4326").to_parquet(folder / "degrees.parquet")
    again = places_of_geometry(folder / "degrees.parquet", "geometry")
    assert np.allclose(again[:, 0], places[:, 0], rtol=0, atol=1e-6)


def test_a_geoparquet_table_is_drafted_grouped_and_divided_by_its_places(chips):
    folder, _ = chips
    out = folder.parent / f"{folder.name}.toml"
    done = call("prepare", "card", folder, "--labels", folder / "t.parquet", "--out", out, cwd=folder.parent)
    assert done.code == 0, done.err
    card = load_card(str(out))
    assert card.arrangement.place == ("geometry",)
    assert card.splits[card.recommended_split].kind == "spatial"
    index = with_groups(card, build_index(card, folder), folder / "cache", read=False)
    assert index.group_kind == "20 km block"
    assert 2 < len(set(index.groups)) < COUNT
    flags = ("--kind", "spatial", "--seed", "0", "--fractions", ".5", "0", ".5", "--out", folder / "split")
    done = call("prepare", "split", out, "--data_path", folder, *flags, cwd=folder.parent)
    assert done.code == 0, done.err
    assert json.loads((folder / "split" / "split.json").read_text())["torn_groups"] == 0


def test_columns_of_degrees_are_places_too(chips):
    folder, _ = chips
    lines = [f"{n:02}.npy,{'ab'[n % 2]},{n},{40 + n}" for n in range(COUNT)]
    (folder / "t.csv").write_text("\n".join(["file,label,lon,lat", *lines]))
    out = folder.parent / f"{folder.name}.toml"
    done = call("prepare", "card", folder, "--labels", folder / "t.csv", "--out", out, cwd=folder.parent)
    assert done.code == 0, done.err
    card = load_card(str(out))
    assert card.arrangement.place == ("lon", "lat")
    assert build_index(card, folder).places[:, 3].tolist() == [[n, 40 + n] for n in range(COUNT)]
    one = dataclasses.replace(card, arrangement=dataclasses.replace(card.arrangement, place=("lon",)))
    with pytest.raises(BenchError, match=r"layout\.place names one column; give GeoParquet"):
        build_index(one, folder)
    (folder / "t.csv").write_text("\n".join(["file,label,lon,lat", lines[0], "01.npy,b,190,4"]))
    with pytest.raises(BenchError, match="line 3: '190' and '4' are not longitude and latitude"):
        build_index(card, folder)


def test_columns_that_are_no_numbers():
    with pytest.raises(BenchError, match="here: 'x' and '1' are not longitude"):
        places_of_columns(["here"], ["x"], ["1"])
    with pytest.raises(BenchError, match="here: '1' and '-91' are not longitude"):
        places_of_columns(["here"], ["1"], ["-91"])
    with pytest.raises(BenchError, match="here: 'nan' and '1' are not longitude"):
        places_of_columns(["here"], ["nan"], ["1"])


def geo(path, points, **facts):
    held = {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"} | facts}}
    pq.write_table(pa.table({"geometry": points}).replace_schema_metadata({"geo": json.dumps(held)}), path)
    return path


@pytest.mark.parametrize(
    ("points", "facts", "message"),
    [
        ([struct.pack("<BIdd", 1, 1, 3, 4), b"\1"], {}, "line 2: its geometry cannot be read"),
        ([struct.pack("<BIdd", 1, 1, 3, 4), None], {}, "line 2: its geometry cannot be read (there is none)"),
        ([struct.pack("<BIdd", 1, 1, 3, 4)], {"encoding": "point"}, "'geometry' is encoded as point; write it as WKB"),
        ([struct.pack("<BIdd", 1, 1, 3, 4)], {"crs": None}, "it states no reference system"),
        ([struct.pack("<BIdd", 1, 1, 3, 4)], {"crs": "/vsicurl/http://x"}, "no PROJJSON"),
        ([struct.pack("<BIdd", 1, 1, 3, 400)], {}, "are nowhere on Earth"),
    ],
    ids=["damaged", "none", "encoding", "unstated", "address", "nowhere"],
)
def test_geoparquet_that_is_refused(tmp_path, points, facts, message):
    with pytest.raises(BenchError) as caught:
        places_of_geometry(geo(tmp_path / "t.parquet", points, **facts), "geometry")
    assert message in str(caught.value)


def test_a_parquet_file_without_geometries(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")
    with pytest.raises(BenchError, match="has no geometry column 'a'"):
        places_of_geometry(tmp_path / "t.parquet", "a")
