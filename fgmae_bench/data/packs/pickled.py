"""The legacy pickled values, read as text: a tuple of byte strings and shapes, and nothing else, is taken from the
operations.

No unpickler runs, so nothing that a value names can be imported, called or built.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any

from fgmae_bench.errors import BenchError

# What picklers of protocol 2 to 5 write for tuples of bytes and whole numbers.
BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING")
NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1")
SILENT = ("PROTO", "FRAME")
MOST_OPERATIONS = 64  # a genuine value needs about 25

Parts = tuple[Any, ...]


class Refused(ValueError):
    """The value is not a tuple of bytes and shapes."""


def read_tuple(value: bytes, where: str) -> Parts:
    """The tuple of bytes and tuples of numbers that a pickle holds; raises BenchError naming `where` on anything
    else.
    """
    machine = _Machine()
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(value))):
            if step > MOST_OPERATIONS:
                raise Refused("it has more parts than a sample")
            machine.step(opcode.name, argument)
        return machine.result()
    except (ValueError, IndexError, KeyError) as error:
        reason = str(error) if isinstance(error, Refused) else "it is not a whole pickle"
        what = f"{where}: the value is a pickle that is not read: {reason}"
        raise BenchError(what, "only tuples of bytes and shapes are taken; nothing was run") from error


class _Machine:
    """The pickle machine for bytes, numbers and tuples."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Follow one operation; raises Refused on one that has no place here."""
        if name in BYTES:
            self.stack.append(argument.encode("latin-1") if isinstance(argument, str) else argument)
        elif name in NUMBERS:
            self.stack.append(argument)
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in SILENT:
            raise Refused(f"it uses the operation {name}")

    def result(self) -> Parts:
        """The one object that is left."""
        if len(self.stack) != 1 or self.marks or not isinstance(self.stack[0], tuple):
            raise Refused("it holds no tuple")
        return self.stack[0]

    def last(self, count: int) -> None:
        """TUPLE1 to TUPLE3."""
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < count:
            raise Refused("its operations do not add up")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def since_mark(self) -> None:
        """TUPLE."""
        start = self.marks.pop()
        self.stack[start:] = [tuple(self.stack[start:])]


_OPERATIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.since_mark(),
    "TUPLE1": lambda machine, _: machine.last(1),
    "TUPLE2": lambda machine, _: machine.last(2),
    "TUPLE3": lambda machine, _: machine.last(3),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "MEMOIZE": lambda machine, _: machine.memo.__setitem__(len(machine.memo), machine.stack[-1]),
    "BINPUT": lambda machine, number: machine.memo.__setitem__(number, machine.stack[-1]),
    "LONG_BINPUT": lambda machine, number: machine.memo.__setitem__(number, machine.stack[-1]),
    "BINGET": lambda machine, number: machine.stack.append(machine.memo[number]),
    "LONG_BINGET": lambda machine, number: machine.stack.append(machine.memo[number]),
    "STOP": lambda machine, _: None,
}
