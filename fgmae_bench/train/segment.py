"""Segmentation: runs resolved, labels mapped by types, models built, and handed to the training loop."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import nn

from fgmae_bench.config.cards import Card
from fgmae_bench.config.run import Run, run_id
from fgmae_bench.data.dataset import Dataset, check_classes, only_usable
from fgmae_bench.data.dfc.ready import with_labels
from fgmae_bench.data.index import ids_sha256
from fgmae_bench.data.labels import LabelMap, card_map
from fgmae_bench.data.splits import PARTS
from fgmae_bench.errors import BenchError, note
from fgmae_bench.features.bank import Bank, fill_bank
from fgmae_bench.features.extract import Extractor, Spent
from fgmae_bench.features.label_bank import label_banks
from fgmae_bench.metrics.intervals import intervals, segmentation_units
from fgmae_bench.metrics.segmentation import classes_scored, eval_columns, legacy_segmentation, per_class, total
from fgmae_bench.models.build import Backbone
from fgmae_bench.records import Record
from fgmae_bench.runs.curve_notes import rate_notes
from fgmae_bench.runs.folder import ordered
from fgmae_bench.runs.setup import Setup, facts_of, places, set_up
from fgmae_bench.runs.tasks import Outcome
from fgmae_bench.system.distributed import World
from fgmae_bench.system.files import write_bytes
from fgmae_bench.system.progress import Progress
from fgmae_bench.train.job import Prepared, Scored
from fgmae_bench.train.panels import MAX_PANELS, Panel, draw_panels
from fgmae_bench.train.plan import make_plan
from fgmae_bench.train.resolve import (
    be_deterministic,
    checkpoint_activations,
    division,
    forward_chunk,
    resolved_recipe,
    run_each,
    score_checkpoint,
    without_idle_drop_path,
)
from fgmae_bench.train.segmentation import (
    FlatMaps,
    FrozenTaps,
    Labels,
    SegmentationJob,
    SegmentationModel,
    ToIds,
    Unflattened,
    build_segmenter,
    map_shapes,
)
from fgmae_bench.views.segmentation import mask_invalid

log = logging.getLogger("fgmae_bench")


@dataclass(frozen=True, kw_only=True)
class Defects:
    """Mistakes that the ablations make on purpose. `names` enter the run's id and its notes; nothing else sets them."""

    names: tuple[str, ...] = ()
    train_ids: ToIds | None = None
    eval_ids: ToIds | None = None
    extra_outputs: int = 0  # outputs that stand for no class: what they predict is wrong
    model: Callable[[SegmentationModel, Backbone], None] = lambda model, backbone: None


NONE = Defects()


def run_segment(
    runs: list[Run], card: Card, notes: list[dict[str, str]], defects: Defects = NONE, module: nn.Module | None = None
) -> list[Record]:
    """Train each run of a grid and return the records in order; runs whose record exists are read, not repeated.

    `module` stands in for the backbone that the runs name (see `fgmae_bench.evaluate`) and may be trained in place.
    """
    return run_each(
        runs, lambda run, world, device: prepare(run, card, notes, world, device, len(runs), defects, module)
    )


def evaluate_checkpoint(runs: list[Run], card: Card) -> dict[str, Any]:
    """Scores over the test split of the checkpoint that `--resume` names; nothing is recorded."""
    return score_checkpoint(runs, lambda run, world, device: prepare(run, card, [], world, device, 1))


def label_maps(run: Run, card: Card) -> tuple[LabelMap, LabelMap]:
    """(map of training, map of evaluation); what is not said of evaluation is as in training. Raises BenchError on a
    pair that is not.
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
    defects: Defects = NONE,
    module: nn.Module | None = None,
) -> Prepared:
    """Fill in everything that card, contract and hardware decide, and build model and job."""
    recipe, execution = run.recipe, run.execution
    be_deterministic(execution.deterministic)
    if card.task != "segmentation":
        raise BenchError(f"{card.title} is a {card.task} dataset", "use fgmae_bench.linear or fgmae_bench.finetune")
    if run.model.model == "backscatter_stats":
        raise BenchError("backscatter_stats gives no feature map", "take a ViT, a ResNet or another model with maps")
    train_map, eval_map = label_maps(run, card)
    classes = len(train_map.scheme.classes)
    counted = check_classes(classes, train_map.scheme.name, run.data.nb_classes)
    if execution.panels > MAX_PANELS:
        raise BenchError(f"--panels is {execution.panels}", f"give {MAX_PANELS} or less")
    recipe = _resolved_features(recipe, device)
    setup = set_up(
        run, card, world, device, module, drop_path=recipe.drop_path, tasks=("segmentation",), classes=classes
    )
    dataset = world.rank0_first(lambda: only_usable(setup.dataset, run, setup.cache))
    dataset = world.rank0_first(
        lambda: with_labels(
            dataset,
            train_map,
            eval_map,
            setup.cache,
            workers=execution.num_workers,
            strict=execution.strict,
            trust=execution.trust_data,
        )
    )
    for overlap in (found["text"] for found in dataset.notes if found["code"] == "overlapping_splits"):
        log.warning(overlap)
    plan = make_plan(recipe, len(dataset.parts.train), world.size)
    recipe, idle = without_idle_drop_path(recipe, setup.backbone.module, setup.backbone.name)
    resolved = Run(
        data=_resolved_data(setup, train_map, eval_map),
        model=setup.model,
        recipe=resolved_recipe(recipe, plan, setup.amp),
        execution=execution,
    )
    model, taps = build_segmenter(setup.backbone, recipe, classes + defects.extra_outputs)
    defects.model(model, setup.backbone)
    model.to(device)
    if execution.grad_checkpointing and not recipe.freeze_backbone:
        checkpoint_activations(setup.backbone.module, setup.backbone.name)
    chunk = forward_chunk(setup.backbone.contract.size, device, plan.batch)
    bank, codes = None, {}
    if recipe.features == "cached":
        sources = {label_map.source.name for label_map in (train_map, eval_map)}
        codes = world.rank0_first(
            lambda: label_banks(dataset, sources, setup.cache, workers=execution.num_workers, show=world.rank == 0)
        )
        bank = _maps(setup, dataset, taps, device, world, execution.num_workers)
        model.taps = Unflattened(map_shapes(taps, setup.backbone.contract.size), FrozenTaps(taps))
    if execution.compile:
        model.compile()
    samples = {part: ids_sha256([dataset.index.ids[row] for row in getattr(dataset.parts, part)]) for part in PARTS}
    facts = facts_of(dataset, setup.backbone) | {
        "samples_sha256": samples,
        "images_per_epoch": plan.micro_batches * plan.batch * plan.world,
        **({"defects": list(defects.names)} if defects.names else {}),
        **({} if recipe.norm == "group" and not recipe.drop_path else {"division": division(plan)}),
    }
    dataset = dataclasses.replace(dataset, facts=facts)
    job = SegmentationJob(
        model=model,
        kept=model.head if recipe.freeze_backbone else model,
        dataset=dataset,
        view=setup.view,
        recipe=resolved.recipe,
        train_labels=_labels(train_map, defects.train_ids),
        eval_labels=_labels(eval_map, defects.eval_ids),
        columns=_columns(train_map, eval_map, defects.extra_outputs),
        world=world,
        device=device,
        amp=setup.amp,
        workers=execution.num_workers,
        batch_size=chunk or min(64, 4 * plan.batch),
        bank=bank,
        label_banks=codes,
        unused_parameters=not recipe.freeze_backbone,
    )
    id = run_id(resolved, facts, world.size)
    place = places(card, resolved, id, grid)
    wrong = (
        [note("defects", f"made wrong on purpose, for the ablation: {', '.join(defects.names)}")]
        if defects.names
        else []
    )
    return Prepared(
        run=resolved,
        id=id,
        protocol=f"frozen_{recipe.head}" if recipe.freeze_backbone else "segmentation_finetune",
        dataset=dataset,
        backbone=setup.backbone,
        job=job,
        plan=plan,
        world=world,
        device=device,
        amp=setup.amp,
        place=place,
        classes=train_map.scheme.classes,
        schemes=(_named(train_map), _named(eval_map)),
        notes=[*notes, *idle, *counted, *wrong, *setup.notes, *rate_notes("segment", resolved, card, plan.effective)],
        legacy=lambda scored: {"batch_size": plan.batch, **legacy_segmentation(scored.outputs, plan.batch)},
        metrics=lambda outcome, test: _metrics(
            outcome, test, eval_map.scheme.classes, plan.batch, dataset.groups("test")
        ),
        write_predictions=lambda path, test: _write_confusions(path, test, dataset, eval_map.scheme.classes),
        finish=lambda folder: _draw(job, folder, execution.panels),
    )


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


def _columns(train: LabelMap, evaluated: LabelMap, extra_outputs: int) -> NDArray[np.int64] | None:
    """Column of the confusion matrix for each output; None where they are the classes of evaluation, one for one."""
    columns, count = eval_columns(train.scheme.classes, evaluated.scheme.classes), len(evaluated.scheme.classes)
    if not extra_outputs:
        return columns
    return np.concatenate([np.arange(count) if columns is None else columns, np.full(extra_outputs, count)])


def _named(label_map: LabelMap) -> str:
    """A scheme with its source, as the record names it."""
    return f"{label_map.scheme.name} of {label_map.source.name}"


def _labels(label_map: LabelMap, instead: ToIds | None) -> Labels:
    scheme = label_map.scheme
    return Labels(
        source=label_map.source.name, to_ids=instead or label_map, classes=scheme.classes, colours=scheme.colours
    )


def _maps(setup: Setup, dataset: Dataset, taps: nn.Module, device: torch.device, world: World, workers: int) -> Bank:
    """The frozen maps of every image that is used, computed once, ever."""
    module = FlatMaps(taps).to(device)
    count = sum(d * h * w for d, h, w in map_shapes(taps, setup.backbone.contract.size))
    backbone = dataclasses.replace(setup.backbone, module=module, feature_dim=count)
    extractor = Extractor(
        dataset=dataset, backbone=backbone, view=setup.view, device=device, amp=setup.amp, workers=workers, world=world
    )
    rows = np.concatenate([getattr(dataset.parts, part) for part in PARTS])
    with Progress("feature maps", len(rows), "images", show=world.rank == 0) as progress:
        return fill_bank(extractor, rows, setup.cache, None, Spent(), progress.step)


def _metrics(
    outcome: Outcome, test: Scored, classes: tuple[str, ...], batch: int, groups: list[str] | None
) -> dict[str, Any]:
    """The record's section. With another scheme in evaluation the confusion's last column counts classes that it does
    not have.
    """
    summed = total(test.outputs)
    values: dict[str, Any] = {"batch_size": batch, **legacy_segmentation(test.outputs, batch)}
    for name in ("oa", "aa", "miou") if outcome.best is None else ():
        values[f"{name}_max"] = max((e[name] for e in outcome.legacy_curve if e.get(name) is not None), default=None)
    return {
        "final": outcome.final,
        "best": outcome.best,
        "test": outcome.test,
        "per_class": per_class(summed, classes),
        "confusion": summed.tolist(),
        "classes_scored": classes_scored(summed, classes),
        "legacy": values,
        "intervals": intervals(segmentation_units(test.outputs, groups)),
    }


def _write_confusions(path: Path, test: Scored, dataset: Dataset, classes: tuple[str, ...]) -> None:
    """`confusion` (N, K, C) int64, one matrix an image, with ids and groups, as safetensors by rename."""
    metadata = {"ids": json.dumps(dataset.ids("test")), "classes": json.dumps(classes)}
    groups = dataset.groups("test")
    if groups is not None:
        metadata["groups"] = json.dumps(groups)
    write_bytes(path, ordered(save({"confusion": np.ascontiguousarray(test.outputs)}, metadata)))


def _draw(job: SegmentationJob, folder: Path, count: int) -> None:
    """Panels of a fixed choice of test samples: evenly spaced ones in the order of the split."""
    rows = job.dataset.parts.test
    if not count or not len(rows):
        return
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))]
    panels = []
    for row in chosen:
        chip = job.dataset.index.read(int(row), job.dataset.card)
        db = chip.db[list(job.view.order)]
        db = db if chip.valid is None else np.where(chip.valid[list(job.view.order)], db, np.nan)
        prediction = job.predict(np.array([row]))[0]
        label = mask_invalid(job.mask(int(row)), chip.valid)
        panels.append(Panel(name=job.dataset.index.ids[row], db=db, label=label, prediction=prediction))
    draw_panels(
        panels,
        job.eval_labels.classes,
        job.eval_labels.colours,
        folder / "panels.png",
        title=job.dataset.card.title,
        synthetic=job.dataset.synthetic,
    )
