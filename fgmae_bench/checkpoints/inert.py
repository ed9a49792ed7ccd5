"""The inert stand-ins that are built in place of what a pickle names, and the unpickler that knows nothing else."""

from __future__ import annotations

import math
import pickle
import re
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.storage import TypedStorage

from fgmae_bench.checkpoints.scan import Refused, shown

NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
MAX_AXES = 64  # of a tensor, numpy's own limit
MAX_SKIPPED = 100  # names of foreign classes in one file


class Namespace:
    """argparse.Namespace as its values alone: nothing in it can be called, and no attribute of it can be replaced."""

    __slots__ = ("values",)
    values: dict[Any, Any]

    def __new__(cls) -> Namespace:
        """Empty: an unpickler calls no `__init__`, and sets no state where there are no arguments."""
        made = super().__new__(cls)
        made.values = {}
        return made

    def __setstate__(self, state: Any) -> None:
        if type(state) is not dict:
            raise Refused("it holds an argparse.Namespace without values")
        self.values = state


class Ordered(dict[Any, Any]):
    """collections.OrderedDict without attributes; torch hangs `_metadata` on a state dict's."""

    __slots__ = ()

    def __init__(self, pairs: Any = None) -> None:
        super().__init__()
        if pairs is not None:  # as Python 2 wrote it; the list is emptied, so that it fills one mapping only
            if type(pairs) is not list or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
                raise Refused("it holds an OrderedDict of something other than pairs")
            self.update(pairs)
            pairs.clear()

    def __setstate__(self, state: Any) -> None:
        """Attributes are let go."""


class Dtype:
    """numpy.dtype of a plain number; objects, records, text and times are refused."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, align: Any = False, copy: Any = False):
        if code not in NUMBERS:
            raise Refused("it holds numpy arrays of something other than numbers")
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        plain = type(state) is tuple and len(state) >= 5 and state[2:5] == (None, None, None)  # no subarray, no fields
        if not plain or state[1] not in ("<", ">", "|", "="):
            raise Refused("it holds numpy arrays of something other than numbers")
        self.order = state[1]

    def numbers(self, raw: Any, count: int) -> np.ndarray:
        """`count` numbers (count,) in the machine's byte order, read from bytes of exactly that length."""
        dtype = np.dtype(self.order + self.code)
        if not isinstance(raw, bytes | bytearray) or len(raw) != count * dtype.itemsize:
            raise ValueError("a numpy array and its bytes differ in length")
        return np.frombuffer(raw, dtype).astype(dtype.newbyteorder("="), copy=False)


class Array:
    """numpy.ndarray that holds a finished tensor once its state has been read."""

    __slots__ = ("tensor",)

    def __init__(self) -> None:
        self.tensor: Tensor | None = None

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple:  # the scan has counted what a tuple holds, not what a list may hold by now
            raise Refused("it holds a malformed numpy array")
        _, shape, dtype, by_column, raw = state
        self.fill(raw, dtype, shape, "F" if by_column else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: str) -> None:
        """Read the numbers; raises ValueError when shape and bytes differ."""
        if type(dtype) is not Dtype or type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
            raise Refused("it holds a malformed numpy array")
        self.tensor = torch.from_numpy(
            dtype.numbers(raw, math.prod(shape)).reshape(shape, order="F" if order == "F" else "C")
        )


class Rebuild:
    """A function that a pickle may call; itself without attributes that a pickle could set."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        raise Refused("it changes a function")


def _empty_array(kind: Any, shape: Any, code: Any) -> Array:
    """numpy's `_reconstruct`: the array is filled by its state."""
    if kind is not Array:
        raise Refused("it holds a malformed numpy array")
    return Array()


def _whole_array(raw: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> Array:
    """numpy's `_frombuffer` of pickle protocol 5."""
    if axis_order is not None:
        raise Refused("it holds a numpy array with permuted axes")
    array = Array()
    array.fill(raw, dtype, shape, order)
    return array


def _number(dtype: Any, raw: Any) -> Any:
    """numpy's `scalar`, as a Python number."""
    if type(dtype) is not Dtype:
        raise Refused("it holds a numpy scalar of something other than a number")
    return dtype.numbers(raw, 1)[0].item()


def _text_bytes(text: Any, encoding: Any) -> bytes:
    """`_codecs.encode`, which stands for bytes in protocol 2."""
    if type(text) is not str or encoding != "latin1":
        raise Refused("it encodes text")
    return text.encode("latin1")


def _no_bytes(*args: Any) -> bytes:
    """`bytes()`, which stands for empty bytes in protocol 2."""
    if args:
        raise Refused("it makes bytes")
    return b""


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *unused: Any) -> Tensor:
    """`_rebuild_tensor_v2` that never enlarges the storage; `unused`: requires_grad, hooks, metadata."""
    plain = type(storage) is TypedStorage and type(size) is type(stride) is tuple and len(size) == len(stride)
    if not plain or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise Refused("it holds a malformed tensor")
    if len(size) > MAX_AXES:
        raise Refused(f"it holds a tensor of {len(size)} axes")
    extent = offset + (1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else 0)
    if extent > storage.size():
        raise ValueError("a tensor is larger than its storage")
    return torch.empty(0, dtype=storage.dtype).set_(storage.untyped(), offset, size, stride)


def _parameter(tensor: Any, *unused: Any) -> Tensor:
    """`_rebuild_parameter`, as a plain tensor; `unused`: requires_grad, hooks."""
    if type(tensor) is not Tensor:
        raise Refused("it holds a malformed parameter")
    return tensor


class Foreign:
    """An object of another package, or of the standard library, that holds no weights: nothing of it is kept.

    What the file does with such an object (call its class, fill it, take an attribute) does nothing here.
    """

    __slots__ = ()

    def __new__(cls, *args: Any) -> Foreign:
        """One object; its arguments are let go."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Its state is let go."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """So are items of a mapping."""

    def append(self, item: Any) -> None:
        """And items of a list."""

    def extend(self, items: Any) -> None:
        """Several at once."""


def _attribute(owner: Any, name: Any) -> type[Foreign]:
    """`getattr`, which enumerations and bound functions are written by: of a foreign class, itself foreign."""
    if owner is not Foreign or type(name) is not str:
        raise Refused("it uses getattr")
    return Foreign


# "module name" -> stand-in; what is called is a Rebuild, or a class of this file.
STAND_INS: dict[str, Any] = {
    "argparse Namespace": Namespace,
    "collections OrderedDict": Ordered,
    "numpy ndarray": Array,
    "numpy dtype": Dtype,
    "numpy.core.multiarray _reconstruct": (_ARRAY := Rebuild(_empty_array)),
    "numpy._core.multiarray _reconstruct": _ARRAY,
    "numpy.core.multiarray scalar": (_SCALAR := Rebuild(_number)),
    "numpy._core.multiarray scalar": _SCALAR,
    "numpy.core.numeric _frombuffer": (_BUFFER := Rebuild(_whole_array)),
    "numpy._core.numeric _frombuffer": _BUFFER,
    "_codecs encode": Rebuild(_text_bytes),
    "torch._utils _rebuild_tensor": (_TENSOR := Rebuild(_tensor)),
    "torch._utils _rebuild_tensor_v2": _TENSOR,
    "torch._utils _rebuild_parameter": Rebuild(_parameter),
    "builtins bytes": (_BYTES := Rebuild(_no_bytes)),
    "__builtin__ bytes": _BYTES,
    "builtins getattr": (_GETATTR := Rebuild(_attribute)),
    "__builtin__ getattr": _GETATTR,
}
# Values of trainings from packages that are otherwise closed: paths, dates, sets, numbers and types.
VALUES = {
    "pathlib": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    "collections": "defaultdict deque Counter",
    "datetime": "date datetime time timedelta timezone",
    "types": "SimpleNamespace",
    "typing": "Any",
    "uuid": "UUID",
    "decimal": "Decimal",
    "builtins": "set frozenset complex range slice object type int float str bool list dict tuple",
    "torch": "Size device dtype float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool",
    "torch.torch_version": "TorchVersion",
    "numpy": "float64 float32 float16 int64 int32 bool_",
    "numpy.random._pickle": "__randomstate_ctor __generator_ctor __bit_generator_ctor",
}
VALUES["__builtin__"] = VALUES["builtins"]  # as Python 2 names them
# Whose names have no other place in a checkpoint: the standard library, what computes on tensors, and this package.
CLOSED = sys.stdlib_module_names | {
    "__builtin__",
    "copy_reg",
    "commands",
    "exceptions",
    "numpy",
    "torch",
    "fgmae_bench",
}
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class InertUnpickler(pickle.Unpickler):
    """Unpickler whose globals are those of a table; objects of other packages become Foreign and are noted."""

    def __init__(self, stream: IO[bytes], table: Mapping[str, Any]):
        super().__init__(stream, fix_imports=False)
        self.table = table
        self.skipped: dict[str, None] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global name; raises Refused on one without."""
        found = stand_in(self.table, module, name)
        if found is Foreign:
            self.skipped[f"{module}.{name}"] = None
            if len(self.skipped) > MAX_SKIPPED:
                raise Refused(f"it holds objects of more than {MAX_SKIPPED} classes")
        return found


def stand_in(table: Mapping[str, Any], module: str, name: str) -> Any:
    """What stands for a global: of the table, or Foreign; raises Refused on a name of a closed package."""
    if (key := f"{module} {name}") in table:
        return table[key]
    if name in VALUES.get(module, "").split():
        return Foreign
    if module.split(".")[0] in CLOSED or not NAME.fullmatch(module) or not NAME.fullmatch(name):
        raise Refused(f"it names {shown(module)}.{shown(name)}")
    return Foreign
