"""The list of checkpoints that a long job needs: one a line, a name or a path, then what is known of it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from fgmae_bench.checkpoints.registry import Published, by_file, published, registered
from fgmae_bench.checksums import is_sha256
from fgmae_bench.errors import BenchError, closest

FORM = "give a registered name or a path, then model=NAME and sha256=HEX where they are known"


@dataclass(frozen=True, kw_only=True)
class Required:
    """One checkpoint: `entry` where the manifest knows it, `path` where the list names a file."""

    text: str
    path: Path | None
    model: str | None
    sha256: str | None
    entry: Published | None


def read_required(path: Path) -> list[Required]:
    """The items of a list; raises BenchError naming file and line on what is neither a known name nor a path."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} cannot be read ({getattr(error, 'strerror', None) or 'no text'})", "give a text file") from error
    items = []
    for number, line in enumerate(lines, 1):
        try:
            parts = shlex.split(line, comments=True)
        except ValueError as error:
            raise BenchError(f"{path}:{number}: {error}", FORM) from error
        if parts:
            items.append(_item(parts, f"{path}:{number}: "))
    if not items:
        raise BenchError(f"{path} names no checkpoint", FORM)
    return items


def required(name: str, model: str | None, sha256: str | None = None, where: str = "") -> Required:
    """One checkpoint by name or path; raises BenchError, its text led by `where`, on an unknown name."""
    known = registered()
    if name in known:
        models = known[name]
        if model is None and len(models) > 1:
            raise BenchError(f"{where}{name} is for several models", f"add the model: {', '.join(sorted(models))}")
        entry = published(name, model or next(iter(models)))
        return Required(text=f"{name} {entry.entry.model}", path=None, model=entry.entry.model, sha256=sha256, entry=entry)
    path = Path(name).expanduser()
    if not path.exists() and not path.suffix and "/" not in name:
        raise BenchError(f"{where}'{name}' is neither known weights nor a file", closest(name, known))
    known_file = by_file(path)
    return Required(text=name, path=path, model=model or (known_file.entry.model if known_file else None), sha256=sha256, entry=known_file)


def _item(parts: list[str], where: str) -> Required:
    facts: dict[str, str] = {}
    for part in parts[1:]:
        key, equals, value = part.partition("=")
        if key not in ("model", "sha256") or not equals or not value:
            raise BenchError(f"{where}'{part}' is no fact of a checkpoint", FORM)
        facts[key] = value
    if "sha256" in facts and not is_sha256(facts["sha256"]):
        raise BenchError(f"{where}sha256 is '{facts['sha256']}'", "give 64 lower-case hex digits")
    return required(parts[0], facts.get("model"), facts.get("sha256"), where)
