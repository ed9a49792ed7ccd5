"""Which top-level places of the package some work enters, by the calls of all its threads."""

from __future__ import annotations

import contextlib
import cProfile
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "fgmae_bench"


@contextlib.contextmanager
def entered() -> Iterator[dict[str, set[str]]]:
    """Fills `main` and `all` with the names of the places once the work is done.

    The profiler of the standard library notes calls as `sys.setprofile` would, but in C: its hook costs little.
    """
    found: dict[str, set[str]] = {"main": set(), "all": set()}
    profilers = [cProfile.Profile(builtins=False)]

    def begin(frame: object, event: str, argument: object) -> None:
        """The first call of a thread: a profiler of its own takes over."""
        profilers.append(cProfile.Profile(builtins=False))
        profilers[-1].enable()

    before = sys.getprofile(), threading.getprofile()
    threading.setprofile(begin)
    profilers[0].enable()
    try:
        yield found
    finally:
        profilers[0].disable()
        sys.setprofile(before[0])
        threading.setprofile(before[1])
    found["main"] |= _places(profilers[0])
    for profiler in profilers:
        found["all"] |= _places(profiler)


def _places(profiler: cProfile.Profile) -> set[str]:
    codes = [entry.code for entry in profiler.getstats() if not isinstance(entry.code, str)]
    inside = f"{PACKAGE}{os.sep}"
    return {
        code.co_filename.removeprefix(inside).split(os.sep)[0]
        for code in codes
        if code.co_filename.startswith(inside) and code.co_name != "<module>"
    }
