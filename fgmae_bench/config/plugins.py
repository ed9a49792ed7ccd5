"""Code of other packages, which entry points name: imported under one guard, since it may raise anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fgmae_bench.errors import BenchError


def loaded(kind: str, name: str, load: Callable[[], Any]) -> Any:
    """What `load` imports; raises BenchError in one line, naming the `kind` and `name`, on whatever it raises."""
    try:
        return load()
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise BenchError(
            f"the {kind} {name} cannot be imported ({reason})", "repair or uninstall its package"
        ) from error
