"""The floors of the design, read from the folders: a room imports from its own floor's order and below, never from above.

A room is a file or a folder at the top of the package; the root of the package holds the version and counts as none.
"""

import ast
import graphlib
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "fgmae_bench"

# Rooms from the bottom to the top; those of one line may import one another, in no circle. A new room gets its word here.
FLOORS = (
    "errors system config metrics records",  # 0: facts
    "report",  # beside the house: reads facts alone
    "frame",  # records for notebooks
    "views",  # 1
    "hub",
    "data",
    "checkpoints",
    "models",
    "features",
    "runs",  # 2: engines
    "probe train worlds suite",
    "command linear finetune segment ablate stress text prepare weights api board",  # 3: entries; a package's __main__ too
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
FACTS, ENTRIES = 0, len(FLOORS) - 1
HEAVY = {"torch", "timm", "torchvision", "torchmetrics", "torchgeo"}


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(name):
    return name.split(".")[1] if "." in name else ""


def floor(name):
    return ENTRIES if name.endswith(".__main__") else FLOOR.get(room(name), ENTRIES)


def imports(source, module_level_only=False):
    """Absolute names of everything imported, inside functions too unless `module_level_only`.

    Of `from a import b`, a.b where that is a module of ours, else a.
    """
    found, pending = set(), list(ast.parse(source).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {full for alias in node.names if (full := f"{node.module}.{alias.name}") in MODULES} or {
                node.module
            }
        elif (module_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)) or (
            module_level_only and isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        ):
            continue
        pending += list(ast.iter_child_nodes(node))
    return found


@cache
def sources():
    return {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}


@cache
def all_imports():
    return {name: imports(source) for name, source in sources().items()}


@cache
def ours():
    """Of the imports of each module those of this package."""
    return {
        name: {other for other in found if other.startswith("fgmae_bench.")} for name, found in all_imports().items()
    }


def test_the_reader_of_imports_sees_what_it_must():
    """Control: an import of each kind."""
    source = """
import torch.nn as nn, json
from fgmae_bench.metrics import single_label
from fgmae_bench.config.cards import Card
if TYPE_CHECKING:
    import timm
try:
    import cv2
except ImportError:
    pass
class A:
    import lmdb
    def f(self):
        import h5py
def g():
    from fgmae_bench.features.extract import Bank
"""
    outside = {"torch.nn", "json", "fgmae_bench.metrics.single_label", "fgmae_bench.config.cards", "cv2", "lmdb"}
    assert imports(source, module_level_only=True) == outside
    assert imports(source) == outside | {"timm", "h5py", "fgmae_bench.features.extract"}


def test_every_room_has_a_floor_and_every_name_a_room():
    found = {room(name) for name in MODULES} - {"", "__main__"}
    assert found == set(FLOOR), "give a new room its word in FLOORS; strike one that is gone"


def test_no_module_imports_from_above():
    above = [
        f"{name} imports {other}"
        for name, found in ours().items()
        for other in found
        if floor(other) > floor(name) or (other.endswith(".__main__") and other != name)
    ]
    assert not above


def test_facts_and_the_report_know_nothing_but_facts_and_no_torch():
    """`system` may name torch inside functions, where a process needs its device and its place among others."""
    for name in (name for name in MODULES if floor(name) == FACTS or room(name) == "report"):
        assert {other for other in ours()[name] if floor(other) != FACTS and room(other) != room(name)} == set(), name
        found = imports(sources()[name], module_level_only=True) if room(name) == "system" else all_imports()[name]
        assert {item for item in found if item.split(".")[0] in HEAVY} == set(), name


def test_imports_have_no_circle_neither_of_modules_nor_of_rooms():
    """`prepare` raises CycleError with the circle."""
    rooms = defaultdict(set)
    for name, found in ours().items():
        rooms[room(name)] |= {room(other) for other in found} - {room(name)}
    assert rooms["probe"] >= {"runs", "config"}  # control: arrows are seen
    for graph in ({name: found & set(MODULES) for name, found in ours().items()}, rooms):
        graphlib.TopologicalSorter(graph).prepare()


def test_facts_the_report_and_the_doors_load_without_torch():
    """What the imports say, held against what Python loads."""
    quick = [name for name in MODULES if floor(name) == FACTS or room(name) == "report" or name.endswith("__main__")]
    names = [*quick, *(f"fgmae_bench.{door}" for door in ("command", "linear", "finetune", "segment"))]
    code = f"import sys\nfor name in {names!r}: __import__(name)\nprint(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_card_folder_is_no_package():
    """A package named `datasets` would shadow the well-known library."""
    assert not list((PACKAGE.parent / "datasets").rglob("*.py"))
