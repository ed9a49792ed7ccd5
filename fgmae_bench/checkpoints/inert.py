"""What a pickle may name, as literal tables, and the inert stand-ins that are built in place of what it names."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Collection
from typing import IO, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.storage import TypedStorage

# What picklers of protocol 2 and later write for containers, scalars, bytes and reductions. Left out on purpose:
# extension registry, INST and OBJ, keyword arguments (NEWOBJ_EX), sets, out-of-band buffers, DUP and POP, the text
# protocols 0 and 1.
OPCODES = (
    "PROTO",
    "FRAME",
    "STOP",
    "MARK",
    "NONE",
    "NEWTRUE",
    "NEWFALSE",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "SHORT_BINSTRING",
    "BINSTRING",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
    "EMPTY_LIST",
    "APPEND",
    "APPENDS",
    "EMPTY_TUPLE",
    "TUPLE",
    "TUPLE1",
    "TUPLE2",
    "TUPLE3",
    "EMPTY_DICT",
    "SETITEM",
    "SETITEMS",
    "BINGET",
    "LONG_BINGET",
    "BINPUT",
    "LONG_BINPUT",
    "MEMOIZE",
    "GLOBAL",
    "STACK_GLOBAL",
    "REDUCE",
    "NEWOBJ",
    "BUILD",
    "BINPERSID",
)
IN_PLACE = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD")  # change the object below their items
MAX_DEPTH = 64
MAX_WORK = 50_000_000  # nodes passed from one operation to the next; a published ViT-H with its optimizer needs 300,000

Weight = tuple[int, int]  # (depth, nodes when every shared part is written out)


class Refused(ValueError):
    """The content is readable and holds something that has no place in a checkpoint."""


def scan(stream: IO[bytes], allowed: Collection[str], protocol: int) -> None:
    """Read one pickle from `stream` up to and with its STOP, without building anything.

    `allowed`: global names as "module name"; `protocol`: the latest whose operations may occur. Raises Refused on an
    operation, a name, a depth or an amount of work beyond these; ValueError or IndexError when the bytes are no whole
    pickle.
    """
    machine = _Machine()
    for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name not in OPCODES or opcode.proto > protocol:
            later = f" of protocol {opcode.proto}" if opcode.proto > protocol else ""
            raise Refused(f"it uses the pickle operation {opcode.name}{later}")
        if opcode.name == "GLOBAL" and argument not in allowed:
            raise Refused(f"it names {shown(str(argument).replace(' ', '.'))}")
        machine.step(opcode, argument, step)


def shown(text: object, limit: int = 80) -> str:
    """Text of a file as it may stand in a message: one line, printable, at most `limit` characters."""
    line = "".join(letter if letter.isprintable() else "?" for letter in str(text)[: limit + 1])
    return line if len(line) <= limit else line[: limit - 3] + "..."


class _Machine:
    """The pickle machine with weights in place of objects."""

    def __init__(self) -> None:
        self.stack: list[Weight] = []
        self.marks: list[int] = []
        self.memo: dict[int, Weight] = {}
        self.work = 0

    def step(self, opcode: pickletools.OpcodeInfo, argument: object, step: int) -> None:
        """Follow one operation."""
        if opcode.name == "MARK":
            self.marks.append(len(self.stack))
        elif opcode.name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(self.memo) if opcode.name == "MEMOIZE" else int(str(argument))
            if index > step:
                raise Refused(
                    "it numbers its parts without need"
                )  # the C unpickler would reserve a table of that length
            self.memo[index] = self.stack[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise ValueError("it refers to a part that is not there")
            self.stack.append(self.memo[int(str(argument))])
        else:
            self._apply(opcode)

    def _apply(self, opcode: pickletools.OpcodeInfo) -> None:
        before = opcode.stack_before
        if pickletools.markobject in before:
            start = self.marks.pop() - before.index(pickletools.markobject)
        else:
            start = len(self.stack) - len(before)
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("its operations do not add up")
        taken = self.stack[start:]
        del self.stack[start:]
        target = taken.pop(0) if opcode.name in IN_PLACE else (0, 1)
        nodes = sum(weight[1] for weight in taken)
        depth = max([target[0], *(weight[0] + 1 for weight in taken)])
        self.work += nodes
        if depth > MAX_DEPTH or self.work > MAX_WORK:
            raise Refused("it nests its parts too deeply")
        if opcode.stack_after:
            self.stack.append((depth, target[1] + nodes))


LEGACY_MAGIC = (
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6: the pickled number 0x1950a86a20f9469cfc6c
)
TORCH_PROTOCOL = 2
LEGACY_PICKLES = 5  # magic, version, system, content, keys of the storages; raw storages follow
NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


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
            raise Refused("its argparse.Namespace is none")
        self.values = state


class Mapping(dict[Any, Any]):
    """collections.OrderedDict without attributes; torch hangs `_metadata` on a state dict's."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()

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
        _, shape, dtype, by_column, raw = state
        self.fill(raw, dtype, shape, "F" if by_column else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: str) -> None:
        """Read the numbers; raises ValueError when shape and bytes differ."""
        if type(dtype) is not Dtype or type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
            raise Refused("it holds a numpy array that is none")
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
        raise Refused("it holds a numpy array that is none")
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
        raise Refused("it holds a numpy scalar that is no number")
    return dtype.numbers(raw, 1)[0].item()


def _text_bytes(text: Any, encoding: Any) -> bytes:
    """`_codecs.encode`, which stands for bytes in protocol 2."""
    if type(text) is not str or encoding != "latin1":
        raise Refused("it encodes text")
    return text.encode("latin1")


def _storage(content: Any) -> TypedStorage:
    """`torch.storage._load_from_bytes`: a storage in torch's older format inside a plain pickle."""
    if type(content) is not bytes or not content.startswith(LEGACY_MAGIC):
        raise Refused("it holds a tensor that is none")
    stream = io.BytesIO(content)
    scan_legacy(stream)
    stream.seek(0)
    storage = torch.load(stream, map_location="cpu", weights_only=True)
    if type(storage) is not TypedStorage:
        raise Refused("it holds a tensor that is none")
    return storage


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *unused: Any) -> Tensor:
    """`_rebuild_tensor_v2` that never enlarges the storage; `unused`: requires_grad, hooks, metadata."""
    numbers = (offset, *size, *stride)
    if (
        type(storage) is not TypedStorage
        or not all(type(n) is int and n >= 0 for n in numbers)
        or len(size) != len(stride)
    ):
        raise Refused("it holds a tensor that is none")
    extent = offset + (1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else 0)
    if extent > storage.size():
        raise ValueError("a tensor is larger than its storage")
    return torch.empty(0, dtype=storage.dtype).set_(storage.untyped(), offset, size, stride)


def _parameter(tensor: Any, *unused: Any) -> Tensor:
    """`_rebuild_parameter`, as a plain tensor; `unused`: requires_grad, hooks."""
    if type(tensor) is not Tensor:
        raise Refused("it holds a parameter that is none")
    return tensor


# "module name" -> stand-in, in torch's formats beside what torch itself allows.
STAND_INS: dict[str, Any] = {
    "argparse Namespace": Namespace,
    "numpy ndarray": Array,
    "numpy dtype": Dtype,
    "numpy.core.multiarray _reconstruct": (_ARRAY := Rebuild(_empty_array)),
    "numpy._core.multiarray _reconstruct": _ARRAY,
    "numpy.core.multiarray scalar": (_SCALAR := Rebuild(_number)),
    "numpy._core.multiarray scalar": _SCALAR,
}
# What torch's own reader builds: the part of its list that a checkpoint of plain tensors needs.
TORCH_NAMES = (
    "collections OrderedDict",
    "_codecs encode",
    "torch Size",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch DoubleStorage",
    "torch FloatStorage",
    "torch HalfStorage",
    "torch BFloat16Storage",
    "torch LongStorage",
    "torch IntStorage",
    "torch ShortStorage",
    "torch CharStorage",
    "torch ByteStorage",
    "torch BoolStorage",
)
TORCH_ALLOWED = frozenset({*STAND_INS, *TORCH_NAMES})
SAFE_GLOBALS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (stand_in, name.replace(" ", ".")) for name, stand_in in STAND_INS.items()
]
# Plain pickles.
PLAIN: dict[str, Any] = {
    **STAND_INS,
    "numpy.core.numeric _frombuffer": (_BUFFER := Rebuild(_whole_array)),
    "numpy._core.numeric _frombuffer": _BUFFER,
    "collections OrderedDict": Mapping,
    "_codecs encode": Rebuild(_text_bytes),
    "torch._utils _rebuild_tensor_v2": Rebuild(_tensor),
    "torch._utils _rebuild_parameter": Rebuild(_parameter),
    "torch.storage _load_from_bytes": Rebuild(_storage),
}


class PlainUnpickler(pickle.Unpickler):
    """Unpickler whose only globals are those of `names`."""

    names: ClassVar[dict[str, Any]] = PLAIN

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global name; anything else is refused."""
        key = f"{module} {name}"
        if key not in self.names:
            raise Refused(f"it names {module}.{name}")
        return self.names[key]


def scan_legacy(stream: IO[bytes]) -> None:
    """`scan` the pickles at the front of a file in torch's older format."""
    for _ in range(LEGACY_PICKLES):
        scan(stream, TORCH_ALLOWED, TORCH_PROTOCOL)
