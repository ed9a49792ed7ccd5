"""What every engine makes definite first: the data opened, the backbone built, the two held against each other."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fgmae_bench.backbones import Backbone, build_backbone, find_weights_file, wrap_module
from fgmae_bench.cards import Card
from fgmae_bench.config import Data, Model, Run
from fgmae_bench.contract import parse_bands
from fgmae_bench.data.dataset import Dataset, data_root, open_dataset
from fgmae_bench.data.index import require_data
from fgmae_bench.data.packs.read import is_pack
from fgmae_bench.device import Precision, resolve_amp
from fgmae_bench.distributed import World
from fgmae_bench.errors import BenchError
from fgmae_bench.files import require_writable
from fgmae_bench.records import note
from fgmae_bench.views import View, make_view


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Data and backbone of a run, with the sections `data` and `model` resolved."""

    data: Data
    model: Model
    dataset: Dataset
    backbone: Backbone
    view: View
    amp: Precision
    cache: Path
    notes: list[dict[str, str]]


def set_up(
    first: Run, card: Card, world: World, device: torch.device, module: nn.Module | None = None, drop_path: float = 0.0
) -> Setup:  # fmt: skip
    """Open the data and build the backbone of a run; `module` stands in for the backbone that it names.

    Raises BenchError for everything that is missing at once, for what contradicts the card, and for weights that do not fit.
    """
    name = first.data.split or (card.recommended_split if first.recipe.recipe == "corrected" else card.default_split)
    data = dataclasses.replace(first.data, split=name)
    cache = Path(first.execution.cache_dir).expanduser()
    if module is None:
        world.together(lambda: require_present(card, first, cache))
    dataset = world.together(lambda: open_dataset(card, dataclasses.replace(first, data=data), cache))
    backbone = world.together(
        lambda: (
            wrap_module(module, first.model)
            if module is not None
            else build_backbone(first.model, first.recipe.seed, cache, drop_path=drop_path)
        )
    )
    view = make_view(card, backbone.contract, first.data.band_order)
    held = parse_bands(first.data.band_order) if first.data.band_order else card.signal.bands
    data = dataclasses.replace(data, band_order=",".join(held), nb_classes=len(card.classes))
    amp: Precision = resolve_amp(first.recipe.amp, device) if backbone.lowers_precision else "off"
    world.together(lambda: _require_places(first, cache) if world.rank == 0 else None)
    return Setup(
        data=data, model=_resolved_model(first, backbone), dataset=dataset, backbone=backbone, view=view, amp=amp, cache=cache,
        notes=[*backbone.notes, *_calibration_notes(card, backbone)],
    )  # fmt: skip


def facts_of(dataset: Dataset, backbone: Backbone) -> dict[str, object]:
    """What enters the run id beside the configuration: card, samples, content of the weights."""
    return dataset.facts | {"weights": backbone.weights.sha256 or backbone.weights.source}


def _require_places(run: Run, cache: Path) -> None:
    """Raise BenchError for a folder that cannot be written, before any work is done."""
    execution = run.execution
    for place in (str(cache), execution.results_dir, execution.output_dir, execution.log_dir):
        if place is not None:
            require_writable(Path(place))


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


def _calibration_notes(card: Card, backbone: Backbone) -> list[dict[str, str]]:
    """A note where pre-trained weights saw another calibration than the card states; pixels cannot show it."""
    held, trained = card.signal.calibration, backbone.contract.calibration
    if backbone.weights.sha256 is None or held in (trained, "unstated"):
        return []
    return [note("calibration_mismatch", f"the data is stated as {held}, the weights were trained on {trained}")]
