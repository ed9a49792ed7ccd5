"""The data of an ablation, opened as its runs will open it, for what is said before any of them starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from fgmae_bench.ablate.matrix import Matrix, filled
from fgmae_bench.ablate.references import LabelCounts
from fgmae_bench.ablate.sides import Cell
from fgmae_bench.cards import Card
from fgmae_bench.config import Run
from fgmae_bench.data.dataset import Dataset, only_usable, open_dataset
from fgmae_bench.runs.setup import require_present


def opened(card: Card, run: Run) -> tuple[Dataset, Path]:
    """(dataset with the images that are used, cache folder). Raises BenchError on whatever is missing, data and weights alike."""
    cache = Path(run.execution.cache_dir).expanduser()
    require_present(card, run, cache)
    name = run.data.split or (card.recommended_split if run.recipe.recipe == "corrected" else card.default_split)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, split=name, nb_classes=None))
    return only_usable(open_dataset(card, run, cache), run, cache), cache


def held_against_data(card: Card, run: Run, cells: Sequence[Cell]) -> Matrix:
    """Cells with what perfect and constant predictors reach in them, or the reason why they cannot be run on this data."""
    dataset, cache = opened(card, run)
    counts = LabelCounts(dataset, cache, run.execution.num_workers)
    return Matrix(card=card, cells=tuple(filled(card, cell, counts) for cell in cells), synthetic=dataset.synthetic)
