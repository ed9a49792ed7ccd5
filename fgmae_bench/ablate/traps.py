"""The mistakes of the published DFC2020 runs, all at once and then repaired one after the other, each step one recorded
run.

  python -m fgmae_bench.ablate traps --dataset dfc2020 --data_path DIR
  python -m fgmae_bench.ablate traps --dataset dfc2020 --freeze_backbone --order clip25 double_mapped ...

The start: DFC labels of evaluation (and of training, where it has any) taken for IGBP codes; one output too many; a
random 3x3 convolution behind the logits that is never trained; position embeddings drawn anew after loading and never
trained; input clipped to [-25, 0] dB; no augmentation; and MODIS labels in training. After a kill the same command goes
on.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from fgmae_bench.ablate.flags import add_run_flags, first_process, outputs, read_run, say
from fgmae_bench.ablate.series import REPAIRS, START, Series, repair_order
from fgmae_bench.ablate.sides import Side
from fgmae_bench.config.cards import Card
from fgmae_bench.config.flags import spellings
from fgmae_bench.config.run import Run, SegmentData
from fgmae_bench.data.schemes import DFC, IGBP, card_map
from fgmae_bench.errors import BenchError

if TYPE_CHECKING:
    from fgmae_bench.ablate.engine import Planned
    from fgmae_bench.models.build import Backbone
    from fgmae_bench.models.segmenter import SegmentationModel


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `segment`, and the order of the repairs."""
    text = f"mistakes in the order of their repair, each once (default: {' '.join(REPAIRS)})"
    parser.add_argument(*spellings("order"), nargs="+", metavar="MISTAKE", help=text)
    add_run_flags(parser, SegmentData)


def main(given: dict[str, Any]) -> None:
    """Run the series, write table and figure."""
    wanted = given.pop("order", None)
    card, run = read_run(given)
    run = with_labels(card, run)
    _check(card, run)
    order = repair_order(wanted, possible(run))
    series = measure(card, run, order)
    if first_process():
        from fgmae_bench.ablate.tables import draw_series_figure, write_series

        stem, figure = outputs(run, f"traps-{card.name}")
        draw_series_figure(series, figure)
        for path in (*write_series(series, stem, figure), figure):
            say(str(path))


def with_labels(card: Card, run: Run) -> Run:
    """The run with its labels stated: trained on MODIS's where the card has them, scored by DFC's; views are random."""
    data = run.data
    coarse = IGBP.name if IGBP.name in card.label_sources else DFC.name
    train, scheme = data.train_labels or coarse, data.train_scheme or card.label_scheme
    stated = dataclasses.replace(
        data,
        train_labels=train,
        train_scheme=scheme,
        eval_labels=data.eval_labels or DFC.name,
        eval_scheme=data.eval_scheme or scheme,
    )
    recipe = (
        dataclasses.replace(run.recipe, features=run.recipe.features or "stream")
        if run.recipe.freeze_backbone
        else run.recipe
    )
    return dataclasses.replace(run, data=stated, recipe=recipe)


def _check(card: Card, run: Run) -> None:
    """Raise BenchError on labels and flags under which a mistake cannot be made or repaired."""
    data = run.data
    if data.eval_labels != DFC.name:
        raise BenchError(f"--eval_labels {data.eval_labels} cannot be mapped twice", f"score by {DFC.name} labels")
    for source, scheme in ((data.train_labels, data.train_scheme), (data.eval_labels, data.eval_scheme)):
        card_map(card, source, scheme)
    card_map(card, data.eval_labels, data.train_scheme)  # what is trained on at the end
    if run.model.normalizer == "clip25":
        raise BenchError(
            "--normalizer clip25 is one of the mistakes", "name the normaliser that repairs it, or leave the flag out"
        )
    if not run.recipe.augment:
        raise BenchError("--no_augment is one of the mistakes", "leave it out")
    if run.recipe.stride is not None:
        raise BenchError("--stride needs the augmentation that some steps leave out", "leave it out")
    if run.recipe.features == "cached":
        raise BenchError("--features cached leaves no augmentation to repair", "leave it out")


def possible(run: Run) -> list[str]:
    """The mistakes that can be made with these labels."""
    return [name for name in REPAIRS if name != "coarse_labels" or run.data.train_labels != run.data.eval_labels]


def measure(card: Card, run: Run, order: list[str]) -> Series:
    """The series: every step run, and what a perfect predictor would reach with its labels."""
    from fgmae_bench.ablate.engine import references_of, run_planned
    from fgmae_bench.ablate.matrix import shown
    from fgmae_bench.ablate.sides import grid
    from fgmae_bench.runs.grid import joined

    # Before the first run every step is compared with the labels: what cannot be run ends the series here.
    left = [set(order[i:]) for i in range(len(order) + 1)]  # the mistakes still made at each step
    cells = [cell for mistakes in left for cell in grid(card, *([side] for side in labels_of(run, mistakes)))]

    with joined(run) as (world, device):
        references = world.rank0_first(lambda: references_of(card, run, cells))
        for pair, reason in references.reasons().items():
            raise BenchError(f"{pair}: {reason}", "choose other labels or schemes")
        perfect = tuple(each.value("perfect") for each in references.cells)
        for step, cell, value in zip((START, *order), cells, perfect, strict=True):
            say(f"  {REPAIRS.get(step, step):<40}{cell.train.name} -> {cell.evaluated.name}: perfect {shown(value)}")
        records = run_planned([planned(card, run, mistakes) for mistakes in left], card, world, device)
    series = Series(
        dataset=card.title, order=tuple(order), records=tuple(records), perfect=perfect, synthetic=references.synthetic
    )
    mark = "  [synthetic data]" if references.synthetic else ""
    for row in series.rows():
        say(
            f"  {row['step']:<40}mIoU {shown(row['miou'])}  {shown(row['gain'], '{:+.3f}'.format):>6}  "
            f"{row['run_id']}{mark}"
        )
    return series


def labels_of(run: Run, mistakes: Collection[str]) -> tuple[Side, Side]:
    """What is trained on and scored by while some mistakes are made."""
    data, twice = run.data, "double_mapped" in mistakes
    source = data.train_labels if "coarse_labels" in mistakes else data.eval_labels
    train = Side(source=source, scheme=data.train_scheme, double=twice and source == DFC.name)
    return train, Side(source=data.eval_labels, scheme=data.eval_scheme, double=twice)


def planned(card: Card, run: Run, mistakes: Collection[str]) -> Planned:
    """The run that makes some mistakes; where labels of evaluation alone are wrong, it shares the right training."""
    from fgmae_bench.ablate.defects import frozen_output, random_position
    from fgmae_bench.ablate.engine import Planned
    from fgmae_bench.ablate.sides import double_mapped
    from fgmae_bench.train.segment_job import Defects

    train, evaluated = labels_of(run, mistakes)
    data = dataclasses.replace(run.data, train_labels=train.source)
    model = dataclasses.replace(run.model, normalizer="clip25") if "clip25" in mistakes else run.model
    recipe = dataclasses.replace(run.recipe, augment="no_augmentation" not in mistakes)
    extra, seed = int("extra_output" in mistakes), recipe.seed
    outputs_made = len(train.map(card).scheme.classes) + extra

    def spoil(model: SegmentationModel, backbone: Backbone) -> None:
        if "random_position" in mistakes:
            random_position(backbone, seed)
        if "frozen_output" in mistakes:
            frozen_output(model, outputs_made, seed)

    twice = {
        name: partial(double_mapped, scheme=side.map(card).scheme) if side.double else None
        for name, side in (("train", train), ("eval", evaluated))
    }
    names = [f"double_mapped_{name}" for name, to_ids in twice.items() if to_ids]
    names += [name for name in ("extra_output", "frozen_output", "random_position") if name in mistakes]
    defects = Defects(
        names=tuple(names), train_ids=twice["train"], eval_ids=twice["eval"], extra_outputs=extra, model=spoil
    )
    training = " ".join([train.name, *sorted(set(mistakes) - {"double_mapped", "coarse_labels"})])
    return Planned(
        run=dataclasses.replace(run, data=data, model=model, recipe=recipe), defects=defects, training=training
    )
