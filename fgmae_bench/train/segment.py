"""Segmentation: runs made definite, labels mapped by types, model and job built, handed to the training loop."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fgmae_bench.config.cards import Card
from fgmae_bench.config.encoders import EMBEDDINGS, HANDMADE
from fgmae_bench.config.names import AFTER, FITTED_HEADS, HEADS_OF_CLASSES, HEADS_THAT_DRAW
from fgmae_bench.config.recipes import protocol_of
from fgmae_bench.config.run import Run
from fgmae_bench.config.run_ids import run_id
from fgmae_bench.data.dataset import Dataset, check_classes, only_usable
from fgmae_bench.data.index import ids_sha256
from fgmae_bench.data.schemes import joined_schemes
from fgmae_bench.data.splits import PARTS
from fgmae_bench.data.targets import with_targets
from fgmae_bench.errors import BenchError, note
from fgmae_bench.hub.checksums import sha256_of
from fgmae_bench.metrics.segmentation import legacy_segmentation
from fgmae_bench.models.cost import cost_of
from fgmae_bench.runs.curve_notes import rate_notes
from fgmae_bench.runs.grid import Share
from fgmae_bench.runs.setup import Setup, facts_of, places, set_up
from fgmae_bench.system.distributed import World
from fgmae_bench.train.fitted import share as fitted_share
from fgmae_bench.train.job import Prepared
from fgmae_bench.train.labelled import (
    before_facts,
    label_maps,
    labelled_dataset,
    named,
    resolved_data,
    with_before,
)
from fgmae_bench.train.panels import MAX_PANELS, draw_test_panels
from fgmae_bench.train.pixel_regression import pixel_metrics, targets_of, write_sums
from fgmae_bench.train.plan import Plan, make_plan
from fgmae_bench.train.resolve import (
    be_deterministic,
    division,
    resolved_recipe,
    without_idle_drop_path,
)
from fgmae_bench.train.run import share_of
from fgmae_bench.train.segment_job import NONE, Defects, make_job, make_pixel_job
from fgmae_bench.train.segmentation import SegmentationJob, segmentation_metrics, write_confusions

log = logging.getLogger("fgmae_bench")


def shares(
    runs: list[Run],
    card: Card,
    notes: list[dict[str, str]],
    world: World,
    device: torch.device,
    module: nn.Module | None = None,
) -> Iterator[Share]:
    """Yield each run of a grid as a share of its own, built when it is asked for; `module` stands in for its backbone
    and may be trained in place.
    """
    for run in runs:
        if run.recipe.head in FITTED_HEADS:
            yield fitted_share(run, card, notes, world, device, len(runs))
            continue
        made = prepare_pixels if card.task == "regression" else prepare
        yield share_of(made(run, card, notes, world, device, len(runs), module))


def prepare(
    run: Run,
    card: Card,
    notes: list[dict[str, str]],
    world: World,
    device: torch.device,
    grid: int,
    module: nn.Module | None = None,
    defects: Defects = NONE,
) -> Prepared:
    """Fill in everything that card, contract and hardware decide, and build model and job of one of `grid` runs."""
    execution = run.execution
    be_deterministic(execution.deterministic)
    _require_possible(run, card)
    train_map, eval_map = maps = label_maps(run, card)
    classes = len(train_map.scheme.classes)
    counted = check_classes(classes, train_map.scheme.name, run.data.nb_classes)
    recipe = _resolved_features(run.recipe, device)
    setup = set_up(run, card, world, device, module, drop_path=recipe.drop_path, pixels=True, classes=classes)
    dataset = labelled_dataset(run, setup, maps, world)
    plan = make_plan(recipe, len(dataset.parts.train), world.size)
    recipe, idle = without_idle_drop_path(recipe, setup.backbone.module, setup.backbone.name)
    recipe = resolved_recipe(recipe, plan, setup.amp)
    resolved = Run(data=resolved_data(setup, *maps), model=setup.model, recipe=recipe, execution=execution)
    dataset = _dated(dataset, resolved, world)
    facts = _facts(resolved, dataset, setup, plan, defects) | before_facts(dataset)
    dataset = dataclasses.replace(dataset, facts=facts)
    setup.remember([facts])
    job = make_job(resolved, setup, dataset, maps, plan, world, device, defects)
    scored_classes, groups = eval_map.scheme.classes, dataset.groups("test")
    made = Made(run=resolved, setup=setup, job=job, plan=plan, notes=[*notes, *idle, *counted, *_defect_notes(defects)])
    return Prepared(
        **made.shared(card, device, grid),
        classes=train_map.scheme.classes,
        schemes=(named(train_map), named(eval_map)),
        legacy=lambda scored: {"batch_size": plan.batch, **legacy_segmentation(scored.outputs, plan.batch)},
        metrics=lambda outcome, test: segmentation_metrics(
            outcome, test, scored_classes, plan.batch, groups, joined_schemes(card, eval_map.scheme)
        ),
        write_predictions=lambda path, test: write_confusions(path, test, dataset, scored_classes),
        finish=lambda folder: draw_test_panels(job, folder, execution.panels),
    )


def prepare_pixels(
    run: Run,
    card: Card,
    notes: list[dict[str, str]],
    world: World,
    device: torch.device,
    grid: int,
    module: nn.Module | None = None,
) -> Prepared:
    """The same for a regression of pixels: a decoder of one output, scored in the unit of the target."""
    execution, target = run.execution, card.target
    be_deterministic(execution.deterministic)
    _require_possible(run, card)
    assert target is not None  # of every regression, see the check of cards
    recipe = _resolved_features(run.recipe, device)
    setup = set_up(run, card, world, device, module, drop_path=recipe.drop_path, pixels=True, classes=1)
    dataset, facts = world.rank0_first(
        lambda: with_targets(
            only_usable(setup.dataset, run, setup.cache),
            card.label_source,
            setup.cache,
            workers=execution.num_workers,
            strict=execution.strict,
        )
    )
    plan = make_plan(recipe, len(dataset.parts.train), world.size)
    recipe, idle = without_idle_drop_path(recipe, setup.backbone.module, setup.backbone.name)
    recipe = resolved_recipe(recipe, plan, setup.amp)
    resolved = Run(data=setup.data, model=setup.model, recipe=recipe, execution=execution)
    dataset = _dated(dataset, resolved, world)
    facts_of_run = _facts(resolved, dataset, setup, plan, NONE) | before_facts(dataset)
    dataset = dataclasses.replace(dataset, facts=facts_of_run)
    setup.remember([facts_of_run])
    job = make_pixel_job(resolved, setup, dataset, targets_of(dataset, facts, target), plan, world, device)
    groups = dataset.groups("test")
    made = Made(run=resolved, setup=setup, job=job, plan=plan, notes=[*notes, *idle])
    return Prepared(
        **made.shared(card, device, grid),
        classes=card.outputs,
        schemes=None,
        legacy=lambda scored: {},
        metrics=lambda outcome, test: pixel_metrics(outcome, test, job, target, groups),
        write_predictions=lambda path, test: write_sums(path, test, dataset, job, target),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """A definite run with its job, of classes or of a number a pixel."""

    run: Run
    setup: Setup
    job: SegmentationJob
    plan: Plan
    notes: list[dict[str, str]]

    def shared(self, card: Card, device: torch.device, grid: int) -> dict[str, Any]:
        """The fields of `Prepared` that both kinds fill alike."""
        job, run = self.job, self.run
        id = run_id(run, job.dataset.facts, job.world.size)
        return {
            "run": run,
            "id": id,
            "protocol": protocol_of("segment", run.recipe),
            "dataset": job.dataset,
            "backbone": self.setup.backbone,
            "job": job,
            "plan": self.plan,
            "world": job.world,
            "device": device,
            "amp": self.setup.amp,
            "place": places(card, run, id, grid),
            # a compiled model is not counted: the counter would see its graph
            "cost": lambda: None if run.execution.compile else cost_of(job.model),
            "notes": [
                *self.notes,
                *job.model.notes,
                *self.setup.notes,
                *rate_notes("segment", run, card, self.plan.effective),
            ],
        }


def _require_possible(run: Run, card: Card) -> None:
    """Raise BenchError on what no data or weights could repair, before any is opened."""
    if not card.per_pixel:
        raise BenchError(f"{card.title} is a {card.task} dataset", "use fgmae_bench.linear or fgmae_bench.finetune")
    if run.model.model in (*HANDMADE, EMBEDDINGS):
        raise BenchError(f"{run.model.model} gives no feature map", "take a ViT, a ResNet or another model with maps")
    if card.task == "regression" and (run.recipe.auxiliary or run.recipe.head in HEADS_OF_CLASSES):
        what, todo = (
            ("--auxiliary", "leave it out")
            if run.recipe.auxiliary
            else (f"--head {run.recipe.head}", "take --head upernet")
        )
        raise BenchError(f"{what} learns classes, {card.title} is a regression", todo)
    if run.recipe.head_weights is not None and not Path(run.recipe.head_weights).is_file():
        raise BenchError(f"--head_weights {run.recipe.head_weights}: no such file", "give a checkpoint")
    if run.execution.panels > MAX_PANELS:
        raise BenchError(f"--panels is {run.execution.panels}", f"give {MAX_PANELS} or less")


def _facts(run: Run, dataset: Dataset, setup: Setup, plan: Plan, defects: Defects) -> dict[str, object]:
    """What enters the run id besides the configuration."""
    recipe = run.recipe
    samples = {part: ids_sha256([dataset.index.ids[row] for row in getattr(dataset.parts, part)]) for part in PARTS}
    return facts_of(dataset, setup.backbone) | {
        "samples_sha256": samples,
        "images_per_epoch": plan.micro_batches * plan.batch * plan.world,
        **({"defects": list(defects.names)} if defects.names else {}),
        **({"head_weights": sha256_of(Path(recipe.head_weights))} if recipe.head_weights else {}),
        # Group norm without stochastic depth gives the same numbers however a batch is divided.
        **({} if recipe.norm == "group" and not _draws(recipe) else {"division": division(plan)}),
    }


def _dated(dataset: Dataset, run: Run, world: World) -> Dataset:
    """The dataset with the hashes of its earlier images, where the decoder sees them."""
    return dataset if run.recipe.dates == AFTER else with_before(dataset, world)


def _draws(recipe: Any) -> bool:
    """Whether training draws from a generator of each process."""
    return bool(recipe.drop_path or recipe.head_dropout or recipe.head in HEADS_THAT_DRAW)


def _defect_notes(defects: Defects) -> list[dict[str, str]]:
    """A note on mistakes that were made on purpose."""
    if not defects.names:
        return []
    return [note("defects", f"made wrong on purpose, for the ablation: {', '.join(defects.names)}")]


def _resolved_features(recipe: Any, device: torch.device) -> Any:
    """Where the maps of a frozen backbone come from. Layer decay and drop path mean nothing to it and are set aside."""
    features = recipe.features
    if recipe.stride is not None and not recipe.augment and features != "cached":
        raise BenchError(
            "--stride with --no_augment", "leave one out: whole scenes would be resized in training, not in evaluation"
        )
    if not recipe.freeze_backbone:
        if features == "cached":
            raise BenchError(
                "--features cached without --freeze_backbone", "maps are kept only of a backbone that does not change"
            )
        return dataclasses.replace(recipe, features="stream")
    if features is None:
        features = "cached" if recipe.recipe == "corrected" and device.type == "cpu" else "stream"
    return dataclasses.replace(
        recipe, features=features, augment=recipe.augment and features == "stream", layer_decay=1.0, drop_path=0.0
    )
