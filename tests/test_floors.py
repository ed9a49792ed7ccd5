"""The floors of the design, held by reading imports: a file imports from its own floor's order and below, never from
above.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "fgmae_bench"

# Rooms by floor, lowest first; a package stands for its modules unless they are named. A new room gets its line here.
FLOORS = {
    0: "errors files strict cards config contract experiments records scores randomness flags progress environment "
    "archive checksums hub hub_http locks scores_multilabel scores_segmentation intervals significance fast_schema options recipes "
    "label_schemes label_cards label_defects",
    1: "data views loader panels normalizers optim distributed device checkpoints extractors sync_bn taps segmentation_views sliding",
    2: "backbones heads",
    3: "features bank label_bank",
    4: "runs",
    5: "probe train worlds suite",
    6: "command linear finetune segment ablate api prepare weights report suite.__main__ suite.plan suite.run suite.status suite.flags",
}
LEVEL = {f"fgmae_bench.{room}": floor for floor, rooms in FLOORS.items() for room in rooms.split()}
ENTRIES = {"fgmae_bench.linear", "fgmae_bench.finetune", "fgmae_bench.segment", "fgmae_bench.ablate"}
HEAVY = {"torch", "timm", "torchvision", "torchmetrics"}


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def level(name):
    """Floor of a module: by its own name, else by that of the package around it."""
    while name not in LEVEL and "." in name:
        name = name.rpartition(".")[0]
    return LEVEL.get(name)


def imports(name, module_level_only=False):
    """Absolute names of everything that a module imports, inside functions too unless `module_level_only`."""
    return imports_of(MODULES[name].read_text(encoding="utf-8"), module_level_only)


def imports_of(source, module_level_only=False):
    """Of `from a import b`, a.b where that is a module of ours, else a."""
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
        elif module_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            pending += [child for child in node.body if isinstance(node, ast.ClassDef)]
            continue
        elif module_level_only and isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        pending += list(ast.iter_child_nodes(node))
    return found


def ours(names):
    return {name for name in names if name.startswith("fgmae_bench.")}


def is_entry(name):
    return name in ENTRIES or name.endswith(".__main__")


FLOOR_0 = sorted(name for name in MODULES if level(name) == 0)


def test_the_reader_of_imports_sees_what_it_must():
    """Control: an import of each kind."""
    source = """
import torch.nn as nn, json
from fgmae_bench import scores
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
    assert imports_of(source, module_level_only=True) == outside
    assert imports_of(source) == outside | {"timm", "h5py", "fgmae_bench.features.extract"}


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"fgmae_bench"}))
def test_every_module_has_a_floor(name):
    assert level(name) is not None, f"give {name} its floor in FLOORS"


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"fgmae_bench"}))
def test_no_module_imports_from_above(name):
    above = {
        other
        for other in ours(imports(name))
        if level(other) is not None and level(name) is not None and level(other) > level(name)
    }
    assert not above, f"{name} imports from above: {sorted(above)}"


@pytest.mark.parametrize("name", FLOOR_0)
def test_floor_0_imports_no_torch_and_nothing_above(name):
    found = imports(name, module_level_only=True)
    assert not {item for item in found if item.split(".")[0] in HEAVY}
    assert {item for item in ours(imports(name)) if level(item) != 0} == set()


def test_floor_0_is_complete():
    named = "errors files strict cards config contract experiments records scores randomness flags progress environment"
    assert {f"fgmae_bench.{name}" for name in named.split()} <= set(FLOOR_0)


@pytest.mark.parametrize("name", [name for name in MODULES if level(name) == 1])
def test_data_and_views_know_nothing_of_backbones_and_probes(name):
    banned = (
        "backbones",
        "heads",
        "upernet",
        "features",
        "probe",
        "train",
        "worlds",
        "suite",
        *(entry.split(".")[1] for entry in ENTRIES),
    )
    assert not {item for item in ours(imports(name)) if item.split(".")[1] in banned}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("fgmae_bench.report")])
def test_report_reads_facts_and_records_only(name):
    found = imports(name)
    assert not {item for item in found if item.split(".")[0] in HEAVY}
    assert {item for item in ours(found) if level(item) != 0 and not item.startswith("fgmae_bench.report")} == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nobody_imports_an_entry(name):
    assert not {item for item in imports(name) if is_entry(item) and item != name}


def test_floors_have_no_cycles():
    """Modules of one floor may import one another, but never in a ring."""
    done, open_ = set(), []

    def visit(name):
        assert name not in open_, f"ring: {' -> '.join([*open_[open_.index(name) :], name])}"
        if name in done:
            return
        open_.append(name)
        for other in sorted(ours(imports(name)) & set(MODULES)):
            visit(other)
        open_.pop()
        done.add(name)

    for name in MODULES:
        visit(name)


def test_floor_0_and_the_report_load_without_torch():
    """What the imports say, held against what Python loads."""
    names = [*FLOOR_0, "fgmae_bench.linear", *(name for name in MODULES if name.startswith("fgmae_bench.report."))]
    code = f"import sys\nfor name in {names!r}: __import__(name)\nprint(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_card_folder_is_no_package():
    """A package named `datasets` would shadow the well-known library."""
    assert not list((PACKAGE.parent / "datasets").rglob("*.py"))
