"""What is known of a file's content: its SHA-256, the note on a verified file, and the pins of first use."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import tomli_w

from fgmae_bench.config.strict import load_toml
from fgmae_bench.errors import BenchError, os_error
from fgmae_bench.system.files import lock_and_clean_up, read_small, write_text

PINS = "sha256.lock.toml"
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


def read_pins(pins: Path) -> dict[str, str]:
    """SHA-256 by source, of the sources that were trusted on first use; empty where the file is absent."""
    if not pins.exists():
        return {}
    if not pins.is_file():
        raise BenchError(f"{pins} is not a regular file", "remove it")
    found = load_toml(pins).get("sha256", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) and is_sha256(value) for value in found.values()):
        raise BenchError(f"{pins} is damaged: not a table of SHA-256 values", "correct or remove it")
    return found


def write_pin(pins: Path, source: str, sha256: str) -> None:
    """Add or replace a pin; several processes may do so at once."""
    with lock_and_clean_up(pins.with_name(f".{pins.name}.partial")):
        held = {"sha256": {**read_pins(pins), source: sha256}}
        head = "# Content trusted on first use; python -m fgmae_bench.weights fetch --repin replaces a line.\n"
        write_text(pins, head + tomli_w.dumps(held))
