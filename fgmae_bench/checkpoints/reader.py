"""A checkpoint file to tensors: torch's zip and older format, plain pickles, safetensors, told apart by content;
nothing is executed.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fgmae_bench.checkpoints import layouts
from fgmae_bench.checkpoints.inert import (
    LEGACY_MAGIC,
    PLAIN,
    SAFE_GLOBALS,
    Array,
    PlainUnpickler,
    Refused,
    scan,
    scan_legacy,
    shown,
)
from fgmae_bench.checkpoints.torch_zip import read_newer, scan_zip
from fgmae_bench.errors import BenchError
from fgmae_bench.hub.checksums import sha256_of

MAX_HEADER = 100_000_000  # of safetensors, the limit of its library
ANEW = "save its state dict anew where you trust it: torch.save({'model': model.state_dict()}, FILE)"
MEND = "make tensors of them with: python -m fgmae_bench.weights convert IN OUT --repair"
AGAIN = "get the file again and compare its SHA-256 with the source's"
# What readers raise on bytes that are not what they seem.
DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    ImportError,
)


@dataclass(frozen=True, kw_only=True)
class State:
    """The state dict of a file. `tensors` keep the file's dtype and, where the format allows, lie in the mapped file.

    `tensors`: without `prefix`; `outside`: keys that do not carry it, in full; `plain`: values that are no tensors, as
    text; `others`: what stands beside the state dict, as text; `metadata`: texts of an entry of that name, whole;
    `mended`: names of tensors that the file holds as something else, and as what; `unmended`: those of `plain` that
    `repair` would make tensors of.
    """

    path: Path
    format: str
    bytes: int
    sha256: str
    wrapper: str
    prefix: str
    tensors: dict[str, Tensor]
    outside: dict[str, Tensor]
    plain: dict[str, str]
    others: dict[str, str]
    notes: tuple[str, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    mended: dict[str, str] = field(default_factory=dict)
    unmended: dict[str, str] = field(default_factory=dict)


def read_state(path: Path, *, repair: bool = False) -> State:
    """The tensors of a checkpoint file and what was peeled off around them; `repair` makes tensors of lists and numbers
    too.

    Raises BenchError, naming the file, on anything that is not tensors, numpy arrays, plain containers or an
    argparse.Namespace, on damage, and where no tensors are found.
    """
    kind = file_format(path)
    with _refusing(path):
        root = FORMATS[kind](path)
        found = layouts.find_state(root, numbers=repair)
        named: dict[str, Tensor] = {}
        mended: dict[str, str] = {}
        unmended: dict[str, str] = {}
        shapes: dict[int, tuple[int, ...] | None] = {}
        room = path.stat().st_size  # a file holds no more numbers than bytes
        for name, value in found.values.items():
            if isinstance(value, Tensor | Array):
                named[name] = _tensor(value)
                if isinstance(value, Array):
                    mended[name] = "numpy array"
            elif (shape := layouts.mendable(name, value, shapes)) is not None:
                (mended if repair else unmended)[name] = "list" if shape else "number"
                if repair:
                    room -= math.prod(shape)
                    named[name] = _made(name, value, room)
        _require_in_file(named, path.stat().st_size)
        prefix = layouts.prefix_of({**named, **unmended}) or layouts.prefix_of(named)
        digest = sha256_of(path)
    if not named:
        raise _no_tensors(path, len(unmended))
    plain = {name: layouts.described(value) for name, value in found.values.items() if name not in named}
    return State(
        path=path,
        format=kind,
        bytes=path.stat().st_size,
        sha256=digest,
        prefix=prefix,
        wrapper="" if kind == "safetensors" else found.wrapper,
        tensors={name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)},
        outside={name: tensor for name, tensor in named.items() if not name.startswith(prefix)},
        plain=plain,
        others=found.others,
        notes=found.notes,
        metadata=_metadata(root),
        mended=mended,
        unmended=unmended,
    )


def file_format(path: Path) -> str:
    """Name of the format by content, a key of FORMATS. Raises BenchError on a missing, empty or foreign file."""
    with _refusing(path):
        if not path.is_file():
            state = "no file" if path.exists() else "not there"
            raise BenchError(f"{path} is {state}", "give the path of a checkpoint file")
        size = path.stat().st_size
        with open(path, "rb") as stream:
            head = stream.read(512)
    if not head:
        raise BenchError(f"{path} is empty", AGAIN)
    if head.startswith(b"PK\x03\x04"):
        return "torch zip"
    if head.startswith(LEGACY_MAGIC):
        return "torch legacy"
    if head[:1] == b"\x80" and LEGACY_MAGIC[2:] in head[:32]:
        what = f"{path} is of torch's older format in pickle protocol {head[1]}, which is read in protocol 2 alone"
        raise BenchError(what, "save it again where you trust it: torch.save(state_dict, FILE)")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= min(size - 8, MAX_HEADER):
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "pickle"
    if head[257:262] == b"ustar":
        raise BenchError(f"{path} is a tar archive", f"unpack it, or if torch wrote it before 2016, {ANEW}")
    text = head.decode(errors="ignore")  # the last letter may be cut
    if b"\0" not in head and len(text.encode()) > len(head) - 4:
        raise BenchError(
            f"{path} is a text file that begins '{shown(text, 40)}'",
            "get the file itself, not a page or pointer about it",
        )
    raise BenchError(
        f"{path} is no checkpoint, or only a part of one", f"give a .pth, .pt, .pkl or .safetensors file, or {AGAIN}"
    )


def _read_zip(path: Path) -> Any:
    """torch.save since 1.6: checksums first, then tensors that lie in the mapped file."""
    with zipfile.ZipFile(path) as archive:
        newer = scan_zip(archive, path.stat().st_size)
        damaged = archive.testzip()
        if damaged is not None:
            raise BenchError(f"{path} is damaged: the checksum of its part {shown(damaged)} does not match", AGAIN)
        if newer is not None:
            return read_newer(archive, newer, path)
    with torch.serialization.safe_globals(SAFE_GLOBALS), open(path, "rb") as stream:
        if path.suffix == ".safetensors":  # torch.load goes by the ending
            return torch.load(stream, map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _read_legacy(path: Path) -> Any:
    """torch.save before 1.6; cannot be mapped."""
    with _mapped(path) as stream:
        scan_legacy(stream)
    with torch.serialization.safe_globals(SAFE_GLOBALS), open(path, "rb") as stream:
        return torch.load(stream, map_location="cpu", weights_only=True)


def _read_pickle(path: Path) -> Any:
    """A plain pickle of containers with tensors and numpy arrays."""
    with _mapped(path) as stream:
        scan(stream, PLAIN, pickle.HIGHEST_PROTOCOL)
        if stream.tell() != path.stat().st_size:
            raise ValueError("bytes follow after its end")
        stream.seek(0)
        return PlainUnpickler(stream).load()


def _read_safetensors(path: Path) -> Any:
    """safetensors, its metadata beside the tensors as `others`."""
    with safe_open(path, framework="pt", device="cpu") as archive:
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - no mapping
        return {"state_dict": tensors, "metadata": archive.metadata() or {}}


FORMATS: dict[str, Callable[[Path], Any]] = {
    "torch zip": _read_zip,
    "torch legacy": _read_legacy,
    "pickle": _read_pickle,
    "safetensors": _read_safetensors,
}


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[Any]:
    """The file as a stream in which no length can reserve more memory than the file is long."""
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        yield view


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Every way in which a file can be wrong as one BenchError; libraries' warnings are kept still."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Refused as error:
            raise BenchError(f"{path} is not read: {shown(error, 160)}", ANEW) from error
        except DAMAGE as error:
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            if reason.startswith("Weights only load failed"):  # torch's advice that follows is to execute the file
                reason = "torch's reader of plain weights refuses it"
            raise BenchError(f"{path} cannot be read as a checkpoint ({shown(reason, 120)})", AGAIN) from error


def _tensor(value: Tensor | Array) -> Tensor:
    """A plain dense tensor in memory."""
    tensor = value.tensor if isinstance(value, Array) else value.detach()
    if (
        type(tensor) is not Tensor
        or tensor.layout != torch.strided
        or tensor.device.type != "cpu"
        or tensor.is_quantized
    ):
        raise Refused("it holds a tensor that is not plain and dense")
    return tensor


def _made(name: str, value: Any, room: int) -> Tensor:
    """A tensor of lists and numbers; refuses, before memory is taken, what there is no `room` for."""
    made = layouts.as_tensor(value) if room >= 0 else None
    if made is None:
        raise Refused(f"its lists, with {shown(name)}, claim more values than the file holds")
    return made


def _no_tensors(path: Path, unmended: int) -> BenchError:
    if not unmended:
        return BenchError(f"{path} holds no tensors", "give a checkpoint with the weights of a backbone")
    return BenchError(f"{path} holds no tensors, but {unmended} lists and numbers", f"where these are weights, {MEND}")


def _metadata(root: Any) -> dict[str, str]:
    """Texts of the entry `metadata` beside the state dict."""
    held = dict.get(root, "metadata") if isinstance(root, dict) else None
    return (
        {key: text for key, text in dict.items(held) if type(key) is type(text) is str}
        if isinstance(held, dict)
        else {}
    )


def _require_in_file(tensors: dict[str, Tensor], size: int) -> None:
    """Refuse a tensor that claims more values than the file could hold: repeated, or never written."""
    for name, tensor in tensors.items():
        if math.prod(tensor.shape) * tensor.element_size() > size:
            raise Refused(f"its tensor {shown(name)} {tuple(tensor.shape)} claims more values than the file holds")
