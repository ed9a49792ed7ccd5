"""Runs of an ablation one after the other, each with its record; a training that several share is done once."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fgmae_bench.ablate.matrix import Matrix, filled
from fgmae_bench.ablate.references import LabelCounts
from fgmae_bench.ablate.sides import Cell
from fgmae_bench.config.cards import Card
from fgmae_bench.config.run import Run
from fgmae_bench.data.dataset import Dataset, only_usable, open_dataset
from fgmae_bench.errors import Diverged, note
from fgmae_bench.records import Record
from fgmae_bench.runs.folder import RunFolder
from fgmae_bench.runs.grid import complete
from fgmae_bench.runs.setup import require_present
from fgmae_bench.runs.tensors import LAST
from fgmae_bench.system.distributed import World
from fgmae_bench.system.files import lock_or_fail
from fgmae_bench.train.job import Prepared
from fgmae_bench.train.loop import Period
from fgmae_bench.train.run import share_of, train_and_record
from fgmae_bench.train.segment import prepare
from fgmae_bench.train.segment_job import Defects
from fgmae_bench.train.state import find_state, numbered, save_state

log = logging.getLogger("fgmae_bench")
A_GRID = 2  # more than one: each run has a sub-folder of --output_dir, however many there are


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run to be made; runs of equal `training` differ in evaluation alone."""

    run: Run
    defects: Defects
    training: str


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run whose folder holds its model after the last step."""

    id: str
    folder: Path


def run_planned(planned: Sequence[Planned], card: Card, world: World, device: torch.device) -> list[Record]:
    """The records in order; what is recorded is read, what was interrupted goes on.

    Where no val split selects, runs of equal `training` are trained once and scored in turn. Under torchrun every rank
    calls this. Raises Diverged at the first run whose loss became non-finite.
    """
    trained: dict[str, Trained] = {}
    records: list[Record] = []
    for number, each in enumerate(planned, 1):
        prepared = prepare(each.run, card, [], world, device, A_GRID, defects=each.defects)
        log.info("run %d of %d: %s", number, len(planned), prepared.id)
        share = dataclasses.replace(share_of(prepared), compute=_computed_once(prepared, trained.get(each.training)))
        found, failure = complete(share, world)
        records += found
        if failure is not None:
            raise Diverged(failure, records)
        if each.training not in trained and _at_its_end(prepared):
            trained[each.training] = Trained(id=prepared.id, folder=prepared.place[0])
    return records


def _computed_once(prepared: Prepared, donor: Trained | None) -> Callable[[list[str]], dict[str, Record]]:
    """What computes a run: its evaluation alone where `donor` was trained alike, else all of it."""

    def compute(ids: list[str]) -> dict[str, Record]:
        adopted = _adopted(prepared, donor)
        record = train_and_record(adopted or prepared)
        if adopted is not None and prepared.world.rank == 0:
            _forget(adopted)
        return {prepared.id: record}

    return compute


def _at_its_end(prepared: Prepared) -> bool:
    """Whether the run's folder holds its model after the last step."""
    state = find_state(prepared.id, prepared.place[0], None)
    return bool(prepared.world.broadcast(state is not None and state.step == prepared.plan.total))


def _adopted(prepared: Prepared, donor: Trained | None) -> Prepared | None:
    """The run with the end of another's training as its checkpoint, so that evaluation is left; None without one."""
    if donor is None or len(prepared.dataset.parts.val):
        return None
    # The donor's last state becomes this run's, with the one evaluation that differs: nothing is left to train.
    job, world = prepared.job, prepared.world
    state = world.raise_together(lambda: find_state(donor.id, donor.folder, None))
    if state is None:
        return None
    job.kept.load_state_dict(state.tensors["model"])
    job.model.eval()
    scored = job.evaluate("test")
    entry = {**state.history[-1], "val": scored.metrics}
    own = dataclasses.replace(
        state,
        run_id=prepared.id,
        best=None,
        history=[entry],
        legacy=[{"epoch": entry["epoch"], **prepared.legacy(scored)}],
        period=asdict(Period()),
    )
    if world.rank == 0:
        folder = prepared.place[0]
        with lock_or_fail(folder / ".lock", f"another run is training into {folder}", "give another --output_dir"):
            save_state(RunFolder(*prepared.place), own)
    world.barrier()
    text = f"trained as {donor.id}, which differs in evaluation alone; only the last epoch was evaluated"
    return dataclasses.replace(prepared, notes=[*prepared.notes, note("shared_training", text)])


def _forget(prepared: Prepared) -> None:
    """Remove the checkpoints of a run that shares another's: they hold the same model."""
    for path in (*numbered(prepared.place[0], prepared.id[-10:]), prepared.place[0] / LAST):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def used_data(card: Card, run: Run) -> tuple[Dataset, Path]:
    """(dataset with the images that are used, cache folder). Raises BenchError on missing data and weights."""
    cache = Path(run.execution.cache_dir)
    require_present(card, run, cache)
    name = run.data.split or card.usual_split(run.recipe.recipe)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, split=name, nb_classes=None))
    return only_usable(open_dataset(card, run, cache), run, cache), cache


def references_of(card: Card, run: Run, cells: Sequence[Cell]) -> Matrix:
    """The cells with what perfect and constant predictors reach in them, or why they cannot be run on this data."""
    dataset, cache = used_data(card, run)
    counts = LabelCounts(dataset, cache, run.execution.num_workers)
    return Matrix(card=card, cells=tuple(filled(card, cell, counts) for cell in cells), synthetic=dataset.synthetic)
