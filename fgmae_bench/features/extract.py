"""Features of a frozen backbone: images viewed ahead in threads, forwarded in batches, gathered over processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.extra_inputs import Extra
from fgmae_bench.data.index import Rows
from fgmae_bench.errors import RunFailed
from fgmae_bench.features.loader import ahead, blank_view, read_view
from fgmae_bench.models.backbone import images_a_pass
from fgmae_bench.models.build import Backbone
from fgmae_bench.models.cost import cost_of_probe
from fgmae_bench.system.device import Precision, autocast
from fgmae_bench.system.distributed import World
from fgmae_bench.views.classification import Augmentation, View

Features = NDArray[np.float32]  # (N, D)


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """All that turns rows of a dataset into features: backbone, view, device and precision."""

    dataset: Dataset
    backbone: Backbone
    view: View
    device: torch.device
    amp: Precision
    workers: int
    world: World
    compiled: bool = False
    extra: Extra = field(default_factory=dict)  # inputs besides pixels by name, a row a sample of the index

    @property
    def batch_size(self) -> int:
        """Images a forward pass; no part of the recipe."""
        return images_a_pass(self.backbone.contract.size) if self.device.type == "cpu" else 256


@dataclass
class Spent:
    """Where the time of extraction went, and how many images it was."""

    images: int = 0
    forward_seconds: float = 0.0
    wait_seconds: float = 0.0


def extract(
    extractor: Extractor, rows: Rows, augmentation: Augmentation | None, spent: Spent
) -> Iterator[tuple[Rows, Features, NDArray[np.bool_]]]:
    """Yield (rows, features (n, D), usable (n,)) batch by batch in the order of `rows`.

    Reading and view run in threads ahead of the forward pass. Images with too many invalid pixels are not usable.
    """
    world = extractor.world
    step = extractor.batch_size * world.size
    chunks = [rows[i : i + step] for i in range(0, len(rows), step)]
    # every size-th image of each chunk: all processes work on one chunk, and its rows are put back in order
    mine = [chunk[world.rank :: world.size] for chunk in chunks]
    prepared = ahead(
        lambda part: read_view(extractor.dataset, extractor.view, part, augmentation), mine, extractor.workers
    )
    for number, chunk in enumerate(chunks, 1):
        start = time.perf_counter()
        batch, usable = world.raise_together(lambda: next(prepared))
        waited = time.perf_counter()
        own = _guarded_forward(extractor, batch, chunk[world.rank :: world.size], f"{number} of {len(chunks)}")
        features = world.interleaved(own, len(chunk))  # every process gets all rows, in their order
        usable = world.interleaved(usable[:, None], len(chunk))[:, 0]
        spent.images += len(chunk)
        spent.wait_seconds += waited - start
        spent.forward_seconds += time.perf_counter() - waited
        # NaN in a bank would become NaN in every head, epochs later and without a name
        finite = np.isfinite(features).all(axis=1)
        if not finite[usable].all():
            bad = extractor.dataset.index.ids[chunk[usable & ~finite][0]]
            raise RunFailed(f"the backbone's features of {bad} are not finite; try --amp off, or verify the weights")
        yield chunk, features, usable


def cost_of_features(extractor: Extractor, row: int) -> dict[str, Any] | None:
    """The record's `cost` of the backbone on an image of the data's size; None of a compiled one: it is not counted."""
    if extractor.compiled:
        return None
    rows = np.array([row])

    def image() -> torch.Tensor:
        batch = torch.from_numpy(blank_view(extractor.dataset, extractor.view, row)).to(extractor.device)
        return batch.float().div_(255) if batch.dtype == torch.uint8 else batch

    given = {name: torch.from_numpy(values[rows]).to(extractor.device) for name, values in extractor.extra.items()}
    with extractor.backbone.guarded("one image alone"):
        return cost_of_probe(extractor.backbone, image, given)


def _guarded_forward(extractor: Extractor, batch: NDArray[Any], rows: Rows, place: str) -> Features:
    """The same as `_forward`; what a module of the user raises on a process is one line on all that names the batch."""
    backbone, ids = extractor.backbone, extractor.dataset.index.ids
    if not backbone.custom:
        return _forward(extractor, batch, rows)

    def guarded() -> Features:
        images = f" ({ids[rows[0]]} to {ids[rows[-1]]})" if len(rows) else ""
        with backbone.guarded(f"batch {place}{images}"):
            return _forward(extractor, batch, rows)

    return extractor.world.raise_together(guarded)


def _forward(extractor: Extractor, batch: NDArray[Any], rows: Rows) -> Features:
    """Features (n, D) of a prepared batch (n, 2, S, S) of some rows; uint8 input is brought to [0, 1] on the device."""
    if not len(batch):
        return np.zeros((0, extractor.backbone.feature_dim), np.float32)
    with torch.inference_mode(), autocast(extractor.amp, extractor.device):
        images = torch.from_numpy(batch).to(extractor.device, non_blocking=True)
        images = images.float().div_(255) if images.dtype == torch.uint8 else images
        given = {name: torch.from_numpy(values[rows]).to(extractor.device) for name, values in extractor.extra.items()}
        out = extractor.backbone.module(images, given) if given else extractor.backbone.module(images)
        features: Features = out.float().cpu().numpy()
    return features
