"""Runs of an ablation one after the other, each with its record; a training that several share is done once."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fgmae_bench.cards import Card
from fgmae_bench.config import Run
from fgmae_bench.device import resolve_device
from fgmae_bench.distributed import World, join_world, leave_world
from fgmae_bench.locks import held
from fgmae_bench.records import Record, note
from fgmae_bench.runs.folder import RunFolder
from fgmae_bench.runs.tensors import LAST
from fgmae_bench.train.loop import Period
from fgmae_bench.train.prepared import Prepared
from fgmae_bench.train.resolve import recorded, run_one
from fgmae_bench.train.segment import Defects, prepare
from fgmae_bench.train.state import find_state, numbered, save_state

log = logging.getLogger("fgmae_bench")
A_GRID = 2  # runs of which each has a sub-folder of --output_dir, however many are asked for today


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


@contextlib.contextmanager
def joined(run: Run) -> Iterator[tuple[World, torch.device]]:
    """(the processes that torchrun started, this one's device) of a run, left at the end."""
    joined_world = join_world(resolve_device(run.execution.device))
    try:
        yield joined_world
    finally:
        leave_world()


def run_planned(planned: Sequence[Planned], card: Card, world: World, device: torch.device) -> list[Record]:
    """The records in order; what is recorded is read, what was interrupted goes on.

    Where no val split selects, runs of equal `training` are trained once and scored in turn. Under torchrun every rank calls this.
    """
    trained: dict[str, Trained] = {}
    records = []
    for number, each in enumerate(planned, 1):
        prepared = prepare(each.run, card, [], world, device, A_GRID, each.defects)
        log.info("run %d of %d: %s", number, len(planned), prepared.id)
        record = recorded(prepared)
        if record is None:
            adopted = _adopted(prepared, trained.get(each.training))
            record = run_one(adopted or prepared)
            if adopted is not None and world.rank == 0:
                _forget(adopted)
        if each.training not in trained and _at_its_end(prepared):
            trained[each.training] = Trained(id=prepared.id, folder=prepared.place[0])
        records.append(record)
    return records


def _at_its_end(prepared: Prepared) -> bool:
    """Whether the run's folder holds its model after the last step."""
    state = find_state(prepared.id, prepared.place[0], None)
    return bool(prepared.world.broadcast(state is not None and state.step == prepared.plan.total))


def _adopted(prepared: Prepared, donor: Trained | None) -> Prepared | None:
    """The run with the end of another's training as its checkpoint, so that only its evaluation is left; None where there is none."""
    if donor is None or len(prepared.dataset.parts.val):
        return None
    job, world = prepared.job, prepared.world
    state = world.together(lambda: find_state(donor.id, donor.folder, None))
    if state is None:
        return None
    job.kept.load_state_dict(state.tensors["model"])
    job.model.eval()
    scored = job.evaluate("test")
    entry = {**state.history[-1], "val": scored.metrics}
    own = dataclasses.replace(
        state, run_id=prepared.id, best=None, history=[entry], legacy=[{"epoch": entry["epoch"], **prepared.legacy(scored)}],
        period=asdict(Period()),
    )  # fmt: skip
    if world.rank == 0:
        folder = prepared.place[0]
        with held(folder / ".lock", f"another run is training into {folder}", "give another --output_dir"):
            save_state(RunFolder(*prepared.place), own)
    world.barrier()
    text = f"trained as {donor.id}, which differs in evaluation alone; only the last epoch was evaluated"
    return dataclasses.replace(prepared, notes=[*prepared.notes, note("shared_training", text)])


def _forget(prepared: Prepared) -> None:
    """Remove the checkpoints of a run that shares another's: they hold the same model."""
    for path in (*numbered(prepared.place[0], prepared.id[-10:]), prepared.place[0] / LAST):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
