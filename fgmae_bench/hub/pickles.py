"""Where a pickle ends: its operations are passed over by their lengths, nothing is built and nothing is called."""

from __future__ import annotations

import pickletools
import struct
from typing import IO

MAGIC = (
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how torch's older format begins: the number 0x1950a86a20f9469cfc6c
)
PICKLES = 5  # of that format: magic, version, system, content, keys of the storages; raw storages follow
LEAST_STORAGE = 9  # bytes: a length of 8, and one number at least
MOST_OPERATIONS = 10_000_000  # of one pickle; a published ViT-H with its optimizer has 300,000
MOST_LINE = 1 << 16
OPERATIONS = {operation.code.encode("latin-1"): operation for operation in pickletools.opcodes}
NAMING = ("GLOBAL", "INST", "STACK_GLOBAL")  # every tensor and every array is made by something that is named
# How the length in front of an argument is written.
LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: "<B",
    pickletools.TAKEN_FROM_ARGUMENT4: "<i",
    pickletools.TAKEN_FROM_ARGUMENT4U: "<I",
    pickletools.TAKEN_FROM_ARGUMENT8U: "<Q",
}


def is_whole(stream: IO[bytes], size: int) -> bool:
    """Whether a file of `size` bytes is one whole pickle, or of torch's format before 1.6, and may hold a tensor.

    Of that format the storages are not counted: their lengths follow from the content alone.
    """
    legacy = stream.read(len(MAGIC)) == MAGIC
    stream.seek(0)
    names = [pass_over(stream, size) for _ in range(PICKLES if legacy else 1)]
    end = stream.tell()
    if None in names or not names[3 if legacy else 0]:
        return False
    return end + LEAST_STORAGE <= size if legacy else end == size


def pass_over(stream: IO[bytes], size: int) -> int | None:
    """Go behind the STOP of the pickle that begins here; returns how often it names something that it does not hold.

    None where the bytes are not a pickle of protocol 2 or later, or do not come to an end within `size` bytes.
    """
    names = 0
    if stream.read(1) != b"\x80":
        return None
    stream.seek(-1, 1)
    for _ in range(MOST_OPERATIONS):
        operation = OPERATIONS.get(stream.read(1))
        if operation is None:
            return None
        if operation.name == "STOP":
            return names
        names += operation.name in NAMING
        if not _pass_argument(stream, operation, size):
            return None
    return None


def _pass_argument(stream: IO[bytes], operation: pickletools.OpcodeInfo, size: int) -> bool:
    """Go behind the argument of an operation; False where there is none that it could be."""
    if operation.arg is None:
        return True
    length = operation.arg.n
    if length == pickletools.UP_TO_NEWLINE:
        lines = 2 if operation.arg is pickletools.stringnl_noescape_pair else 1
        return all(stream.readline(MOST_LINE).endswith(b"\n") for _ in range(lines))
    if length < 0:
        stated = stream.read(struct.calcsize(LENGTHS[length]))
        if len(stated) != struct.calcsize(LENGTHS[length]):
            return False
        (length,) = struct.unpack(LENGTHS[length], stated)
    if not 0 <= length <= size - stream.tell():
        return False
    stream.seek(length, 1)
    return True
