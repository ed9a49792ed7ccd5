"""Change the arithmetic of the package in one place at a time: the quick tests of that room must notice each change.

  python experiments/robustness/mutants.py [--jobs 2] [--only views] [--again]
The changes are in `mutants.toml`, each a file or folder of the package, a snippet of its source that stands there once,
the replacement, and the tests that are to fail. Expected: all of those that change a result are killed (at least 95 %
are wanted), and nothing is stale. Results are kept and used again while mutated file and tests stay as they are. About
a second of processor time each. Exit code 1 where fewer are killed, 2 where a snippet is stale or the tests fail
without any change.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import hashlib
import importlib
import json
import os
import py_compile
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutants.toml")
KEPT = Path(tempfile.gettempdir()) / f"fgmae-bench-mutants-{os.getuid()}.json"
WANTED = 0.95
FEW = 10  # mutants for which compiling the whole package takes longer than it saves
# What tests import and no mutant changes: loaded once, then forked.
PRELOADED = """
numpy cv2 scipy.stats scipy.special torch torch.distributed timm timm.data torchmetrics torchvision rasterio
rasterio.warp sklearn.metrics sklearn.linear_model sklearn.model_selection sklearn.neighbors jsonschema fastjsonschema
pyarrow pandas tomli_w safetensors.torch safetensors.numpy lmdb psutil tqdm pytest _pytest.assertion.rewrite
"""


Suite = tuple[tuple[str, ...], str]  # (test files, words of tests that are left out)
Job = tuple[str, Suite, Path | None, str]  # (name, tests, file to change, its mutated source)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """`old` in the file or folder `place` becomes `new`; `same` says why no result changes, where none does."""

    place: str
    old: str
    new: str
    tests: tuple[str, ...]
    skip: str = ""  # words of test names to leave out: tests of several processes that say nothing on arithmetic
    same: str = ""

    @property
    def suite(self) -> Suite:
        """What distinguishes its tests from those of other rooms."""
        return self.tests, self.skip

    @property
    def name(self) -> str:
        """One line that distinguishes it from the others."""
        return f"{self.place}: {' '.join(self.old.split())} -> {' '.join(self.new.split()) or '(nothing)'}"


def read_mutants(path: Path = LIST) -> list[Mutant]:
    """The mutants of a list, in its order."""
    rooms = tomllib.loads(path.read_text(encoding="utf-8"))["room"]
    return [
        Mutant(
            place=room["place"],
            old=old,
            new=new,
            tests=tuple(room["tests"]),
            skip=room.get("skip", ""),
            same="".join(same),
        )
        for room in rooms
        for old, new, *same in room["mutants"]
    ]


def find(mutant: Mutant, root: Path = ROOT) -> tuple[Path, str] | str:
    """(file below the package, its mutated source), or why the mutant is stale."""
    place = root / "fgmae_bench" / mutant.place
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.is_file() else []
    if not files:
        return f"{place.relative_to(root)} is absent"
    sources = {path: path.read_text(encoding="utf-8") for path in files}
    count = sum(source.count(mutant.old) for source in sources.values())
    if count != 1:
        return f"stands there {count} times"
    if absent := [name for name in mutant.tests if not (root / "tests" / name).is_file()]:
        return f"tests/{absent[0]} is absent"
    path = next(path for path, source in sources.items() if mutant.old in source)
    mutated = sources[path].replace(mutant.old, mutant.new)
    try:
        compile(mutated, str(path), "exec")
    except SyntaxError as error:
        return f"is not Python ({error})"
    return path.relative_to(root), mutated


def digest(*parts: str) -> str:
    """What a result is kept under, or was found with."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def tests_digest(names: Iterable[str]) -> str:
    """The text of test files."""
    return digest(*((ROOT / "tests" / name).read_text(encoding="utf-8") for name in names))


def still_holds(mutant: Mutant, result: list[str] | None) -> bool:
    """Whether a kept result is of the tests as they are: for a killed mutant of the test file that killed it."""
    if result is None:
        return False
    word, test, of = result
    killer = test.partition("::")[0].rpartition("/")[2]
    relevant = (killer,) if word == "killed" and killer in mutant.tests else mutant.tests
    return of == tests_digest(relevant)


def copy_checkout(place: Path, compiled: bool) -> Path:
    """A checkout with a package of its own, `compiled` where many mutants are to come; the rest is linked."""
    copy = place / "checkout"
    copy.mkdir(parents=True)
    skipped = shutil.ignore_patterns("__pycache__")
    for entry in ROOT.iterdir():
        if entry.name in ("fgmae_bench", "tests"):
            shutil.copytree(entry, copy / entry.name, ignore=skipped, symlinks=True)
        elif not entry.name.startswith("."):
            (copy / entry.name).symlink_to(entry)
    if (ROOT.parent / "shared").exists():
        (place / "shared").symlink_to(ROOT.parent / "shared")
    # checked by content: a mutant of the same length, made in the same second, must not run as the original
    if compiled:
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(copy / "fgmae_bench", quiet=1, invalidation_mode=mode)
    return copy


class FirstFailure:
    """A plugin of pytest that remembers the first test that failed."""

    name = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called after each phase of each test."""
        if report.failed and not self.name:
            self.name = report.nodeid


def run_tests(copy: Path, suite: Suite, output: Path) -> None:
    """In a child process: the quick tests on the copy, then the end of the process; `output` says how they went."""
    import pytest

    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    stream = os.open(output.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(copy), str(copy / "tests")])
    sys.path[:0] = [str(copy), str(copy / "tests")]
    sys.dont_write_bytecode = True
    first = FirstFailure()
    flags = ["-x", "-m", "not slow", "-p", "no:xdist", "-p", "no:cacheprovider", f"--basetemp={copy.parent / 'tmp'}"]
    tests, skip = suite
    flags += ["-k", f"not ({skip})"] if skip else []
    code = pytest.main([*flags, *(str(copy / "tests" / name) for name in tests)], plugins=[first])
    output.write_text(json.dumps([int(code), first.name]), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


def verdict(output: Path) -> tuple[str, str]:
    """(killed, survived or error, the test that killed it) of a child that has ended."""
    if not output.exists():
        return "killed", "the process ended"
    code, test = json.loads(output.read_text(encoding="utf-8"))
    # 1: a test failed, 2: a test file could not be imported; others say nothing on the mutant
    return {0: "survived", 1: "killed", 2: "killed"}.get(code, "error"), test


class Slot:
    """One copy of the checkout and the child that runs on it."""

    def __init__(self, place: Path, compiled: bool):
        self.copy, self.output = copy_checkout(place, compiled), place / "result.json"
        self.pid, self.started = 0, 0.0
        self.original: tuple[Path, str] | None = None  # the mutated file as it was

    def start(self, suite: Suite, path: Path | None = None, mutated: str = "") -> None:
        """Fork a child that runs tests, on a mutated file where one is given."""
        self.output.unlink(missing_ok=True)
        if path is not None:
            target = self.copy / path
            self.original = target, target.read_text(encoding="utf-8")
            target.write_text(mutated, encoding="utf-8")
        self.started, self.pid = time.monotonic(), os.fork()
        if self.pid == 0:
            try:
                run_tests(self.copy, suite, self.output)
            finally:
                os._exit(1)

    def poll(self, timeout: float) -> tuple[str, str] | None:
        """The verdict of a child that has ended or taken too long, else None."""
        late = time.monotonic() - self.started > timeout
        if late:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        done, _ = os.waitpid(self.pid, 0 if late else os.WNOHANG)
        if not done:
            return None
        if self.original is not None:
            self.original[0].write_text(self.original[1], encoding="utf-8")
        self.original = None
        return ("timeout", "") if late else verdict(self.output)


def run_all(jobs: list[Job], slots: list[Slot], timeout: float) -> Iterator[tuple[str, str, str]]:
    """Yield (name, verdict, test) of each job as it ends, and print them."""
    waiting = list(reversed(jobs))
    running: dict[int, str] = {}
    while waiting or running:
        for i, slot in enumerate(slots):
            if i in running:
                found = slot.poll(timeout)
                if found is not None:
                    name, (word, test), seconds = running.pop(i), found, time.monotonic() - slot.started
                    print(f"{word:<9}{seconds:6.1f} s  {name}{f'  [{test}]' if test else ''}", flush=True)
                    yield name, word, test
            if i not in running and waiting:
                running[i], suite, path, mutated = waiting.pop()
                slot.start(suite, path, mutated)
        time.sleep(0.05)


def load_kept(path: Path) -> dict[str, Any]:
    """Results of earlier runs by digest."""
    try:
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept


def keep(path: Path, kept: dict[str, Any]) -> None:
    """Write the results by rename."""
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def broken_suites(todo: list[Mutant], slots: list[Slot], timeout: float, kept: dict[str, Any]) -> set[Suite]:
    """Tests that fail without any mutant; those that pass are kept in `kept` for this state of package and tests."""
    package = digest(*(path.read_text(encoding="utf-8") for path in sorted((ROOT / "fgmae_bench").rglob("*.py"))))
    suites = {" ".join(mutant.tests): mutant.suite for mutant in todo}
    states = {name: digest(package, tests_digest(suite[0]), suite[1]) for name, suite in suites.items()}
    jobs: list[Job] = [(name, suite, None, "") for name, suite in suites.items() if states[name] not in kept]
    broken = set()
    for name, word, _ in run_all(jobs, slots, timeout):
        if word == "survived":
            kept[states[name]] = ["survived", "", ""]
        else:
            broken.add(suites[name])
    return broken


def summary(mutants: list[Mutant], results: dict[str, Any]) -> tuple[list[str], bool]:
    """(lines on what survived and the totals, whether enough were killed)."""
    words = Counter(results[mutant.name][0] for mutant in mutants)
    lines, changing = [], [mutant for mutant in mutants if not mutant.same]
    for mutant in mutants:
        word = results[mutant.name][0]
        if word not in ("killed", "timeout"):
            lines.append(f"{word}: {mutant.name}" + (f"\n    equivalent: {mutant.same}" if mutant.same else ""))
        elif mutant.same:
            lines.append(f"{word}, though called equivalent: {mutant.name}")
    killed = sum(results[mutant.name][0] in ("killed", "timeout") for mutant in changing)
    share = killed / max(1, len(changing))
    lines.append(", ".join(f"{count} {word}" for word, count in sorted(words.items())) + f" of {len(mutants)}")
    lines.append(f"{killed} of {len(changing)} that change a result are killed: {share:.1%} (wanted {WANTED:.0%})")
    return lines, share >= WANTED


def run_mutants(todo: list[Mutant], found: dict[str, Any], kept: dict[str, Any], options: Any) -> set[Suite]:
    """Run what is to be done, keep the results, and return the tests that fail without a mutant."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for module in PRELOADED.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        slots = [Slot(Path(folder) / str(i), len(todo) > FEW) for i in range(options.jobs)]
        broken = broken_suites(todo, slots, options.timeout, kept)
        of = {mutant.name: mutant for mutant in todo if mutant.suite not in broken}
        for name, word, test in run_all([(name, of[name].suite, *found[name]) for name in of], slots, options.timeout):
            killer = test.partition("::")[0].rpartition("/")[2]
            tests = (killer,) if word == "killed" and killer in of[name].tests else of[name].tests
            kept[digest(*map(str, found[name]))] = [word, test, tests_digest(tests)]
            keep(options.kept, kept)
    return broken


def main(argv: list[str] | None = None) -> int:
    """Run the list; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--only", default="", help="those whose line contains this text")
    parser.add_argument("--list", type=Path, default=LIST, help="another list of mutants")
    parser.add_argument("--timeout", type=float, default=600, help="seconds after which tests count as hanging")
    parser.add_argument(
        "--kept", type=Path, default=KEPT, help="file of results that are used again (default: %(default)s)"
    )
    parser.add_argument("--again", action="store_true", help="use no results of earlier runs")
    parser.add_argument("--check", action="store_true", help="look for stale snippets and run nothing")
    options = parser.parse_args(argv)
    mutants = [mutant for mutant in read_mutants(options.list) if options.only in mutant.name]
    found = {mutant.name: find(mutant) for mutant in mutants}
    stale = [f"stale: {name}: {place}" for name, place in found.items() if isinstance(place, str)]
    if stale or options.check:
        print("\n".join([*stale, f"{len(mutants)} mutants, {len(stale)} stale"]))
        return 2 if stale else 0
    digests = {name: digest(*map(str, place)) for name, place in found.items()}
    kept = {} if options.again else load_kept(options.kept)
    todo = [mutant for mutant in mutants if not still_holds(mutant, kept.get(digests[mutant.name]))]
    broken = run_mutants(todo, found, kept, options) if todo else set()
    if broken:
        print("\n".join(f"fails without a mutant: {' '.join(tests)}" for tests, _ in sorted(broken)))
        return 2
    lines, enough = summary(mutants, {mutant.name: kept[digests[mutant.name]] for mutant in mutants})
    print("\n".join(lines))
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
