"""Damage the structure of LMDB packs by a seed and give them to the commands that read and write packs.

  python experiments/robustness/fuzz.py lmdb [--readers verify read values foreign pickled resume]
Fields of meta, branch, leaf and overflow pages are set to edge values, to each other's, or to one more or less, and
bytes of page heads are changed at random.
"""

from __future__ import annotations

import functools
import pickle
import tempfile
from pathlib import Path

import lmdb
import numpy as np
from fuzzing import Reader, Work, command, mutated
from safetensors.numpy import save

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.packs.format import LABELS, META
from fgmae_bench.data.packs.read import open_index
from fgmae_bench.data.packs.store import stamp_of, views
from fgmae_bench.data.packs.write import write_pack
from fgmae_bench.worlds.eurosat import write_eurosat

PAGE = 4096
TREE, DATA_TREE = 48, 16 + 72  # bytes of a tree in a meta page, and where that of the data is
Field = tuple[int, int]  # (offset in the file, bytes)
SEEDS = Path(tempfile.mkdtemp(prefix="fuzz_lmdb_"))


def fields(content: bytes) -> list[list[Field]]:
    """Groups of fields that decide how LMDB reads the file, one group a kind: metas, heads of pages, nodes, targets."""
    metas, heads, nodes, targets = [], [], [], []
    for page in (0, 1):
        start = page * PAGE
        metas += [(start + 16 + 24, 4), (start + 16 + 120, 8), (start + 16 + 128, 8), (start + 10, 2)]
        for tree in (start + 16 + 24, start + DATA_TREE):
            metas += [(tree + 4, 2), (tree + 6, 2), (tree + 32, 8), (tree + 40, 8)]
    words = np.frombuffer(content[: len(content) // PAGE * PAGE], "<u2").reshape(-1, PAGE // 2)
    for page in range(2, len(words)):
        flags, lower, upper = words[page, 5:8].tolist()
        if int.from_bytes(content[page * PAGE : page * PAGE + 8], "little") != page or flags not in (1, 2, 4):
            continue
        heads += [(page * PAGE, 8), (page * PAGE + 10, 2), (page * PAGE + 12, 2), (page * PAGE + 14, 2)]
        if flags == 4 or not 16 <= lower <= upper <= PAGE:
            continue
        for at in range(16, lower, 2):
            start = page * PAGE + int(words[page, at // 2])
            nodes += [(page * PAGE + at, 2), (start, 2), (start + 2, 2), (start + 4, 2), (start + 6, 2)]
            if flags == 2 and words[page, at // 2] % 2 == 0:
                targets.append((start + 8 + int.from_bytes(content[start + 6 : start + 8], "little"), 8))
    return [metas, heads, nodes, targets]


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """`content` with one to three of its fields changed, or with random bytes in the head of a page."""
    changed, groups = bytearray(content), [group for group in fields(content) if group]
    for _ in range(int(rng.integers(1, 4))):
        group = groups[int(rng.integers(len(groups)))]
        at, size = group[int(rng.integers(len(group)))]
        kind, held = rng.integers(6), int.from_bytes(changed[at : at + size], "little")
        if kind == 0:
            value = int(rng.choice([0, 1, 2, 3, 8, 15, 16, 17, PAGE - 1, PAGE, 2**15, 2**16 - 1, 2**31, 2**32 - 1]))
        elif kind == 1:
            value = held + int(rng.choice([-2, -1, 1, 2]))
        elif kind == 2:
            value = held ^ 1 << int(rng.integers(8 * size))
        elif kind == 3:
            other = group[int(rng.integers(len(group)))][0]
            value = int.from_bytes(changed[other : other + size], "little")
        elif kind == 4:
            value = int(rng.integers(len(changed) // PAGE + 2))
        else:
            value = int.from_bytes(rng.bytes(size), "little")
        changed[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
    if rng.random() < 0.2:
        place = int(rng.integers(len(changed) // PAGE)) * PAGE + int(rng.integers(64))
        changed[place] = int(rng.integers(256))
    return bytes(changed)


@functools.cache
def world() -> Path:
    """A small synthetic EuroSAT."""
    write_eurosat(SEEDS / "world", per_class=12, seed=0)
    return SEEDS / "world"


@functools.cache
def ours() -> bytes:
    """A pack of ours."""
    card = load_card("eurosat")
    write_pack(card, build_index(card, world()), SEEDS / "ours.lmdb")
    return (SEEDS / "ours.lmdb" / "data.mdb").read_bytes()


@functools.cache
def unfinished() -> bytes:
    """What a killed writer leaves: the pack without its labels, the place it was at, and lists of free pages."""
    ours()
    source = SEEDS / "ours.lmdb"
    held = dict(views_of(source))
    with lmdb.open(str(SEEDS / "unfinished"), map_size=1 << 28) as environment:
        for keys in (sorted(held)[:40], sorted(held)[40:80]):
            with environment.begin(write=True) as writing:
                for key in keys:
                    writing.put(key, held[key])
                writing.put(b"__packing__", held[META])
                for key in (META, LABELS):
                    writing.delete(key)
    return (SEEDS / "unfinished" / "data.mdb").read_bytes()


@functools.cache
def foreign() -> bytes:
    """A pack of others, three levels deep: small values, and some in overflow pages."""
    value = save({band: np.full((2, 2), -12, np.float32) for band in ("VV", "VH")})
    with lmdb.open(str(SEEDS / "foreign"), map_size=1 << 28) as environment, environment.begin(write=True) as writing:
        for number in range(2500):
            key = f"{'S1A_IW_GRDH_1SDV_20170613T165043_33UUP_' * 4}{number:05d}".encode()
            writing.put(key, value if number % 50 else value + bytes(6000))
    return (SEEDS / "foreign" / "data.mdb").read_bytes()


def views_of(root: Path) -> list[tuple[bytes, bytes]]:
    """Everything in a pack."""
    return [(key, bytes(value)) for key, value in views(root.resolve(), stamp_of(root))]


def placed(folder: Path, name: str, content: bytes) -> Path:
    """A pack with this content."""
    (folder / name).mkdir()
    (folder / name / "data.mdb").write_bytes(content)
    return folder / name


def verify(rng: np.random.Generator, folder: Path) -> Work:
    """`prepare verify` of a damaged pack."""
    return command("fgmae_bench.prepare", "verify", placed(folder, "p.lmdb", damaged(rng, ours())))


def read(rng: np.random.Generator, folder: Path) -> Work:
    """Every sample of a damaged pack through its index, as a run reads it."""
    pack, card = placed(folder, "p.lmdb", damaged(rng, ours())), load_card("eurosat")

    def work() -> None:
        index = open_index(card, pack)
        for row in range(len(index.files)):
            index.read(row, card)

    return work


def values(rng: np.random.Generator, folder: Path) -> Work:
    """`prepare verify` of a pack of which one value is damaged: facts, labels or a sample."""
    pack, held = placed(folder, "p.lmdb", ours()), dict(views_of(SEEDS / "ours.lmdb"))
    key = (META, LABELS, min(set(held) - {META, LABELS}))[int(rng.integers(3))]
    with lmdb.open(str(pack), map_size=1 << 28, lock=False) as environment, environment.begin(write=True) as writing:
        writing.put(key, mutated(rng, held[key], 2))
    return command("fgmae_bench.prepare", "verify", pack)


def foreign_pack(rng: np.random.Generator, folder: Path) -> Work:
    """`prepare verify` of a damaged pack of others with branch pages on two levels."""
    return command("fgmae_bench.prepare", "verify", placed(folder, "p.lmdb", damaged(rng, foreign())))


def pickled(rng: np.random.Generator, folder: Path) -> Work:
    """Every sample of a pack of others in pickled values, of which one or two are damaged."""
    with lmdb.open(str(folder / "p.lmdb"), map_size=1 << 28) as environment, environment.begin(write=True) as writing:
        for number in range(3):
            image, target = rng.normal(-12, 3, (16, 16, 2)).astype(np.float32), np.zeros(19, np.float32)
            target[number] = 1
            parts = (image.tobytes(), image.shape, target.tobytes())
            parts = (b"\0" * 64, (8, 8, 1), *parts) if rng.random() < 0.05 else parts
            value = pickle.dumps(parts, int(rng.integers(2, 6)))
            writing.put(str(number).encode(), mutated(rng, value, 2) if rng.random() < 0.4 else value)
    card = load_card("bigearthnet")

    def work() -> None:
        index = open_index(card, folder / "p.lmdb", band_order=("VH", "VV"))
        for row in range(len(index.files)):
            index.read(row, card)

    return work


def resume(rng: np.random.Generator, folder: Path) -> Work:
    """Packing that finds a damaged pack begun by another process."""
    placed(folder, "p.lmdb.partial", damaged(rng, unfinished()))
    card = load_card("eurosat")
    return lambda: print(write_pack(card, build_index(card, world()), folder / "p.lmdb"))


READERS: dict[str, Reader] = {
    "verify": verify,
    "read": read,
    "values": values,
    "foreign": foreign_pack,
    "pickled": pickled,
    "resume": resume,
}


def prepare() -> None:
    """Make the packs that are damaged."""
    for make in (world, ours, unfinished, foreign):
        make()
