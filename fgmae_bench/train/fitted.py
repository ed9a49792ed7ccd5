"""Runs of segmentation baselines that are fitted at once: data opened as for every run, scored and recorded alike."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgmae_bench.config.cards import Card
from fgmae_bench.config.names import AFTER, FITTED_HEADS, TWO_DATES, code_of
from fgmae_bench.config.recipes import SegmentRecipe, protocol_of
from fgmae_bench.config.run import Run
from fgmae_bench.config.run_ids import run_id
from fgmae_bench.data.dataset import Dataset, check_classes
from fgmae_bench.data.index import Rows
from fgmae_bench.data.labels import LabelMap
from fgmae_bench.data.schemes import joined_schemes
from fgmae_bench.errors import BenchError, note
from fgmae_bench.metrics.segmentation import eval_columns, image_confusion, segmentation
from fgmae_bench.records import Record
from fgmae_bench.runs.assemble import Params, assemble
from fgmae_bench.runs.folder import RunFolder, store_run
from fgmae_bench.runs.grid import Share
from fgmae_bench.runs.setup import Setup, facts_of, places, set_up
from fgmae_bench.runs.tasks import Outcome
from fgmae_bench.runs.trackers import tracking_of
from fgmae_bench.system.device import device_name
from fgmae_bench.system.distributed import World
from fgmae_bench.system.environment import MemoryPeak, describe, now
from fgmae_bench.train.details import Details
from fgmae_bench.train.job import Scored
from fgmae_bench.train.labelled import (
    before_facts,
    label_maps,
    labelled_dataset,
    named,
    resolved_data,
    with_before,
)
from fgmae_bench.train.rules import Image, Mask, Rule
from fgmae_bench.train.segmentation import segmentation_metrics, write_confusions
from fgmae_bench.views.segmentation import mask_invalid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitting:
    """A definite run of a baseline."""

    run: Run
    id: str
    setup: Setup
    dataset: Dataset
    maps: tuple[LabelMap, LabelMap]
    place: tuple[Path, Path]
    notes: list[dict[str, str]]
    world: World
    device: torch.device

    def pairs(self, rows: Rows, label_map: LabelMap) -> Iterator[tuple[str, Image, Mask]]:
        """(name, backscatter dB (2, H, W), class numbers (H, W)) of images, 255 under invalid pixels.

        Of two dates backscatter is (4, H, W), the earlier one behind.
        """
        index, samples = self.dataset.index, self.dataset.samples
        two = self.run.recipe.head in TWO_DATES
        for row in rows:
            chip = self.setup.view.seen(samples.chip(int(row)), index.ids[row])
            mask = label_map(samples.codes(int(row), label_map.source.name)).values
            dates = [chip, index.read_before(int(row), self.dataset.card)] if two else [chip]
            image = np.concatenate([self.setup.view.before_geometry([each])[0] for each in dates])
            yield index.ids[row], image, mask_invalid(mask, chip.valid)


def fitting_of(
    run: Run, card: Card, notes: list[dict[str, str]], world: World, device: torch.device, grid: int
) -> Fitting:
    """A baseline made definite: everything that card, data and flags decide filled in."""
    head = run.recipe.head
    if card.task != "segmentation":
        raise BenchError(f"--head {head} on a {card.task} dataset", "take a segmentation dataset, or another head")
    if run.recipe.dates != AFTER:
        raise BenchError(f"--dates {run.recipe.dates} with --head {head}", "leave --dates out: the head decides")
    if run.model.model != "backscatter_stats":
        todo = "add --model backscatter_stats --weights random"
        raise BenchError(f"--head {head} looks at backscatter alone, not at {run.model.model}", todo)
    maps = label_maps(run, card)
    counted = check_classes(len(maps[0].scheme.classes), maps[0].scheme.name, run.data.nb_classes)
    setup = set_up(run, card, world, device, pixels=True, classes=len(maps[0].scheme.classes))
    dataset = labelled_dataset(run, setup, maps, world)
    # what belongs to training by epochs is set aside, so that it cannot tell runs apart
    recipe = SegmentRecipe(
        recipe=run.recipe.recipe,
        head=head,
        freeze_backbone=True,
        features="cached",
        augment=False,
        batch_size=1,
        epochs=1,
        weight_decay=0.0,
        seed=run.recipe.seed,
        amp="off",
    )
    resolved = Run(data=resolved_data(setup, *maps), model=setup.model, recipe=recipe, execution=run.execution)
    dataset = with_before(dataset, world) if head in TWO_DATES else dataset
    dataset = dataclasses.replace(dataset, facts=facts_of(dataset, setup.backbone) | before_facts(dataset))
    setup.remember([dataset.facts])
    id = run_id(resolved, dataset.facts)
    return Fitting(
        run=resolved,
        id=id,
        setup=setup,
        dataset=dataset,
        maps=maps,
        place=places(card, resolved, id, grid),
        notes=[*notes, *counted],
        world=world,
        device=device,
    )


def share(run: Run, card: Card, notes: list[dict[str, str]], world: World, device: torch.device, grid: int) -> Share:
    """The share of a grid that is one baseline."""
    fitting = fitting_of(run, card, notes, world, device, grid)
    return Share(
        runs={fitting.id: fitting.run},
        card=card,
        protocol=protocol_of("segment", fitting.run.recipe),
        compute=lambda ids: {fitting.id: _compute(fitting)},
        score=lambda: _no_checkpoint(run.recipe.head),
    )


def rule_of(fitting: Fitting) -> Rule:
    """The baseline, fitted on the training split: the same each time."""
    fit, (train, _) = code_of("head", fitting.run.recipe.head, FITTED_HEADS), fitting.maps
    rule: Rule = fit(
        lambda: fitting.pairs(fitting.dataset.parts.train, train), train.scheme.classes, fitting.run.recipe.seed
    )
    return rule


def _no_checkpoint(head: str) -> dict[str, Any]:
    raise BenchError(f"--eval with --head {head}", "leave it out: the run is fitted at once")


def _compute(fitting: Fitting) -> Record:
    """Fit, predict and record on rank 0; the record on every process."""
    world = fitting.world
    return world.broadcast(world.raise_together(lambda: _fit_and_record(fitting) if world.rank == 0 else None))


def _fit_and_record(fitting: Fitting) -> Record:
    start, memory = time.perf_counter(), MemoryPeak()
    parts, (train, evaluated) = fitting.dataset.parts, fitting.maps
    rule = rule_of(fitting)
    fitted = time.perf_counter()
    columns = eval_columns(train.scheme.classes, evaluated.scheme.classes)
    count, scored = len(evaluated.scheme.classes), {}
    details = Details(dataset=fitting.dataset, classes=evaluated.scheme.classes, columns=columns)
    for part, rows in (("val", parts.val), ("test", parts.test)):
        tables, more = [], []
        for row, (_, image, mask) in zip(rows, fitting.pairs(rows, evaluated), strict=True):
            predicted = rule.predict(image)
            tables.append(image_confusion(mask, predicted, count, columns))
            if part == "test":
                more.append(details.row(int(row), mask, predicted))
        if tables:
            outputs = np.stack(tables)
            scored[part] = Scored(
                metrics={"loss": None, **segmentation(outputs)},
                outputs=outputs,
                details=details.arrays(np.stack(more)) if more else {},
            )
    memory.look()
    done = time.perf_counter()
    test = scored["test"]
    outcome = Outcome(final=scored.get("val", test).metrics, test=test.metrics)
    outcome.history.append(
        {
            "epoch": 0,
            "lr": None,
            "train_loss": None,
            "val": dict(outcome.final),
            "seconds": fitted - start,
            "images_per_second": len(parts.train) / (fitted - start),
        }
    )
    outcome.notes.append(note("rule", rule.words))
    seconds = {"total": done - start, "train": fitted - start, "eval": done - fitted}
    return _record(fitting, outcome, test, seconds, memory)


def _record(fitting: Fitting, outcome: Outcome, test: Scored, seconds: dict[str, float], memory: MemoryPeak) -> Record:
    run, dataset, id = fitting.run, fitting.dataset, fitting.id
    classes, groups = fitting.maps[1].scheme.classes, dataset.groups("test")
    protocol = protocol_of("segment", run.recipe)
    folder = RunFolder(*fitting.place, tracking_of(run, id, fitting.place[0]))
    folder.epoch(outcome.history[0])
    timing = {
        "total_seconds": seconds["total"],
        "train_seconds": seconds["train"],
        "eval_seconds": seconds["eval"],
        "data_wait_fraction": None,
        "images_per_second": outcome.history[0]["images_per_second"],
        "peak_anonymous_memory_bytes": memory.bytes,
        "peak_device_memory_bytes": None,
    }

    def assembled(predictions: dict[str, str] | None) -> Record:
        return assemble(
            run,
            id,
            dataset,
            fitting.setup.backbone,
            protocol=protocol,
            params=Params(0, 0),
            metrics=segmentation_metrics(
                outcome, test, classes, 1, groups, joined_schemes(dataset.card, fitting.maps[1].scheme)
            ),
            counts={part: len(getattr(dataset.parts, part)) for part in ("train", "val", "test")},
            history=outcome.history,
            predictions=predictions,
            environment=describe(fitting.device.type, device_name(fitting.device), 1),
            timing=timing,
            created=now(),
            notes=[*fitting.notes, *outcome.notes],
            schemes=(named(fitting.maps[0]), named(fitting.maps[1])),
        )

    return store_run(
        Path(run.execution.results_dir),
        (dataset.card.name, protocol, id),
        folder,
        assembled=assembled,
        write=lambda path: write_confusions(path, test, dataset, classes),
    )
