"""A grid of runs made definite: everything that card, contract and hardware decide filled in, and each run its id."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fgmae_bench.config.cards import Card
from fgmae_bench.config.recipes import ProbeRecipe
from fgmae_bench.config.run import Run
from fgmae_bench.config.run_ids import run_id
from fgmae_bench.config.schedules import base_lr, rate_of, require_falling
from fgmae_bench.data.dataset import Dataset, only_usable, seen_by, with_labels_of
from fgmae_bench.data.index import Rows, ids_sha256
from fgmae_bench.data.splits import PARTS
from fgmae_bench.errors import BenchError
from fgmae_bench.features.bank import Bank, fill_bank
from fgmae_bench.features.extract import Extractor, Spent
from fgmae_bench.models.build import Backbone
from fgmae_bench.models.embeddings import Embeddings
from fgmae_bench.probe.penalty import RULE
from fgmae_bench.probe.zero_shot import require_texts
from fgmae_bench.runs.setup import Setup, facts_of, places, set_up
from fgmae_bench.system.device import Precision
from fgmae_bench.system.distributed import World
from fgmae_bench.system.environment import MemoryPeak
from fgmae_bench.system.progress import Progress
from fgmae_bench.views.classification import Augmentation


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A resolved grid: runs that differ in lr, weight decay and the labels they see, on one backbone and device."""

    runs: dict[str, Run]  # by run id
    datasets: dict[str, Dataset]  # by run id: one dataset, with the training labels of each run
    extractor: Extractor
    cache: Path
    effective_batch: int
    places: dict[str, tuple[Path, Path]]  # (output folder, TensorBoard folder) of each run
    notes: list[dict[str, str]]

    @property
    def dataset(self) -> Dataset:
        """The dataset of the first run: index, card, val and test are those of all."""
        return self.datasets[next(iter(self.runs))]

    def fits(self) -> list[list[str]]:
        """The run ids, those that see the same training labels together, in order."""
        together: dict[bytes, list[str]] = {}
        for id in self.runs:
            together.setdefault(self.datasets[id].parts.train.tobytes(), []).append(id)
        return list(together.values())


def resolve(
    runs: list[Run],
    card: Card,
    notes: list[dict[str, str]],
    world: World,
    device: torch.device,
    module: nn.Module | None,
) -> Probe:
    """Fill in everything that card, contract and hardware decide, and give each run its id."""
    first = runs[0]
    _require_fitting(first.recipe.probe, card)
    setup = set_up(first, card, world, device, module, trains=False)
    backbone = setup.backbone
    batch = first.recipe.batch_size * first.recipe.accum_iter * world.size
    for run in runs:  # before any image is read
        _require_enough(run, len(seen_by(setup.dataset, run)), batch, world.size)
    whole = [
        Run(
            data=dataclasses.replace(setup.data, shots=r.data.shots, draw=r.data.draw),
            model=setup.model,
            recipe=_resolved_recipe(r, backbone, setup.amp, batch, device.type),
            execution=r.execution,
        )
        for r in runs
    ]
    dataset = world.rank0_first(lambda: only_usable(setup.dataset, first, setup.cache, runs[1:]))
    resolved: dict[str, Run] = {}
    datasets: dict[str, Dataset] = {}
    for run in whole:
        own = with_labels_of(dataset, run)
        _require_enough(run, len(own.parts.train), batch, world.size)
        facts = _facts(run, own, setup, batch)
        # only what is trained in steps depends on how many processes share a step
        id = run_id(run, facts, world.size if run.recipe.probe == "sgd" else 1)
        resolved[id], datasets[id] = run, dataclasses.replace(own, facts=facts)
    setup.remember(each.facts for each in datasets.values())
    return Probe(
        runs=resolved,
        datasets=datasets,
        extractor=_extractor(setup, dataset, first, world, device),
        cache=setup.cache,
        effective_batch=batch,
        places={id: places(card, run, id, len(resolved)) for id, run in resolved.items()},
        notes=[*notes, *setup.notes],
    )


def _facts(run: Run, dataset: Dataset, setup: Setup, batch: int) -> dict[str, object]:
    """What enters the run id besides the configuration."""
    facts = facts_of(dataset, setup.backbone)
    if run.model.inputs:  # by the names of samples, so that a copy in another order is the same
        used = np.concatenate([getattr(dataset.parts, part) for part in PARTS])
        rows = sorted((int(row) for row in used), key=lambda row: dataset.index.ids[row])
        given = {name: np.asarray(setup.extra[name][rows], "<f8").tobytes() for name in run.model.inputs}
        facts["inputs_sha256"] = {name: hashlib.sha256(values).hexdigest() for name, values in given.items()}
    if run.recipe.probe == "zero_shot":
        facts["class_text"] = require_texts(run, dataset.card, setup.backbone).key
    if run.recipe.probe == "sgd":  # the head is fitted on all processes' features at once
        facts["batch_norm_samples"] = batch
    if run.recipe.probe == "lbfgs" and len(run.recipe.penalties) > 1:
        groups = dataset.index.groups  # of the pool: draws of few labels are distinguished by their samples
        known = None if groups is None else ids_sha256([groups[row] for row in dataset.pool])
        facts["penalty_rule"] = {"rule": RULE, "groups": known}
    return facts


def _require_fitting(probe: str, card: Card) -> None:
    """Raise BenchError on a probe that is not for the card's task."""
    number = card.task == "regression"
    if probe == "zero_shot" and number:
        raise BenchError(f"--probe zero_shot on a {card.task} dataset: it has no classes", "use --probe ridge or knn")
    if (probe == "ridge" and not number) or (probe == "lbfgs" and number):
        other = "ridge" if number else "lbfgs"
        raise BenchError(f"--probe {probe} on a {card.task} dataset", f"use --probe {other}, sgd or knn")


def _extractor(setup: Setup, dataset: Dataset, run: Run, world: World, device: torch.device) -> Extractor:
    """What makes the features of the grid's dataset, with the backbone on the device."""
    setup.backbone.module.to(device)
    if isinstance(setup.backbone.module, Embeddings) and dataset.content is not None:
        setup.backbone.module.require_dataset(dataset.index.ids, dataset.content)
    if run.execution.compile:
        setup.backbone.module.compile()
    return Extractor(
        dataset=dataset,
        backbone=setup.backbone,
        view=setup.view,
        device=device,
        amp=setup.amp,
        workers=run.execution.num_workers,
        world=world,
        compiled=run.execution.compile,
        extra=setup.extra,
    )


def _require_enough(run: Run, train: int, batch: int, processes: int) -> None:
    """Raise BenchError where the training split is too small for the batch or the neighbours."""
    recipe = run.recipe
    if recipe.probe == "sgd" and batch > train:
        few = "" if run.data.shots is None else f" of {run.data.shots} shots"
        what = f"effective batch {batch} is larger than the training split{few} ({train} images)"
        fits = train // processes // recipe.accum_iter
        todo = (
            f"use --batch_size {fits} or less"
            if fits
            else f"use --accum_iter {max(1, train // processes // recipe.batch_size)} or less"
        )
        raise BenchError(what, todo)
    if recipe.probe == "knn" and recipe.knn_k > train:
        raise BenchError(f"--knn_k is {recipe.knn_k}, the training split holds {train} images", "give a smaller k")


def _resolved_recipe(run: Run, backbone: Backbone, amp: Precision, batch: int, device_type: str) -> ProbeRecipe:
    """The recipe with its gaps filled and what cannot change its numbers set to one value."""
    recipe = run.recipe
    native = backbone.contract.geometry == "native"
    if native and (recipe.features == "stream" or recipe.views > 1):
        raise BenchError(f"{backbone.name} sees no random views", "leave out --features stream and --views")
    if recipe.probe != "sgd":
        if recipe.features == "stream" or recipe.views > 1:
            raise BenchError(
                f"--probe {recipe.probe} is fitted on the evaluation view", "leave out --features stream and --views"
            )
        return dataclasses.replace(
            recipe, amp=amp, features="cached", knn_k=recipe.knn_k if recipe.probe == "knn" else 5
        )
    wanted = recipe.features is None and recipe.views == 1 and not native
    stream = wanted and (device_type == "cuda" or recipe.recipe == "published")
    features: Literal["stream", "cached"] = recipe.features or ("stream" if stream else "cached")
    if features == "stream" and recipe.views != 1:
        raise BenchError("--views with --features stream", "leave out --views: stream draws a fresh view each epoch")
    lr = rate_of(recipe, batch)
    require_falling(lr, recipe)
    if recipe.warmup_epochs >= recipe.epochs:
        what = f"the warm-up is {recipe.warmup_epochs:g} of {recipe.epochs} epochs"
        raise BenchError(what, "give a longer schedule or a shorter --warmup_epochs")
    # What has no effect gets one value, so that runs do not differ by it.
    crop_scale = 1.0 if features == "cached" and recipe.views == 1 else recipe.crop_scale
    return dataclasses.replace(
        recipe, amp=amp, features=features, lr=lr, blr=base_lr(lr, batch), crop_scale=crop_scale, knn_k=5, penalties=()
    )


@dataclass(frozen=True, kw_only=True)
class Materials:
    """Labels by row, train rows (of any run of the grid, see `of`), and the banks of the evaluation view by part."""

    labels: NDArray[np.int64]
    train: Rows
    evaluation: dict[str, tuple[Bank, Rows]]
    train_banks: tuple[Bank, ...]  # cached: one for each view; empty in stream mode
    extractor: Extractor
    spent: Spent

    def of(self, dataset: Dataset) -> Materials:
        """The same with the training rows of one run."""
        rows = dataset.parts.train
        return dataclasses.replace(self, train=rows[np.isin(rows, self.train)])


def gather_materials(
    probe: Probe, first: Run, spent: Spent, memory: MemoryPeak, parts: tuple[str, ...] = ("train", "val", "test")
) -> Materials:
    """Features of the `parts` of the split; the training part is left out where it is streamed."""
    extractor, recipe = probe.extractor, first.recipe
    split = probe.dataset.parts
    several = [probe.datasets[id].parts.train for id, *_ in probe.fits()]
    seen = several[0] if len(several) == 1 else np.unique(np.concatenate(several))  # one pass for all of them
    train = seen if "train" in parts else seen[:0]
    cached = recipe.features == "cached" and len(train) > 0
    # One view: training and evaluation see the same images, so one bank holds all parts; several views are banks each.
    evaluated = {part: rows for part, rows in (("val", split.val), ("test", split.test)) if len(rows) and part in parts}
    if cached and recipe.views == 1:
        wanted = np.concatenate([*evaluated.values(), train])
        bank = _filled(probe, wanted, None, spent, memory, "features")
        train_banks: tuple[Bank, ...] = (bank,)
    else:
        bank = _filled(probe, np.concatenate(list(evaluated.values())), None, spent, memory, "evaluation features")
        views = range(recipe.views if cached else 0)
        train_banks = tuple(
            _filled(
                probe,
                train,
                Augmentation(seed=recipe.seed, epoch=v, crop_scale=recipe.crop_scale),
                spent,
                memory,
                f"view {v}",
            )
            for v in views
        )
    train = train_banks[0].usable(train) if train_banks else train
    evaluation = {part: (bank, bank.usable(rows)) for part, rows in evaluated.items()}
    return Materials(
        labels=probe.dataset.index.labels,
        train=train,
        evaluation=evaluation,
        train_banks=train_banks,
        extractor=extractor,
        spent=spent,
    )


def _filled(
    probe: Probe, rows: Rows, augmentation: Augmentation | None, spent: Spent, memory: MemoryPeak, label: str
) -> Bank:
    with Progress(label, len(rows), "images", show=probe.extractor.world.rank == 0) as progress:

        def step(count: int) -> None:
            progress.step(count)
            memory.look()

        return fill_bank(probe.extractor, rows, probe.cache, augmentation, spent, step)
