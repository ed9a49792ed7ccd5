"""Stored predictions of a run: found, checked by the record, and made into units that a bootstrap can draw."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.calibration import FINE_BINS, KEPT
from fgmae_bench.metrics.intervals import (
    CELLS,
    Units,
    interval_notes,
    intervals,
    multi_label_units,
    pixel_units,
    regression_units,
    segmentation_units,
    single_label_units,
)
from fgmae_bench.metrics.regression import PixelSums
from fgmae_bench.records import Record, clean_id

MOST_LEVELS = 256  # between which ranks of pixels are not distinguished
MAX_COUNT, MAX_CELLS = 2**53, 2**28  # of one count, and of the numbers kept for all resamples (2 GiB)
REPEAT = "run it again with another --results_dir, or restore the file"
KINDS = {"single_label": single_label_units, "multi_label": multi_label_units, "regression": regression_units}


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a run predicted: `scores` are logits (N, K), or numbers (N, 1), with `targets`; or confusion matrices
    (N, K, C) without.
    """

    kind: str
    ids: tuple[str, ...]
    groups: tuple[str, ...] | None
    classes: tuple[str, ...]
    scores: NDArray[Any]
    targets: NDArray[Any] | None
    val: tuple[NDArray[Any], NDArray[Any]] | None = None  # logits and targets of the val split, where they were kept
    confidence: NDArray[Any] | None = None  # of the pixels of each image (N, bins, 5), where they were kept
    sums: PixelSums | None = None  # of a regression of pixels: what the columns of its scores (N, W) are

    @property
    def finite(self) -> bool:
        """Whether all scores are: those of a run that diverged are not."""
        return bool(np.isfinite(self.scores).all())

    def decisions(self) -> NDArray[np.int64]:
        """Class numbers (N,) of logits: the largest of each sample, NaN below all others."""
        return np.where(np.isnan(self.scores), -np.inf, self.scores).argmax(1)

    def units(self) -> Units:
        """Groups where they are known, else samples."""
        if self.sums is not None:
            return pixel_units(self.sums, self.scores, self.groups)
        if self.targets is None:
            return segmentation_units(self.scores, self.groups)
        return KINDS[self.kind](self.scores, self.targets, self.groups)

    def with_groups(self, groups: tuple[str, ...]) -> Predictions:
        """The same predictions with other groups, such as those of another run that knows them."""
        return dataclasses.replace(self, groups=groups)

    def in_order_of(self, ids: tuple[str, ...]) -> Predictions:
        """The same predictions with the samples in another order."""
        if ids == self.ids:
            return self
        place = {name: i for i, name in enumerate(self.ids)}
        rows = np.array([place[name] for name in ids])
        return Predictions(
            kind=self.kind,
            ids=ids,
            groups=self.groups and tuple(self.groups[i] for i in rows),
            classes=self.classes,
            scores=self.scores[rows],
            sums=self.sums,
            targets=None if self.targets is None else self.targets[rows],
            val=self.val,
            confidence=None if self.confidence is None else self.confidence[rows],
        )


def find_predictions(record: Record, results_dir: Path) -> Path:
    """Path of a record's predictions; raises BenchError where the run stored none or the file is gone."""
    stored = record["predictions"]
    if stored is None:
        raise BenchError(f"{record['run_id']}: the run stored no predictions", "compare runs that did")
    path = results_dir / "predictions" / f"{clean_id(record['run_id'])}.safetensors"
    if not path.is_file():
        raise BenchError(f"{path}: the predictions of {record['run_id']} are missing", REPEAT)
    return path


def read_predictions(record: Record, path: Path) -> Predictions:
    """Read and check one file; raises BenchError where it is damaged, changed, or of other samples."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})", REPEAT) from error
    return predictions_of(record, content, path)


def predictions_of(record: Record, content: bytes, path: object) -> Predictions:
    """The same of a file's bytes; `path` is its name in messages."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if record["predictions"]["sha256"] not in (None, hashlib.sha256(content).hexdigest()):
        raise BenchError(f"{path}: not the predictions that {record['run_id']} stored (sha256 differs)", REPEAT)
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        lists = {name: _texts(json.loads(text)) for name, text in header["__metadata__"].items() if name in LISTS}
        found = _pixel_sums(tensors, lists, header) if "sums" in tensors else _predictions(tensors, lists)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise BenchError(f"{path}: no predictions that can be read ({reason})", REPEAT) from error
    wanted = record["dataset"]["sample_ids_sha256"]["test"]
    if wanted is not None and wanted != hashlib.sha256("\n".join(found.ids).encode()).hexdigest():
        raise BenchError(f"{path}: holds other samples than the test split of {record['run_id']}", REPEAT)
    return found


LISTS = ("ids", "groups", "classes")


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("ids, groups and classes are not lists of texts")
    return tuple(values)


def _require_counts(kind: str, scores: NDArray[Any], targets: NDArray[Any] | None, units: int) -> None:
    """Raise ValueError on targets and counts that a metric would take for places in memory, and on too many of them."""
    n, classes = scores.shape[:2]
    if not n or not classes or scores.dtype.kind not in "fiu":
        raise ValueError("no samples, no classes, or scores that are not numbers")
    if kind == "regression":
        if not np.isfinite(targets).all():  # type: ignore[arg-type]
            raise ValueError("targets that are not finite")
        return
    given = scores if targets is None else targets
    if given.dtype.kind not in "iub" or (given.size and int(given.min()) < 0):
        raise ValueError("targets or counts that are not whole numbers from 0 on")
    most = {"single_label": classes - 1, "multi_label": 1, "segmentation": MAX_COUNT}[kind]
    if int(given.max()) > most:
        raise ValueError(f"a target or count of more than {most}")
    # a confusion matrix a unit, or, of many labels, the counts of each class and score level
    cells = units * classes * scores.shape[-1] if kind != "multi_label" else classes * min(CELLS, units * n)
    if cells > MAX_CELLS:
        raise ValueError(f"{units} samples or groups of {classes} classes are too many to resample")


def _predictions(tensors: dict[str, NDArray[Any]], lists: dict[str, tuple[str, ...]]) -> Predictions:
    ids, groups, classes = lists["ids"], lists.get("groups"), lists["classes"]
    if "confusion" in tensors:
        kind, scores, targets = "segmentation", tensors["confusion"], None
        shapes_fit = (
            scores.ndim == 3 and scores.shape[1] == len(classes) and scores.shape[2] - scores.shape[1] in (0, 1)
        )
    else:
        scores, targets = tensors["logits"], tensors["targets"]
        kind = "regression" if targets.dtype.kind == "f" else "multi_label" if targets.ndim == 2 else "single_label"
        shapes_fit = scores.ndim == 2 and scores.shape[1] == len(classes) and len(targets) == len(scores)
        shapes_fit = shapes_fit and (targets.ndim == 1 or targets.shape == scores.shape)
        shapes_fit = shapes_fit and (kind != "regression" or targets.shape == (len(scores), 1))
    if (
        not shapes_fit
        or len(scores) != len(ids)
        or len(set(ids)) != len(ids)
        or (groups is not None and len(groups) != len(ids))
    ):
        raise ValueError("ids, groups, classes and arrays do not fit one another")
    _require_counts(kind, scores, targets, len(set(groups or ids)))
    return Predictions(
        kind=kind,
        ids=ids,
        groups=groups,
        classes=classes,
        scores=scores,
        targets=targets,
        val=_val_of(kind, tensors, scores),
        confidence=_confidence_of(tensors, len(ids)),
    )


def _val_of(
    kind: str, tensors: dict[str, NDArray[Any]], scores: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Logits and targets of val; raises ValueError where they do not fit those of the test."""
    if kind in ("segmentation", "regression") or "val_logits" not in tensors:
        return None
    logits, targets = tensors["val_logits"], tensors["val_targets"]
    if logits.ndim != 2 or logits.shape[1] != scores.shape[1] or len(logits) != len(targets):
        raise ValueError("logits and targets of val do not fit one another")
    if targets.shape not in ((len(logits),), logits.shape) or (targets.ndim == 2) != (kind == "multi_label"):
        raise ValueError("targets of val are of another kind than those of the test")
    _require_counts(kind, logits, targets, 1)
    return logits, targets


def _confidence_of(tensors: dict[str, NDArray[Any]], images: int) -> NDArray[Any] | None:
    """Confidences of pixels; raises ValueError where they are not finite numbers from 0 on, in the bins they are in."""
    found = tensors.get("confidence")
    if found is None:
        return None
    if found.shape != (images, FINE_BINS, KEPT) or found.dtype.kind != "f":
        raise ValueError("confidences of another shape or type")
    if not np.isfinite(found).all() or found.min() < 0 or (found[..., 1:4] > found[..., :1] + 1e-6).any():
        raise ValueError("confidences that no pixels give")
    return found


def _pixel_sums(
    tensors: dict[str, NDArray[Any]], lists: dict[str, tuple[str, ...]], header: dict[str, Any]
) -> Predictions:
    """Rows of sums with what their columns are; raises ValueError where they do not fit."""
    made = json.loads(header["__metadata__"]["sums"])
    numbers = [float(made["origin"]), *map(float, made["levels"]), *map(float, made["bins"])]
    sums = PixelSums(origin=numbers[0], levels=tuple(made["levels"]), bins=tuple(made["bins"]))
    ids, groups, rows = lists["ids"], lists.get("groups"), tensors["sums"]
    fits = rows.ndim == 2 and rows.dtype == np.float64 and len(sums.levels) < MOST_LEVELS
    fits = fits and rows.shape == (len(ids), sums.width) and len(set(ids)) == len(ids)
    if not fits or not len(ids) or not (groups is None or len(groups) == len(ids)):
        raise ValueError("ids, groups and sums do not fit one another")
    if not np.isfinite(rows).all() or not np.isfinite(numbers).all():
        raise ValueError("sums that are not finite")
    return Predictions(
        kind="pixel_regression", ids=ids, groups=groups, classes=lists["classes"], scores=rows, targets=None, sums=sums
    )


def same_test(a: Predictions, b: Predictions, names: tuple[str, str]) -> Predictions:
    """`b` in the order of `a`; raises BenchError unless samples, labels and groups of both are the same."""
    both = f"{names[0]} and {names[1]}"
    missing, extra = set(a.ids) - set(b.ids), set(b.ids) - set(a.ids)
    if missing or extra:
        raise BenchError(
            f"{both} were tested on different samples ({len(missing)} only in the first, {len(extra)} only in "
            "the second)",
            "compare runs of the same split",
        )
    if (a.kind, a.classes) != (b.kind, b.classes):
        raise BenchError(f"{both} were scored under different classes", "compare runs of one label scheme")
    b = b.in_order_of(a.ids)
    if a.targets is not None and not np.array_equal(a.targets, b.targets):  # type: ignore[arg-type]
        raise BenchError(
            f"{both} hold different labels for the same samples", "compare runs of one version of the data"
        )
    if a.sums is not None:
        alike = (
            b.sums is not None
            and a.sums.origin == b.sums.origin
            and np.allclose(a.scores[:, [0, 4, 5]], b.scores[:, [0, 4, 5]])
        )
        if not alike:
            raise BenchError(f"{both} hold different targets", "compare runs of one split and version of the data")
    elif a.targets is None and not np.array_equal(a.scores.sum(2), b.scores.sum(2)):
        raise BenchError(f"{both} hold different label counts for the same images", "compare runs of one label scheme")
    if a.groups is not None and b.groups is None:  # of a version or a copy of the data that did not know them
        b = b.with_groups(a.groups)
    if a.groups != b.groups:
        todo = "run one of them again" if a.groups else "name the run that knows groups first, or run the other again"
        raise BenchError(f"{both} hold different groups for the same samples", todo)
    return b


def with_intervals(record: Record, results_dir: Path) -> Record:
    """The record with test intervals: its own, else those of its stored predictions, BenchError where unusable."""
    if record["metrics"]["intervals"] is not None or record["predictions"] is None:
        return record
    held = read_predictions(record, find_predictions(record, results_dir))
    if not held.finite:  # NaN has no order, and would be taken for the first class
        return record
    found = intervals(held.units(), classes=held.classes)
    notes = interval_notes(found, (record["dataset"].get("groups") or {}).get("kind", ""))
    return {**record, "metrics": {**record["metrics"], "intervals": found}, "notes": [*record["notes"], *notes]}
