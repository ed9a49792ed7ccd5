"""A pickle is read as text before anything acts on it: which operations, which global names, how deep, how much work.

The unpicklers of Python and torch refuse foreign globals, but a nest of tuples used as a dictionary key overflows the C
stack, an index of the memo table reserves any amount of memory, and tuples of tuples take exponential time to hash.
"""

from __future__ import annotations

import pickletools
from collections.abc import Collection
from typing import IO

# What picklers of protocol 2 and later write for containers, scalars, bytes and reductions. Left out on purpose: extension
# registry, INST and OBJ, keyword arguments (NEWOBJ_EX), sets, out-of-band buffers, DUP and POP, the text protocols 0 and 1.
OPCODES = (
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "SHORT_BINSTRING", "BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "SETITEM",
    "SETITEMS", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD",
    "BINPERSID",
)  # fmt: skip
IN_PLACE = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD")  # change the object below their items
MAX_DEPTH = 64
MAX_WORK = 50_000_000  # nodes passed from one operation to the next; a published ViT-H with its optimizer needs 300,000

Weight = tuple[int, int]  # (depth, nodes when every shared part is written out)


class Refused(ValueError):
    """The content is readable and holds something that has no place in a checkpoint."""


def scan(stream: IO[bytes], allowed: Collection[str], protocol: int) -> None:
    """Read one pickle from `stream` up to and with its STOP, without building anything.

    `allowed`: global names as "module name"; `protocol`: the latest whose operations may occur. Raises Refused on an
    operation, a name, a depth or an amount of work beyond these; ValueError or IndexError when the bytes are no whole pickle.
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
                raise Refused("it numbers its parts without need")  # the C unpickler would reserve a table of that length
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
