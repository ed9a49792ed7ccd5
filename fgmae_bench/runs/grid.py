"""The driver of a grid for every engine: what is recorded is read, the rest computed; and a checkpoint is scored."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fgmae_bench.config.cards import Card
from fgmae_bench.config.names import ENGINES, code_of
from fgmae_bench.config.run import Run
from fgmae_bench.errors import BenchError, Diverged
from fgmae_bench.records import Record, read_record, record_path
from fgmae_bench.system.device import resolve_device
from fgmae_bench.system.distributed import World, join_world, leave_world

log = logging.getLogger("fgmae_bench")


@dataclass(frozen=True, kw_only=True)
class Share:
    """Runs of a grid that are computed together, made definite: the card, protocol and results folder are the same.

    `compute` maps run ids to their records; `score` gives the test scores of the checkpoint that `--resume` names, with
    its `run_id` and `which` it is. Both are called by every process.
    """

    runs: dict[str, Run]  # by run id
    card: Card
    protocol: str
    compute: Callable[[list[str]], dict[str, Record]]
    score: Callable[[], dict[str, Any]]

    def record_path(self, run_id: str) -> Path:
        """Where the record of a run is, or will be."""
        results = Path(self.runs[run_id].execution.results_dir)
        return record_path(results, (self.card.name, self.protocol, run_id))


def run_grid(
    module: str,
    runs: list[Run],
    card: Card,
    notes: list[dict[str, str]] | None = None,
    backbone: nn.Module | None = None,
) -> list[Record]:
    """The records of the runs of an entry (`linear`, `finetune`, `segment`) in order; those that exist are read.

    `notes` go into every record; `backbone` stands in for the one that the runs name (see `fgmae_bench.evaluate`), and
    may be trained in place. Under torchrun every process calls this, and rank 0 writes. Raises BenchError on bad input,
    and Diverged, once all are recorded, where the loss of a new run became non-finite.
    """
    shares = code_of("entry", module, ENGINES)
    records: list[Record] = []
    failures: list[str] = []
    with joined(runs[0]) as (world, device):
        for share in shares(runs, card, notes or [], world, device, backbone):
            found, failure = complete(share, world)
            records += found
            if failure is not None:
                failures.append(failure)
                if len(share.runs) < len(runs):
                    log.error("%s; the other runs go on", failure)
            del share  # its model goes before the next one is built
    if failures:
        raise Diverged(failures[0], records)
    return records


def score_checkpoint(module: str, runs: list[Run], card: Card) -> dict[str, Any]:
    """Test scores of the checkpoint that `--resume` names (`run_id`, `which`, `test`, `legacy`); nothing is recorded.

    Raises BenchError for a grid, and for a checkpoint that is not there, damaged or another run's.
    """
    if len(runs) != 1:
        raise BenchError("--eval scores one checkpoint", "give one --lr and one --weight_decay")
    with joined(runs[0]) as (world, device):
        (share,) = code_of("entry", module, ENGINES)(runs, card, [], world, device, None)
        scored: dict[str, Any] = share.score()
    return scored


@contextlib.contextmanager
def joined(run: Run) -> Iterator[tuple[World, torch.device]]:
    """(the processes that torchrun started, this one's device) of a run, left at the end."""
    joined_world = join_world(resolve_device(run.execution.device))
    try:
        yield joined_world
    finally:
        leave_world()


def complete(share: Share, world: World) -> tuple[list[Record], str | None]:
    """(the records of a share in order, what diverged in the first of its new runs that did, or None)."""
    done = recorded(share, world)
    pending = [id for id in share.runs if id not in done]
    if pending:
        done |= share.compute(pending)
    lost = [done[id] for id in pending if done[id]["status"] == "diverged"]
    reasons = [
        f"{record['run_id']}: {note['text']}"
        for record in lost
        for note in record["notes"]
        if note["code"] == "diverged"
    ]
    return [done[id] for id in share.runs], reasons[0] if reasons else None


def recorded(share: Share, world: World) -> dict[str, Record]:
    """The records of a share that exist already, by run id, the same on every process."""
    paths = {id: share.record_path(id) for id in share.runs}

    def read() -> dict[str, Record]:
        return {id: read_record(path) for id, path in paths.items() if path.exists()} if world.rank == 0 else {}

    done = world.broadcast(world.raise_together(read))
    for id, record in done.items():
        how = " as diverged" if record["status"] == "diverged" else ""
        log.info("%s is recorded already%s: nothing to do (%s)", id, how, paths[id])
    return done


def resume_path(run: Run, usual: Path) -> Path:
    """The checkpoint that `--resume` means: the one that it names, else the `usual` one."""
    named = run.execution.resume
    return usual if named in (None, "auto") else Path(str(named))


def require_same_run(found: object, run_id: str, path: Path) -> None:
    """Raise BenchError unless the checkpoint at `path`, which is of the run `found`, is this run's."""
    if found != run_id:
        what = f"{path} belongs to {found}, this is {run_id}: model, data, batch or recipe differ"
        raise BenchError(what, "repeat the flags of that run, or choose another --output_dir")


def use_threads(count: int) -> None:
    """Compute with as many threads as before an interruption: their number changes the last bits of sums."""
    if count != torch.get_num_threads():
        log.info("using %d threads, as before the interruption, so that the result stays the same", count)
        torch.set_num_threads(count)
