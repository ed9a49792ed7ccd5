"""What a suite is made of: commands, each one process (or one torchrun), and the runs that a command records."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgmae_bench.config.cards import Card
from fgmae_bench.config.experiments import Experiment, PlannedRun
from fgmae_bench.config.run import Run
from fgmae_bench.config.stress import words as stress_words
from fgmae_bench.system.environment import shell_word


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run. `key` hashes what is known of it beforehand: its run id needs the samples and the weights' content."""

    key: str
    run: Run


@dataclass(frozen=True, kw_only=True)
class Command:
    """One call of a module; learning rates and weight decays that it fits in one pass are points of the same command.

    `flags` are complete but for the output folder, `bank` names what its features are made of, `where` is the run's key
    path.
    """

    key: str
    experiment: Experiment
    planned: PlannedRun
    label: str
    where: str
    flags: dict[str, Any]
    points: tuple[Point, ...]
    bank: str
    place: Path  # of the data
    output_dir: Path
    card: Card
    synthetic: bool | None  # None where the data does not say
    needs_gpu: bool = field(default=True)

    @property
    def name(self) -> str:
        """Names log and output folder: readable, and unlike any other's."""
        return f"{_slug(self.label)}-{self.key[:10]}"

    @property
    def title(self) -> str:
        """Experiment and run, as messages name them."""
        return f"{self.experiment.name}: {self.label}"

    @property
    def protocol(self) -> str:
        """What its records are filed under."""
        return self.planned.protocol or self.experiment.protocol

    @property
    def processes(self) -> int:
        """Processes that torchrun starts."""
        return self.planned.nproc_per_node

    @property
    def results_dir(self) -> Path:
        """Folder of records."""
        return Path(self.points[0].run.execution.results_dir)


def argv(command: Command, python: str = sys.executable) -> list[str]:
    """The command line, with `python` in front."""
    card = {**command.experiment.stress, **command.planned.stress}
    module = f"fgmae_bench.{'stress' if card else command.experiment.module}"
    launcher = (
        []
        if command.processes == 1
        else ["torch.distributed.run", "--standalone", f"--nproc_per_node={command.processes}", "-m"]
    )
    words = [python, "-m", *launcher, module]
    for name, value in (command.flags | {"output_dir": str(command.output_dir)}).items():
        if value is True:
            words.append(f"--{name}")
        elif isinstance(value, list | tuple):
            words += [f"--{name}", *map(str, value)]
        elif value is not False:
            words += [f"--{name}", str(value)]
    return [*words, "--entry", command.experiment.module, *stress_words(card)] if card else words


def shell_line(command: Command) -> str:
    """The command as one line for bash or any scheduler."""
    return " ".join(map(shell_word, argv(command, "python")))


def _slug(label: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in label)
    return "-".join(part for part in kept.split("-") if part)[:60]
