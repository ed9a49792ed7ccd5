"""What can be run, a line each, and what other installed packages add.

python -m fgmae_bench

Expected: every module, then the three groups of entry points. Nothing of another package is imported for it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from fgmae_bench.config.encoders import ENCODERS
from fgmae_bench.config.encoders import GROUP as ENCODERS_GROUP
from fgmae_bench.config.flags import Parser
from fgmae_bench.config.names import HEADS_GROUP, SHIPPED_HEADS
from fgmae_bench.config.plugins import entry_points, package_of
from fgmae_bench.errors import printable, run_entry

ROOT = Path(__file__).parent
# Layouts are named in a room that needs numpy and more: here by their words alone; a test holds both together.
DATASETS_GROUP = "fgmae_bench.datasets"
SHIPPED_LAYOUTS = (
    "bigearthnet_v1",
    "bigearthnet_v2",
    "class_folders",
    "paired_folders",
    "rois",
    "rois_scenes",
    "sample_folders",
    "table",
    "zarr",
)
GROUPS = {
    DATASETS_GROUP: ("layouts that a card may name", SHIPPED_LAYOUTS),
    ENCODERS_GROUP: ("encoders for --model", tuple(ENCODERS)),
    HEADS_GROUP: ("decode heads for segment --head", SHIPPED_HEADS),
}


def modules() -> dict[str, str]:
    """Name of each module that runs -> the first line of its docstring, in order of name."""
    files = {path.stem: path for path in ROOT.glob("*.py") if not path.stem.startswith("__")}
    files |= {path.parent.name: path for path in ROOT.glob("*/__main__.py")}
    found = {}
    for name, path in sorted(files.items()):
        text = path.read_text(encoding="utf-8")
        if 'if __name__ == "__main__":' in text:
            found[name] = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].replace("\n", " ")
    return found


def added(group: str, shipped: tuple[str, ...]) -> Iterator[str]:
    """A line for each entry point of a group: its name, package, code, and whether its name is taken."""
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        taken = "  (refused: the suite has one of that name)" if point.name in shipped else ""
        yield f"  {point.name:<20} {package_of(point)}, {point.value}{taken}"


def main() -> None:
    """Print the list."""
    Parser("fgmae_bench", __doc__).parse(sys.argv[1:])
    lines = ["python -m fgmae_bench.MODULE   (each has its own --help)", ""]
    lines += [f"  {name:<10} {line}" for name, line in modules().items()]
    lines += ["", "What installed packages add, by group of entry points:"]
    for group, (words, shipped) in GROUPS.items():
        lines += ["", f"{group}: {words}; {len(shipped)} are shipped"]
        lines += list(added(group, shipped)) or ["  none"]
    sys.stdout.write(printable("\n".join(lines)) + "\n")


if __name__ == "__main__":
    run_entry(main)
