"""From a definite segmentation run to its job: the model, maps that are computed once, and the labels of both sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fgmae_bench.config.names import AFTER
from fgmae_bench.config.run import Run
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.labels import Codes, LabelMap, TrainIds
from fgmae_bench.data.splits import PARTS
from fgmae_bench.errors import BenchError
from fgmae_bench.features.bank import Bank, TwoBanks, fill_bank
from fgmae_bench.features.extract import Extractor, Spent
from fgmae_bench.features.label_bank import label_banks
from fgmae_bench.metrics.segmentation import eval_columns
from fgmae_bench.models.build import Backbone
from fgmae_bench.models.segmenter import (
    FlatMaps,
    FrozenTaps,
    SegmentationModel,
    Unflattened,
    build_segmenter,
    map_shapes,
)
from fgmae_bench.models.sliding import Windows, window_starts
from fgmae_bench.models.two_dates import joined
from fgmae_bench.runs.setup import Setup
from fgmae_bench.system.distributed import World
from fgmae_bench.system.progress import Progress
from fgmae_bench.train.pixel_regression import PixelRegressionJob, Targets
from fgmae_bench.train.plan import Plan
from fgmae_bench.train.resolve import (
    checkpoint_activations,
    forward_chunk,
)
from fgmae_bench.train.segmentation import Labels, SegmentationJob, ToIds


@dataclass(frozen=True, kw_only=True)
class Defects:
    """Mistakes that the ablations make on purpose. `names` enter the run's id and its notes; nothing else sets them."""

    names: tuple[str, ...] = ()
    train_ids: ToIds | None = None
    eval_ids: ToIds | None = None
    extra_outputs: int = 0  # outputs that stand for no class: what they predict is wrong
    model: Callable[[SegmentationModel, Backbone], None] = lambda model, backbone: None


NONE = Defects()


def make_pixel_job(
    run: Run, setup: Setup, dataset: Dataset, targets: Targets, plan: Plan, world: World, device: torch.device
) -> PixelRegressionJob:
    """The job of a definite regression of pixels: one output, targets read from the maps of its source."""
    recipe, execution = run.recipe, run.execution
    model, taps = build_segmenter(setup.backbone, recipe, 1)
    model.to(device)
    if execution.grad_checkpointing and not recipe.freeze_backbone:
        checkpoint_activations(setup.backbone.module, setup.backbone.name)
    bank, windows = None, None
    if recipe.features == "cached":
        windows = windows_of(run, setup, dataset)
        bank = _map_banks(setup, dataset, taps, windows, device, world, execution.num_workers, recipe.dates)
        flat = Unflattened(map_shapes(taps, setup.backbone.contract.size), FrozenTaps(taps))
        model.taps = joined(flat, recipe.dates)
    if execution.compile:
        model.compile()
    labels = Labels(source=dataset.card.label_source, to_ids=_no_classes, classes=dataset.card.outputs, colours=())
    return PixelRegressionJob(
        model=model,
        kept=model.head if recipe.freeze_backbone else model,
        dataset=dataset,
        view=setup.view,
        recipe=recipe,
        train_labels=labels,
        eval_labels=labels,
        columns=None,
        world=world,
        device=device,
        amp=setup.amp,
        workers=execution.num_workers,
        batch_size=forward_chunk(setup.backbone.contract.size, device, plan.batch) or min(64, 4 * plan.batch),
        bank=bank,
        windows=windows,
        unused_parameters=not recipe.freeze_backbone,
        guard=setup.backbone.guarded,
        targets=targets,
    )


def _no_classes(codes: Codes) -> TrainIds:
    raise TypeError("targets are numbers, not classes")


def make_job(
    run: Run,
    setup: Setup,
    dataset: Dataset,
    maps: tuple[LabelMap, LabelMap],
    plan: Plan,
    world: World,
    device: torch.device,
    defects: Defects,
) -> SegmentationJob:
    """The job of a definite run, with its model on the device and, where they are cached, the maps of its images."""
    (train_map, eval_map), recipe, execution = maps, run.recipe, run.execution
    model, taps = build_segmenter(setup.backbone, recipe, len(train_map.scheme.classes) + defects.extra_outputs)
    defects.model(model, setup.backbone)
    model.to(device)
    if execution.grad_checkpointing and not recipe.freeze_backbone:
        checkpoint_activations(setup.backbone.module, setup.backbone.name)
    bank, windows, codes = None, None, {}
    if recipe.features == "cached":
        windows = windows_of(run, setup, dataset)
        sources = {label_map.source.name for label_map in maps}
        codes = world.rank0_first(
            lambda: label_banks(dataset, sources, setup.cache, workers=execution.num_workers, show=world.rank == 0)
        )
        bank = _map_banks(setup, dataset, taps, windows, device, world, execution.num_workers, recipe.dates)
        flat = Unflattened(map_shapes(taps, setup.backbone.contract.size), FrozenTaps(taps))
        model.taps = joined(flat, recipe.dates)
    if execution.compile:
        model.compile()
    return SegmentationJob(
        model=model,
        kept=model.head if recipe.freeze_backbone else model,
        dataset=dataset,
        view=setup.view,
        recipe=recipe,
        train_labels=_labels(train_map, defects.train_ids),
        eval_labels=_labels(eval_map, defects.eval_ids),
        columns=_columns(train_map, eval_map, defects.extra_outputs),
        world=world,
        device=device,
        amp=setup.amp,
        workers=execution.num_workers,
        batch_size=forward_chunk(setup.backbone.contract.size, device, plan.batch) or min(64, 4 * plan.batch),
        bank=bank,
        windows=windows,
        label_banks=codes,
        unused_parameters=not recipe.freeze_backbone,
        guard=setup.backbone.guarded,
    )


def _columns(train: LabelMap, evaluated: LabelMap, extra_outputs: int) -> NDArray[np.int64] | None:
    """Column of the confusion matrix for each output; None where they are the classes of evaluation, one for one."""
    columns, count = eval_columns(train.scheme.classes, evaluated.scheme.classes), len(evaluated.scheme.classes)
    if not extra_outputs:
        return columns
    return np.concatenate([np.arange(count) if columns is None else columns, np.full(extra_outputs, count)])


def _labels(label_map: LabelMap, instead: ToIds | None) -> Labels:
    scheme = label_map.scheme
    return Labels(
        source=label_map.source.name, to_ids=instead or label_map, classes=scheme.classes, colours=scheme.colours
    )


def _map_banks(
    setup: Setup,
    dataset: Dataset,
    taps: nn.Module,
    windows: Windows | None,
    device: torch.device,
    world: World,
    workers: int,
    dates: str,
) -> Bank | TwoBanks:
    """The frozen maps of every image that is used, of both dates where the decoder sees both."""
    later = _map_bank(setup, dataset, taps, windows, device, world, workers)
    if dates == AFTER:
        return later
    index = dataset.index
    assert index.before is not None  # its earlier images have been hashed
    of_before = dataclasses.replace(index, files=index.before, names=index.ids, before=None, sums=None)
    # none is left out: what the later image decides holds for both
    signal = dataclasses.replace(dataset.card.signal, max_invalid_fraction=1.0)
    card = dataclasses.replace(dataset.card, signal=signal)
    first = dataclasses.replace(dataset, card=card, index=of_before, content=dataset.before_content)
    earlier = dataclasses.replace(setup, view=setup.view.earlier)
    second = _map_bank(earlier, first, taps, windows, device, world, workers)
    return TwoBanks(later, second, pieces=1 if windows is None else len(windows.places))


def windows_of(run: Run, setup: Setup, dataset: Dataset) -> Windows | None:
    """The windows whose maps are kept, None where whole images are. Raises BenchError on scenes that are not square, or
    smaller than a window.
    """
    stride, window = run.recipe.stride, setup.backbone.contract.size
    if stride is None:
        return None
    height, width = dataset.index.size or (0, 0)
    if height != width or height < window:
        raise BenchError(
            f"--features cached with --stride on images of {height}x{width} px and windows of {window}",
            "use --features stream, or leave --stride out",
        )
    window_starts(height, window, stride)  # a stride that leaves pixels out
    return Windows(int(height), window, stride)


def _map_bank(
    setup: Setup,
    dataset: Dataset,
    taps: nn.Module,
    windows: Windows | None,
    device: torch.device,
    world: World,
    workers: int,
) -> Bank:
    """The frozen maps of every image that is used, or of its windows, computed once, ever."""
    module = FlatMaps(taps, windows).to(device)
    count = sum(d * h * w for d, h, w in map_shapes(taps, setup.backbone.contract.size))
    view = setup.view
    if windows is not None:  # the scene at its own size
        count *= len(windows.places)
        view = dataclasses.replace(view, contract=dataclasses.replace(view.contract, size=windows.side))
    backbone = dataclasses.replace(setup.backbone, module=module, feature_dim=count)
    extractor = Extractor(
        dataset=dataset, backbone=backbone, view=view, device=device, amp=setup.amp, workers=workers, world=world
    )
    rows = np.concatenate([getattr(dataset.parts, part) for part in PARTS])
    with Progress("feature maps", len(rows), "images", show=world.rank == 0) as progress:
        return fill_bank(extractor, rows, setup.cache, None, Spent(), progress.step)
