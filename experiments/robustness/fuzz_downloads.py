"""Damage what stands at addresses that a card or a user names: the server's answers, archives of tar, what a file's
name promises, and the addresses themselves.

  python experiments/robustness/fuzz.py downloads [--readers web tar content card]
"""

from __future__ import annotations

import functools
import gzip
import io
import os
import pickle
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from fuzz_answers import name, pieces, serving, strange_answers
from fuzzing import Reader, Work, command, mutated
from safetensors.numpy import save
from strange import changed_toml

from fgmae_bench.hub.content import content_fault
from fgmae_bench.hub.fetch import WebFile, fetch
from fgmae_bench.hub.pickles import MAGIC
from fgmae_bench.hub.tarball import unpack_tar

Rng = np.random.Generator
CARDS = Path(__file__).resolve().parents[2] / "datasets"
SEEDS = Path(tempfile.mkdtemp(prefix="fuzz_downloads_"))
# Where a card may point to; {} is the address of a server of this machine that answers.
ADDRESSES = (
    *("{}/x.tar.gz", "{}", "{}/", "{}/a%2f..%2f..%2fetc%2fpasswd", "{}/%00", "{}/x.tar.gz?a=b#c", "{}/\u202e.tar.gz"),
    *(
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "ftp://127.0.0.1/x",
        "http://[::1",
        "http://",
        "https://a b",
    ),
    *("http://user:secret@127.0.0.1:1/x.tar.gz", "http://127.0.0.1:99999/x", "http://\x1b[2J/x", "//x", "", "x" * 9000),
    *("HTTP://127.0.0.1:1/..", "http://127.0.0.1:1/x/..", "http://127.0.0.1:1/.", "data:text/plain,x", "gopher://x/y"),
)


def web(rng: Rng, folder: Path) -> Work:
    """A file at an address whose server answers strangely."""
    ending, answer = strange_answers(rng)

    def work() -> None:
        fetch(WebFile(url=f"{serving(answer)}/file{ending}"), folder / "in" / f"file{ending}")

    return work


def packed(rng: Rng) -> bytes:
    """A packed tar with strange names and kinds of members, some of them vast or sparse."""
    stream = io.BytesIO()
    form = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)[int(rng.integers(3))]
    with tarfile.open(fileobj=stream, mode="w", format=form, errors="replace") as made:
        for number in range(int(rng.integers(1, 8))):
            member = tarfile.TarInfo(name(rng, number) if form != tarfile.USTAR_FORMAT else f"all/{number}")
            content = rng.bytes(int(rng.integers(0, 2000)))
            if rng.random() < 0.15:
                kinds = [
                    tarfile.SYMTYPE,
                    tarfile.LNKTYPE,
                    tarfile.CHRTYPE,
                    tarfile.FIFOTYPE,
                    tarfile.DIRTYPE,
                    b"S",
                    b"Z",
                ]
                member.type, member.linkname = kinds[int(rng.integers(len(kinds)))], "../../etc/passwd"
            if form == tarfile.PAX_FORMAT and rng.random() < 0.3:
                keys = ["size", "path", "GNU.sparse.map", "GNU.sparse.realsize", "GNU.sparse.major", "hdrcharset", "x"]
                values = ["-1", "9" * 300, "../evil", "0,1,2", "1", "BINARY", "\0", "a" * 100_000]
                chosen = keys[int(rng.integers(len(keys)))]
                member.pax_headers = {chosen: values[int(rng.integers(len(values)))]}
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@functools.cache
def zeros() -> bytes:
    """A tar of one member of 200 MB of zeros, packed."""
    member = tarfile.TarInfo("all/0")
    member.size = 200_000_000
    return gzip.compress(member.tobuf() + bytes(member.size + 1024), 1)


def tar(rng: Rng, folder: Path) -> Work:
    """An archive of tar: its members, its headers under a right checksum of gzip, or its packed bytes damaged."""
    path, kind = folder / "x.tar.gz", rng.random()
    content = packed(rng)
    if kind < 0.05:
        path.write_bytes(zeros())
    elif kind < 0.5:
        path.write_bytes(gzip.compress(mutated(rng, content, 3), 1))
    else:
        whole = gzip.compress(content, 1)
        path.write_bytes(mutated(rng, whole, 3) if kind < 0.8 else whole * int(rng.integers(1, 3)))
    return lambda: unpacked(path, folder / "data")


def unpacked(path: Path, data: Path) -> None:
    """Unpack, or refuse and leave nothing; nothing of it is elsewhere."""
    before = sorted(os.listdir(path.parent))
    try:
        unpack_tar(path, data)
    except BaseException:
        assert sorted(os.listdir(path.parent)) == before
        raise
    assert sorted(os.listdir(path.parent)) == sorted([*before, data.name])
    assert not any(found.is_symlink() for found in data.rglob("*"))


@functools.cache
def wholes() -> dict[str, bytes]:
    """A whole file of each format."""
    arrays = {"w": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("m/data.pkl", pickle.dumps(arrays, 2))
        made.writestr("a.npy", b"x")
    table = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), table)
    with rasterio.MemoryFile() as file:
        with file.open(driver="GTiff", width=3, height=2, count=2, dtype="float32") as target:
            target.write(np.ones((2, 2, 3), np.float32))
        tiff = file.read()
    member = tarfile.TarInfo("a")
    parts = [*(pickle.dumps(each, 2) for each in (1001, {}, arrays, ["0"])), struct.pack("<q", 8), bytes(8)]
    return {
        "a.pth": stream.getvalue(),
        "b.pth": MAGIC + b"".join(parts),
        "c.pt": pickle.dumps(arrays, 4),
        "a.pkl": pickle.dumps(arrays, 5),
        "a.safetensors": save(arrays, {"x": "y"}),
        "a.zip": stream.getvalue(),
        "a.npz": stream.getvalue(),
        "a.tif": tiff,
        "a.tgz": gzip.compress(member.tobuf()),
        "a.gz": gzip.compress(b"a"),
        "a.parquet": table.getvalue(),
        "a.json": b'{"a": [1, {"b": null}]}',
        "a.toml": b"a = 1\n[b]\nc = [2]\n",
        "a.png": bytes(cv2.imencode(".png", np.zeros((2, 2), np.uint8))[1]),
        "a.csv": b"a,b\n1,2\n",
    }


def content(rng: Rng, folder: Path) -> Work:
    """What is asked of a download before it is pinned."""
    names = list(wholes())
    wanted, held = (names[int(rng.integers(len(names)))] for _ in range(2))
    held = wanted if rng.random() < 0.8 else held
    (folder / "x").write_bytes(mutated(rng, wholes()[held], 3))
    return lambda: judged(folder / "x", wanted)


def judged(path: Path, wanted: str) -> int:
    """The exit code that a refusal has, or none."""
    return 2 if content_fault(path, wanted) else 0


def card(rng: Rng, folder: Path) -> Work:
    """`prepare download` of a card whose addresses, or other values, are strange; the server serves an archive."""
    source = (CARDS / ("bigearthnet", "sen1floods11")[int(rng.integers(2))] / "card.toml").read_text()
    if rng.random() < 0.5:
        source = changed_toml(rng, source.encode()).decode(errors="replace")
    body = packed(rng)
    for listed in (CARDS / "sen1floods11").glob("*.csv"):
        (folder / listed.name).write_bytes(listed.read_bytes())

    def answer(request: bytes) -> list[bytes]:
        draw = np.random.default_rng(len(request))
        return pieces(draw, request.startswith(b"HEAD"), gzip.compress(body, 1))

    def work() -> object:
        lines, address = (
            source.splitlines(),
            ADDRESSES[int(rng.integers(len(ADDRESSES)))].replace("{}", serving(answer)),
        )
        escaped = address.replace("\x1b", "\\u001b")
        text = "\n".join(f'url = "{escaped}"' if line.startswith("url") else line for line in lines)
        (folder / "card.toml").write_text(text, errors="replace")
        return command("fgmae_bench.prepare", "download", "card.toml", "--data_path", "data")()

    return work


READERS: dict[str, Reader] = {"web": web, "tar": tar, "content": content, "card": card}


def prepare() -> None:
    """Make what is packed, and the whole files."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    zeros()
    wholes()
