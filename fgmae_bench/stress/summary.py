"""From logits under a stress to what a record holds: scores by severity, paired bands, and the tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.intervals import Units, percentile_interval, replicates
from fgmae_bench.metrics.statistics import finite
from fgmae_bench.metrics.tolerance import area_kept, chance_of, crossing, flip_rate
from fgmae_bench.runs.tasks import Task
from fgmae_bench.views.stress_table import Stress

Logits = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One stress: `logits` (S, D, N, C) by severity and draw, beside the `clean` ones (N, C)."""

    name: str
    stress: Stress
    severities: tuple[float, ...]
    clean: Logits
    logits: Logits


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a record holds of a stress: `items` by severity, and the `tolerance` of the metric that selects."""

    name: str
    items: list[dict[str, Any]]
    tolerance: dict[str, Any]


def summarised(curve: Curve, targets: NDArray[Any], groups: list[str] | None, task: Task, kind: str) -> Summary:
    """Scores, flips and paired bands of every severity, averaged over draws, and where 5 % of the score are lost.

    Bands and the tolerance's interval are over the same resamples of groups (samples where none are known) at every
    severity; the draws of a stress are averaged first.
    """
    metric = task.selection

    def resampled(logits: Logits) -> tuple[NDArray[np.float64], float]:
        """(the metric of each resample (B,), of the split itself)."""
        units: Units = task.units(logits, targets, groups)
        return replicates(units)[metric], float(task.evaluate(logits, targets)[metric])

    clean, at_clean = resampled(curve.clean)
    drawn, points, items = [clean], [at_clean], []
    units = task.units(curve.clean, targets, groups).count
    for severity, draws in zip(curve.severities, curve.logits, strict=True):
        pairs = [resampled(logits) for logits in draws]
        values = np.mean([each for each, _ in pairs], axis=0)
        points.append(float(np.mean([point for _, point in pairs])))
        drawn.append(values)
        band = percentile_interval(values - clean, units)
        every = [task.evaluate(logits, targets) for logits in draws]
        items.append(
            {
                "name": curve.name,
                "severity": severity,
                "unit": curve.stress.unit,
                "metrics": {
                    **{name: _mean([scores[name] for scores in every]) for name in every[0]},
                    "flip_rate": float(np.mean([flip_rate(kind, curve.clean, logits) for logits in draws])),
                    "change": points[-1] - at_clean,
                    "change_interval": None if band is None else list(band),
                },
            }
        )
    chance = chance_of(kind, targets, curve.clean.shape[1])[metric]
    return Summary(
        name=curve.name,
        items=items,
        tolerance=tolerance(curve.stress, curve.severities, np.array(points), np.stack(drawn, 1), chance, units)
        | {"metric": metric, "clean": at_clean, "unit": curve.stress.unit},
    )


def tolerance(
    stress: Stress,
    severities: tuple[float, ...],
    points: NDArray[np.float64],
    drawn: NDArray[np.float64],
    chance: float,
    units: int,
) -> dict[str, Any]:
    """The severity at which 5 % of clean minus chance are lost, with its interval, and the area that is kept.

    `points` (S + 1,) and resamples `drawn` (B, S + 1) begin with clean data. `value` is None and `censored` true where
    the loss is never reached; both bounds may be None for the same reason. `withheld` says why where nothing is stated:
    one severity alone, or clean data that does not clear chance, in itself or in one of forty resamples.
    """
    positions = [0.0, *(stress.position(severity) for severity in severities)]
    withheld = None
    if len(severities) == 1:
        withheld = "it has one severity"
    elif not (points[0] > chance and np.quantile(drawn[:, 0], 0.025) > chance):
        withheld = f"clean data does not clear chance ({chance:.3f})"
    if withheld is not None:
        return {
            "value": None,
            "censored": False,
            "interval": None,
            "area": None,
            "chance": chance,
            "withheld": withheld,
        }
    at = float(crossing(positions, points[None], chance)[0])
    found = crossing(positions, drawn, chance)
    found = found[~np.isnan(found)]  # resamples whose clean score is at chance say nothing
    low, high = (float(value) for value in np.quantile(found, [0.025, 0.975], method="inverted_cdf"))

    def severity(position: float) -> float | None:
        return None if math.isinf(position) else stress.severity(position)

    return {
        "value": severity(at),
        "censored": math.isinf(at),
        "interval": [severity(low), severity(high)],
        "area": finite(float(area_kept(positions, points[None], chance)[0])),
        "chance": chance,
        "withheld": None,
    }


def _mean(values: list[float | None]) -> float | None:
    return None if any(value is None for value in values) else float(np.mean([v for v in values if v is not None]))
