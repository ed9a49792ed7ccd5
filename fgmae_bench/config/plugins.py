"""Code of others, which entry points and `module:factory` name: run under one guard, since it may raise anything."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from fgmae_bench.errors import BenchError, RunFailed

REPAIR = "repair or uninstall its package"
Guard = Callable[[str], AbstractContextManager[None]]  # around code that may be of others, given what it works on

log = logging.getLogger("fgmae_bench")


def entry_points(group: str) -> list[EntryPoint]:
    """What installed packages offer in a group. One package whose own list is damaged is named and left out: Python
    would refuse the lists of all.
    """
    try:
        return list(importlib.metadata.entry_points(group=group))
    except Exception:  # noqa: BLE001 (files of others: which is damaged is found out below)
        found: list[EntryPoint] = []
    for package in importlib.metadata.distributions():
        try:
            found += [point for point in package.entry_points if point.group == group and point not in found]
        except Exception as error:  # noqa: BLE001 (named)
            _name_damaged(str(getattr(package, "_path", "an installed package")), " ".join(str(error).split()))
    return found


@cache
def _name_damaged(where: str, reason: str) -> None:
    log.warning("%s: its entry points cannot be read (%s); %s", where, reason, REPAIR)


def package_of(point: EntryPoint) -> str:
    """Name and version of the package that offers something, as far as its metadata can be read."""
    try:
        return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown package"
    except Exception:  # noqa: BLE001 (files of others)
        return "a package with damaged metadata"


def loaded(kind: str, name: str, load: Callable[[], Any]) -> Any:
    """What `load` imports; raises BenchError in one line, naming the `kind` and `name`, on whatever it raises."""
    with foreign(f"the {kind} {name} cannot be imported", REPAIR):
        return load()


def unguarded(what: str) -> AbstractContextManager[None]:
    """The guard of the suite's own code: none."""
    return nullcontext()


@contextmanager
def foreign(what: str, todo: str, package: str = "") -> Iterator[None]:
    """Turn whatever code of others raises inside into one line: `what`, the error, and where `package` raised it."""
    try:
        yield
    except (BenchError, RunFailed):
        raise
    except (Exception, SystemExit) as error:
        raise BenchError(f"{what} ({described(error, package)})", todo) from error


def described(error: BaseException, package: str = "") -> str:
    """`KeyError: 'x', models.py:12`: an error with the last line of `package` that led to it, else of whatever code is
    not ours, torch's or importlib's; without a line where there is none.
    """
    ours = [_home(sys.modules.get(name)) for name in ("fgmae_bench", "torch", "importlib")]
    lines = [(Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    others = [
        (path, line)
        for path, line in lines
        if not path.name.startswith("<") and not any(home is not None and path.is_relative_to(home) for home in ours)
    ]
    home = _home(sys.modules.get(package.partition(".")[0]))
    own = [(path, line) for path, line in others if home is not None and path.is_relative_to(home)]
    text = " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(": ")
    return text + "".join(f", {_shown(path)}:{line}" for path, line in (own or others)[-1:])


def _home(module: ModuleType | None) -> Path | None:
    """The folder of a package, the file of a module."""
    file = getattr(module, "__file__", None)
    if file is None:
        return None
    return Path(file).parent if Path(file).name == "__init__.py" else Path(file)


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
