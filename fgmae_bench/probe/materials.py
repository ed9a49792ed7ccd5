"""What heads are fitted on: features of every part that is kept, from the bank, and the rows and labels that go with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.bank import Bank, fill_bank
from fgmae_bench.config import Run
from fgmae_bench.environment import MemoryPeak
from fgmae_bench.features import Extractor, Rows, Spent
from fgmae_bench.probe.resolve import Probe
from fgmae_bench.progress import Progress
from fgmae_bench.views import Augmentation


@dataclass(frozen=True, kw_only=True)
class Materials:
    """Labels by row, train rows, and the banks of the evaluation view by part."""

    labels: NDArray[np.int64]
    train: Rows
    evaluation: dict[str, tuple[Bank, Rows]]
    train_banks: tuple[Bank, ...]  # cached: one for each view; empty in stream mode
    extractor: Extractor
    spent: Spent


def gather_materials(
    probe: Probe, first: Run, spent: Spent, memory: MemoryPeak, parts: tuple[str, ...] = ("train", "val", "test")
) -> Materials:
    """Features of every part that is asked for and kept: the evaluation parts always, the training part unless it is streamed."""
    extractor, recipe = probe.extractor, first.recipe
    split = probe.dataset.parts
    train = split.train if "train" in parts else split.train[:0]
    cached = recipe.features == "cached" and len(train) > 0
    evaluated = {part: rows for part, rows in (("val", split.val), ("test", split.test)) if len(rows) and part in parts}
    if cached and recipe.views == 1:
        wanted = np.concatenate([*evaluated.values(), train])
        bank = _filled(probe, wanted, None, spent, memory, "features")
        train_banks: tuple[Bank, ...] = (bank,)
    else:
        bank = _filled(probe, np.concatenate(list(evaluated.values())), None, spent, memory, "evaluation features")
        views = range(recipe.views if cached else 0)
        train_banks = tuple(
            _filled(probe, train, Augmentation(seed=recipe.seed, epoch=v, crop_scale=recipe.crop_scale), spent, memory, f"view {v}")
            for v in views
        )  # fmt: skip
    train = train_banks[0].usable(train) if train_banks else train
    evaluation = {part: (bank, bank.usable(rows)) for part, rows in evaluated.items()}
    return Materials(
        labels=probe.dataset.index.labels, train=train, evaluation=evaluation, train_banks=train_banks, extractor=extractor, spent=spent
    )


def _filled(probe: Probe, rows: Rows, augmentation: Augmentation | None, spent: Spent, memory: MemoryPeak, label: str) -> Bank:
    with Progress(label, len(rows), "images", show=probe.extractor.world.rank == 0) as progress:

        def step(count: int) -> None:
            progress.step(count)
            memory.look()

        return fill_bank(probe.extractor, rows, probe.cache, augmentation, spent, step)
