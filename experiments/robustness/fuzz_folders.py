"""Damage what lies beside data and runs in folders that others write to: metadata and lists of a dataset, its marker,
what the suite keeps in a cache, and checkpoints to go on from.

  python experiments/robustness/fuzz.py folders [--readers metadata lists marker caches resume]
"""

from __future__ import annotations

import functools
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from fuzzing import Reader, Work, command, mutated
from strange import Rng, changed, dumped

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.run import Data
from fgmae_bench.data.bigearthnet.facts import METADATA, describe
from fgmae_bench.data.bigearthnet.table import from_rows
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.sample_cache import load_arrays
from fgmae_bench.data.splits import make_split
from fgmae_bench.data.synthetic import MARKER
from fgmae_bench.features.label_bank import _stored
from fgmae_bench.probe.checkpoint import load_state as load_head
from fgmae_bench.system.stamps import remember, remembered
from fgmae_bench.train.state import load_state as load_run
from fgmae_bench.worlds.bigearthnet import write_bigearthnet
from fgmae_bench.worlds.eurosat import write_eurosat

SEEDS = Path(tempfile.mkdtemp(prefix="fuzz_folders_"))
CURVE = {"best": None, "history": [], "legacy": [], "period": {}, "spent": {}}
TENSORS = {name: {"weight": torch.zeros(3)} for name in ("model", "optimizer", "scaler", "best_model")}
HEADS = {name: {"weight": torch.zeros(3)} for name in ("head", "velocity", "best_head")}
STATE = {"format": 1, "run_id": "a-0123456789", "threads": 1, "classes": ["a", "b"], "curve": json.dumps(CURVE)}
STATES = {"train": {**STATE, **TENSORS, "kind": "train", "step": 3}, "head": {**STATE, **HEADS, "epochs": 3}}


@functools.cache
def eurosat() -> Path:
    """A small synthetic EuroSAT."""
    write_eurosat(SEEDS / "eurosat", per_class=6, seed=0)
    return SEEDS / "eurosat"


@functools.cache
def patch() -> Path:
    """A patch of the first BigEarthNet."""
    write_bigearthnet(SEEDS / "bigearthnet", patches=4)
    return next(path.parent for path in sorted((SEEDS / "bigearthnet").rglob(f"*{METADATA}")))


def damaged(rng: Rng, text: bytes) -> bytes:
    """A JSON text with strange values, or with changed bytes."""
    return dumped(changed(rng, json.loads(text))).encode() if rng.random() < 0.7 else mutated(rng, text)


def silent(read: Callable[[], object]) -> Work:
    """`read` without what it returns, which would be taken for an exit code."""

    def work() -> None:
        read()

    return work


def metadata(rng: Rng, folder: Path) -> Work:
    """The metadata of a patch, as an index describes it and keeps it in its table."""
    name, size = patch().name, load_card("bigearthnet").signal.size
    shutil.copytree(patch(), folder / name)
    file = folder / name / f"{name}{METADATA}"
    file.write_bytes(damaged(rng, file.read_bytes()))
    return silent(lambda: from_rows([describe(folder, name, size)]))


def lists(rng: Rng, folder: Path) -> Work:
    """A folder of lists, as `--split DIR` reads it."""
    card = load_card("eurosat")
    index = build_index(card, eurosat())
    order = rng.permutation(len(index.ids))
    for part, rows in zip(("train", "test"), (order[::2], order[1::2]), strict=True):
        text = "\n".join(index.ids[row] for row in rows).encode()
        names = [f"{part}.txt", f"{part}.csv", f"{part}.txt.bz2", f"{part}\x1b[2J.txt"]
        path = folder / names[int(rng.integers(len(names))) if rng.random() < 0.3 else 0]
        path.write_bytes(mutated(rng, text) if rng.random() < 0.8 else text)
    if rng.random() < 0.5:
        (folder / "split.json").write_bytes(damaged(rng, b'{"leaky": false, "seed": 1}'))
    data = Data(dataset="eurosat", split=str(folder))
    return silent(lambda: make_split(card, index, data, folder / "cache"))


def marker(rng: Rng, folder: Path) -> Work:
    """The marker of a synthetic world, as `prepare inspect` reads it."""
    shutil.copytree(eurosat(), folder / "world", copy_function=lambda *pair: Path(pair[1]).symlink_to(pair[0]))
    path = folder / "world" / MARKER
    text = path.read_bytes()
    path.unlink()
    path.write_bytes(damaged(rng, text))
    return command("fgmae_bench.prepare", "inspect", "eurosat", "--data_path", folder / "world")


def caches(rng: Rng, folder: Path) -> Work:
    """What a cache folder knows of data: its content, arrays of its samples, its label maps."""
    root, cache, card = eurosat(), folder / "cache", load_card("eurosat")
    index = build_index(card, root)
    remember(cache, root, {"train": "0" * 64})
    kept = next((cache / "content").iterdir())
    kept.write_bytes(damaged(rng, kept.read_bytes()))
    stream = io.BytesIO()
    np.savez_compressed(stream, values=np.zeros(len(index.files)))
    arrays, bank = cache / "a.npz", cache / "b.npy"
    arrays.write_bytes(mutated(rng, stream.getvalue()))
    np.save(bank, np.zeros((3, 4, 4), np.uint8))
    bank.write_bytes(mutated(rng, bank.read_bytes()))

    def work() -> None:
        (cache / "index").mkdir(exist_ok=True)
        arrays.rename(_place(cache, index))
        remembered(cache, root)
        load_arrays(cache, index, {"kind": "key"})
        _stored(bank, 3)

    return work


def resume(rng: Rng, folder: Path) -> Work:
    """A checkpoint to go on from, of a probe or of a training run."""
    kind = ("train", "head")[int(rng.integers(2))]
    content = dict(STATES[kind])
    if rng.random() < 0.5:
        content["curve"] = damaged(rng, content["curve"].encode()).decode(errors="replace")  # type: ignore[attr-defined]
    if rng.random() < 0.2:
        content[sorted(content)[int(rng.integers(len(content)))]] = 1.5
    torch.save(content, folder / "c.pth")
    if rng.random() < 0.6:
        (folder / "c.pth").write_bytes(mutated(rng, (folder / "c.pth").read_bytes()))
    return silent(lambda: (load_run if kind == "train" else load_head)(folder / "c.pth"))


def _place(cache: Path, index: object) -> Path:
    from fgmae_bench.data.sample_cache import _path

    return _path(cache, index, "kind", "key")  # type: ignore[arg-type]


READERS: dict[str, Reader] = {
    "metadata": metadata,
    "lists": lists,
    "marker": marker,
    "caches": caches,
    "resume": resume,
}


def prepare() -> None:
    """Make the worlds, and let torch start no threads that a fork would lose."""
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    eurosat()
    from_rows([describe(patch().parent, patch().name, (120, 120))])  # Arrow's first table takes a GiB of address space
