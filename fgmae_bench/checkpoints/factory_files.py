"""The files that the code of a factory is in: its module or package, and modules of the user's that it imports."""

from __future__ import annotations

import ast
import importlib.machinery
import sysconfig
from collections.abc import Iterator
from pathlib import Path

MOST_FILES = 2000  # of Python that are looked into for what they import
INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
OWN = Path(__file__).resolve().parents[1]


def factory_files(module: str) -> list[Path]:
    """Places of the top-level module or package of a factory and, after it, of all that it imports and that is not
    installed, sorted. Nothing is imported; [] where the module cannot be found.
    """
    first = module.partition(".")[0]
    found: dict[str, list[Path]] = {first: _places(first)}
    pending, looked_into = [first], 0
    while pending and looked_into < MOST_FILES:
        for file in _python_files(found[pending.pop()]):
            looked_into += 1
            for name in sorted(_imports(file) - found.keys()):
                found[name] = [place for place in _places(name) if not _is_installed(place)]
                pending.append(name)
    return found.pop(first) + sorted({place for places in found.values() for place in places})


def _places(name: str) -> list[Path]:
    """Folders of a top-level package, or the file of a module; [] where it is built in or absent."""
    spec = importlib.machinery.PathFinder.find_spec(name)
    if spec is None:
        return []
    return [Path(place) for place in spec.submodule_search_locations or [spec.origin or ""] if place]


def _is_installed(place: Path) -> bool:
    resolved = place.resolve()
    return any(resolved.is_relative_to(folder) for folder in (*INSTALLED, OWN))


def _python_files(places: list[Path]) -> Iterator[Path]:
    """The Python files of a package or module of the user's; none of one that is installed."""
    for place in places:
        if not _is_installed(place):
            yield from sorted(place.rglob("*.py")) if place.is_dir() else [place]


def _imports(file: Path) -> set[str]:
    """Top-level names that a file imports, in functions too; none of a file that is not Python."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level
    ]
    return {name.partition(".")[0] for name in names}
