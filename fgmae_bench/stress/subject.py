"""What is put under stress: a fitted model with its test split, whatever entry made it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fgmae_bench.config.run import Run
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.records import Record
from fgmae_bench.stress.reading import Outputs, Reading, Rows
from fgmae_bench.system.distributed import World
from fgmae_bench.views.classification import View


@dataclass(frozen=True, kw_only=True)
class Subject:
    """`outputs` gives those of the test split under a view; `record` is that of the run as it was fitted."""

    record: Record
    run: Run
    dataset: Dataset
    view: View
    world: World
    folder: Path  # the run's own
    outputs: Callable[[View], Outputs]
    reading: Reading
    rows: Rows  # of the index, those of the test split in the order of the outputs
    notes: tuple[dict[str, str], ...] = ()


def kept(dataset: Dataset) -> Dataset:
    """The dataset whose images stay decoded, as far as there is room: every view reads them again."""
    return dataclasses.replace(dataset, samples=dataclasses.replace(dataset.samples, keeps=True))
