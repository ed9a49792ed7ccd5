"""Archives of every evil kind: one line each, nothing outside, nothing left behind."""

import contextlib
import io
import os
import random
import shutil
import stat
import struct
import zipfile
import zlib

import pytest

from fgmae_bench.errors import BenchError
from fgmae_bench.hub import archive
from fgmae_bench.hub.archive import unpack


@pytest.fixture
def zip_path(tmp_path):
    return tmp_path / "in" / "x.zip"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "in" / "data"


def write(path, *entries, packing=zipfile.ZIP_DEFLATED):
    """A zip of (name or ZipInfo, content) in this order."""
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", packing) as made:
        for name, content in entries:
            made.writestr(name, content, packing)
    return path


def entry(name, *, mode=0, system=3):
    info = zipfile.ZipInfo("placeholder")
    info.filename, info.external_attr, info.create_system = name, mode << 16, system
    return info


def central(path, offset, layout, value):
    """Overwrite a field of the last central directory entry of a zip; `offset` from its signature."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, data.rindex(b"PK\x01\x02") + offset, value)
    path.write_bytes(data)


def local(path, offset, layout, value):
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, data.rindex(b"PK\x03\x04") + offset, value)
    path.write_bytes(data)


def refused(zip_path, folder, saying):
    """The line of a refusal, after which only the archive is there."""
    before = zip_path.read_bytes()
    with pytest.raises(BenchError) as caught:
        unpack(zip_path, folder)
    line = str(caught.value)
    assert saying in line
    assert str(zip_path) in line
    assert "\n" not in line
    assert os.listdir(folder.parent) == [zip_path.name]
    assert os.listdir(folder.parent.parent) == [folder.parent.name]
    assert zip_path.read_bytes() == before


def test_good_archive_is_unpacked_exactly(zip_path, folder):
    content = random.Random(0).randbytes(2_500_000)
    write(
        zip_path,
        ("top/", b""),
        ("top/empty/", b""),
        ("top/a.tif", content),
        ("./top//b.tif", b""),
        ("höhe/c ä.tif", b"c"),
    )
    assert unpack(zip_path, folder) == 3
    assert (folder / "top" / "a.tif").read_bytes() == content
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "höhe/c ä.tif",
        "top/a.tif",
        "top/b.tif",
    ]


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_stored_and_deflated_are_read(zip_path, folder, packing):
    write(zip_path, ("a", b"a" * 1000), packing=packing)
    assert unpack(zip_path, folder) == 1
    assert (folder / "a").read_bytes() == b"a" * 1000


def test_large_archive_with_zip64_entries_is_read(zip_path, folder):
    zip_path.parent.mkdir()
    with zipfile.ZipFile(zip_path, "w") as made, made.open(zipfile.ZipInfo("a"), "w", force_zip64=True) as stream:
        stream.write(b"a" * 1000)
    assert unpack(zip_path, folder) == 1


def test_modes_of_the_archive_are_not_taken_over(zip_path, folder):
    write(zip_path, (entry("a", mode=stat.S_IFREG | 0o6777), b"a"))
    unpack(zip_path, folder)
    assert not (folder / "a").stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR)


def test_litter_of_other_systems_is_skipped(zip_path, folder):
    write(zip_path, ("top/a.tif", b"a"), ("__MACOSX/top/._a.tif", b"x"), ("top/.DS_Store", b"x"))
    assert unpack(zip_path, folder) == 1
    assert sorted(os.listdir(folder)) == ["top"]
    assert os.listdir(folder / "top") == ["a.tif"]


@pytest.mark.parametrize(
    ("name", "saying"),
    [
        ("../evil", "leads outside"),
        ("a/../../evil", "leads outside"),
        ("..", "leads outside"),
        ("__MACOSX/../../evil", "leads outside"),
        ("/etc/evil", "absolute"),
        ("//evil", "absolute"),
        ("C:evil", "absolute"),
        ("c:/evil", "absolute"),
        ("..\\evil", "backslash"),
        ("\\\\server\\share\\evil", "backslash"),
        ("a\nb", "control characters"),
        ("a\x1b[2Jb", "control characters"),
        ("good.tif\x00../evil", "control characters"),
        ("\x85", "control characters"),
        (".", "no name"),
    ],
)
def test_names_that_lead_outside_or_are_no_plain_names(zip_path, folder, name, saying):
    refused(write(zip_path, ("good/a.tif", b"a"), (entry(name), b"evil")), folder, saying)


@pytest.mark.parametrize(
    ("kind", "saying"),
    [
        (stat.S_IFLNK, "symbolic link"),
        (stat.S_IFIFO, "special file"),
        (stat.S_IFCHR, "special file"),
        (stat.S_IFBLK, "special file"),
        (stat.S_IFSOCK, "special file"),
    ],
)
@pytest.mark.parametrize("system", [0, 3])
def test_links_and_special_files(zip_path, folder, kind, saying, system):
    refused(write(zip_path, ("good", b"a"), (entry("evil", mode=kind | 0o777, system=system), b"/etc")), folder, saying)


def test_link_then_a_file_through_it(zip_path, folder):
    refused(
        write(zip_path, (entry("d", mode=stat.S_IFLNK | 0o777), b"/tmp"), ("d/evil", b"x")), folder, "symbolic link"
    )


@pytest.mark.parametrize(
    "pair",
    [
        ("a", "a"),
        ("a/b", "A/c"),
        ("a.tif", "A.TIF"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("./a", "a"),
        ("ä", "a\u0308"),
        ("ß", "SS"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_fall_on_each_other(zip_path, folder, pair):
    refused(write(zip_path, (pair[0], b"1"), (pair[1], b"2")), folder, "fall on each other")


def test_folder_named_twice_is_no_fault(zip_path, folder):
    with pytest.warns(UserWarning, match="Duplicate"):
        write(zip_path, ("a/", b""), ("a/", b""), ("a/b", b"b"))
    assert unpack(zip_path, folder) == 1


@pytest.mark.parametrize("flags", [0x1, 0x41, 0x2000])
def test_encrypted_entries(zip_path, folder, flags):
    write(zip_path, ("good", b"a"), ("evil", b"x"))
    central(zip_path, 8, "<H", flags)
    refused(zip_path, folder, "is encrypted")


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packings(zip_path, folder, packing):
    refused(write(zip_path, ("a", b"x" * 100), packing=packing), folder, f"method {packing}")


def test_bomb_by_its_ratio(zip_path, folder):
    refused(write(zip_path, ("bomb", bytes(11_000_000))), folder, "unpacks to more than 200 times its size")


def test_small_files_may_be_packed_well(zip_path, folder):
    assert unpack(write(zip_path, ("blank.tif", bytes(1_000_000))), folder) == 1


def test_bomb_by_its_sum(zip_path, folder, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 1999)
    refused(write(zip_path, ("a", b"a" * 1000), ("b", b"b" * 1000)), folder, "would unpack to")


def test_bomb_that_declares_two_hundred_gigabytes(zip_path, folder):
    write(zip_path, *((f"{k}", os.urandom(10)) for k in range(60)), packing=zipfile.ZIP_DEFLATED)
    data = bytearray(zip_path.read_bytes())
    at = data.index(b"PK\x01\x02")
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        struct.pack_into("<II", data, at + 20, 0xF0000000, 0xF0000000)
        at += 4
    zip_path.write_bytes(data)
    refused(zip_path, folder, "would unpack to 242 GB, more than 200 GB")


def test_bomb_by_entries_that_share_bytes(zip_path, folder):
    write(zip_path, ("a", b"x" * 1000), ("b", b"x" * 1000), packing=zipfile.ZIP_STORED)
    central(zip_path, 42, "<I", 1)
    refused(zip_path, folder, "share bytes")


def test_stream_that_exceeds_its_declared_size_though_the_crc_agrees(zip_path, folder):
    write(zip_path, ("evil", b"a" * 1000))
    for patch, size_at, crc_at in ((central, 24, 16), (local, 22, 14)):
        patch(zip_path, size_at, "<I", 500)
        patch(zip_path, crc_at, "<I", zlib.crc32(b"a" * 500))
    with zipfile.ZipFile(zip_path) as trusting:
        assert trusting.read("evil") == b"a" * 500  # zipfile alone sees nothing
    refused(zip_path, folder, "Bad CRC-32")
    for patch, crc_at in ((central, 16), (local, 14)):
        patch(zip_path, crc_at, "<I", zlib.crc32(b"a" * 501))
    refused(zip_path, folder, "more than the 500 bytes")


def test_stream_that_falls_short_of_its_declared_size(zip_path, folder):
    write(zip_path, ("evil", b"a" * 1000))
    central(zip_path, 24, "<I", 2000)
    refused(zip_path, folder, "less than the 2000 bytes")


def test_crc_errors(zip_path, folder):
    write(zip_path, ("good", b"g" * 100), ("evil", b"a" * 1000), packing=zipfile.ZIP_STORED)
    data = bytearray(zip_path.read_bytes())
    data[data.index(b"aaaa") + 7] ^= 1
    zip_path.write_bytes(data)
    refused(zip_path, folder, "Bad CRC-32")


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip at all" * 100, b"PK\x05\x06" + bytes(17)])
def test_something_else(zip_path, folder, content):
    zip_path.parent.mkdir()
    zip_path.write_bytes(content)
    refused(zip_path, folder, "is not a complete zip archive")


def test_missing_archive(tmp_path):
    with pytest.raises(BenchError, match=r"x\.zip cannot be read \(No such file or directory\); remove it"):
        unpack(tmp_path / "x.zip", tmp_path / "data")
    assert os.listdir(tmp_path) == []


def some_zip():
    rng, stream = random.Random(1), io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for k in range(6):
            made.writestr(
                f"d{k % 2}/{k}.tif",
                rng.randbytes(rng.randrange(3000)),
                (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[k % 2],
            )
    return stream.getvalue()


def test_truncated_anywhere_is_refused(zip_path, folder):
    whole, rng = some_zip(), random.Random(2)
    zip_path.parent.mkdir()
    for size in [*rng.sample(range(len(whole)), 100), len(whole) - 1]:
        zip_path.write_bytes(whole[:size])
        refused(zip_path, folder, "")


@pytest.mark.slow
def test_flipped_bytes_are_refused_or_change_nothing_that_counts(zip_path, folder):
    whole, rng = some_zip(), random.Random(3)
    zip_path.parent.mkdir()
    with zipfile.ZipFile(io.BytesIO(whole)) as good:
        contents = sorted(good.read(name) for name in good.namelist())
    survived = 0
    for _ in range(600):
        data = bytearray(whole)
        at = rng.choice([rng.randrange(len(data)), rng.randrange(data.index(b"PK\x01\x02"), len(data))])
        data[at] ^= rng.randrange(1, 256)
        zip_path.write_bytes(data)
        with contextlib.suppress(BenchError):
            unpack(zip_path, folder)
        if folder.exists():
            survived += 1
            assert (
                sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file()) == contents
            )  # a name or a date differs
            shutil.rmtree(folder)
    assert survived < 400


def test_swallowed_entries_are_missed(zip_path, folder):
    write(zip_path, ("a", b"a"), ("b", b"b"))
    data = bytearray(zip_path.read_bytes())
    struct.pack_into("<H", data, data.index(b"PK\x01\x02") + 32, 47)  # a comment as long as the next entry
    zip_path.write_bytes(data)
    with zipfile.ZipFile(zip_path) as trusting:
        assert trusting.namelist() == ["a"]  # zipfile alone sees nothing
    refused(zip_path, folder, "1 entries are listed, 2 are stated")


def test_folder_that_is_there_is_kept(zip_path, folder):
    write(zip_path, ("a", b"a"))
    folder.mkdir()
    (folder / "mine").write_text("mine")
    with pytest.raises(BenchError, match="is not empty"):
        unpack(zip_path, folder)
    assert (folder / "mine").read_text() == "mine"


def test_too_little_space_is_said_before_the_first_file(zip_path, folder, monkeypatch):
    write(zip_path, ("a", b"a" * 5000))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 5000))
    with pytest.raises(BenchError, match="free space there"):
        unpack(zip_path, folder)
    assert not folder.exists()


def test_name_too_long_for_the_disk(zip_path, folder):
    write(zip_path, ("a", b"a"), ("x" * 300, b"a"))
    with pytest.raises(BenchError, match="a name of more than 255 bytes"):
        unpack(zip_path, folder)
    assert not folder.exists()


def test_many_entries_that_are_each_small_enough_are_a_bomb_together(zip_path, folder):
    write(zip_path, *((f"{number}.bin", bytes(9_900_000)) for number in range(12)))
    with pytest.raises(BenchError, match="would unpack to 119 MB, more than 16 times its size"):
        unpack(zip_path, folder)
    assert list(folder.parent.iterdir()) == [zip_path]


def test_small_archive_may_unpack_to_more_than_its_size(zip_path, folder):
    write(zip_path, ("zeros", bytes(5_000_000)))
    assert unpack(zip_path, folder) == 1


@pytest.mark.parametrize("name", ["a/" * 2000 + "b", "a/" * 2000, "a/" * 33 + "b"])
def test_deeply_nested_folders_are_refused(zip_path, folder, name):
    write(zip_path, (name, b""))
    with pytest.raises(BenchError, match="is nested more than 32 folders deep"):
        unpack(zip_path, folder)
    assert list(folder.parent.iterdir()) == [zip_path]


def test_folders_within_the_limit_are_made(zip_path, folder):
    write(zip_path, ("a/" * 32 + "b", b"x"))
    assert unpack(zip_path, folder) == 1
