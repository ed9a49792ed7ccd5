"""Damaged and hostile checkpoint files (pickle, torch's zip and older format, safetensors in one file and several) and
damaged settings in TOML (card, config, experiments, manifest, pins) against the commands that read them.

  python experiments/robustness/fuzz.py checkpoints [--readers pickle safetensors]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import shutil
import struct
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzzing import PAYLOAD, Reader, Work, command, mutated
from safetensors.torch import save
from strange import changed_toml

from fgmae_bench.checkpoints.torch_files import LEGACY_MAGIC
from fgmae_bench.hub.checksums import PINS

REPOSITORY = Path(__file__).resolve().parents[2]
WEIGHTS = "fgmae_bench.weights"
SMALL = {
    "cls_token": torch.zeros(1, 1, 8),
    "patch_embed.proj.weight": torch.ones(8, 2, 4, 4),
    "norm.bias": torch.ones(8),
}
METADATA = {
    "fgmae_bench": json.dumps(
        {
            "source": "a.pth",
            "dropped": {},
            "contract": {
                "bands": ["VV", "VH"],
                "normalizer": "fgmae",
                "mean": [-12.59, -20.26],
                "std": [5.26, 5.91],
                "size": 224,
                "calibration": "sigma0",
            },
        }
    )
}
# Bodies of pickles that make the file PAYLOAD in the working directory of whoever executes them.
CALLS = (
    b"cposix\nsystem\n",
    b"cos\nsystem\n",
    b"c__builtin__\nexec\n",
    b"cbuiltins\neval\n",
    b"\x8c\x02os\x8c\x06system\x93",
    b"cbuiltins\ngetattr\ncos\nX\x06\x00\x00\x00system\x86R",
    b"cstranger.module\nfactory\n",
)
EXECUTED = (f"touch {PAYLOAD}".encode(), f"open('{PAYLOAD}','w')".encode())
# Pieces that a machine of operations is fed with, in any order.
OPERATIONS = b"})](N\x88usaet\x85\x86RbQ\x81\x94\x8f\x90\x91\x92."
ARGUMENTS = (
    b"K\x05",
    b"q\x00",
    b"h\x00",
    b"h\x01",
    b"r\xff\xff\xff\x7f",
    b"\x8a\x08" + b"\x7f" * 8,
    b"G" + b"\x7f" * 8,
    b"B\x04\x00\x00\x00abcd",
    b"\x8e" + b"\x7f" * 8,
    b"\x95" + b"\x7f" * 8,
    b"\x82\x01",
    b"X\x05\x00\x00\x00model",
    b"X\x01\x00\x00\x00<",
    b"X\x02\x00\x00\x00f4",
)
NAMES = (
    b"numpy.core.multiarray\n_reconstruct\n",
    b"numpy\nndarray\n",
    b"numpy\ndtype\n",
    b"_codecs\nencode\n",
    b"collections\nOrderedDict\n",
    b"argparse\nNamespace\n",
    b"torch._utils\n_rebuild_tensor_v2\n",
    b"torch\nFloatStorage\n",
    b"mmengine.logging.history_buffer\nHistoryBuffer\n",
)
PIECES = (*(bytes([letter]) for letter in OPERATIONS), *ARGUMENTS, *(b"c" + name for name in NAMES))


def contents() -> dict[str, Any]:
    """What the undamaged files hold."""
    arrays = {name: tensor.numpy() for name, tensor in SMALL.items()}
    args = argparse.Namespace(lr=0.1, output_dir="a", betas=(0.9, 0.95))
    return {
        "full": {"model": OrderedDict(SMALL), "optimizer": {"state": {}}, "args": args, "epoch": np.float64(3)},
        "arrays": {"state_dict": {f"module.{name}": array.astype(">f4") for name, array in arrays.items()}},
        "lists": {"model": {name: array.tolist() for name, array in arrays.items()}},
        "bare": {f"backbone._orig_mod.{name}": tensor for name, tensor in SMALL.items()},
        "others": {"state_dict_ema": SMALL, "tags": {"a", "b"}, "when": Path("a"), "n": 2**70},
    }


def zipped(body: bytes) -> bytes:
    """A file of torch.save with another pickle in it; checksums are right."""
    source, target = io.BytesIO(), io.BytesIO()
    torch.save({"model": SMALL}, source)
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for member in before.infolist():
            after.writestr(member.filename, body if member.filename.endswith("data.pkl") else before.read(member))
    return target.getvalue()


def pickle_of(saved: bytes) -> bytes:
    """The pickle inside a file of torch.save."""
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def saved(value: Any, **options: Any) -> bytes:
    """The bytes that torch.save writes."""
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


WHOLE = contents()
PICKLES = [pickle.dumps(value, protocol) for value in WHOLE.values() for protocol in (2, 4, 5)]
ZIPS = [saved(value, pickle_protocol=protocol) for value in WHOLE.values() for protocol in (2, 4)]
LEGACY = [saved(value, _use_new_zipfile_serialization=False) for value in WHOLE.values()]
SAFETENSORS = [save(SMALL, METADATA), save({f"model.{name}": tensor.half() for name, tensor in SMALL.items()})]
ONE = torch.zeros(64)
VIEWS = saved({f"blocks.{k}.bias": ONE[k:] for k in range(20)})


def hostile(rng: np.random.Generator) -> bytes:
    """The body of a pickle: a payload somewhere in a state dict, or operations in any order."""
    if rng.random() < 0.5:
        called = CALLS[rng.integers(len(CALLS))]
        text = EXECUTED[rng.integers(2)]
        body = called + b"X" + struct.pack("<I", len(text)) + text + (b"\x85R" if rng.random() < 0.8 else b"\x85\x81")
        if rng.random() < 0.5:
            body = b"}X\x05\x00\x00\x00model}X\x09\x00\x00\x00norm.bias" + body + b"ss"
        return body + b"."
    return b"".join(PIECES[k] for k in rng.integers(len(PIECES), size=rng.integers(1, 60))) + b"."


def use(rng: np.random.Generator, path: Path) -> Work:
    """A command that reads a checkpoint."""
    kind = rng.integers(4)
    if kind < 2:
        return command(WEIGHTS, "inspect", path.name, *(("--model", "vit_tiny_patch16_224") if kind else ()))
    out = ("out.safetensors", "out.pth")[rng.integers(2)]
    return command(WEIGHTS, "convert", path.name, out, *(("--repair",) if rng.random() < 0.7 else ()))


def files_of(make: Callable[[np.random.Generator], bytes], name: str) -> Reader:
    """A reader of one file."""

    def reader(rng: np.random.Generator, folder: Path) -> Work:
        (folder / name).write_bytes(make(rng))
        return use(rng, folder / name)

    return reader


def plain_pickle(rng: np.random.Generator) -> bytes:
    """A plain pickle, damaged or hostile."""
    if rng.random() < 0.35:
        return b"\x80" + bytes([rng.integers(2, 6)]) + hostile(rng)
    return mutated(rng, PICKLES[rng.integers(len(PICKLES))], 2)


def torch_zip(rng: np.random.Generator) -> bytes:
    """torch's zip: its pickle damaged or hostile under right checksums, or its bytes damaged."""
    whole = ZIPS[rng.integers(len(ZIPS))] if rng.random() < 0.9 else VIEWS
    kind = rng.random()
    if kind < 0.3:
        return mutated(rng, whole)
    body = b"\x80" + bytes([rng.integers(2, 6)]) + hostile(rng) if kind < 0.6 else mutated(rng, pickle_of(whole), 2)
    return zipped(body)


def torch_legacy(rng: np.random.Generator) -> bytes:
    """torch's older format, damaged or hostile."""
    if rng.random() < 0.35:
        head = b"".join(pickle.dumps(part, 2) for part in (1001, {"little_endian": True}))
        return (
            LEGACY_MAGIC + head + b"\x80\x02" + hostile(rng) + pickle.dumps(["0"], 2) + struct.pack("<q", 2) + bytes(8)
        )
    return mutated(rng, LEGACY[rng.integers(len(LEGACY))], 2)


def safetensors(rng: np.random.Generator) -> bytes:
    """One file: bytes damaged, or its header changed under a right length."""
    whole = SAFETENSORS[rng.integers(len(SAFETENSORS))]
    if rng.random() < 0.3:
        return mutated(rng, whole)
    length = int.from_bytes(whole[:8], "little")
    text = changed_text(rng, whole[8 : 8 + length])
    return len(text).to_bytes(8, "little") + text + whole[8 + length :]


ODD = (
    *(b"1e999", b"-1", b"9" * 400, b"18446744073709551615", b"0x" + b"f" * 5000, b"inf", b"NaN", b"null", b"true"),
    *(b"[" * 3000, b'{"a":' * 3000, b"a." * 300 + b"b = 1\n", b"[" + b"a." * 300 + b"b]\n", b"[[]]", b"{}", b'""'),
    *(b'"\\ud800"', b'"\x1b[2J"', b"\xef\xbb\xbf", b"\r", b"\0", b"'''", b'"' + b"x" * 5000 + b'"', b"2020-01-01"),
    *(b"[[runs]]\n", b'"stranger:factory"', b'"../../etc/passwd"', b'"/dev/zero"'),
)


def changed_text(rng: np.random.Generator, text: bytes) -> bytes:
    """Text with one or two values, lines or bytes replaced by odd ones."""
    for _ in range(int(rng.integers(1, 3))):
        marks = [k for k, letter in enumerate(text) if letter in b'=:,"[]{}\n'] or [0]
        place, odd = marks[rng.integers(len(marks))], ODD[rng.integers(len(ODD))]
        kind = rng.integers(4)
        if kind == 0:  # in place of a value
            end = next((k for k in marks if k > place and rng.random() < 0.7), place + 1)
            text = text[: place + 1] + odd + text[end:]
        elif kind == 1:
            text = text[: place + 1] + odd + text[place + 1 :]
        elif kind == 2:
            lines = text.splitlines(keepends=True)
            row = int(rng.integers(len(lines)))
            lines[row : row + 1] = [lines[row]] * int(rng.integers(3))
            text = b"".join(lines)
        else:
            text = mutated(rng, text, 2)
        text = text or b" "
    return text


def sharded(rng: np.random.Generator, folder: Path) -> Work:
    """Two safetensors files and an index; one of the three is changed."""
    names = list(SMALL)
    parts = {
        "m-1.safetensors": save({names[0]: SMALL[names[0]]}),
        "m-2.safetensors": save({n: SMALL[n] for n in names[1:]}),
    }
    place = {names[0]: "m-1.safetensors"} | dict.fromkeys(names[1:], "m-2.safetensors")
    parts["m.safetensors.index.json"] = json.dumps(
        {"metadata": {"total_size": 9}, "weight_map": place}, indent=1
    ).encode()
    victim = list(parts)[min(rng.integers(4), 2)]
    parts[victim] = mutated(rng, parts[victim]) if victim.startswith("m-") else changed_text(rng, parts[victim])
    for name, content in parts.items():
        (folder / name).write_bytes(content)
    return use(rng, folder / "m.safetensors.index.json")


def changed_settings(rng: np.random.Generator, text: bytes) -> bytes:
    """TOML whose values are strange, or whose text is damaged."""
    return changed_toml(rng, text) if rng.random() < 0.6 else changed_text(rng, text)


def settings(source: str, name: str, *words: str, variable: str = "") -> Reader:
    """A reader of a TOML file of the repository; `words` are its command line, `variable` what names the file to it."""
    whole = (REPOSITORY / source).read_bytes()

    def reader(rng: np.random.Generator, folder: Path) -> Work:
        (folder / name).write_bytes(changed_settings(rng, whole))
        work = command(*words)

        def with_variable() -> object:
            if variable:
                os.environ[variable] = name
            return work()

        return with_variable

    return reader


CONFIG = b"""[data]
dataset = "eurosat"
[model]
model = "backscatter_stats"
weights = "random"
[recipe]
lr = [0.1, 1.0]
epochs = 3
[execution]
data_path = "absent"
device = "cpu"
num_workers = 0
"""


def config(rng: np.random.Generator, folder: Path) -> Work:
    """`--config` of a run whose data is not there."""
    (folder / "config.toml").write_bytes(changed_settings(rng, CONFIG))
    return command("fgmae_bench.linear", "--config", "config.toml")


def pins(rng: np.random.Generator, folder: Path) -> Work:
    """The pins of a weights folder, read when a file is adopted."""
    (folder / "from").mkdir()
    (folder / "from" / "B2_vits16_fgmae_ep99_enc.pth").write_bytes(ZIPS[0])
    (folder / "cache" / "weights").mkdir(parents=True)
    held = b'[sha256]\n"https://huggingface.co/a/b" = "' + b"0" * 64 + b'"\n"c" = "' + b"1" * 64 + b'"\n'
    (folder / "cache" / "weights" / PINS).write_bytes(changed_settings(rng, held))
    words = ("--model", "vit_small_patch16", "--from", "from", "--cache_dir", "cache")
    return command(WEIGHTS, "fetch", "fgmae", *words)


LINEAR = (
    "fgmae_bench.linear",
    "--model",
    "backscatter_stats",
    "--weights",
    "random",
    "--data_path",
    "absent",
    "--dataset",
)
READERS: dict[str, Reader] = {
    "pickle": files_of(plain_pickle, "w.pkl"),
    "torch_zip": files_of(torch_zip, "w.pth"),
    "torch_legacy": files_of(torch_legacy, "w.pt"),
    "safetensors": files_of(safetensors, "w.safetensors"),
    "sharded": sharded,
    "card": settings("datasets/eurosat/card.toml", "card.toml", *LINEAR, "card.toml"),
    "schemes": settings(
        "datasets/kuro_siwo/card.toml", "card.toml", "fgmae_bench.prepare", "inspect", "card.toml", "--data_path", "."
    ),
    "config": config,
    "experiments": settings("experiments/first_real_run.toml", "e.toml", "fgmae_bench.suite", "plan", "e.toml"),
    "manifest": settings(
        "fgmae_bench/checkpoints/manifest.toml", "m.toml", WEIGHTS, "list", variable="FGMAE_BENCH_WEIGHTS"
    ),
    "pins": pins,
}


def prepare() -> None:
    """Import what the commands import, and let torch start no threads that a fork would lose."""
    torch.set_num_threads(1)
    for module in ("timm", "fgmae_bench.weights.convert", "fgmae_bench.weights.inspect", "fgmae_bench.weights.list"):
        __import__(module)
    from fgmae_bench.checkpoints.convert import convert
    from fgmae_bench.checkpoints.reader import read_state
    from fgmae_bench.models.weights import empty_network

    folder = Path(tempfile.mkdtemp())
    for number, content in enumerate((PICKLES[0], ZIPS[0], LEGACY[0], SAFETENSORS[0])):
        (folder / f"{number}.pth").write_bytes(content)
        convert(read_state(folder / f"{number}.pth"), folder / f"{number}.safetensors", None, repair=True)
    empty_network("vit_tiny_patch16_224", 224)
    for module in ("fgmae_bench.linear", "fgmae_bench.suite", "fgmae_bench.suite.plan", "fgmae_bench.weights.fetch"):
        command(module) if module != "fgmae_bench.suite.plan" else __import__(module)
    os.environ |= {"FGMAE_BENCH_CACHE": str(folder / "cache"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    shutil.rmtree(folder)
