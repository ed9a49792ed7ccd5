"""Damage what describes or replaces images in anybody's data: tables of samples, groups and lists, PNG files, NumPy
arrays, files of embeddings; and the folder that a card is drafted from.

  python experiments/robustness/fuzz.py tables [--readers csv parquet groups lists npy png embeddings draft]
"""

from __future__ import annotations

import bz2
import functools
import io
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import fuzz_parquet
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzzing import Reader, Work, command, mutated

from fgmae_bench.config.cards import Card, load_card
from fgmae_bench.config.run import Data
from fgmae_bench.data.files import read_image
from fgmae_bench.data.gather import Found, look
from fgmae_bench.data.groups import with_groups
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.splits import make_split
from fgmae_bench.models.embeddings import read_embeddings, write_embeddings
from fgmae_bench.stress.scorer import read_outputs

Rng = np.random.Generator
SIDE, COUNT = 16, 12
SEEDS = Path(tempfile.mkdtemp(prefix="fuzz_tables_"))
CARD = """name = "mine"
title = "Mine"
version = 1
task = "{task}"
default_split = "own"
recommended_split = "own"
{top}
[layout]
kind = "{kind}"
{layout}
[signal]
bands = ["VV", "VH"]
units = "dB"
calibration = "sigma0"
size = [16, 16]
dtype = "float32"
[splits.own]
kind = "random"
train = 0.5
[origin]
url = "mine"
licence = "mine"
{more}
"""
CLASSES = 'classes = ["Ice", "Water"]'
TABLE = 'table = "t.{}"\npath = "file"\ngroup = "site"\n'
TASKS = (
    {"task": "single_label", "top": CLASSES, "more": "", "column": 'label = "label"'},
    {"task": "multi_label", "top": CLASSES, "more": "", "column": 'label = "label"\nseparator = ";"'},
    {"task": "regression", "top": "", "more": '[target]\nname = "height"\nunit = "m"', "column": 'target = "height"'},
)
# What a cell of a table may hold, and pieces that change how the rest is read.
CELLS = (
    *("", "nan", "inf", "1e999", "9" * 400, "=HYPERLINK(1)", "../../etc/passwd", "/dev/zero", "\x1b[2J", "\u202e"),
    *("x" * 200_000, '"', '"open', "a,b", "a;b;c", "\r", "\n", "\0", "\ufeff", "Ice;Ice", "*", "[a-z]*", "a0", "."),
)
SHAPES = ("(1,)", "()", "(0,)", "(-1, 4)", f"({2**62}, 2)", f"(2, {10**9}, {10**9})", "(" * 200, "(2, 16)", "(9,)*9")
KINDS = ("|O", "<f8", ">f4", "<f2", "|b1", "<c8", "<U0", "<U1000000000", "|V9", "<M8[ns]", "|i1", "<i8")


def silent(read: Callable[[], object]) -> Work:
    """`read` without what it returns, which would be taken for an exit code."""

    def work() -> None:
        read()

    return work


@functools.cache
def image(number: int) -> bytes:
    """A NumPy array of speckle."""
    stream, rng = io.BytesIO(), np.random.default_rng(number)
    np.save(stream, rng.normal(-12, 3, (2, SIDE, SIDE)).astype(np.float32))
    return stream.getvalue()


@functools.cache
def picture() -> bytes:
    """A PNG of 16 bits."""
    pixels = np.random.default_rng(0).integers(0, 1000, (SIDE, SIDE)).astype(np.uint16)
    return bytes(cv2.imencode(".png", pixels)[1])


def cells() -> list[list[str]]:
    """A table of samples, its header first."""
    rows = [[f"a{n}.npy", ("Ice", "Water")[n % 2], f"s{n // 3}", f"{n / 2}"] for n in range(COUNT)]
    return [["file", "label", "site", "height"], *rows]


def written(folder: Path, rng: Rng, kind: str) -> Card:
    """Images, and a card for a table of them, of a random task."""
    for number in range(COUNT):
        (folder / f"a{number}.npy").write_bytes(image(number))
    task = dict(TASKS[int(rng.integers(len(TASKS)))])
    layout = TABLE.format(kind) + task.pop("column")
    (folder / "card.toml").write_text(CARD.format(kind="table", layout=layout, **task))
    return load_card(str(folder / "card.toml"))


def changed_csv(rng: Rng) -> bytes:
    """A table with strange cells, then perhaps with other bytes."""
    table = cells()
    for _ in range(int(rng.integers(0, 3))):
        row = table[int(rng.integers(len(table)))]
        row[int(rng.integers(len(row)))] = CELLS[int(rng.integers(len(CELLS)))]
    content = "\n".join(",".join(row) for row in table).encode()
    return mutated(rng, content, 2) if rng.random() < 0.5 else content


def used(card: Card, folder: Path) -> None:
    """What a run does with the samples of a table."""
    index = with_groups(card, build_index(card, folder), folder / "cache")
    index.read(0, card)
    make_split(card, index, Data(dataset=card.name, split="own"), folder / "cache")


def csv(rng: Rng, folder: Path) -> Work:
    """A CSV of samples."""
    card = written(folder, rng, "csv")
    (folder / "t.csv").write_bytes(changed_csv(rng))
    return silent(lambda: used(card, folder))


def parquet(rng: Rng, folder: Path) -> Work:
    """A Parquet file of samples."""
    card = written(folder, rng, "parquet")
    (folder / "t.parquet").write_bytes(fuzz_parquet.damaged(rng, SEEDS / "t.parquet"))
    return silent(lambda: used(card, folder))


def groups(rng: Rng, folder: Path) -> Work:
    """A CSV of the groups that samples belong to."""
    card = written(folder, rng, "csv")
    (folder / "t.csv").write_text("\n".join(",".join(row) for row in cells()))
    text = (folder / "card.toml").read_text() + '\n[groups]\nfile = "g.csv"\ncolumn = "site"\n'
    (folder / "card.toml").write_text(text.replace('group = "site"\n', ""))
    lines = [f"a{n},s{n // 3}" for n in range(COUNT)]
    (folder / "g.csv").write_bytes(mutated(rng, "\n".join(["file,site", *lines]).encode(), 2))
    card = load_card(str(folder / "card.toml"))
    return silent(lambda: used(card, folder))


def lists(rng: Rng, folder: Path) -> Work:
    """A folder of packed lists, of which every fifth unpacks to hundreds of megabytes."""
    card = written(folder, rng, "csv")
    (folder / "t.csv").write_text("\n".join(",".join(row) for row in cells()))
    (folder / "lists").mkdir()
    for part, rows in (("train", range(6)), ("test", range(6, COUNT))):
        packed = bz2.compress("\n".join(f"a{n}" for n in rows).encode())
        if part == "test" and rng.random() < 0.2:
            packed = zeros()
        elif rng.random() < 0.6:
            packed = mutated(rng, packed, 2)
        (folder / "lists" / f"{part}.txt.bz2").write_bytes(packed * int(rng.integers(1, 3)))
    data = Data(dataset="mine", split=str(folder / "lists"))
    return silent(lambda: make_split(card, build_index(card, folder), data, folder / "cache"))


@functools.cache
def zeros() -> bytes:
    """200 MB of zeros, packed in ten streams."""
    return bz2.compress(bytes(20_000_000), 1) * 10


def changed_array(rng: Rng, content: bytes) -> bytes:
    """A .npy file with another header, or other bytes; every tenth begins as an archive does."""
    chance = rng.random()
    if chance < 0.1:
        return b"PK\3\4" + content
    if chance < 0.5:
        kind = KINDS[int(rng.integers(len(KINDS)))] if rng.random() < 0.6 else "<f4"
        shape = SHAPES[int(rng.integers(len(SHAPES)))] if rng.random() < 0.6 else f"(2, {SIDE}, {SIDE})"
        head = f"{{'descr': '{kind}', 'fortran_order': {rng.random() < 0.3}, 'shape': {shape}, }}".encode()
        return b"\x93NUMPY\1\0" + struct.pack("<H", len(head) + 1) + head + b"\n" + content[128:]
    return mutated(rng, content, 2)


def npy(rng: Rng, folder: Path) -> Work:
    """An array, read with a card, without one, and as what an interrupted run left."""
    card, path = written(folder, rng, "csv"), folder / "a0.npy"
    path.write_bytes(changed_array(rng, image(0)))
    reads = (
        lambda: read_image(path, card),
        lambda: look(Found("a0", "", (path,))),
        lambda: read_outputs(path, (COUNT, 2)),
    )
    return silent(reads[int(rng.integers(3))])


def png(rng: Rng, folder: Path) -> Work:
    """A PNG, read with a card and without one: chunks with right sums and other content, or other bytes."""
    card, path = written(folder, rng, "csv"), folder / "a.png"
    path.write_bytes(changed_picture(rng) if rng.random() < 0.7 else mutated(rng, picture(), 2))
    reads = (lambda: read_image(path, card), lambda: look(Found("a", "", (path,))))
    return silent(reads[int(rng.integers(2))])


def changed_picture(rng: Rng) -> bytes:
    """Chunks of a PNG changed, doubled or left out, or a header of a vast image over a body of zeros."""
    content, at, chunks = picture(), 8, []
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    kind = int(rng.integers(5))
    at = int(rng.integers(len(chunks)))
    if kind == 0:
        side = int(rng.choice([0, 1, 20_000, 2**31 - 1, 2**32 - 1]))
        head = struct.pack(
            ">IIBBBBB", side, side, int(rng.choice([1, 8, 16, 3])), int(rng.choice([0, 2, 3, 6])), 0, 0, 0
        )
        chunks[0] = (b"IHDR", head)
        chunks[1:-1] = [(b"IDAT", zlib.compress(bytes(10_000_000)))]
    elif kind == 1:
        text = (b"zTXt", b"a\0\0" + zlib.compress(bytes(60_000_000)))
        chunks.insert(1, (text, (b"iCCP", text[1]), (b"tRNS", bytes(6)), (b"PLTE", bytes(7)))[int(rng.integers(4))])
    elif kind == 2:
        chunks[at] = (chunks[at][0], mutated(rng, chunks[at][1], 2) if chunks[at][1] else b"x")
    elif kind == 3:
        chunks[at : at + 1] = [chunks[at]] * int(rng.choice([0, 2, 3]))
    else:
        chunks[at] = (bytes(rng.choice([*b"IHDRIDATPLTEacTL"], 4).astype(np.uint8)), chunks[at][1])
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return content[:8] + b"".join(parts)


def embeddings(rng: Rng, folder: Path) -> Work:
    """A file of embeddings: Parquet or an archive of arrays."""
    path = folder / ("e.parquet", "e.npz")[int(rng.integers(2))]
    if path.suffix == ".parquet":
        path.write_bytes(fuzz_parquet.damaged(rng, SEEDS / "e.parquet"))
    else:
        path.write_bytes(changed_npz(rng))
    return silent(lambda: read_embeddings(path))


def changed_npz(rng: Rng) -> bytes:
    """An archive whose members have other headers or bytes, are vast, or lack; or whose own bytes are changed."""
    stream, members = io.BytesIO(), {}
    vectors = rng.normal(size=(COUNT, 8)).astype(np.float32)
    for name, values in (("id", np.array([f"a{n}" for n in range(COUNT)])), ("vector", vectors), ("fgmae_bench", "{}")):
        inner = io.BytesIO()
        np.save(inner, values)
        members[name] = inner.getvalue()
    victim, chance = list(members)[int(rng.integers(3))], rng.random()
    if chance < 0.4:
        members[victim] = changed_array(rng, members[victim])
    elif chance < 0.5:
        del members[victim]
    elif chance < 0.6:
        members[victim] = members[victim][:128] + bytes(200_000_000)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return mutated(rng, stream.getvalue(), 2) if chance > 0.7 else stream.getvalue()


def draft(rng: Rng, folder: Path) -> Work:
    """`prepare card` of a folder with a damaged image, a damaged table, and names that mean something to others."""
    data = folder / "data"
    data.mkdir()
    written(data, rng, "csv")
    (data / "card.toml").unlink()
    names = ["a0.npy", "a\x1b[2J.npy", "a*.npy", "a'\".npy", "a\u202e.npy", "b.png", "a0_VV.npy"]
    victim = data / names[int(rng.integers(len(names))) if rng.random() < 0.5 else 0]
    victim.write_bytes(changed_array(rng, image(0)) if victim.suffix == ".npy" else changed_picture(rng))
    if rng.random() < 0.5:
        (data / "t.csv").write_bytes(changed_csv(rng))
        return command("fgmae_bench.prepare", "card", data, "--labels", data / "t.csv", "--out", "card.toml")
    for number in range(COUNT):
        place = data / (("Ice", "Water"), ("Ice\x1b", '"]\nx'), ("train", "*"))[int(rng.integers(3))][number % 2]
        place.mkdir(exist_ok=True)
        if (data / f"a{number}.npy").exists():
            (data / f"a{number}.npy").rename(place / f"a{number}.npy")
    return command("fgmae_bench.prepare", "card", data, "--out", "card.toml")


READERS: dict[str, Reader] = {
    "csv": csv,
    "parquet": parquet,
    "groups": groups,
    "lists": lists,
    "npy": npy,
    "png": png,
    "embeddings": embeddings,
    "draft": draft,
}


def prepare() -> None:
    """Make the whole tables and what is packed."""
    pa.set_cpu_count(1)  # no threads in the parent: a child has none of them
    pa.set_io_thread_count(1)
    head, *rows = cells()
    columns = {name: [row[at] for row in rows] for at, name in enumerate(head)}
    pq.write_table(pa.table(columns), SEEDS / "t.parquet")
    ids, vectors = columns["file"], np.random.default_rng(0).normal(size=(COUNT, 8)).astype(np.float32)
    write_embeddings(SEEDS / "e.parquet", ids, [0] * COUNT, None, vectors, {"dataset": "mine"})
    zeros()
    picture()
