"""How well a run's confidences are calibrated, derived from its stored predictions; its record stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fgmae_bench.errors import BenchError, note
from fgmae_bench.metrics.calibration import calibration, pixel_calibration
from fgmae_bench.metrics.table import MULTI, SINGLE
from fgmae_bench.records import Record
from fgmae_bench.report.predictions import REPEAT, Predictions, find_predictions, read_predictions


def with_calibration(record: Record, results_dir: Path) -> Record:
    """The record with `calibration`, which no stored record has, from its predictions; a note where there is no val.

    A run without predictions stays as it is. Raises BenchError where they are of no use.
    """
    if record["predictions"] is None:
        return record
    path = find_predictions(record, results_dir)
    predictions = read_predictions(record, path)
    if not predictions.finite:
        return record
    found = _calibration(record, predictions)
    if found is None:
        return record
    if found["nll"] is not None and not np.isfinite(found["nll"]):
        raise BenchError(f"{path}: its confidences give no finite loss", REPEAT)
    notes = [] if found["temperature"] is not None or predictions.targets is None else [_without_val(record)]
    return {**record, "calibration": found, "notes": [*record["notes"], *notes]}


def _calibration(record: Record, predictions: Predictions) -> dict[str, Any] | None:
    """None for a regression, which states none, and for segmentation whose pixels' confidences were not kept."""
    if predictions.targets is None:
        kept = predictions.confidence
        if kept is None or not kept[..., 0].sum():
            return None
        return pixel_calibration(kept, record["metrics"]["test"].get("loss"))
    if predictions.kind not in (SINGLE, MULTI):
        return None
    val = predictions.val
    usable = val is not None and len(val[0]) and np.isfinite(val[0]).all()
    return calibration(predictions.kind, predictions.scores, predictions.targets, val if usable else None)


def _without_val(record: Record) -> dict[str, str]:
    held = "the run kept no logits of val" if record["dataset"]["n_val"] else "there is no val split"
    return note(
        "no_val_calibration", f"calibration without val: {held}, so confidences are as they are, without a temperature"
    )
