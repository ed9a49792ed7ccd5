"""Command-line flags made from the fields of a module's dataclasses; only flags that were given are returned."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
import types
import typing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from fgmae_bench.config.compose import read_config
from fgmae_bench.config.run import sections
from fgmae_bench.config.strict import plain_path
from fgmae_bench.errors import BenchError, closest
from fgmae_bench.system.endpoint import hub_endpoint


class Parser(argparse.ArgumentParser):
    """argparse with errors as one BenchError line, and the closest known flag for an unknown one."""

    def __init__(self, prog: str, description: str | None, *, argument_default: Any = None):
        """`description` is printed as it is written, and no flag can be shortened."""
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argument_default,
        )

    def add_path(self, name: str, default: str | None, text: str) -> None:
        """A flag whose value is a path; `text` is its help."""
        self.add_argument(
            *spellings(name), dest=name, type=Path, default=default and Path(default), metavar="PATH", help=text
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing usage and exiting."""
        raise BenchError(f"{self.prog.split('.')[-1]}: {message}", "see --help")

    def parse(self, argv: list[str]) -> dict[str, Any]:
        """Parse `argv`; a dict of the flags that were given."""
        known, rest = self.parse_known_args(argv)
        if rest:
            shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
            flags = {name for action in shown for name in action.option_strings if "-" not in name[2:]} - {
                "-h",
                "--help",
            }
            if not rest[0].startswith("--"):
                raise BenchError(f"unexpected argument '{rest[0]}'", "see --help")
            raise BenchError(
                f"unknown flag '{rest[0]}'",
                closest(rest[0].split("=")[0].replace("-", "_").replace("__", "--", 1), flags)
                if flags
                else "it has none; see --help",
            )
        return {name: plain_path(value, f"--{name}") for name, value in vars(known).items()}


def dispatch(
    package: str, commands: dict[str, str], doc: str, say: Callable[[str], object], argv: list[str] | None = None
) -> None:
    """Hand a command line, the process's own unless given, to one of a package's commands: modules with `add_flags` and
    `main`.

    `commands` maps names to what they do. Raises BenchError on an unknown command.
    """
    argv = sys.argv[1:] if argv is None else argv
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        lines = "\n".join(f"  {command:<9} {text}" for command, text in commands.items())
        say(f"{doc}\ncommands (each has its own --help):\n{lines}")
        return
    if name not in commands:
        raise BenchError(f"unknown command '{name}'", closest(name, commands))
    try:
        command = importlib.import_module(f"{package}.{name}")
        parser = Parser(f"{package} {name}", command.__doc__, argument_default=argparse.SUPPRESS)
        command.add_flags(parser)
        command.main(parser.parse(argv[1:]))
    except ValueError:
        hub_endpoint()  # a malformed one ends timm's imports so
        raise


def spellings(name: str) -> list[str]:
    """`--snake_case` and `--kebab-case`, without repeats."""
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))


def module_parser(module: str, description: str, ignored: tuple[str, ...] = ()) -> Parser:
    """The parser of a module's flags, in the groups data, model, recipe and execution, and `--config`.

    `ignored` names flags of published command lines that mean nothing here: accepted, returned under `ignored_flags`.
    """
    parser = Parser(f"fgmae_bench.{module}", description, argument_default=argparse.SUPPRESS)
    for part, kind in sections(module).items():
        group = parser.add_argument_group(part)
        add_fields(group, kind)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=(
            "read flags from a config.toml; the command line stands above it, and a run that it changes goes to "
            "its own folder"
        ),
    )
    for flag in ignored:
        parser.add_argument(
            *spellings(flag), dest="ignored_flags", action=_Ignored, flag=flag, nargs="?", help=argparse.SUPPRESS
        )
    return parser


def add_fields(group: Any, kind: type) -> None:
    """Add one flag for each field of the dataclass `kind`."""
    hints = typing.get_type_hints(kind)
    for f in dataclasses.fields(kind):
        names = [spelling for name in (f.name, *f.metadata["aliases"]) for spelling in spellings(name)]
        shown = f.metadata["shown"] or ("required" if f.default is dataclasses.MISSING else str(f.default))
        text = (
            f"{f.metadata['help']} (default: {shown})".replace("%", "%%")
            if shown != "required"
            else f.metadata["help"] + " (required)"
        )
        hint = _plain(hints[f.name])
        if hint is bool:
            group.add_argument(*names, dest=f.name, action="store_true", help=text + f"; --no_{f.name} for not")
            group.add_argument(*spellings(f"no_{f.name}"), dest=f.name, action="store_false", help=argparse.SUPPRESS)
        elif get_origin(hint) is Literal:
            group.add_argument(*names, dest=f.name, metavar="{" + ",".join(get_args(hint)) + "}", help=text)
        else:
            several = get_origin(hint) is tuple
            words = _words(hints[f.name])
            many = "+" if f.metadata["grid"] or several else None
            group.add_argument(
                *names,
                dest=f.name,
                type=get_args(hint)[0] if several else partial(_word_or, hint, words) if words else hint,
                nargs=many,
                metavar=f.name.upper(),
                help=text,
            )


def parse_run(
    module: str, description: str, argv: list[str], ignored: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """(given, config, ignored flags) of a command line; `given` holds only what was typed."""
    given = module_parser(module, description, ignored).parse(argv)
    skipped = tuple(given.pop("ignored_flags", ()))
    config = read_config(Path(given.pop("config")), module) if "config" in given else {}
    if "dataset" not in {**config, **given}:
        raise BenchError("--dataset is missing", "name a dataset, for example --dataset eurosat")
    return given, config, skipped


def _plain(hint: Any) -> Any:
    """X of `X | None`."""
    if get_origin(hint) in (typing.Union, types.UnionType):
        return next(option for option in get_args(hint) if option is not type(None))
    return hint


def _words(hint: Any) -> tuple[str, ...]:
    """The words of `int | Literal[...]`, which may stand instead of a number."""
    parts = get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else ()
    return tuple(word for part in parts if get_origin(part) is Literal for word in get_args(part))


def _word_or(kind: type, words: tuple[str, ...], text: str) -> Any:
    """A word as it is, anything else as `kind`; raises as argparse expects it."""
    try:
        return text if text in words else kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor {' or '.join(words)}") from None


class _Ignored(argparse.Action):
    """Collects the names of accepted flags that mean nothing here."""

    def __init__(self, *args: Any, flag: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.flag = flag

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Remember the flag."""
        namespace.ignored_flags = (*getattr(namespace, "ignored_flags", ()), self.flag)
