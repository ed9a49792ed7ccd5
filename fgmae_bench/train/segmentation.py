"""Segmentation as a job of the training loop: images with masks in, one confusion matrix an image out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fgmae_bench.config.names import AFTER
from fgmae_bench.config.plugins import Guard, unguarded
from fgmae_bench.config.recipes import SegmentRecipe
from fgmae_bench.data.dataset import Dataset
from fgmae_bench.data.index import Rows
from fgmae_bench.data.labels import Codes, TrainIds
from fgmae_bench.features.bank import Bank, TwoBanks
from fgmae_bench.features.label_bank import LabelBank
from fgmae_bench.features.loader import ahead
from fgmae_bench.metrics.calibration import FINE_BINS, KEPT, pixel_confidence
from fgmae_bench.metrics.intervals import intervals, segmentation_units
from fgmae_bench.metrics.segmentation import (
    IGNORE,
    class_intervals,
    classes_scored,
    image_confusion,
    joined_scores,
    legacy_segmentation,
    per_group,
    segmentation,
    total,
)
from fgmae_bench.metrics.statistics import finite
from fgmae_bench.metrics.table import SEGMENTATION
from fgmae_bench.metrics.table import selection as selection_of
from fgmae_bench.models.heads.outputs import Learnt
from fgmae_bench.models.segmenter import SegmentationModel, taps_of_images
from fgmae_bench.models.sliding import Windows, sliding_window
from fgmae_bench.runs.folder import write_scored
from fgmae_bench.runs.tasks import Outcome
from fgmae_bench.system.device import Precision, as_input, autocast
from fgmae_bench.system.distributed import World
from fgmae_bench.system.randomness import generator
from fgmae_bench.train.details import Details, detailed
from fgmae_bench.train.head_losses import loss_of
from fgmae_bench.train.job import Scored
from fgmae_bench.views.chip import Chip
from fgmae_bench.views.classification import View
from fgmae_bench.views.segmentation import JointAugmentation, dated, segmentation_batch

WINDOWS_A_PASS = 8
ToIds = Callable[[Codes], TrainIds]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """One side's labels: where they come from and how codes become class numbers."""

    source: str
    to_ids: ToIds
    classes: tuple[str, ...]
    colours: tuple[str, ...]


@dataclass(kw_only=True)
class SegmentationJob:
    """See `fgmae_bench.train.job.Job`. `columns` places predictions in the evaluation scheme where it is another than
    training's.

    With `bank` the model takes rows of maps that were computed once; with `label_banks` (by label source) too no
    file is read. With `windows` a row holds the maps of every window of a scene: an epoch learns from one of each.
    """

    model: SegmentationModel
    kept: nn.Module
    dataset: Dataset
    view: View
    recipe: SegmentRecipe
    train_labels: Labels
    eval_labels: Labels
    columns: NDArray[np.int64] | None
    world: World
    device: torch.device
    amp: Precision
    workers: int
    batch_size: int
    bank: Bank | TwoBanks | None = None
    windows: Windows | None = None
    label_banks: Mapping[str, LabelBank] = field(default_factory=dict)
    unused_parameters: bool = False
    guard: Guard = unguarded  # of a module of the user
    selection: str = selection_of(SEGMENTATION)

    def __post_init__(self) -> None:
        self.train = self.dataset.parts.train

    def read(self, rows: Rows, epoch: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Random views (B, 2, S, S), or rows of maps (B, F), and masks (B, S, S) of training ids."""
        recipe, index = self.recipe, self.dataset.index
        if self.bank is not None and self.train_labels.source in self.label_banks:
            return self._from_bank(rows, epoch, self._banked(rows, self.train_labels))
        ids = [index.ids[row] for row in rows]
        # decoded as the view asks for them: each is viewed while the caches hold it
        chips = (self.dataset.samples.take_chip(row) for row in rows)
        masks = (self._mask(row, self.train_labels) for row in rows)
        augmentation = None
        if recipe.augment and self.bank is None:
            augmentation = JointAugmentation(
                seed=recipe.seed,
                epoch=epoch,
                crop_scale=recipe.crop_scale,
                vflip=recipe.vflip,
                crop="plain" if recipe.stride else "resized",
                rotate=recipe.rotate,
                rotate_fill=recipe.rotate_fill,
            )
        earlier = self._earlier(rows) if self.bank is None else None
        images, labels = segmentation_batch(self.view, chips, masks, ids, augmentation, earlier)
        return (images, np.stack(labels)) if self.bank is None else self._from_bank(rows, epoch, np.stack(labels))

    def _from_bank(self, rows: Rows, epoch: int, masks: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rows of maps (B, F) and their masks; of scenes in windows one window of each, drawn anew each epoch."""
        assert self.bank is not None
        if self.windows is None:
            return np.asarray(self.bank.features[rows]), masks  # picked by an array of rows: a copy already
        places, side, ids = self.windows.places, self.windows.window, self.dataset.index.ids
        chosen = [int(generator(self.recipe.seed, "window", epoch, ids[row]).integers(len(places))) for row in rows]
        features = np.stack([self.bank.piece(row, k, len(places)) for row, k in zip(rows, chosen, strict=True)])
        cut = [
            mask[top : top + side, left : left + side]
            for mask, (top, left) in zip(masks, (places[k] for k in chosen), strict=True)
        ]
        return features, np.stack(cut)

    def mix(self, images: Tensor, targets: Tensor, place: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Nothing is mixed."""
        return images, targets

    def loss(self, outputs: Tensor | Learnt, targets: Tensor) -> Tensor:
        """Cross-entropy over labelled pixels, each of the same weight on whatever process it is, and what else a head
        learns from.
        """
        return loss_of(outputs, targets, self.world)

    def evaluate(self, part: str, between: Callable[[], None] = lambda: None) -> Scored:
        """One confusion matrix an image (N, K, C), gathered over the processes, and the scores of their sum."""
        details = self.details if part == "test" else None
        table = self._table(part, between, details)
        more = {}
        if details is not None:
            table, last = np.split(table, [table.shape[1] - details.width], axis=1)
            more = details.arrays(last)
        classes, width = len(self.eval_labels.classes), len(self.eval_labels.classes) + (self.columns is not None)
        confusions = table[:, : classes * width].astype(np.int64).reshape(-1, classes, width)
        loss, pixels = table[:, -2].sum(), table[:, -1].sum()
        kept = table[:, classes * width : -2].reshape(-1, FINE_BINS, KEPT)
        comparable = self.columns is None and pixels > 0
        metrics = {"loss": finite(loss / pixels) if comparable else None, **segmentation(confusions)}
        return Scored(
            metrics=metrics,
            outputs=confusions,
            finite=bool(np.isfinite(loss)),
            confidence=kept if comparable else None,
            details=more,
        )

    def _table(self, part: str, between: Callable[[], None], details: Details | None = None) -> NDArray[np.float64]:
        """The rows (N, W) of `_count` of every image of a part, in the order of the split, on every process."""
        rows = getattr(self.dataset.parts, part)
        step = self.batch_size * self.world.size
        chunks = [rows[i : i + step] for i in range(0, len(rows), step)]
        mine = [chunk[self.world.rank :: self.world.size] for chunk in chunks]
        parts = []
        batches = ahead(self._prepare, mine, self.workers)
        for number, (chunk, held, prepared) in enumerate(zip(chunks, mine, batches, strict=True), 1):
            with self.guard(f"batch {number} of {len(chunks)} of {part}"):
                counted = self._count(*prepared, held, details)
            parts.append(self.world.interleaved(counted, len(chunk)))
            between()
        return np.concatenate(parts)

    @property
    def details(self) -> Details:
        """What is counted of test images besides confusions."""
        return Details(dataset=self.dataset, classes=self.eval_labels.classes, columns=self.columns)

    def predict(self, rows: Rows) -> list[NDArray[np.int64]]:
        """Class numbers (H, W) of the evaluation scheme for each row, K where the class is not of that scheme."""
        return [predicted for predicted, _ in self.predicted(*self._prepare(rows))]

    def under(self, view: View) -> SegmentationJob:
        """The same job whose images, of two dates the later ones, are looked at through another view; maps that were
        kept are computed anew.
        """
        model = self.model
        if self.bank is not None:
            model = SegmentationModel(taps_of_images(model.taps), model.head, model.size).eval()
        return replace(self, model=model, view=view, bank=None, label_banks={}, windows=None)

    def predictions(self, part: str) -> Iterator[tuple[Rows, int, list[tuple[NDArray[np.int64], NDArray[np.uint8]]]]]:
        """Chunk by chunk of a part: this process's rows, the rows of all, and of each row its class numbers as of
        `predict` with its reference labels, 255 under invalid pixels.
        """
        rows = getattr(self.dataset.parts, part)
        step = self.batch_size * self.world.size
        chunks = [rows[i : i + step] for i in range(0, len(rows), step)]
        mine = [chunk[self.world.rank :: self.world.size] for chunk in chunks]
        for chunk, held, prepared in zip(chunks, mine, ahead(self._prepare, mine, self.workers), strict=True):
            yield held, len(chunk), self.predicted(*prepared)

    def predicted(
        self, inputs: list[NDArray[Any]], masks: list[NDArray[np.uint8]]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """Class numbers (H, W) as of `predict` of prepared inputs, each with its mask."""
        found = [logits.argmax(0).numpy() for logits in self._logits(inputs, masks)]
        found = found if self.columns is None else [self.columns[labels] for labels in found]
        return list(zip(found, masks, strict=True))

    def mask(self, row: int) -> NDArray[np.uint8]:
        """Reference labels (H, W) of the evaluation scheme."""
        return self._mask(row, self.eval_labels)

    def _banked(self, rows: Rows, labels: Labels) -> NDArray[np.uint8]:
        """Masks (B, H, W) of rows from the bank of labels, 255 under invalid pixels."""
        return labels.to_ids(self.label_banks[labels.source].codes(rows)).values

    def _mask(self, row: int, labels: Labels) -> NDArray[np.uint8]:
        return labels.to_ids(self.dataset.samples.take_codes(row, labels.source)).values

    def _prepare(self, rows: Rows) -> tuple[list[NDArray[Any]], list[NDArray[np.uint8]]]:
        """Inputs of rows, one an image, and their masks with 255 under invalid pixels."""
        index = self.dataset.index
        if not len(rows):
            return [], []
        if self.bank is not None and self.eval_labels.source in self.label_banks:
            return list(self.bank.features[rows]), list(self._banked(rows, self.eval_labels))
        ids = [index.ids[row] for row in rows]
        chips = [self.view.seen(self.dataset.samples.take_chip(row), id) for row, id in zip(rows, ids, strict=True)]
        masks = [self._mask(row, self.eval_labels) for row in rows]
        earlier = self._earlier(rows) if self.bank is None else None
        images, labels = segmentation_batch(self.view, chips, masks, ids, earlier=earlier)
        if self.recipe.stride is not None and self.bank is None:
            dates: Sequence[Chip | None] = earlier or [None] * len(chips)
            return [dated(self.view, chip, first) for chip, first in zip(chips, dates, strict=True)], labels
        return list(images if self.bank is None else self.bank.features[rows]), labels

    def _earlier(self, rows: Rows) -> list[Chip] | None:
        """The earlier images of rows, None where the decoder sees one date."""
        if self.recipe.dates == AFTER:
            return None
        return [self.dataset.index.read_before(int(row), self.dataset.card) for row in rows]

    def _count(
        self, inputs: list[NDArray[Any]], masks: list[NDArray[np.uint8]], rows: Rows, details: Details | None = None
    ) -> NDArray[np.float64]:
        """A row for each image: its confusion matrix, confidences, the sum of its pixels' losses, their number, and
        `details` of it where they are asked for.
        """
        classes = len(self.eval_labels.classes)
        width = classes + (self.columns is not None)
        table = np.zeros((len(masks), classes * width + FINE_BINS * KEPT + 2))
        more = np.zeros((len(masks), details.width if details else 0))
        for place, (row, mask, logits) in enumerate(zip(table, masks, self._logits(inputs, masks), strict=True)):
            predicted = logits.argmax(0).numpy()
            row[: classes * width] = image_confusion(mask, predicted, classes, self.columns).ravel()
            if details:
                more[place] = details.row(int(rows[place]), mask, predicted)
            if self.columns is None:
                wanted = torch.from_numpy(mask).flatten().long()
                flat = logits.flatten(1).T
                row[-2] = float(
                    nn.functional.cross_entropy(flat.double(), wanted, ignore_index=IGNORE, reduction="sum")
                )
                labelled = wanted != IGNORE
                p = flat[labelled].softmax(1).nan_to_num().numpy()
                row[classes * width : -2] = pixel_confidence(p, wanted[labelled].numpy()).ravel()
            row[-1] = int((mask != IGNORE).sum())
        return np.concatenate([table, more], axis=1)

    def _logits(self, inputs: list[NDArray[Any]], masks: list[NDArray[np.uint8]]) -> list[Tensor]:
        """Logits (K, H, W) of each image at the size of its mask."""
        if not masks:
            return []
        with torch.inference_mode(), autocast(self.amp, self.device):
            if self.windows is not None:
                return [self._stitched(row) for row in inputs]
            if self.recipe.stride is not None:
                return [self._sliding(image)[0].float().cpu() for image in inputs]
            batch = as_input(torch.from_numpy(np.stack(inputs)), self.device, torch.float32)
            sizes = {mask.shape for mask in masks}
            if len(sizes) == 1:
                return list(self.model(batch, sizes.pop()).float().cpu())
            return [self.model(one[None], mask.shape)[0].float().cpu() for one, mask in zip(batch, masks, strict=True)]

    def _stitched(self, row: NDArray[Any]) -> Tensor:
        """Logits (K, H, W) of a scene from the maps of its windows."""
        assert self.windows is not None
        parts = torch.from_numpy(np.array(row)).view(len(self.windows.places), -1)
        pieces = [self.model(part.to(self.device)).float() for part in parts.split(WINDOWS_A_PASS)]
        return self.windows.stitched(list(torch.cat(pieces))).cpu()

    def _sliding(self, image: NDArray[Any]) -> Tensor:
        scene = as_input(torch.from_numpy(np.ascontiguousarray(image[None])), self.device, torch.float32)
        window = self.view.contract.size
        return sliding_window(self.model, scene, window=window, stride=self.recipe.stride or window)


def segmentation_metrics(
    outcome: Outcome,
    test: Scored,
    classes: tuple[str, ...],
    batch: int,
    groups: list[str] | None,
    schemes: Mapping[str, Mapping[str, tuple[str, ...]]],
) -> dict[str, Any]:
    """The record's `metrics` of a segmentation run; `groups` are the tiles or scenes of the test split, `schemes` those
    of the card that join its classes.

    With another scheme in evaluation the confusion's last column counts classes that it does not have.
    """
    summed = total(test.outputs)
    values: dict[str, Any] = {"batch_size": batch, **legacy_segmentation(test.outputs, batch)}
    for name in ("oa", "aa", "miou") if outcome.best is None else ():
        values[f"{name}_max"] = max((e[name] for e in outcome.legacy_curve if e.get(name) is not None), default=None)
    events = per_group(test.outputs, classes, groups)
    return {
        "final": outcome.final,
        "best": outcome.best,
        "test": outcome.test,
        "per_class": detailed(test.outputs, test.details, classes),
        **({"per_group": events} if events else {}),
        **({"schemes": joined_scores(test.outputs, classes, schemes)} if schemes else {}),
        "confusion": summed.tolist(),
        "classes_scored": classes_scored(summed, classes),
        "legacy": values,
        "intervals": intervals(segmentation_units(test.outputs, groups), classes=classes)
        | {"iou": class_intervals(test.outputs, classes, groups)},
    }


def write_confusions(path: Path, test: Scored, dataset: Dataset, classes: tuple[str, ...]) -> None:
    """`confusion` (N, K, C) int64, one matrix an image, with ids and groups, as safetensors by rename.

    `confidence` (N, bins, 5) float64 are the confidences of each image's pixels, where the classes are those of
    training: see `fgmae_bench.metrics.calibration.pixel_confidence`. `boundary` and `outside` are the counts of
    `fgmae_bench.train.details`.
    """
    tensors = {"confusion": test.outputs, **({} if test.confidence is None else {"confidence": test.confidence})}
    tensors |= test.details
    write_scored(path, tensors, dataset.ids("test"), classes, dataset.groups("test"))
