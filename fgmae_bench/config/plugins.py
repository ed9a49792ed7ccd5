"""Code of other packages, which entry points name: called under one guard, since it may raise anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fgmae_bench.errors import BenchError


def loaded(kind: str, name: str, load: Callable[[], Any]) -> Any:
    """What `load` imports; raises BenchError in one line, naming the `kind` and `name`, on whatever it raises."""
    return guarded(f"the {kind} {name} cannot be imported", load)


def guarded(problem: str, call: Callable[[], Any]) -> Any:
    """What `call` gives, which runs code of another package; raises BenchError of `problem` on whatever it raises."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise BenchError(f"{problem} ({reason})", "repair or uninstall its package") from error
