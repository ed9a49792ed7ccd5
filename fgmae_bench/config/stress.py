"""What a card of stresses is asked for, as data: flags of the command and tables of experiment files alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fgmae_bench.config.strict import from_plain
from fgmae_bench.errors import BenchError, unknown

# The names of `views/stress_table.py`: tables and experiment files are checked without loading its arithmetic.
STRESS_NAMES = (
    "offset_acquisition",
    "offset",
    "offset_down",
    "imbalance",
    "imbalance_reverse",
    "slope",
    "gamma0",
    "speckle",
    "speckle_white",
    "noise",
    "noise_denoised",
    "resolution",
    "shift",
    "resampling",
    "missing_vv",
    "missing_vh",
    "swapped",
    "border",
    "border_low",
    "stripes",
    "lost",
    "contrast",
    "quantised",
    "eight_bit",
    "floor",
    "boxcar",
    "lee",
    "sar2sar",
)
PREFIX, AUGMENTED = (
    "stress_",
    "stress_augmented_",
)  # of a card's protocol; the second of a head fitted on stressed views


@dataclass(frozen=True, kw_only=True)
class StressOptions:
    """Which stresses (none named: all that the data allows), draws of those with chance in them, and their seed.

    `theta` is the incidence angle in degrees; None draws one for each acquisition. `severities` replaces the ladder of
    the one stress that is named, `rungs` keeps the first so many of each. `train` are stresses, with severities, of
    views that the head is fitted on as well. With `null` the card of backscatter statistics is made too.
    `despeckler` is a file of SAR2SAR's weights.
    """

    names: tuple[str, ...] = ()
    severities: tuple[float, ...] = ()
    rungs: int | None = None
    draws: int = 3
    seed: int = 0
    theta: float | None = None
    train: tuple[tuple[str, float], ...] = ()
    null: bool = True
    despeckler: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The same as flags and experiment files write it."""

    stress: tuple[str, ...] = ()
    severities: tuple[float, ...] = ()
    rungs: int | None = None
    draws: int = 3
    stress_seed: int = 0
    theta: float | None = None
    train_stress: tuple[str, ...] = ()
    null: bool = True
    despeckler: str | None = None


NAMES = tuple(field.name for field in dataclasses.fields(_Table))


def stress_options(given: dict[str, Any], where: str = "flags") -> StressOptions:
    """The options of flags by name. Raises BenchError on unknown names and values that no severity's range decides."""
    table: _Table = from_plain(_Table, given, where)
    train = tuple(training_view(text) for text in table.train_stress)
    for name in (*table.stress, *(name for name, _ in train)):
        if name not in STRESS_NAMES:
            raise unknown("stress", name, STRESS_NAMES)
    if len(set(table.stress)) != len(table.stress):
        raise BenchError("--stress names one twice", "name each once")
    if table.severities and len(table.stress) != 1:
        raise BenchError("--severities without one --stress", "name one stress")
    if table.severities and table.rungs is not None:
        raise BenchError("--severities with --rungs", "leave one out")
    if len(set(table.severities)) != len(table.severities):
        raise BenchError("--severities names one twice", "name each once")
    if table.draws < 1:
        raise BenchError(f"--draws {table.draws}", "give 1 or more")
    if table.rungs is not None and table.rungs < 1:
        raise BenchError(f"--rungs {table.rungs}", "give 1 or more")
    if table.theta is not None and not 0 < table.theta < 80:
        raise BenchError(f"--theta {table.theta:g}", "give an incidence angle in degrees, from 20 to 60 as a rule")
    return StressOptions(
        names=table.stress,
        severities=table.severities,
        rungs=table.rungs,
        draws=table.draws,
        seed=table.stress_seed,
        theta=table.theta,
        train=train,
        null=table.null,
        despeckler=table.despeckler,
    )


def training_view(text: str) -> tuple[str, float]:
    """(stress, severity) of NAME:X. Raises BenchError on what is not of that form."""
    name, _, number = text.partition(":")
    try:
        return name, float(number)
    except ValueError as error:
        if name in STRESS_NAMES:
            raise BenchError(f"--train_stress {text}", "give a stress and its severity, such as offset:1") from error
        raise unknown("stress", name, STRESS_NAMES) from error


def as_plain(options: StressOptions) -> dict[str, Any]:
    """The options as JSON holds them, without the path of a file."""
    found = dataclasses.asdict(options)
    del found["despeckler"]
    found["train"] = [list(each) for each in options.train]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def protocol_under(protocol: str, options: StressOptions | None) -> str:
    """The protocol of a run's card; without options the run's own."""
    if options is None:
        return protocol
    return (AUGMENTED if options.train else PREFIX) + protocol


def protocol_within(protocol: str) -> str:
    """The protocol of the run that a card is of; any other as it is."""
    return protocol.removeprefix(AUGMENTED).removeprefix(PREFIX)


def words(given: dict[str, Any]) -> list[str]:
    """The options of an experiment file as words of a command line."""
    found: list[str] = []
    for name, value in given.items():
        if name == "null":
            found += [] if value else ["--no_null"]
        else:
            found += [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return found
