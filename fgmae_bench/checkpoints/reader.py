"""A checkpoint file to tensors: torch's zip and older format, plain pickles, safetensors, recognised by content;
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
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fgmae_bench.checkpoints import layouts
from fgmae_bench.checkpoints.dialects import translated
from fgmae_bench.checkpoints.inert import MAX_AXES, Array, InertUnpickler, stand_in
from fgmae_bench.checkpoints.safetensors_files import (
    INDEX,
    MAX_HEADER,
    read_safetensors,
    read_sharded,
    sha256_of_sharded,
    shards_of,
)
from fgmae_bench.checkpoints.scan import AGAIN, Refused, room_for, scan, shown
from fgmae_bench.checkpoints.torch_files import LEGACY_MAGIC, PLAIN, read_legacy, read_zip
from fgmae_bench.errors import BenchError
from fgmae_bench.hub.checksums import sha256_of

SHARDED = "sharded safetensors"
SKIPPED_NAMED = 5
ANEW = "save its state dict anew where you trust it: torch.save({'model': model.state_dict()}, FILE)"
REPAIR = "make tensors of them with: python -m fgmae_bench.weights convert IN OUT --repair"
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
    """The state dict of a file. `tensors` keep the file's dtype and, where the format allows, stay in the mapped file.

    `tensors`: without `prefix`; `outside`: keys that do not carry it, in full; `plain`: values that are not tensors, as
    text; `others`: what else the file holds, as text; `metadata`: texts of an entry of that name, whole;
    `repaired`: names of tensors that the file holds as something else, and as what; `unrepaired`: those of `plain` that
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
    repaired: dict[str, str] = field(default_factory=dict)
    unrepaired: dict[str, str] = field(default_factory=dict)
    choice: str | None = None  # what was taken of a file that holds several state dicts, or averaged weights alone
    optical: str = ""  # the first convolution of a file that may be of three channels, see `dialects`
    prefix_given: bool = False  # the user named the prefix: what does not carry it is left out


def read_state(path: Path, *, repair: bool = False) -> State:
    """The tensors of a checkpoint file and what was peeled off around them; `repair` makes tensors of lists and numbers
    too.

    Raises BenchError, naming the file, where it holds what has no place in a checkpoint, more than there is room for,
    or no tensors, and on damage.
    """
    kind = file_format(path)
    with _refusing(path):
        size = sum(part.stat().st_size for part in (shards_of(path) if kind == SHARDED else [path]))
        root, skipped = FORMATS[kind](path)
        found = layouts.find_state(root, room_for(size), numbers=repair)
        values = _sorted_values(found.values, repair, size)
        held = {**values.named, **values.unrepaired}
        prefix = layouts.prefix_of(held) or layouts.prefix_of(values.named)
        digest = sha256_of_sharded(path) if kind == SHARDED else sha256_of(path)
        inside = {name.removeprefix(prefix): held for name, held in values.named.items() if name.startswith(prefix)}
        inside, dialect = translated(inside)
    if not values.named:
        raise _no_tensors(path, len(values.unrepaired))
    own = kind in ("safetensors", SHARDED)  # the wrapper is ours, not the file's
    return State(
        path=path,
        format=kind,
        bytes=size,
        sha256=digest,
        prefix=prefix,
        wrapper="" if own else found.wrapper,
        tensors=inside,
        outside={name: tensor for name, tensor in values.named.items() if not name.startswith(prefix)},
        plain={name: layouts.described(value) for name, value in found.values.items() if name not in values.named},
        others=found.others,
        notes=(*found.notes, *_skipped_note(skipped), *([f"names of {dialect.words}"] if dialect else [])),
        optical=dialect.first if dialect else "",
        metadata=_metadata(root),
        repaired=values.repaired,
        unrepaired=values.unrepaired,
        choice=found.choice,
    )


@dataclass(frozen=True, kw_only=True)
class _Values:
    """Entries of a state dict: tensors, and names of those that are, or could be, made of something else."""

    named: dict[str, Tensor] = field(default_factory=dict)
    repaired: dict[str, str] = field(default_factory=dict)
    unrepaired: dict[str, str] = field(default_factory=dict)


def _sorted_values(entries: dict[str, Any], repair: bool, size: int) -> _Values:
    """Tensors of a file of `size` bytes; with `repair` also those made of lists and numbers."""
    values = _Values()
    shapes: dict[int, tuple[int, ...] | None] = {}
    room = size  # a file holds no more numbers than bytes
    for name, value in entries.items():
        if isinstance(value, Tensor | Array):
            values.named[name] = _tensor(value)
            if isinstance(value, Array):
                values.repaired[name] = "numpy array"
        elif (shape := layouts.repairable(name, value, shapes)) is not None:
            (values.repaired if repair else values.unrepaired)[name] = "list" if shape else "number"
            if repair:
                room -= math.prod(shape)
                values.named[name] = _made(name, value, room)
    _require_in_file(values.named, size)
    return values


def _skipped_note(skipped: Collection[str]) -> list[str]:
    """One note on the objects of a file that are not tensors, [] without any."""
    names = [shown(name) for name in list(skipped)[:SKIPPED_NAMED]]
    more = f" and {len(skipped) - SKIPPED_NAMED} more" if len(skipped) > SKIPPED_NAMED else ""
    return [f"objects that are not tensors are skipped: {', '.join(names)}{more}"] if names else []


def file_format(path: Path) -> str:
    """Name of the format by content, a key of FORMATS. Raises BenchError on a missing, empty or foreign file."""
    with _refusing(path):
        if not path.is_file():
            state = "not a file" if path.exists() else "not there"
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
    if head.lstrip()[:1] == b"{" and path.name.endswith(INDEX):
        return SHARDED
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
        f"{path} is not a checkpoint, or only a part of one", f"give a .pth, .pt, .pkl or .safetensors file, or {AGAIN}"
    )


def _read_legacy(path: Path) -> Content:
    """torch.save before 1.6."""
    with _mapped(path) as stream:
        return read_legacy(stream, path.stat().st_size)


def _read_pickle(path: Path) -> Content:
    """A plain pickle of containers with tensors and numpy arrays."""
    with _mapped(path) as stream:
        scan(stream, partial(stand_in, PLAIN), pickle.HIGHEST_PROTOCOL, path.stat().st_size)
        if stream.tell() != path.stat().st_size:
            raise ValueError("bytes follow after its end")
        stream.seek(0)
        unpickler = InertUnpickler(stream, PLAIN)
        return unpickler.load(), unpickler.skipped


def _read_safetensors(path: Path) -> Content:
    """safetensors, its metadata as `others`."""
    tensors, metadata = read_safetensors(path)
    return {"state_dict": tensors, "metadata": metadata}, ()


def _read_sharded(path: Path) -> Content:
    """Several safetensors files and the index that names them."""
    tensors, metadata = read_sharded(path)
    return {"state_dict": tensors, "metadata": metadata}, ()


Content = tuple[Any, Collection[str]]  # (what the file holds, names of the foreign objects that were skipped)
FORMATS: dict[str, Callable[[Path], Content]] = {
    "torch zip": read_zip,
    "torch legacy": _read_legacy,
    "pickle": _read_pickle,
    "safetensors": _read_safetensors,
    SHARDED: _read_sharded,
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
    plain = type(tensor) is Tensor and tensor.layout == torch.strided and tensor.device.type == "cpu"
    if tensor is None or not plain or tensor.is_quantized:
        raise Refused("it holds a tensor that is not plain and dense")
    if tensor.dim() > MAX_AXES:
        raise Refused(f"it holds a tensor of {tensor.dim()} axes")
    return tensor


def _made(name: str, value: Any, room: int) -> Tensor:
    """A tensor of lists and numbers; refuses, before memory is taken, what there is no `room` for."""
    made = layouts.as_tensor(value) if room >= 0 else None
    if made is None:
        raise Refused(f"its lists, with {shown(name)}, claim more values than the file holds")
    return made


def _no_tensors(path: Path, unrepaired: int) -> BenchError:
    if not unrepaired:
        return BenchError(f"{path} holds no tensors", "give a checkpoint with the weights of a backbone")
    return BenchError(
        f"{path} holds no tensors, but {unrepaired} lists and numbers", f"where these are weights, {REPAIR}"
    )


def _metadata(root: Any) -> dict[str, str]:
    """Texts of the file's entry `metadata`."""
    held = dict.get(root, "metadata") if isinstance(root, dict) else None
    return (
        {key: text for key, text in dict.items(held) if type(key) is type(text) is str}
        if isinstance(held, dict)
        else {}
    )


def _require_in_file(tensors: dict[str, Tensor], size: int) -> None:
    """Refuse tensors that claim more values than a file of `size` bytes could hold: repeated, or never written."""
    total = 0
    for name, tensor in tensors.items():
        claimed = math.prod(tensor.shape) * tensor.element_size()
        total += claimed
        if claimed > size:
            raise Refused(f"its tensor {shown(name)} {tuple(tensor.shape)} claims more values than the file holds")
    if total > room_for(size):
        raise Refused(f"its tensors claim {total:,} bytes of values, the file has {size:,}")
