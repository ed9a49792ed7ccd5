"""Files named as TIFFs whose content asks for the network, for memory out of proportion, or for what is not backscatter."""

import contextlib
import re
import socket
import struct
import threading
import zlib

import numpy as np
import pytest
import rasterio
from commands import call, refused, small_world
from rasterio.errors import RasterioError

from fgmae_bench.config.cards import LabelFile, load_card
from fgmae_bench.data.bigearthnet.patch import band_file, read_patch
from fgmae_bench.data.dfc.maps import read_band
from fgmae_bench.data.gather import Found, read_image
from fgmae_bench.data.raster import open_tiff, read_chip
from fgmae_bench.data.spatial import _place
from fgmae_bench.data.tiff import read_plain
from fgmae_bench.errors import BenchError

BAND = """<VRTRasterBand dataType="Float32" band="{0}"><SimpleSource><SourceFilename>/vsicurl/{1}</SourceFilename>
<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"""
ADDRESSES = {
    "WMTS": "<GDAL_WMTS><GetCapabilitiesUrl>{}</GetCapabilitiesUrl></GDAL_WMTS>",
    "WCS": "<WCS_GDAL><ServiceURL>{}?</ServiceURL><CoverageName>a</CoverageName></WCS_GDAL>",
    "GTI": "<GDALTileIndexDataset><IndexDataset>/vsicurl/{}.gpkg</IndexDataset></GDALTileIndexDataset>",
    "VRT": f'<VRTDataset rasterXSize="64" rasterYSize="64">{BAND.format(1, "{0}.tif")}{BAND.format(2, "{0}.tif")}'
    "</VRTDataset>",
}


@pytest.fixture
def listener():
    """(address on this machine, list of what was asked there); every answer is an empty 404."""
    asked, server = [], socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    asked.append(connection.recv(1000))
                    connection.sendall(b"HTTP/1.1 404 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/beacon", asked
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def readers(path):
    """Every function that opens a TIFF, on a file of one, two or four bands."""
    card = load_card("eurosat")
    yield lambda: read_chip(path, card)
    yield lambda: read_image(Found("a", "b", (path,)))
    yield lambda: read_band(path, LabelFile(folder="labels", bands=2, band=1), (64, 64))
    yield lambda: _place(path)


@pytest.mark.parametrize("kind", ADDRESSES)
def test_a_tiff_by_name_alone_asks_no_server(kind, listener, tmp_path):
    address, asked = listener
    path = tmp_path / "a.tif"
    path.write_text(ADDRESSES[kind].format(address))
    with contextlib.suppress(RasterioError), rasterio.open(path) as source:
        source.read()
    assert asked, f"GDAL itself no longer follows {kind}, so that this test shows nothing"
    asked.clear()
    for read in readers(path):
        with pytest.raises(BenchError, match=r"a\.tif cannot be read as a TIFF \(it begins with b'<"):
            read()
    assert not asked


@pytest.mark.slow
def test_commands_on_such_files_ask_no_server(listener, tmp_path):
    """One file of each kind, all in places where every command looks."""
    address, asked = listener
    root = small_world(tmp_path)
    for number, text in enumerate(ADDRESSES.values(), 1):
        (root / "River" / f"River_{number}.tif").write_text(text.format(address))
    assert re.search(r"River_\d\.tif cannot be read as a TIFF", refused("world", cwd=tmp_path))
    assert call("prepare", "inspect", "world", "--limit", 60, cwd=tmp_path).code == 0
    call("prepare", "inspect", "eurosat", "--data_path", "world", cwd=tmp_path)
    call("prepare", "pack", "eurosat", "--data_path", "world", "--out", "p.lmdb", "--workers", 1, cwd=tmp_path)
    assert not asked


def test_a_patch_by_name_alone_asks_no_server(listener, tmp_path):
    address, asked = listener
    folder = tmp_path / "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48"
    folder.mkdir()
    for band in ("VV", "VH"):
        band_file(folder, band).write_text(ADDRESSES["WMTS"].format(address))
    with pytest.raises(BenchError, match="cannot be read as a TIFF"):
        read_patch(folder, load_card("bigearthnet"))
    assert not asked


def test_a_name_that_gdal_takes_for_an_address_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("GTIFF_DIR:1:a.tif", "http:", "/vsicurl/http:/127.0.0.1:9/a.tif", "zip+file:/a.zip!b.tif"):
        with pytest.raises(BenchError, match="cannot be read as a TIFF"), open_tiff(tmp_path.__class__(name)):
            pass


def tiled(side, *, bits=32, count=2, form=3, shown=64):
    """A small image (count, shown, shown) of zeros in one deflated tile."""
    squeeze, row = zlib.compressobj(1), bytes(side * count * bits // 8)
    body = b"".join([*(squeeze.compress(row) for _ in range(side)), squeeze.flush()])
    tags = [(256, shown), (257, shown), (258, bits), (259, 8), (262, 1), (277, count), (322, side), (323, side)]
    tags += [(324, 8), (325, len(body)), (339, form)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_a_small_image_in_a_huge_tile_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    path.write_bytes(tiled(3008))
    monkeypatch.setattr(rasterio.io.DatasetReader, "read", lambda *a, **b: pytest.fail("decoded"), raising=False)
    for read in list(readers(path))[:2]:
        # (3008 x 3008 + 64 x 64) pixels of 2 bands of 4 bytes
        with pytest.raises(BenchError, match=r"a\.tif would take 69 MiB of memory for 64x64 pixels; 64 MiB are"):
            read()
    path.write_bytes(tiled(8000, bits=8, count=2, form=1))
    with pytest.raises(BenchError, match="would take 122 MiB of memory"):
        read_band(path, LabelFile(folder="labels", bands=2, band=1), (64, 64))


def test_one_image_of_the_size_of_its_card_may_take_what_that_is(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiled(6000, bits=8, count=2, form=1, shown=6000))
    assert path.stat().st_size * 16 < 64 << 20 < 2 * 6000 * 6000
    assert read_band(path, LabelFile(folder="labels", bands=2, band=1), (6000, 6000)).shape == (6000, 6000)
    with pytest.raises(BenchError, match="would take 343 MiB of memory for 6000x6000 pixels"):
        read_image(Found("a", "b", (path,)))


def test_blocks_a_little_larger_than_the_image_are_read(tmp_path):
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(0).normal(-12, 3, (2, 64, 64)).astype(np.float32)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="float32",
        count=2,
        height=64,
        width=64,
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="deflate",
    ) as target:
        target.write(pixels)
    assert np.array_equal(read_chip(path, load_card("eurosat")).db, pixels)


@pytest.mark.parametrize("dtype", ["complex_int16", "complex64", "complex128"])
def test_products_that_are_not_detected_are_refused_by_what_they_hold(dtype, tmp_path):
    path = tmp_path / "slc.tif"
    with rasterio.open(path, "w", driver="GTiff", dtype=dtype, count=2, height=64, width=64) as target:
        target.write(np.ones((2, 64, 64), np.complex64))
    for read in list(readers(path))[:2]:
        with pytest.raises(BenchError, match=f"slc.tif holds {dtype} values; give detected backscatter"):
            read()
    with pytest.raises(BenchError, match=f"slc.tif holds {dtype} values; label maps hold whole numbers"):
        read_band(path, LabelFile(folder="labels", bands=2, band=1), (64, 64))


def test_every_tag_of_every_type_is_read_or_refused(tmp_path, world):
    """All 13 types, in every entry of the directory of a plain file, each with 0, 1 and 2 values."""
    whole = next(iter(sorted(world.rglob("*.tif")))).read_bytes()
    (start,) = struct.unpack_from("<I", whole, 4)
    (entries,) = struct.unpack_from("<H", whole, start)
    path, ends, card = tmp_path / "a.tif", {"read": 0, "refused": 0}, load_card("eurosat")
    for entry in range(entries):
        for kind in range(14):
            for count in (None, 0, 1, 2):
                spoilt, at = bytearray(whole), start + 2 + 12 * entry
                struct.pack_into("<H", spoilt, at + 2, kind)
                if count is not None:
                    struct.pack_into("<I", spoilt, at + 4, count)
                path.write_bytes(spoilt)
                read_plain(path)
                try:
                    read_chip(path, card)
                    ends["read"] += 1
                except BenchError:
                    ends["refused"] += 1
    assert min(ends.values()) > 50, ends


def test_a_place_that_is_nowhere_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    for scale in (1e30, 1e300):
        profile = {"driver": "GTiff", "dtype": "float32", "count": 2, "height": 64, "width": 64, "crs": "EPSG:32633"}
        with rasterio.open(path, "w", **profile, transform=rasterio.Affine(scale, 0, 0, 0, -scale, 0)) as target:
            target.write(np.ones((2, 64, 64), np.float32))
        with pytest.raises(BenchError, match=r"a\.tif"):
            _place(path)
