"""The flags of `suite plan`, `run` and `status`, and what they make of the experiment files."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from pathlib import Path
from typing import Any

from fgmae_bench.config.experiments import flag_types, load_experiment
from fgmae_bench.config.flags import spellings
from fgmae_bench.config.strict import convert
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.suite.command import Command
from fgmae_bench.suite.expand import expand


def add_common(parser: argparse.ArgumentParser) -> None:
    """What all three commands take."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="experiment files")
    add(parser, "results_dir", "FOLDER", "folder of the records (default: the files' own, else results)")
    add(
        parser,
        "cache_dir",
        "FOLDER",
        "folder of indexes and feature banks (default: the files' own, else each module's)",
    )
    text = "a flag for every run: of execution, such as data_path=DIR, or a model or weights that the file leaves open"
    parser.add_argument("--set", action="append", metavar="FLAG=VALUE", help=text)
    text = "only runs whose '<file>: <label>' contains or matches this; may be given several times (default: all)"
    parser.add_argument("--only", action="append", metavar="PATTERN", help=text)


def add(parser: argparse.ArgumentParser, name: str, metavar: str, text: str, kind: Any = str) -> None:
    """One flag in both spellings; what is not typed stays absent."""
    parser.add_argument(*spellings(name), dest=name, type=kind, metavar=metavar, help=text)


def commands_of(given: dict[str, Any]) -> list[Command]:
    """The commands that the command line means; every file, flag and column is checked."""
    paths = list(dict.fromkeys(given["files"]))
    experiments = [load_experiment(path) for path in paths]
    names = [path.stem for path in paths]
    for path in paths:
        if names.count(path.stem) > 1:
            raise BenchError(f"{path}: two files are named {path.name}", "rename one: the name is the table's")
    commands = expand(experiments, _overrides(given, [experiment.module for experiment in experiments]))
    return _only(commands, given.get("only"))


def say(text: str) -> None:
    """One line on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _overrides(given: dict[str, Any], modules: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {name: given[name] for name in ("results_dir", "cache_dir") if name in given}
    for pair in given.get("set", []):
        name, equals, text = pair.partition("=")
        if not equals:
            raise BenchError(f"--set {pair} is not FLAG=VALUE", "give for example --set num_workers=4")
        hints = flag_types(modules[0])
        if name not in hints:
            raise BenchError(f"--set {name}: unknown flag", closest(name, hints))
        found[name] = _value(hints[name], text, f"--set {name}")
    return found


def _value(hint: Any, text: str, where: str) -> Any:
    """The text as the flag's type: the first reading that fits."""
    readings: list[Any] = [text]
    if text in ("true", "false"):
        readings.insert(0, text == "true")
    for number in (float, int):
        try:
            readings.insert(0, number(text))
        except ValueError:
            continue
    problem: BenchError | None = None
    for reading in readings:
        try:
            return convert(hint, reading, where)
        except BenchError as error:
            problem = error
    raise problem or BenchError(f"{where}: {text}", "correct it")


def _only(commands: list[Command], patterns: list[str] | None) -> list[Command]:
    if not patterns:
        return commands
    kept = [
        c for c in commands if any(pattern in c.title or fnmatch.fnmatchcase(c.title, pattern) for pattern in patterns)
    ]
    if not kept:
        titles = sorted({command.title for command in commands})
        raise BenchError(f"--only {' '.join(patterns)}: no run is named so", f"choose from {'; '.join(titles[:20])}")
    return kept
