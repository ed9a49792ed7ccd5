"""The grid of labels trained on and labels scored by, and what perfect and constant predictors reach in each cell.

  python -m fgmae_bench.ablate labels --dataset dfc2020 --data_path DIR
  python -m fgmae_bench.ablate labels --dataset dfc2020 --train_schemes dfc10 --eval_schemes dfc10 dfc8

Every source is taken under every scheme, and DFC labels mapped twice too, the published mistake. Each cell is one
recorded run, and what is recorded is not repeated: after a kill the same command goes on. Without a val split that
selects, one training serves every cell of its row.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

from fgmae_bench.ablate.flags import add_run_flags, first_process, outputs, read_run, say
from fgmae_bench.ablate.sides import Cell, Side, default_sources, grid, sides
from fgmae_bench.config.cards import Card
from fgmae_bench.config.flags import spellings
from fgmae_bench.config.run import Data, Run
from fgmae_bench.data.schemes import card_scheme, card_source
from fgmae_bench.errors import BenchError

if TYPE_CHECKING:
    from fgmae_bench.ablate.engine import Planned
    from fgmae_bench.ablate.matrix import Matrix

WHICH = {"train": "training", "eval": "evaluation"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `segment`, with several labels and schemes on each side."""
    group = parser.add_argument_group("grid")
    for side, title in WHICH.items():
        for flag, what, shown in (
            ("labels", "label sources", "all that a scheme is defined for"),
            ("schemes", "label schemes", "all"),
        ):
            names = [
                spelling for name in (f"{side}_{flag}", f"{side}_{flag}".rstrip("s")) for spelling in spellings(name)
            ]
            names = names if flag == "schemes" else spellings(f"{side}_{flag}")
            text = f"{what} of {title} (default: from card, {shown})"
            group.add_argument(*names, dest=f"{side}_{flag}", nargs="+", metavar=flag.upper(), help=text)
    add_run_flags(parser, Data)


def main(given: dict[str, Any]) -> None:
    """Say what each cell can reach, run what can be run, write table and figure."""
    lists = {
        name: given.pop(name, None) for name in (f"{side}_{flag}" for side in WHICH for flag in ("labels", "schemes"))
    }
    card, run = read_run(given)
    if run.data.nb_classes is not None:
        raise BenchError("--nb_classes with several label schemes", "leave it out: each scheme says its number")
    train, evaluated = (_sides(card, lists[f"{side}_labels"], lists[f"{side}_schemes"]) for side in WHICH)
    cells = grid(card, train, evaluated)
    table = measure(card, run, cells)
    if first_process():
        from fgmae_bench.ablate.tables import draw_matrix_figure, write_matrix

        stem, figure = outputs(run, f"labels-{card.name}")
        draw_matrix_figure(table, figure)
        for path in (*write_matrix(table, stem, figure), figure):
            say(str(path))


def _sides(card: Card, sources: list[str] | None, schemes: list[str] | None) -> list[Side]:
    """The sides that the flags name; raises BenchError on names that the card does not have, and on one named twice."""
    sources = default_sources(card) if sources is None else sources
    schemes = list(card.label_schemes) if schemes is None else schemes
    for names in (sources, schemes):
        if len(set(names)) != len(names):
            raise BenchError(f"{' '.join(names)} holds a name twice", "name each label source and scheme once")
    for source in sources:
        card_source(card, source)
    for scheme in schemes:
        card_scheme(card, scheme)
    return sides(card, sources, schemes)


def measure(card: Card, run: Run, cells: list[Cell]) -> Matrix:
    """The matrix of a grid: references first, said before anything is trained, then the runs."""
    from fgmae_bench.ablate.engine import references_of, run_planned
    from fgmae_bench.runs.grid import joined

    with joined(run) as (world, device):
        matrix = world.rank0_first(lambda: references_of(card, run, cells))
        say(matrix.before())
        able = [each.cell for each in matrix.cells if each.reference is not None]
        if not able:
            raise BenchError("none of these pairs of labels can be run", "choose other sources or schemes")
        records = iter(run_planned([planned(card, run, cell) for cell in able], card, world, device))
    done = tuple(
        each if each.reference is None else dataclasses.replace(each, record=next(records)) for each in matrix.cells
    )
    matrix = dataclasses.replace(matrix, cells=done)
    say(matrix.after())
    return matrix


def planned(card: Card, run: Run, cell: Cell) -> Planned:
    """The run of a cell; runs of one training side share their training."""
    from fgmae_bench.ablate.engine import Planned
    from fgmae_bench.ablate.sides import double_mapped
    from fgmae_bench.train.segment_job import Defects

    train, evaluated = cell.train, cell.evaluated
    data = dataclasses.replace(
        run.data,
        train_labels=train.source,
        train_scheme=train.scheme,
        eval_labels=evaluated.source,
        eval_scheme=evaluated.scheme,
    )
    twice = {
        side: partial(double_mapped, scheme=card_scheme(card, one.scheme)) if one.double else None
        for side, one in (("train", train), ("eval", evaluated))
    }
    defects = Defects(
        names=tuple(f"double_mapped_{side}" for side, to_ids in twice.items() if to_ids),
        train_ids=twice["train"],
        eval_ids=twice["eval"],
    )
    return Planned(run=dataclasses.replace(run, data=data), defects=defects, training=train.name)
