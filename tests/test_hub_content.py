"""Whether bytes that nobody vouches for are what their file's name says: whole files of each format fit, the shortest
that only begin like one, and what servers send in place of a file, do not.
"""

import gzip
import io
import json
import pickle
import pickletools
import struct
import tarfile
import zipfile

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from hub_server import CONTENT, SIZE
from safetensors.numpy import save

from fgmae_bench.hub.archive import list_fits, member_names
from fgmae_bench.hub.content import content_fault
from fgmae_bench.hub.pickles import MAGIC, pass_over


def saved(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def archive(*names):
    def write(stream):
        with zipfile.ZipFile(stream, "w") as made:
            for name in names:
                made.writestr(zipfile.ZipInfo(name), b"b")  # of 1980: the same bytes each time

    return saved(write)


def packed_tar(stream):
    with tarfile.open(fileobj=stream, mode="w") as made:
        member = tarfile.TarInfo("a/b.tif")
        member.size = 3
        made.addfile(member, io.BytesIO(b"abc"))


def tiff():
    with rasterio.MemoryFile() as file:
        with file.open(driver="GTiff", width=3, height=2, count=2, dtype="float32") as target:
            target.write(np.ones((2, 2, 3), np.float32))
        return file.read()


def torch_file(**options):
    return saved(lambda stream: torch.save({"a": torch.zeros(2)}, stream, **options))


TENSORS = save({"a": np.zeros(3, np.float32), "b": np.zeros((), np.float32)}, {"x": "y"})
TAR = gzip.compress(saved(packed_tar), mtime=0)
ARRAYS = {"model": {"w": np.ones((2, 3), np.float32), "b": np.ones(3)}}
WHOLE = {
    "zip.pth": torch_file(),
    "old.pth": torch_file(_use_new_zipfile_serialization=False),
    "named.pth": TENSORS,
    **{f"protocol{number}.pkl": pickle.dumps(ARRAYS, number) for number in (2, 3, 4, 5)},
    "plain.pt": pickle.dumps(ARRAYS, 4),
    "a.safetensors": TENSORS,
    "half.safetensors": save({"a": np.zeros((2, 0), np.float16), "c": np.zeros((2, 3), np.float16)}),
    "a.zip": archive("a"),
    "a.npz": saved(lambda stream: np.savez(stream, a=np.zeros(3))),
    "a.json": b'\n{"a": 1}\n',
    "a.geojson": b'[{"a": 1}]',
    "a.csv": b"a,b\n1,2\n",
    "a.toml": b"a = 1\n",
    "a.tif": tiff(),
    "a.gz": gzip.compress(b"", mtime=0),
    "a.tar.gz": TAR,
    "a.tgz": TAR,
    "a.parquet": saved(lambda stream: pq.write_table(pa.table({"a": [1]}), stream)),
    "a.npy": saved(lambda stream: np.save(stream, np.zeros(3))),
    "a.png": bytes(cv2.imencode(".png", np.zeros((2, 2), np.uint8))[1]),
    "README": b"anything",
}


def fault(tmp_path, name, content):
    (tmp_path / "x").write_bytes(content)
    return content_fault(tmp_path / "x", name)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_of_known_formats_fit(tmp_path, name):
    assert fault(tmp_path, name, WHOLE[name]) is None


def test_the_file_of_the_other_tests_fits(tmp_path):
    assert len(CONTENT) == SIZE
    assert fault(tmp_path, "w.pth", CONTENT) is None


CUT = [name for name in WHOLE if name not in ("README", "a.csv", "a.gz", "a.tgz", "a.tar.gz", "old.pth", "a.npy")]


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("left", [-1, 0.5, 8])
def test_a_cut_file_is_none(tmp_path, name, left):
    whole = WHOLE[name].strip()
    kept = whole[: int(left * len(whole)) if isinstance(left, float) else left]
    if name != "a.toml" and kept != whole:
        assert fault(tmp_path, name, kept)


@pytest.mark.parametrize("name", ["old.pth", "a.gz", "a.tgz", "a.npy"])
def test_a_file_whose_end_is_elsewhere_is_none_without_its_beginning(tmp_path, name):
    for length in range(1, 17):
        assert fault(tmp_path, name, WHOLE[name][:length])


def with_header(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


EMPTY_ZIP = archive()
ERROR = b'{"error": "Repository not found"}'
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
SHORTEST = {
    # a pickle that does not end, ends early, holds nothing, or is followed by something
    "w.pth": [
        *(
            b"\x80",
            b"\x80\x02",
            b"\x80\x02.",
            b"\x80\x05.",
            b"\x80\x02N.",
            b"\x80\x02}.",
            b"\x80\x02X\xff\xff\xff\x7f.",
        ),
        *(b"\x80\x02ctorch\nTensor\n", b"\x80\x02ctorch\n", b"\x80\x02ctorch\nTensor\n..", b"\x80\x02\xff."),
        *(
            b"\x80\x02T\xff\xff\xff\xff.",
            b"\x80\x04\x8e" + b"\xff" * 8 + b".",
            b"ctorch\nTensor\n.",
            b"\x80\x02" + bytes(99),
        ),
        *(MAGIC, MAGIC * 5, MAGIC * 5 + bytes(9), MAGIC * 3 + b"\x80\x02ctorch\nT\n." + MAGIC),
        *(b"PK", b"PK\5\6" + bytes(18), EMPTY_ZIP, archive("a"), archive("data.pkl"), b"\x02" + bytes(7) + b"{}"),
        *(ERROR, b"not found", bytes(40), b"\xff" * 40, TAR, WHOLE["a.tif"]),
    ],
    "w.pkl": [b"\x80\x02", b"\x80\x02.", TENSORS, WHOLE["zip.pth"], b"I1\n."],
    "w.safetensors": [
        *(save({}), save({}, {"x": "y"}), TENSORS + b"x", b"\xff" * 40, b"short", b"\x02" + bytes(7) + b"{}"),
        *(with_header(b"[" * 100_000), with_header([1]), with_header({"a": 3}), with_header({"a": {}})),
        with_header({"a": {"data_offsets": ["x", None]}}),
        with_header({"a": entry([2], 0, 4)}, bytes(4)),
        with_header({"a": entry([-1, -1], 0, 4)}, bytes(4)),
        with_header({"a": entry([10**400], 0, 4)}, bytes(4)),
        with_header({"a": entry(1, 0, 4)}, bytes(4)),
        with_header({"a": entry([1], 4, 8)}, bytes(8)),
        with_header({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, bytes(4)),
        with_header({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
    ],
    "a.zip": [b"PK", EMPTY_ZIP, archive("folder/"), WHOLE["a.zip"][:-4], b"PK\3\4cut", ERROR],
    "a.npz": [EMPTY_ZIP, archive("a"), b"PK"],
    "a.json": [b"[" * 100_000, b"{", b"null", b"1", b'"x"', b"{]", b"not found", b"\xff{}"],
    "a.geojson": [b"null", b"[}"],
    "a.toml": [b"not found", b"<>", b"\xff", b"a = [" * 1000],
    "a.csv": [b"a\0b", ERROR, b'[{"message": "x"}]', POINTER],
    "a.tif": [b"II*\0", b"II*\0" + bytes(20), b"II*\0\x08\0\0\0\0\0" + bytes(4), b"MM\0+" + bytes(40), b"PK\3\4"],
    "a.gz": [b"\x1f\x8b\x08", b"\x1f\x8b\x08" + bytes(20)[:14], b"\x1f\x8b\x08" + b"\xff" * 30],
    "a.tgz": [b"\x1f\x8b\x08", gzip.compress(b""), gzip.compress(b"x" * 512), gzip.compress(bytes(600))],
    "a.tar.gz": [gzip.compress(b"PK\3\4" + bytes(600)), saved(packed_tar)],
    "a.parquet": [b"PAR1", b"PAR1PAR1", b"PAR1" + bytes(20), b"PAR1\0\0\0\0PAR1", b"PAR1x\x09\0\0\0PAR1", b"x"],
    "a.npy": [
        b"\x93NUMPY",
        b"\x93NUMPY\1\0",
        b"\x93NUMPY\1\0\0\0",
        b"\x93NUMPY\1\0\x76\0{}",
        b"\x93NUMPY\4\0" + bytes(9),
    ],
    "a.png": [b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", WHOLE["a.png"][:-1]],
    "README": [b"", b"<html>", b"\n  <HTML>", b"<?xml version='1.0'?><Error/>", POINTER],
    "a.txt": [b"a\0", POINTER],
    "README.MD": [b"\0"],
}


@pytest.mark.parametrize(("name", "number"), [(name, n) for name, each in SHORTEST.items() for n in range(len(each))])
def test_what_only_begins_like_a_file_is_none(tmp_path, name, number):
    assert fault(tmp_path, name, SHORTEST[name][number])


def test_a_list_of_tensors_out_of_proportion_is_not_parsed(tmp_path):
    for count, fits in ((70_000, False), (9, True)):
        content = with_header({str(number): entry([0], 0, 0) for number in range(count)})
        assert (fault(tmp_path, "w.safetensors", content) is None) is fits


def test_a_list_of_members_out_of_proportion_is_not_parsed(tmp_path):
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 4_000_000, 0, 0)
    (tmp_path / "a.zip").write_bytes(bytes(4_000_000) + end)
    assert not list_fits(tmp_path / "a.zip")
    assert member_names(tmp_path / "a.zip") == []


PICKLED = [
    *(None, [1, 2.5, "x" * 300, b"y" * 300, 10**400, -1, True, (), {}, set(), "\u20ac", bytearray(b"x" * 9)]),
    *({"a": np.arange(3)}, {f"{n}": n for n in range(2000)}, frozenset([1]), range(3)),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("number", range(len(PICKLED)))
def test_a_pickle_ends_where_pythons_own_reader_ends_it(protocol, number):
    content = pickle.dumps(PICKLED[number], protocol)
    stream = io.BytesIO(content + b"more")
    names = sum(op.name in ("GLOBAL", "STACK_GLOBAL") for op, _, _ in pickletools.genops(content))
    assert (pass_over(stream, len(content) + 4), stream.tell()) == (names, len(content))


def test_a_pickle_of_too_many_operations_is_none(monkeypatch):
    monkeypatch.setattr("fgmae_bench.hub.pickles.MOST_OPERATIONS", 100)
    assert pass_over(io.BytesIO(b"\x80\x02" + b"0" * 97 + b"N."), 200) == 0
    assert pass_over(io.BytesIO(b"\x80\x02" + b"0" * 98 + b"N."), 200) is None
