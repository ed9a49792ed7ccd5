"""What every engine makes definite first: the data opened, the backbone built, the two held against each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fgmae_bench.checkpoints.registry import files_of, registered
from fgmae_bench.config.cards import Card
from fgmae_bench.config.contract import FGMAE_CONTRACT, feed, parse_bands
from fgmae_bench.config.data_files import data_files, held_by_data, held_by_model, model_files
from fgmae_bench.config.encoders import EMBEDDINGS
from fgmae_bench.config.run import NATIVE, Model, Run
from fgmae_bench.data.dataset import Dataset, data_root, open_dataset
from fgmae_bench.data.extra_inputs import Extra, extra_inputs
from fgmae_bench.data.index import require_data
from fgmae_bench.data.packs.read import is_pack
from fgmae_bench.data.samples import sample_facts
from fgmae_bench.data.splits import PARTS
from fgmae_bench.data.statistics import Band, by_runs, mean_and_deviation
from fgmae_bench.errors import BenchError, note
from fgmae_bench.models.architectures import require_known
from fgmae_bench.models.build import Backbone, build_backbone, find_weights_file, patch_side, wrap_module
from fgmae_bench.models.contracts import departures
from fgmae_bench.models.embeddings import ROW, Embeddings
from fgmae_bench.models.place import NAME as PLACE
from fgmae_bench.models.pooling import TokenPool, write_out_attention
from fgmae_bench.models.taps import fitting_size
from fgmae_bench.runs.trackers import require_tracker
from fgmae_bench.system.device import Precision, resolve_amp
from fgmae_bench.system.distributed import World
from fgmae_bench.system.files import require_writable
from fgmae_bench.system.stamps import remember, stamp_of
from fgmae_bench.views.classification import View, make_view
from fgmae_bench.views.normalizers import OF_A_BATCH


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Data and backbone of a run, with the sections `data` and `model` resolved."""

    data: Any  # Data, or the module's own
    model: Model
    dataset: Dataset
    backbone: Backbone
    view: View
    amp: Precision
    cache: Path
    notes: list[dict[str, str]]
    extra: Extra = field(default_factory=dict)  # inputs besides pixels by name, a row a sample of the index
    files: tuple[Path, ...] = ()  # that the model comes from
    stamp: str = ""  # of these files before they were read
    data_files: Path | tuple[Path, ...] = ()  # that decide what the data is
    data_stamp: str = ""  # the same of them

    def remember(self, facts: Iterable[Mapping[str, Any]]) -> None:
        """Keep what the files of data and model held in runs of these facts, so that a suite sees without reading them
        whether they still do. For rank 0, which has the stamps.
        """
        for found in facts:
            if self.data_stamp:
                remember(self.cache, self.data_files, held_by_data(found["content_sha256"], found), self.data_stamp)
            model = held_by_model(self.backbone.weights.sha256, found)
            if self.stamp and any(model.values()):
                remember(self.cache, self.files, model, self.stamp)


def set_up(
    first: Run,
    card: Card,
    world: World,
    device: torch.device,
    module: nn.Module | None = None,
    *,
    drop_path: float = 0.0,
    pixels: bool = False,
    classes: int | None = None,
    trains: bool = True,
) -> Setup:
    """Open the data and build the backbone of a run; `module` stands in for the backbone that it names.

    `pixels`: the engine is for labels or targets of every pixel. `classes` is the number of outputs where the card does
    not decide it. For such engines the view holds the whole image and the input is as large as the data, where the run
    does not say otherwise. It `trains` more than a head on features, which alone takes extra inputs. Raises
    BenchError for everything that is missing at once, for what contradicts the card, and for weights that do not fit.
    """
    if card.per_pixel != pixels:
        entry = "fgmae_bench.segment" if card.per_pixel else "fgmae_bench.linear or fgmae_bench.finetune"
        raise BenchError(f"{card.title} is a {card.task} dataset", f"use {entry}")
    if trains and (first.model.inputs or first.model.model in (PLACE, EMBEDDINGS)):
        what = "--inputs" if first.model.inputs else f"--model {first.model.model}"
        raise BenchError(f"{what} is for probes of frozen features", "use fgmae_bench.linear")
    name = first.data.split or card.usual_split(first.recipe.recipe)
    data = dataclasses.replace(
        first.data, split=name, nb_classes=None if classes is not None else first.data.nb_classes
    )
    cache = Path(first.execution.cache_dir)
    world.raise_together(lambda: require_tracker(first.execution.tracker) if world.rank == 0 else None)
    if module is None:
        world.raise_together(lambda: require_present(card, first, cache))
    data_at, data_stamp = world.raise_together(lambda: _data_stamp(card, first) if world.rank == 0 else ((), ""))
    dataset = world.raise_together(lambda: open_dataset(card, dataclasses.replace(first, data=data), cache))
    whole = card.per_pixel
    given = first.model.input_size not in (None, NATIVE) or first.model.model == "backscatter_stats"
    wanted = first.model if not whole or given else _at_data_size(first.model, dataset, module)
    size = dataset.index.size or dataset.card.signal.size
    held = parse_bands(first.data.band_order) if first.data.band_order else card.signal.bands

    def statistics() -> tuple[Band, Band]:
        fed = feed(held, FGMAE_CONTRACT, data.missing_band, data.bands_as)
        there = [place for place, found in enumerate(fed.order) if found >= 0 and not fed.shift[place]]
        each = sample_facts(dataset.samples, ("moments",), cache, first.execution.num_workers)["moments"]
        # of the pool: pixels spend no label
        found = mean_and_deviation(each[dataset.pool], tuple(fed.order[place] for place in there))
        mean, std = list(FGMAE_CONTRACT.mean), list(FGMAE_CONTRACT.std)  # of a band that the data lacks
        for place, own_mean, own_std in zip(there, *found, strict=True):
            mean[place], std[place] = own_mean, own_std
        return tuple(mean), tuple(std)

    files: tuple[Path, ...] = ()
    if module is None and world.rank == 0:
        files = files_of(first.model.model, first.model.weights, cache) + model_files(first)
    stamp = stamp_of(files) if files and all(file.exists() for file in files) else ""
    backbone = world.raise_together(
        lambda: (
            wrap_module(module, wanted, statistics, size)
            if module is not None
            else build_backbone(
                wanted, first.recipe.seed, cache, drop_path=drop_path, statistics=statistics, data_size=size
            )
        )
    )
    asked = {"missing_band": data.missing_band, "bands_as": data.bands_as}
    view = make_view(card, backbone.contract, first.data.band_order, whole=whole, **asked)
    if backbone.contract.normalizer in OF_A_BATCH:
        if whole:
            what = f"{backbone.contract.normalizer} is for whole chips"
            raise BenchError(what, "choose other weights for segmentation, or state a --normalizer")
        each = world.rank0_first(lambda: sample_facts(dataset.samples, ("moments",), cache)["moments"])
        runs = OF_A_BATCH[backbone.contract.normalizer]
        view = dataclasses.replace(view, statistics=by_runs(dataset.index.ids, each, view.order, runs))
    data = dataclasses.replace(data, band_order=",".join(held), nb_classes=classes or len(card.outputs))
    published = first.recipe.recipe == "published"
    amp: Precision = resolve_amp(first.recipe.amp, device, published) if backbone.lowers_precision else "off"
    if amp == "bf16" and device.type == "cpu":
        write_out_attention(backbone.module)
    world.raise_together(lambda: _require_places(first, cache) if world.rank == 0 else None)
    sized = _at_data_size(dataclasses.replace(first.model, input_size=None), dataset, module) if whole else None
    usual_amp = resolve_amp(None, device, published) if backbone.lowers_precision else "off"
    departs = (*_departs(first.model, backbone, sized), *(("amp",) if amp != usual_amp else ()))
    backbone = dataclasses.replace(backbone, departs=departs)
    return Setup(
        data=data,
        model=_resolved_model(first, backbone),
        dataset=dataset,
        backbone=backbone,
        view=view,
        amp=amp,
        cache=cache,
        notes=[
            *backbone.notes,
            *(note("bands_fed", text) for text in view.words),
            *_calibration_notes(card, backbone),
            *_overlap_notes(card, wanted),
        ],
        extra=world.rank0_first(lambda: _extra(first.model, dataset, backbone, cache)),
        files=files,
        stamp=stamp,
        data_files=data_at,
        data_stamp=data_stamp,
    )


def _data_stamp(card: Card, run: Run) -> tuple[Path | tuple[Path, ...], str]:
    """The files that decide what the data is, and their stamp before any is read."""
    root = data_root(card, run)
    places = data_files(card, run, root)
    return places, stamp_of(places) if root.exists() else ""


def _departs(model: Model, backbone: Backbone, sized: Model | None) -> list[str]:
    """The flags of a model whose value is not what would hold without them; it is `sized` to the data where views are
    of whole images.
    """
    usual, token = backbone.usual, isinstance(backbone.module, TokenPool)
    if usual is not None and sized is not None and isinstance(sized.input_size, int):
        usual = dataclasses.replace(usual, size=sized.input_size, geometry="resize_crop")
    own = "cls" if token and isinstance(backbone.module.vit, VisionTransformer) else "mean"
    pooled = model.pool is not None and backbone.pool not in (None, own)
    return departures(model, backbone.contract, usual) + (["pool"] if pooled else [])


def _at_data_size(model: Model, dataset: Dataset, module: nn.Module | None) -> Model:
    """The model at the size of the data, or the next smaller one that its patches divide; a user's `module` is made for
    one size.
    """
    size = min(dataset.index.size or dataset.card.signal.size)
    patch = patch_side(model.model, model.patch_size) if module is None else 1
    return dataclasses.replace(model, input_size=fitting_size(size, patch))


def _extra(model: Model, dataset: Dataset, backbone: Backbone, cache: Path) -> Extra:
    """The extra inputs that a run asks for, and which vector is whose; raises BenchError where the data lacks one."""
    found = extra_inputs(dataset.index, model.inputs, cache)
    if isinstance(backbone.module, Embeddings):
        used = np.concatenate([getattr(dataset.parts, part) for part in PARTS])
        found[ROW] = backbone.module.positions(dataset.index.ids, used)
    return found


def facts_of(dataset: Dataset, backbone: Backbone) -> dict[str, object]:
    """What enters the run id besides the configuration: card, samples, content of the weights, and their input."""
    contract = backbone.contract
    fed = {"bands": list(contract.bands), "mean": list(contract.mean), "std": list(contract.std)}
    if contract.assumed:
        fed["assumed"] = contract.normalizer
    if contract.transductive:
        fed["transductive"] = True
    if contract.missing_band != "mean" and {*contract.bands} - {*dataset.card.signal.bands}:
        fed["missing_band"] = contract.missing_band
    return dataset.facts | {"weights": backbone.weights.sha256 or backbone.weights.source, "input": fed}


def _require_places(run: Run, cache: Path) -> None:
    """Raise BenchError for a folder that cannot be written, before any work is done."""
    execution = run.execution
    for place in (str(cache), execution.results_dir, execution.output_dir, execution.log_dir):
        if place is not None:
            require_writable(Path(place))


def _resolved_model(run: Run, backbone: Backbone) -> Model:
    weights = backbone.weights.source if backbone.weights.source in ("none", "module") else run.model.weights
    contract = backbone.contract
    side: int | Literal["native"] | None = contract.size or None
    if contract.size and contract.geometry == "native":
        side = "native"
    resolved = dataclasses.replace(run.model, weights=weights, pool=backbone.pool, input_size=side)
    if contract.assumed:  # nobody stated it: the configuration that a run leaves must not either
        return resolved
    return dataclasses.replace(resolved, normalizer=contract.normalizer, mean=contract.mean, std=contract.std)


def require_present(card: Card, run: Run, cache: Path) -> None:
    """Raise one BenchError that names everything that is not here, data and weights, with the commands that get it."""
    if ":" not in run.model.model:
        require_known(run.model.model)
    problems = []
    root = data_root(card, run)
    for look in (
        lambda: None if is_pack(root) else require_data(card, root),
        lambda: find_weights_file(run.model, cache),
    ):
        try:
            look()
        except BenchError as error:
            problems.append(error)
    if len(problems) == 2 and problems[1].todo.startswith("get them with"):
        raise BenchError(f"{problems[0].what}, and {problems[1].what}", f"{problems[0].todo}  and  {problems[1].todo}")
    if problems:
        raise problems[0]


def places(card: Card, run: Run, id: str, grid: int) -> tuple[Path, Path]:
    """(output folder, TensorBoard folder) of a run; a grid has one sub-folder a run."""
    execution = run.execution
    if execution.output_dir is None:
        folder = Path("runs") / card.name / id
    else:
        folder = Path(execution.output_dir) / id if grid > 1 else Path(execution.output_dir)
    if execution.log_dir is None:
        return folder, folder / "tensorboard"
    return folder, Path(execution.log_dir) / id if grid > 1 else Path(execution.log_dir)


def _overlap_notes(card: Card, model: Model) -> list[dict[str, str]]:
    """What the pre-training of named weights has seen of the dataset, or why nothing excludes that it has: as far as
    that is published.
    """
    known = registered().get(model.weights, {}).get(model.model)
    if known is None:
        return []
    seen = known.entry.overlap.get(card.name)
    if seen:
        return [note("pretraining_overlap", f"the weights {model.weights} have seen {seen}")]
    entry = known.entry
    labels = "" if entry.labels in ("", "none") else f"labels: {entry.labels}"
    facts = ", ".join(fact for fact in (entry.places, entry.period, labels) if fact)
    found = f"not excluded ({facts})" if facts else "not published"
    return [note("pretraining_places", f"what the weights {model.weights} have seen of this dataset: {found}")]


def _calibration_notes(card: Card, backbone: Backbone) -> list[dict[str, str]]:
    """A note where pre-trained weights saw another calibration than the card states; pixels cannot show it."""
    held, trained = card.signal.calibration, backbone.contract.calibration
    if backbone.weights.sha256 is None or "unstated" in (held, trained) or held == trained:
        return []
    return [note("calibration_mismatch", f"the data is stated as {held}, the weights were trained on {trained}")]
