"""Segmentation: runs made definite, labels mapped by types, model and job built, handed to the training loop."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from torch import nn

from fgmae_bench.config.cards import Card
from fgmae_bench.config.encoders import EMBEDDINGS, HANDMADE
from fgmae_bench.config.recipes import protocol_of
from fgmae_bench.config.run import Run, run_id
from fgmae_bench.data.dataset import Dataset, check_classes, data_root, only_usable
from fgmae_bench.data.dfc.ready import with_labels
from fgmae_bench.data.index import ids_sha256
from fgmae_bench.data.labels import LabelMap, card_map
from fgmae_bench.data.splits import PARTS
from fgmae_bench.errors import BenchError, note
from fgmae_bench.metrics.segmentation import legacy_segmentation
from fgmae_bench.runs.curve_notes import rate_notes
from fgmae_bench.runs.setup import Setup, facts_of, places, set_up
from fgmae_bench.system.distributed import World
from fgmae_bench.system.stamps import remember
from fgmae_bench.train.job import Prepared
from fgmae_bench.train.panels import MAX_PANELS, draw_test_panels
from fgmae_bench.train.plan import Plan, make_plan
from fgmae_bench.train.resolve import (
    be_deterministic,
    division,
    resolved_recipe,
    without_idle_drop_path,
)
from fgmae_bench.train.run import one_by_one
from fgmae_bench.train.segment_job import NONE, Defects, make_job
from fgmae_bench.train.segmentation import segmentation_metrics, write_confusions

log = logging.getLogger("fgmae_bench")


def label_maps(run: Run, card: Card) -> tuple[LabelMap, LabelMap]:
    """(map of training, map of evaluation); what is not said of evaluation is as in training. Raises BenchError on a
    source that a scheme does not know.
    """
    data = run.data
    train = card_map(card, data.train_labels, data.train_scheme)
    return train, card_map(card, data.eval_labels or train.source.name, data.eval_scheme or train.scheme.name)


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
    setup = set_up(
        run, card, world, device, module, drop_path=recipe.drop_path, tasks=("segmentation",), classes=classes
    )
    dataset = _labelled(run, setup, maps, world)
    plan = make_plan(recipe, len(dataset.parts.train), world.size)
    recipe, idle = without_idle_drop_path(recipe, setup.backbone.module, setup.backbone.name)
    recipe = resolved_recipe(recipe, plan, setup.amp)
    resolved = Run(data=_resolved_data(setup, *maps), model=setup.model, recipe=recipe, execution=execution)
    facts = _facts(resolved, dataset, setup, plan, defects)
    dataset = dataclasses.replace(dataset, facts=facts)
    job = make_job(resolved, setup, dataset, maps, plan, world, device, defects)
    id = run_id(resolved, facts, world.size)
    rates = rate_notes("segment", resolved, card, plan.effective)
    scored_classes, groups = eval_map.scheme.classes, dataset.groups("test")
    return Prepared(
        run=resolved,
        id=id,
        protocol=protocol_of("segment", recipe),
        dataset=dataset,
        backbone=setup.backbone,
        job=job,
        plan=plan,
        world=world,
        device=device,
        amp=setup.amp,
        place=places(card, resolved, id, grid),
        classes=train_map.scheme.classes,
        schemes=(_named(train_map), _named(eval_map)),
        notes=[*notes, *idle, *counted, *_defect_notes(defects), *setup.notes, *rates],
        legacy=lambda scored: {"batch_size": plan.batch, **legacy_segmentation(scored.outputs, plan.batch)},
        metrics=lambda outcome, test: segmentation_metrics(outcome, test, scored_classes, plan.batch, groups),
        write_predictions=lambda path, test: write_confusions(path, test, dataset, scored_classes),
        finish=lambda folder: draw_test_panels(job, folder, execution.panels),
    )


def _require_possible(run: Run, card: Card) -> None:
    """Raise BenchError on what no data or weights could repair, before any is opened."""
    if card.task != "segmentation":
        raise BenchError(f"{card.title} is a {card.task} dataset", "use fgmae_bench.linear or fgmae_bench.finetune")
    if run.model.model in (*HANDMADE, EMBEDDINGS):
        raise BenchError(f"{run.model.model} gives no feature map", "take a ViT, a ResNet or another model with maps")
    if run.execution.panels > MAX_PANELS:
        raise BenchError(f"--panels is {run.execution.panels}", f"give {MAX_PANELS} or less")


def _labelled(run: Run, setup: Setup, maps: tuple[LabelMap, LabelMap], world: World) -> Dataset:
    """The dataset with the images that are used, all of them labelled; warns of splits that overlap."""
    execution = run.execution

    def read() -> Dataset:
        return with_labels(
            only_usable(setup.dataset, run, setup.cache),
            *maps,
            setup.cache,
            workers=execution.num_workers,
            strict=execution.strict,
            trust=execution.trust_data,
        )

    dataset = world.rank0_first(read)
    if world.rank == 0:
        remember(setup.cache, data_root(dataset.card, run), dataset.facts["content_sha256"])
    for found in dataset.notes:
        if found["code"] == "overlapping_splits":
            log.warning(found["text"])
    return dataset


def _facts(run: Run, dataset: Dataset, setup: Setup, plan: Plan, defects: Defects) -> dict[str, object]:
    """What enters the run id besides the configuration."""
    recipe = run.recipe
    samples = {part: ids_sha256([dataset.index.ids[row] for row in getattr(dataset.parts, part)]) for part in PARTS}
    return facts_of(dataset, setup.backbone) | {
        "samples_sha256": samples,
        "images_per_epoch": plan.micro_batches * plan.batch * plan.world,
        **({"defects": list(defects.names)} if defects.names else {}),
        # Group norm without stochastic depth gives the same numbers however a batch is divided.
        **({} if recipe.norm == "group" and not recipe.drop_path else {"division": division(plan)}),
    }


def _defect_notes(defects: Defects) -> list[dict[str, str]]:
    """A note on mistakes that were made on purpose."""
    if not defects.names:
        return []
    return [note("defects", f"made wrong on purpose, for the ablation: {', '.join(defects.names)}")]


def _resolved_features(recipe: Any, device: torch.device) -> Any:
    """Where the maps of a frozen backbone come from. Layer decay and drop path mean nothing to it and are set aside."""
    features = recipe.features
    if recipe.stride is not None and not recipe.augment:
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
    if features == "cached" and recipe.stride is not None:
        raise BenchError("--features cached with --stride", "leave out one: windows are computed as they are needed")
    return dataclasses.replace(
        recipe, features=features, augment=recipe.augment and features == "stream", layer_decay=1.0, drop_path=0.0
    )


def _resolved_data(setup: Setup, train: LabelMap, evaluated: LabelMap) -> Any:
    return dataclasses.replace(
        setup.data,
        train_labels=train.source.name,
        train_scheme=train.scheme.name,
        eval_labels=evaluated.source.name,
        eval_scheme=evaluated.scheme.name,
    )


def _named(label_map: LabelMap) -> str:
    """A scheme with its source, as the record names it."""
    return f"{label_map.scheme.name} of {label_map.source.name}"


shares = one_by_one(prepare)
