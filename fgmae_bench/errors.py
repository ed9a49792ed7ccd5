"""Errors as a user sees them: one line, what is wrong and what to do; and how an entry ends and prints."""

from __future__ import annotations

import difflib
import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any, TextIO

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class BenchError(Exception):
    """Bad input or usage: `what` is wrong, `todo` says what to do about it."""

    def __init__(self, what: str, todo: str):
        super().__init__(f"{what}; {todo}")
        self.what, self.todo = what, todo


class RunFailed(Exception):
    """The input was fine and the run still failed, for example because its loss became non-finite."""


class Diverged(RunFailed):
    """The loss of some runs became NaN or infinite; `what` is the first case, `records` are those of the whole grid."""

    def __init__(self, what: str, records: Iterable[Any] = ()):
        super().__init__(f"{what}; give a smaller --lr")
        self.what, self.records = what, list(records)


def closest(name: str, choices: Iterable[str]) -> str:
    """Sentence that offers the closest match, then all choices in order."""
    ordered = sorted(choices)
    if not ordered:
        return "there is none to choose from"
    folded = {choice.lower(): choice for choice in ordered}
    match = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    hint = f"did you mean '{folded[match[0]]}'? " if match else ""
    return f"{hint}choose from {', '.join(ordered)}"


def unknown(kind: str, name: str, choices: Iterable[str]) -> BenchError:
    """The error for a name that a registry does not hold."""
    return BenchError(f"unknown {kind} '{name}'", closest(name, choices))


def os_error(error: OSError, path: object) -> BenchError:
    """Turn an operating-system error on `path` into a line a newcomer can act on."""
    if error.errno in _DISK_FULL:
        return BenchError(
            f"no space left while writing {path}",
            "free space there or choose another folder, then run the same command again",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return BenchError(f"{path} cannot be written ({error.strerror})", "choose a folder you may write to")
    if error.errno == errno.ENOENT:
        return BenchError(f"{path} cannot be made here", "choose another folder")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return BenchError(f"{path}: a file is where a folder is needed ({error.strerror})", "choose another folder")
    return BenchError(f"{path}: {error.strerror or error}", "check the path and the disk")


def note(code: str, text: str) -> dict[str, str]:
    """One note of a record: a code to count by and the sentence to show."""
    return {"code": code, "text": text}


def printable(text: str) -> str:
    """`text` with what a terminal acts on, or what a reader cannot see, as escapes such as `\\x1b`; line ends stay.

    Names of files, models and classes come from strangers: an escape sequence could rewrite what was printed before.
    """
    if text.isascii() and text.isprintable():  # nearly all text
        return text
    # isprintable is false for controls, formats (bidirectional ones too), surrogates and separators but the space
    kept = {"\n", "\t", "\u00a0", "\u202f"}
    return "".join(
        letter if letter.isprintable() or letter in kept else letter.encode("unicode_escape").decode()
        for letter in text
    )


def one_line(text: str) -> str:
    """`printable` text whose line ends are escapes too: a name with one in it cannot begin a line of its own."""
    return printable(text).replace("\n", "\\n")


class _Plain(logging.Formatter):
    """A log line as plain text."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _Terminal:
    """A text stream that leads to a terminal: what is written is made printable first."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _set_up_streams(rank0: bool) -> None:
    """Log as plain lines on standard error; standard output never fails on a name, and is plain on a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain("%(message)s"))
    logging.basicConfig(level=logging.WARNING if rank0 else logging.ERROR, handlers=[handler])
    logging.getLogger("fgmae_bench").setLevel(logging.INFO if rank0 else logging.ERROR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
        if sys.stdout.isatty():
            sys.stdout = _Terminal(sys.stdout)


def run_entry(main: Callable[[], int | None]) -> None:
    """Run an entry point and end the process with the exit code of the interface.

    What is logged goes to standard error as plain lines; only rank 0 says them and the line of an error.
    `FGMAE_BENCH_DEBUG=1` shows the traceback as well.
    """
    rank0 = os.environ.get("RANK", "0") == "0"
    _set_up_streams(rank0)
    try:
        code = main() or EXIT_DONE
    except (BenchError, RunFailed) as error:
        if os.environ.get("FGMAE_BENCH_DEBUG") == "1":
            traceback.print_exc()
        if rank0:
            print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        code = EXIT_BAD_INPUT if isinstance(error, BenchError) else EXIT_FAILED
    except KeyboardInterrupt:
        if rank0:
            print("interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_DONE
    sys.exit(code)
