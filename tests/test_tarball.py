"""Tar archives of every evil kind: one line each, nothing outside, nothing left behind."""

import contextlib
import gzip
import io
import os
import random
import shutil
import tarfile

import pytest
from hub_server import error_of

from fgmae_bench.errors import BenchError
from fgmae_bench.hub import archive, tarball
from fgmae_bench.hub.tarball import unpack_tar

GOOD = {"a/one.tif": b"1" * 700, "a/b/two.tif": b"", "three.json": b"3" * 512}


def entry(name, content=b"", **how):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in how.items():
        setattr(info, key, value)
    return info, content


def packed(*entries, form=tarfile.PAX_FORMAT):
    """Bytes of a .tar.gz of (TarInfo, content) in this order."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as made:
        for info, content in entries:
            made.addfile(info, io.BytesIO(content))
    return gzip.compress(stream.getvalue(), mtime=0)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in" / "x.tar.gz"


def refused(path, content):
    """The line of a refusal, after which only the archive is there."""
    path.write_bytes(content)
    line = error_of(lambda: unpack_tar(path, path.parent / "data"))
    assert os.listdir(path.parent) == [path.name]
    assert os.listdir(path.parent.parent) == ["in"]
    return line


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_archives_unpack_to_the_same_content(path, form):
    """Long names need extended headers; a folder of its own entry and `./` before names are usual."""
    good = {**GOOD, f"./{'d' * 60}/{'e' * 60}.tif": b"long" * 300_000}
    folders = [entry("./", type=tarfile.DIRTYPE), entry("a", type=tarfile.DIRTYPE, mode=0)]
    skipped = [entry("__MACOSX/x", b"x"), entry("a/.DS_Store", b"x")]
    files = [entry(name, content, mode=0o4777) for name, content in good.items()]
    path.write_bytes(packed(*folders, *skipped, *files, form=form))
    data = path.parent / "data"
    assert unpack_tar(path, data) == len(good)
    there = {str(file.relative_to(data)): file.read_bytes() for file in data.rglob("*") if file.is_file()}
    assert there == {name.removeprefix("./"): content for name, content in good.items()}
    assert not any(file.stat().st_mode & 0o7111 for file in data.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (entry("../evil"), "leads outside"),
        (entry("a/../../evil"), "leads outside"),
        (entry("/tmp/evil"), "absolute name"),
        (entry("C:evil"), "absolute name"),
        (entry("a\\b"), "backslash"),
        (entry("a\nb"), "control characters"),
        (entry("d/" * 40 + "x"), "nested more than"),
        (entry("n" * 300), "more than 255 bytes"),
        (entry("link", type=tarfile.SYMTYPE, linkname="/etc"), "is a link"),
        (entry("a/one.tif2", type=tarfile.LNKTYPE, linkname="a/one.tif"), "is a link"),
        (entry("pipe", type=tarfile.FIFOTYPE), "special or sparse"),
        (entry("disk", type=tarfile.BLKTYPE), "special or sparse"),
        (entry("a/one.tif", b"again"), "is there twice"),
        (entry("a/b", b"file and folder"), "is there twice"),
        (entry("a/one.tif/below", b"x"), "data"),
        (entry("kind", type=b"Z"), "special or sparse"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0].name[:20].replace("\n", " "),
)
def test_an_entry_that_must_not_be_leaves_nothing(path, bad, says):
    good = [entry(name, content) for name, content in GOOD.items()]
    line = refused(path, packed(*good, bad))
    assert says in line


def test_bombs_are_stopped_before_they_fill_the_disk(path, monkeypatch):
    monkeypatch.setattr(tarball, "TOTAL_FROM_BYTES", 1 << 20)
    line = refused(path, packed(entry("zeros", bytes(8 << 20))))
    assert "MB come out of it" in line


def test_an_extended_header_is_not_read_into_memory_whole(path):
    """A pax header of 3 MB, which tarfile itself would take."""
    line = refused(path, packed(entry("x", b"x", pax_headers={"comment": "c" * (3 << 20)})))
    assert f"a header of more than {archive.COPY_BYTES} bytes" in line


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: b"PK\3\4 not gzip",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-8] + bytes(8),  # another checksum and length than the content's
        lambda content: gzip.compress(gzip.decompress(content)[:1024]),
        lambda content: gzip.compress(gzip.decompress(content)[:1536] + b"\xff" * 2048),  # a damaged header
        lambda content: gzip.compress(gzip.decompress(content).rstrip(b"\0")),
        lambda content: gzip.compress(b"no tar" * 200),
    ],
    ids=["empty", "zip", "cut by one", "cut", "crc", "cut within", "header", "no end", "no tar"],
)
def test_damage_is_one_line_and_leaves_nothing(path, spoil):
    content = packed(*(entry(name, content) for name, content in GOOD.items()), form=tarfile.USTAR_FORMAT)
    assert "is not a complete tar archive" in refused(path, spoil(content))


def test_changed_bytes_unpack_whole_or_not_at_all(path):
    """Bytes of the inner tar changed at random: one line, or what a reader of the changed archive would get."""
    draw = random.Random(0)
    plain = gzip.decompress(
        packed(*(entry(name, content) for name, content in GOOD.items()), form=tarfile.USTAR_FORMAT)
    )
    for _ in range(80):
        changed = bytearray(plain)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(4096)] = draw.choice((0, 255, draw.randrange(256)))
        path.write_bytes(gzip.compress(bytes(changed), 1))
        with contextlib.suppress(BenchError):
            unpack_tar(path, path.parent / "data")
        shutil.rmtree(path.parent / "data", ignore_errors=True)
        assert os.listdir(path.parent) == [path.name]
