"""A grid of runs made definite: everything that card, contract and hardware decide filled in, and each run its id."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from fgmae_bench.backbones import Backbone, build_backbone, find_weights_file, wrap_module
from fgmae_bench.cards import Card
from fgmae_bench.config import Model, ProbeRecipe, Run, run_id
from fgmae_bench.contract import parse_bands
from fgmae_bench.data.dataset import Dataset, data_root, only_usable, open_dataset
from fgmae_bench.data.index import require_data
from fgmae_bench.data.packs.read import is_pack
from fgmae_bench.device import Precision, resolve_amp
from fgmae_bench.distributed import World
from fgmae_bench.errors import BenchError
from fgmae_bench.features import Extractor
from fgmae_bench.files import require_writable
from fgmae_bench.optim import base_lr, scaled_lr
from fgmae_bench.records import note
from fgmae_bench.views import make_view


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A resolved grid: runs that differ in lr and weight decay only, on one dataset, backbone and device."""

    runs: dict[str, Run]  # by run id
    dataset: Dataset
    extractor: Extractor
    cache: Path
    effective_batch: int
    places: dict[str, tuple[Path, Path]]  # (output folder, TensorBoard folder) of each run
    notes: list[dict[str, str]]


def resolve(
    runs: list[Run], card: Card, notes: list[dict[str, str]], world: World, device: torch.device, module: nn.Module | None
) -> Probe:  # fmt: skip
    """Fill in everything that card, contract and hardware decide, and give each run its id."""
    first = runs[0]
    name = first.data.split or (card.recommended_split if first.recipe.recipe == "corrected" else card.default_split)
    data = dataclasses.replace(first.data, split=name)
    cache = Path(first.execution.cache_dir).expanduser()
    if module is None:
        world.together(lambda: require_present(card, first, cache))
    dataset = world.together(lambda: open_dataset(card, dataclasses.replace(first, data=data), cache))
    backbone = world.together(
        lambda: wrap_module(module, first.model) if module is not None else build_backbone(first.model, first.recipe.seed, cache)
    )
    view = make_view(card, backbone.contract, first.data.band_order)
    held = parse_bands(first.data.band_order) if first.data.band_order else card.signal.bands
    data = dataclasses.replace(data, band_order=",".join(held), nb_classes=len(card.classes))
    amp: Precision = resolve_amp(first.recipe.amp, device) if backbone.lowers_precision else "off"
    batch = first.recipe.batch_size * first.recipe.accum_iter * world.size
    _require_enough(first, len(dataset.parts.train), batch, world.size)
    model = _resolved_model(first, backbone)
    whole = [
        Run(data=data, model=model, recipe=_resolved_recipe(r, backbone, amp, batch, device.type), execution=r.execution) for r in runs
    ]
    world.together(lambda: _require_places(first, cache) if world.rank == 0 else None)
    dataset = world.in_turn(lambda: only_usable(dataset, first, cache))
    _require_enough(first, len(dataset.parts.train), batch, world.size)
    facts = dataset.facts | {"weights": backbone.weights.sha256 or backbone.weights.source}
    resolved = {run_id(run, facts, world.size): run for run in whole}
    backbone.module.to(device)
    if first.execution.compile:
        backbone.module.compile()
    extractor = Extractor(
        dataset=dataset, backbone=backbone, view=view, device=device, amp=amp, workers=first.execution.num_workers, world=world,
        compiled=first.execution.compile,
    )  # fmt: skip
    return Probe(
        runs=resolved, dataset=dataclasses.replace(dataset, facts=facts), extractor=extractor, cache=cache, effective_batch=batch,
        places={id: _places(card, run, id, len(resolved)) for id, run in resolved.items()},
        notes=[*notes, *backbone.notes, *_calibration_notes(card, backbone)],
    )  # fmt: skip


def _require_places(run: Run, cache: Path) -> None:
    """Raise BenchError for a folder that cannot be written, before any work is done."""
    execution = run.execution
    for place in (str(cache), execution.results_dir, execution.output_dir, execution.log_dir):
        if place is not None:
            require_writable(Path(place))


def _require_enough(run: Run, train: int, batch: int, processes: int) -> None:
    """Raise BenchError where the training split is too small for the batch or the neighbours."""
    recipe = run.recipe
    if recipe.probe == "sgd" and batch > train:
        what = f"effective batch {batch} is larger than the training split ({train} images)"
        raise BenchError(what, f"use --batch_size {max(1, train // processes // recipe.accum_iter)} or less")
    if recipe.probe == "knn" and recipe.knn_k > train:
        raise BenchError(f"--knn_k is {recipe.knn_k}, the training split holds {train} images", "give a smaller k")


def _resolved_model(run: Run, backbone: Backbone) -> Model:
    weights = backbone.weights.source if backbone.weights.source in ("none", "module") else run.model.weights
    return dataclasses.replace(
        run.model, weights=weights, pool=backbone.pool, input_size=backbone.contract.size or None, normalizer=backbone.contract.normalizer
    )


def require_present(card: Card, run: Run, cache: Path) -> None:
    """Raise one BenchError that names everything that is not here, data and weights, with the commands that get it."""
    problems = []
    root = data_root(card, run)
    for look in (lambda: None if is_pack(root) else require_data(card, root), lambda: find_weights_file(run.model, cache)):
        try:
            look()
        except BenchError as error:
            problems.append(error)
    if len(problems) == 2 and problems[1].todo.startswith("get them with"):
        raise BenchError(f"{problems[0].what}, and {problems[1].what}", f"{problems[0].todo}  and  {problems[1].todo}")
    if problems:
        raise problems[0]


def _resolved_recipe(run: Run, backbone: Backbone, amp: Precision, batch: int, device_type: str) -> ProbeRecipe:
    """The recipe with its gaps filled and what cannot change its numbers set to one value."""
    recipe = run.recipe
    native = backbone.contract.geometry == "native"
    if native and (recipe.features == "stream" or recipe.views > 1):
        raise BenchError(f"{backbone.name} sees no random views", "leave out --features stream and --views")
    if recipe.probe != "sgd":
        if recipe.features == "stream" or recipe.views > 1:
            raise BenchError(f"--probe {recipe.probe} is fitted on the evaluation view", "leave out --features stream and --views")
        return dataclasses.replace(recipe, amp=amp, features="cached")
    wanted = recipe.features is None and recipe.views == 1 and not native
    stream = wanted and (device_type == "cuda" or recipe.recipe == "published")
    features: Literal["stream", "cached"] = recipe.features or ("stream" if stream else "cached")
    if features == "stream" and recipe.views != 1:
        raise BenchError("--views with --features stream", "leave out --views: stream draws a fresh view each epoch")
    lr = recipe.lr if recipe.lr is not None else scaled_lr(recipe.blr or 0.1, batch)
    crop_scale = 1.0 if features == "cached" and recipe.views == 1 else recipe.crop_scale
    return dataclasses.replace(
        recipe, amp=amp, features=features, lr=lr, blr=base_lr(lr, batch), crop_scale=crop_scale, knn_k=5, penalties=()
    )


def _places(card: Card, run: Run, id: str, grid: int) -> tuple[Path, Path]:
    """(output folder, TensorBoard folder) of a run; a grid has one sub-folder a run."""
    execution = run.execution
    if execution.output_dir is None:
        folder = Path("runs") / card.name / id
    else:
        folder = Path(execution.output_dir) / id if grid > 1 else Path(execution.output_dir)
    if execution.log_dir is None:
        return folder, folder / "tensorboard"
    return folder, Path(execution.log_dir) / id if grid > 1 else Path(execution.log_dir)


def _calibration_notes(card: Card, backbone: Backbone) -> list[dict[str, str]]:
    """A note where pre-trained weights saw another calibration than the card states; pixels cannot show it."""
    held, trained = card.signal.calibration, backbone.contract.calibration
    if backbone.weights.sha256 is None or held in (trained, "unstated"):
        return []
    return [note("calibration_mismatch", f"the data is stated as {held}, the weights were trained on {trained}")]
