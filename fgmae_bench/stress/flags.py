"""The flags of a stress run, on top of those of `linear`."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from typing import Any

from fgmae_bench.config.stress import NAMES, StressOptions, stress_options
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.views.stress_table import STRESSES, require_severity

Options = StressOptions


def ladder(options: Options, name: str) -> tuple[float, ...]:
    """The severities of a stress."""
    return options.severities or STRESSES[name].ladder[: options.rungs]


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
        help="stressed views that the head is fitted on besides the clean images, such as offset:1 (default: none)",
    )
    group.add_argument(
        "--no_null",
        action="store_false",
        dest="null",
        help="leave out the card of backscatter statistics (default: made)",
    )
    group.add_argument("--despeckler", metavar="FILE", help="weights of SAR2SAR, for sar2sar (default: none)")
    group.add_argument("--rungs", type=int, help="severities of each ladder, from the mildest (default: all)")
    group.add_argument("--draws", type=int, help="draws of stresses with chance in them, averaged (default: 3)")
    group.add_argument("--stress_seed", type=int, help="seed of the draws (default: 0)")
    group.add_argument(
        "--theta", type=float, help="incidence angle, degrees (default: one drawn for each acquisition, 30.5 to 45.5)"
    )


def options_of(given: dict[str, Any]) -> Options:
    """The options that flags state, taken out of `given`. Raises BenchError on unknown stresses and bad values."""
    options = stress_options({name: given.pop(name) for name in NAMES if name in given})
    names = options.names
    for severity in options.severities:
        require_severity(names[0], severity)
        if severity == STRESSES[names[0]].clean:
            raise BenchError(f"--severities {severity:g} changes nothing", "clean data is scored anyway: leave it out")
    made = (*names, *(name for name, _ in options.train))
    if options.theta is not None and names and not any("angle" in STRESSES[name].needs for name in made):
        raise BenchError(f"--theta {options.theta:g} with {', '.join(made)}", "leave it out: none needs an angle")
    if options.despeckler is not None and names and "sar2sar" not in made:
        raise BenchError(f"--despeckler with {', '.join(made)}", "leave it out: only sar2sar needs it")
    for name, severity in options.train:
        require_severity(name, severity)
        if options.train.count((name, severity)) > 1:
            raise BenchError(f"--train_stress {name}:{severity:g} twice", "name each view once")
        if severity == STRESSES[name].clean:
            what = f"--train_stress {name}:{severity:g} changes nothing"
            raise BenchError(what, "leave it out: clean images are fitted on anyway")
    return dataclasses.replace(
        options, severities=tuple(sorted(options.severities, key=lambda value: _position(names, value)))
    )


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
