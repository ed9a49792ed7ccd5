"""Damage stores of results that strangers keep, in their checkout and in git's own files, and what packages offer by
entry points; the commands that read them are `board check`, `board pull` and the list of all that is known.

  python experiments/robustness/fuzz.py stores [--readers checkout repository large plugins]
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import os
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from fuzz_answers import arrays, put, tolerant
from fuzzing import Reader, Work, command, mutated
from safetensors.numpy import save
from strange import changed

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from make_records import make_record
from stores import clean_record, commit, new_store, with_predictions
from stores import put as put_whole

from fgmae_bench.board.files import Folder
from fgmae_bench.board.git import Entry
from fgmae_bench.board.judge import judged
from fgmae_bench.board.pull import _large
from fgmae_bench.config.cards import load_card
from fgmae_bench.config.names import HEADS_GROUP
from fgmae_bench.errors import BenchError
from fgmae_bench.records import record_path

Rng = np.random.Generator
SEEDS = Path(tempfile.mkdtemp(prefix="fuzz_stores_"))
BOARD = "fgmae_bench.board"
LOGITS, TARGETS = np.array([[2, 1], [0, 3], [1, 2]], np.float32), np.array([0, 0, 1])
NAMES = (
    *("\x1b[2J.json", "-rf.json", "a b.json", "._x.json", "x.json.sync-conflict.json", "..json", "x" * 200 + ".json"),
    *("a/b/c/d.json", "\u202e.json", "x\ny.json", "x.JSON", "x"),
)


@functools.cache
def whole() -> Path:
    """A store with a record of predictions and another."""
    folder = new_store(SEEDS / "store")
    put_whole(with_predictions(clean_record(seed=1), folder, LOGITS, TARGETS, ("a", "b")), folder)
    put_whole(clean_record(seed=2), folder)
    return commit(folder)


def copied(folder: Path) -> Path:
    """The store, copied into `folder`."""
    return Path(shutil.copytree(whole(), folder / "store", symlinks=True))


def spoiled(rng: Rng, store: Path) -> None:
    """Change a record, its predictions, or the names and kinds of what is in the rooms of a store."""
    kind, other = int(rng.integers(6)), clean_record(seed=3)
    if kind == 0:
        put(changed(rng, other), record_path(store, other))
    elif kind == 1:
        path = sorted((store / "records").rglob("*.json"))[int(rng.integers(2))]
        path.write_bytes(mutated(rng, path.read_bytes(), 2))
    elif kind == 2:
        (path,) = (store / "predictions").iterdir()
        sent = save(*arrays(rng, 3, 2, ["s0", "s1", "s2"])) if rng.random() < 0.6 else mutated(rng, path.read_bytes())
        path.write_bytes(sent)
        for each in (store / "records").rglob("*.json"):
            record = json.loads(each.read_text())
            if record["predictions"]:
                record["predictions"]["sha256"] = hashlib.sha256(sent).hexdigest()
                put(record, each)
    elif kind == 3:
        place = store / "records" / NAMES[int(rng.integers(len(NAMES)))]
        place.parent.mkdir(parents=True, exist_ok=True)
        put(other, place)
    elif kind == 4:
        place = store / ("records", "predictions", "explanations", "cards")[int(rng.integers(4))] / "x.json"
        place.parent.mkdir(exist_ok=True)
        if rng.random() < 0.5:
            place.symlink_to("/etc/passwd")
        else:
            os.mkfifo(place)
    else:
        for room in ("explanations", "cards"):
            (store / room).mkdir(exist_ok=True)
            name = f"{record_path(store, other).stem}.md" if room == "explanations" else "mine.toml"
            (store / room / name).write_bytes(mutated(rng, b'name = "mine"\n' * 20, 4))


def checkout(rng: Rng, folder: Path) -> Work:
    """The checkout of a store, as its keepers' CI reads it."""
    store = copied(folder)
    spoiled(rng, store)
    return tolerant(command(BOARD, "check", store))


def repository(rng: Rng, folder: Path) -> Work:
    """A repository with objects, references or settings that are damaged or hostile, as a reader pulls it."""
    store = copied(folder)
    git = store / ".git"
    kind = int(rng.integers(5))
    if kind == 0:  # another content under the name of an object
        path = objects(git)[int(rng.integers(len(objects(git))))]
        path.chmod(0o644)
        held = zlib.decompress(path.read_bytes())
        path.write_bytes(
            zlib.compress(mutated(rng, held, 2)) if rng.random() < 0.6 else mutated(rng, path.read_bytes())
        )
    elif kind == 1:
        path = objects(git)[int(rng.integers(len(objects(git))))]
        path.unlink()
    elif kind == 2:
        path = (git / "HEAD", git / "config", git / "refs" / "heads" / "main")[int(rng.integers(3))]
        path.write_bytes(mutated(rng, path.read_bytes(), 3))
    elif kind == 3:
        hostile = "[core]\n\thooksPath = .\n\tfsmonitor = touch payload\n\tsshCommand = touch payload\n"
        (git / "config").write_text(
            f"{(git / 'config').read_text()}{hostile}[uploadpack]\n\tpackObjectsHook = sh ./x\n"
        )
        (store / "x").write_text("touch payload; touch ../payload")
        (git / "hooks").mkdir(exist_ok=True)
        for hook in ("post-checkout", "pre-receive", "post-upload-pack"):
            (git / "hooks" / hook).write_text("#!/bin/sh\ntouch payload\n")
            (git / "hooks" / hook).chmod(0o755)
    else:
        (git / "objects" / "info").mkdir(exist_ok=True)
        (git / "objects" / "info" / "alternates").write_text(("/etc\n", "../../..\n", "\n" * 99)[int(rng.integers(3))])
    return tolerant(command(BOARD, "pull", store, "--out", "pulled"))


def objects(git: Path) -> list[Path]:
    """The loose objects of a repository."""
    return sorted(path for path in (git / "objects").rglob("*") if len(path.name) == 38)


def large(rng: Rng, folder: Path) -> Work:
    """A data set of the hub, in which git holds pointers of large files that are changed; the hub cannot be reached."""
    store = copied(folder)
    (path,) = (store / "predictions").iterdir()
    content = path.read_bytes()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(content).hexdigest()}\n"
    pointer += f"size {len(content)}\n"
    path.write_bytes(mutated(rng, pointer.encode(), 3) if rng.random() < 0.8 else pointer.encode())
    scratch = folder / "scratch"
    (scratch / "large").mkdir(parents=True)
    get = _large("hub:owner/name", "0" * 40, scratch)

    def work() -> int:
        os.environ |= {"HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
        reader = Folder(store)
        verdict = judged(reader.entries(), reader, get)
        for each in verdict.served:
            if isinstance(each.predictions, Entry):
                with contextlib.suppress(BenchError):
                    get(each.record, reader.read(each.predictions))
        return 2 if verdict.left_out or verdict.remarks else 0

    return work


POINTS = "".join(
    f"[{group}]\nmine = package:VALUE\nother = os:path\n"
    for group in ("fgmae_bench.datasets", "fgmae_bench.encoders", HEADS_GROUP)
)


def plugins(rng: Rng, folder: Path) -> Work:
    """What an installed package offers by entry points, whose list or metadata is damaged."""
    held = folder / "package-1.0.dist-info"
    held.mkdir()
    facts = b"Metadata-Version: 2.1\nName: package\nVersion: 1.0\n"
    (held / "METADATA").write_bytes(mutated(rng, facts) if rng.random() < 0.3 else facts)
    (held / "entry_points.txt").write_bytes(mutated(rng, POINTS.encode(), 3) if rng.random() < 0.8 else POINTS.encode())
    values = ("None", "[]", "lambda *a, **k: 1 / 0", "{'kind': 1}", "'x' * 10**6", "object()", "print")
    (folder / "package.py").write_text(f"VALUE = {values[int(rng.integers(len(values)))]}\n")

    def work() -> object:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        if rng.random() < 0.5:
            return command("fgmae_bench")()
        card = ("eurosat", "mine", "package", "other")[int(rng.integers(4))]
        load_card(card)
        return command("fgmae_bench.weights", "list")()

    return work


READERS: dict[str, Reader] = {
    "checkout": checkout,
    "repository": repository,
    "large": large,
    "plugins": plugins,
}


def prepare() -> None:
    """Make the whole store."""
    make_record()
    whole()
