"""What is known of a file's content: its SHA-256, the note on a verified file, and the pins of first use."""

from __future__ import annotations

import hashlib
import json
import os
import re
from io import FileIO
from pathlib import Path

import tomli_w

from fgmae_bench.config.strict import parse_toml
from fgmae_bench.errors import BenchError, os_error
from fgmae_bench.system.files import lock_and_clean_up, open_regular, read_small, write_text

PINS = "sha256.lock.toml"
PINS_HEAD = (
    "# Content trusted on first use; weights fetch NAME --repin or prepare download NAME --repin replaces a line.\n"
)
TABLE = b"[sha256]\n"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_sha256(text: str | None) -> bool:
    """Whether `text` is a SHA-256 in 64 lower-case hex digits."""
    return text is not None and _SHA256.fullmatch(text) is not None


def name_hash(file: str) -> str | None:
    """The 8 hex digits, first of a SHA-256, that a torch-hub style name ends in (`...-4d95315b.pth`), None without.

    Eight decimal digits are taken for a date.
    """
    found = re.search(r"-([0-9a-f]{8})\.(pth|pt|bin|safetensors)$", file)
    return found[1] if found and not found[1].isdecimal() else None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, hex; raises BenchError when it cannot be read or is a folder, FIFO or device."""
    if path.exists() and not path.is_file():
        raise BenchError(f"{path} is not a regular file", "remove it or choose another place")
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise os_error(error, path) from error


def note_path(path: Path) -> Path:
    """Path of the note on a verified file: `<name>.sha256`, in the format that `sha256sum --check` reads."""
    return path.with_name(f"{path.name}.sha256")


def write_note(path: Path, source: str, sha256: str) -> None:
    """Note that `path`, as it is now, came from `source` and has this SHA-256."""
    status = path.stat()
    facts = json.dumps({"source": source, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns})
    write_text(note_path(path), f"# {facts}\n{sha256}  {path.name}\n")


def noted(path: Path, source: str) -> str | None:
    """SHA-256 of `path` if it was verified as `source` before, else None.

    The content is read again only when size or modification time have changed. Raises BenchError when the content has
    changed.
    """
    facts, sha256 = _read_note(path)
    if not path.is_file() or facts.get("source") != source or not is_sha256(sha256):
        return None
    status = path.stat()
    if (facts.get("bytes"), facts.get("mtime_ns")) == (status.st_size, status.st_mtime_ns):
        return sha256
    if sha256_of(path) != sha256:
        raise BenchError(f"{path} has changed since it was verified", "remove it and fetch it again")
    write_note(path, source, sha256)
    return sha256


def _read_note(path: Path) -> tuple[dict[str, object], str]:
    """(facts, SHA-256) of the note on `path`; empty where it is absent or damaged, which only costs a new check."""
    try:
        head, line = read_small(note_path(path)).decode().splitlines()
        facts = json.loads(head.removeprefix("# "))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return {}, ""
    except OSError as error:
        raise os_error(error, note_path(path)) from error
    return (facts, line.split(" ")[0]) if isinstance(facts, dict) else ({}, "")


# Files of pins that may be continued, as they were last read: content, which ends with a whole line, and pins.
_seen: dict[Path, tuple[bytes, dict[str, str]]] = {}


def read_pins(pins: Path) -> dict[str, str]:
    """SHA-256 by source, of the sources that were trusted on first use; empty where the file is absent.

    A last line that was cut off as it was written is left out: its file was not kept either. Of a file that has grown
    since this process read it, the new lines alone are parsed. Raises BenchError on anything else than pins.
    """
    before, held = _seen.pop(pins, (b"", {}))
    if not pins.exists():
        return {}
    if not pins.is_file():
        raise BenchError(f"{pins} is not a regular file", "remove it")
    try:
        content = pins.read_bytes()
    except OSError as error:
        raise os_error(error, pins) from error
    more = TABLE + content[len(before) :] if before and content.startswith(before) else content
    found = _parsed(pins, more)
    if more is not content and held.keys() & found.keys():  # not TOML as a whole: a key stands there twice
        found = _parsed(pins, content)
    elif more is not content:
        found = {**held, **found}
    # lines can follow where the table of pins is the only one
    if content.endswith(b"\n") and len(re.findall(rb"^\s*\[", more, re.MULTILINE)) == 1:
        _seen[pins] = content, found
    return dict(found)


def _parsed(pins: Path, content: bytes) -> dict[str, str]:
    """The pins in `content`, without its last line where that one was cut off."""
    whole = content[: content.rfind(b"\n") + 1]
    try:
        table = parse_toml(content, pins).get("sha256", {})
    except BenchError:
        if whole == content or TABLE not in whole:
            raise
        table = parse_toml(whole, pins).get("sha256", {})
    if not isinstance(table, dict) or not all(isinstance(value, str) and is_sha256(value) for value in table.values()):
        raise BenchError(f"{pins} is damaged: not a table of SHA-256 values", "correct or remove it")
    return table


def write_pin(pins: Path, source: str, sha256: str) -> None:
    """Add or replace a pin; several processes may do so at once.

    A new one is a line at the end of the file; to replace one, the file is written anew.
    """
    with lock_and_clean_up(pins.with_name(f".{pins.name}.partial")):
        held = read_pins(pins)
        if held.get(source) == sha256:
            return
        line = tomli_w.dumps({source: sha256})
        if pins in _seen and source not in held and _appended(pins, line.encode()):
            return
        write_text(pins, PINS_HEAD + tomli_w.dumps({"sha256": {**held, source: sha256}}))


def _appended(pins: Path, line: bytes) -> bool:
    """Add a line to a file, on the disk when it returns; False where the file is a link or may not be written."""
    try:
        handle = open_regular(pins, os.O_WRONLY | os.O_APPEND)
    except (PermissionError, BenchError):
        return False
    except OSError as error:
        raise os_error(error, pins) from error
    with FileIO(handle, "a") as stream:
        before = os.fstat(handle).st_size
        try:
            while line:
                line = line[stream.write(line) :]
            os.fsync(handle)
        except OSError as error:
            os.ftruncate(handle, before)
            raise os_error(error, pins) from error
    return True
