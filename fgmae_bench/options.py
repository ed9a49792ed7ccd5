"""Fields that are also flags: the one helper that gives a dataclass field its help, its spellings and how its default is shown."""

from __future__ import annotations

import dataclasses
from typing import Any


def option(text: str, default: Any = dataclasses.MISSING, *, aliases: tuple[str, ...] = (), shown: str = "", grid: bool = False) -> Any:
    """A field that is also a flag: help `text` with its unit, other spellings, the default as `shown`, several values if `grid`."""
    return dataclasses.field(default=default, metadata={"help": text, "aliases": aliases, "shown": shown, "grid": grid})
