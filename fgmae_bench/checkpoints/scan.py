"""The static pass over a pickle before it is read: which operations it uses, and how much memory it could ask for."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import IO

# What picklers of protocol 2 and later write for containers, scalars, bytes and reductions, with the bytes of memory
# that one costs: its object, its place on the stack, and what the reader derives from it. Left out on purpose:
# extension registry, INST and OBJ, keyword arguments (NEWOBJ_EX), out-of-band buffers, DUP and POP, the text protocols
# 0 and 1.
CONSTANT, OBJECT, MEMO, CALL, STATE = 8, 100, 160, 400, 750
COSTS = {
    "PROTO": 0,
    "FRAME": 0,
    "STOP": 0,
    "MARK": 40,
    "NONE": CONSTANT,
    "NEWTRUE": CONSTANT,
    "NEWFALSE": CONSTANT,
    "BININT": 40,
    "BININT1": CONSTANT,
    "BININT2": 40,
    "LONG1": OBJECT,
    "BINFLOAT": 32,
    "SHORT_BINSTRING": OBJECT,
    "BINSTRING": OBJECT,
    "BINUNICODE": OBJECT,
    "SHORT_BINUNICODE": OBJECT,
    "BINUNICODE8": OBJECT,
    "BINBYTES": OBJECT,
    "SHORT_BINBYTES": OBJECT,
    "BINBYTES8": OBJECT,
    "BYTEARRAY8": OBJECT,
    "EMPTY_LIST": OBJECT,
    "APPEND": 0,
    "APPENDS": 0,
    "EMPTY_TUPLE": CONSTANT,
    "TUPLE": OBJECT,
    "TUPLE1": OBJECT,
    "TUPLE2": OBJECT,
    "TUPLE3": OBJECT,
    "EMPTY_DICT": OBJECT,
    "SETITEM": 0,
    "SETITEMS": 0,
    "EMPTY_SET": 3 * OBJECT,
    "ADDITEMS": 0,
    "FROZENSET": 3 * OBJECT,
    "BINGET": CONSTANT,
    "LONG_BINGET": CONSTANT,
    "BINPUT": MEMO,
    "LONG_BINPUT": MEMO,
    "MEMOIZE": MEMO,
    "GLOBAL": OBJECT,
    "STACK_GLOBAL": OBJECT,
    "REDUCE": CALL,
    "NEWOBJ": CALL,
    "BUILD": STATE,
    "BINPERSID": CALL,
}
IN_PLACE = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")  # change the object below their items
ITEM_COSTS = {"APPEND": 16, "APPENDS": 16, "SETITEM": 150, "SETITEMS": 150, "ADDITEMS": 150, "FROZENSET": 150}
COPYING = ("REDUCE", "NEWOBJ", "BUILD")  # may copy the text and bytes of their arguments
# Operations that put something new on the stack and take nothing from it.
PUSHES = {op.name for op in pickletools.opcodes if op.name in COSTS and op.stack_after and not op.stack_before} - {
    "MARK"
}
TEXT_FACTOR = 4  # bytes of a character at most
MAX_DEPTH = 64
MAX_WORK = 50_000_000  # nodes passed from one operation to the next; a published ViT-H with its optimizer needs 300,000
LEAST_ROOM, ROOM_FACTOR = 64 << 20, 16
AGAIN = "get the file again and compare its SHA-256 with the source's"

Weight = tuple[int, int, int]  # (depth, nodes, text and bytes) when every shared part is written out
LEAF: Weight = (0, 1, 0)


class Refused(ValueError):
    """The content is readable and holds something that has no place in a checkpoint."""


def room_for(size: int) -> int:
    """Bytes that a file of `size` bytes may hold in memory or write at once: 16 times as many, at least 64 MiB."""
    return max(LEAST_ROOM, ROOM_FACTOR * size)


def shown(text: object, limit: int = 80) -> str:
    """Text of a file as it may stand in a message: one line, printable, at most `limit` characters."""
    line = "".join(letter if letter.isprintable() else "?" for letter in str(text)[: limit + 1])
    return line if len(line) <= limit else line[: limit - 3] + "..."


def scan(stream: IO[bytes], check: Callable[[str, str], object], protocol: int, size: int) -> None:
    """Read one pickle from `stream` up to and with its STOP, without building anything.

    `check(module, name)` raises on a global that the reader does not know; `protocol`: the latest whose operations may
    occur; `size`: bytes of the file. Raises Refused on an operation, a depth, work or memory beyond these; ValueError
    or IndexError when the bytes are not a whole pickle.
    """
    machine = _Machine(room_for(size))
    for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name not in COSTS or opcode.proto > protocol:
            later = f" of protocol {opcode.proto}" if opcode.proto > protocol else ""
            raise Refused(f"it uses the pickle operation {opcode.name}{later}")
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            check(module, name)
        machine.step(opcode, argument, step)


class _Machine:
    """The pickle machine with weights in place of objects."""

    def __init__(self, room: int) -> None:
        self.stack: list[Weight] = []
        self.marks: list[int] = []
        self.memo: dict[int, Weight] = {}
        self.work = 0
        self.room = room

    def step(self, opcode: pickletools.OpcodeInfo, argument: object, step: int) -> None:
        """Follow one operation."""
        name = opcode.name
        self._charge(COSTS[name])
        if name in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise ValueError("it refers to a part that is not there")
            self.stack.append(self.memo[int(str(argument))])
        elif name in PUSHES:
            self.stack.append(self._leaf(argument) if name != "GLOBAL" else LEAF)
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(self.memo) if name == "MEMOIZE" else int(str(argument))
            if index > step:  # the C unpickler would reserve a table of that length
                raise Refused("it numbers its parts without need")
            self.memo[index] = self.stack[-1]
        else:
            self._apply(opcode)

    def _leaf(self, argument: object) -> Weight:
        """The weight of a constant; text and bytes cost what they are long."""
        if not isinstance(argument, str | bytes | bytearray):
            return LEAF
        self._charge(TEXT_FACTOR * len(argument) if isinstance(argument, str) else len(argument))
        return (0, 1, len(argument))

    def _apply(self, opcode: pickletools.OpcodeInfo) -> None:
        """Take what the operation takes from the stack, leave the weight of what it makes."""
        before = opcode.stack_before
        if pickletools.markobject in before:
            start = self.marks.pop() - before.index(pickletools.markobject)
        else:
            start = len(self.stack) - len(before)
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("its operations do not add up")
        taken = self.stack[start:]
        del self.stack[start:]
        target = taken.pop(0) if opcode.name in IN_PLACE else LEAF
        self._charge(ITEM_COSTS.get(opcode.name, CONSTANT) * len(taken))
        nodes, content = sum(weight[1] for weight in taken), sum(weight[2] for weight in taken)
        if opcode.name in COPYING:  # however often one text or one run of bytes is taken, each time is a copy
            self._charge(content)
        depth = max([target[0], *(weight[0] + 1 for weight in taken)])
        self.work += nodes
        if depth > MAX_DEPTH or self.work > MAX_WORK:
            raise Refused("it nests its parts too deeply")
        if opcode.stack_after:
            self.stack.append((depth, target[1] + nodes, target[2] + content) if taken else target)

    def _charge(self, cost: int) -> None:
        self.room -= cost
        if self.room < 0:
            raise Refused("it asks for memory out of proportion to its size")
