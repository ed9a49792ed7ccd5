"""The flags of a stress run, on top of those of `linear`."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass
from typing import Any

from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.views.stress_table import STRESSES, find_stress, require_severity


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which stresses (none named: all that the data allows), draws of those with chance in them, and their seed.

    `theta` is the incidence angle in degrees; None draws one for each acquisition. `severities` replaces the ladder of
    the one stress that is named. `train` are stresses, with severities, of views that the head is fitted on as well.
    With `null` the card of backscatter statistics is made too.
    """

    names: tuple[str, ...] = ()
    severities: tuple[float, ...] = ()
    draws: int = 3
    seed: int = 0
    theta: float | None = None
    train: tuple[tuple[str, float], ...] = ()
    null: bool = True

    def ladder(self, name: str) -> tuple[float, ...]:
        """The severities of a stress."""
        return self.severities or STRESSES[name].ladder


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which stresses are made."""
    group = parser.add_argument_group("stress")
    names = ", ".join(STRESSES)
    group.add_argument(
        "--entry",
        metavar="ENTRY",
        help="linear, finetune or segment: whose flags and run these are (default: by the dataset)",
    )
    group.add_argument("--stress", nargs="+", metavar="NAME", help=f"stresses: {names} (default: all that apply)")
    group.add_argument(
        "--severities", nargs="+", type=float, metavar="X", help="severities of the one stress that is named"
    )
    group.add_argument(
        "--train_stress",
        nargs="+",
        metavar="NAME:X",
        help="stressed views that the head is fitted on beside the clean images, such as offset:1 (default: none)",
    )
    group.add_argument(
        "--no_null",
        action="store_false",
        dest="null",
        help="leave out the card of backscatter statistics (default: made)",
    )
    group.add_argument("--draws", type=int, help="draws of stresses with chance in them, averaged (default: 3)")
    group.add_argument("--stress_seed", type=int, help="seed of the draws (default: 0)")
    group.add_argument(
        "--theta", type=float, help="incidence angle, degrees (default: one drawn for each acquisition, 30.5 to 45.5)"
    )


def options_of(given: dict[str, Any]) -> Options:
    """The options that flags state, taken out of `given`. Raises BenchError on unknown stresses and bad values."""
    names = tuple(given.pop("stress", ()))
    options = Options(
        names=names,
        severities=tuple(sorted(given.pop("severities", ()), key=lambda value: _position(names, value))),
        draws=given.pop("draws", Options.draws),
        seed=given.pop("stress_seed", Options.seed),
        theta=given.pop("theta", None),
        train=tuple(_training_view(text) for text in given.pop("train_stress", ())),
        null=given.pop("null", True),
    )
    for name in names:
        find_stress(name)
    if len(set(names)) != len(names):
        raise BenchError("--stress names one twice", "name each once")
    if options.severities and len(names) != 1:
        raise BenchError("--severities without one --stress", "name one stress")
    for severity in options.severities:
        require_severity(names[0], severity)
        if severity == STRESSES[names[0]].clean:
            raise BenchError(f"--severities {severity:g} changes nothing", "clean data is scored anyway: leave it out")
    if len(set(options.severities)) != len(options.severities):
        raise BenchError("--severities names one twice", "name each once")
    if options.draws < 1:
        raise BenchError(f"--draws {options.draws}", "give 1 or more")
    if options.theta is not None and not 0 < options.theta < 80:
        raise BenchError(f"--theta {options.theta:g}", "give an incidence angle in degrees, from 20 to 60 as a rule")
    return options


def _training_view(text: str) -> tuple[str, float]:
    """(stress, severity) of NAME:X. Raises BenchError on what is not of that form, unknown, out of range or clean."""
    name, _, number = text.partition(":")
    find_stress(name)
    try:
        severity = float(number)
    except ValueError as error:
        raise BenchError(f"--train_stress {text}", "give a stress and its severity, such as offset:1") from error
    require_severity(name, severity)
    if severity == STRESSES[name].clean:
        raise BenchError(f"--train_stress {text} changes nothing", "leave it out: clean images are fitted on anyway")
    return name, severity


ENTRIES = ("linear", "finetune", "segment")


def entry_of(argv: list[str]) -> str:
    """The entry whose run is put under stress: as named, else `segment` for labels of pixels, and `linear` for others.

    Raises BenchError on an unknown entry or dataset.
    """
    from fgmae_bench.config.cards import load_card

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--entry")
    first.add_argument("--dataset")
    known, _ = first.parse_known_args(argv)
    if known.entry is None:
        return "segment" if known.dataset and load_card(known.dataset).per_pixel else "linear"
    if known.entry not in ENTRIES:
        raise unknown("entry", known.entry, ENTRIES)
    return str(known.entry)


def first_process() -> bool:
    """Whether this process prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def _position(names: tuple[str, ...], severity: float) -> float:
    """Severities rise in harm, whatever the order they are given in."""
    if len(names) != 1 or names[0] not in STRESSES or math.isnan(severity):
        return severity
    return STRESSES[names[0]].position(severity)
