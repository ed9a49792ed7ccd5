"""From outputs under a stress to what a record holds: scores by severity, paired bands, and the tolerance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.intervals import LEAST, NO_SPREAD, percentile_interval, replicates
from fgmae_bench.metrics.significance import t_two_sided
from fgmae_bench.metrics.statistics import finite
from fgmae_bench.metrics.tolerance import LOST, area_kept, crossing
from fgmae_bench.stress.reading import Outputs, Reading
from fgmae_bench.views.stress_table import Stress

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One stress: `outputs` of the test split by severity and draw."""

    name: str
    stress: Stress
    severities: tuple[float, ...]
    outputs: Sequence[Sequence[Outputs]]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a record holds of a stress: `items` by severity, and the `tolerance` of the metric that selects.

    `changes` (S,) are the changes of that metric, draws averaged, `drawn` (S, B) those of each resample.
    """

    name: str
    items: list[dict[str, Any]]
    tolerance: dict[str, Any]
    changes: Values
    drawn: Values


def summarised(curve: Curve, reading: Reading) -> Summary:
    """Scores, flips and paired bands of every severity, averaged over draws, and where 5 % of the score are lost.

    Bands and the tolerance's interval are over the same resamples of groups (samples where none are known) at every
    severity; the draws of a stress are averaged first. Each severity is paired with clean data on the same pixels.
    """
    clean, at_clean = _resampled(reading, reading.clean)
    units = reading.units(reading.clean).count
    changes, drawn, items = [], [], []
    for severity, draws in zip(curve.severities, curve.outputs, strict=True):
        every = [reading.evaluate(outputs) for outputs in draws]
        values, points = [], []
        for outputs in draws:
            before = reading.before(outputs)
            then, at_then = (clean, at_clean) if before is reading.clean else _resampled(reading, before)
            now, at_now = _resampled(reading, outputs)
            values.append(now - then)
            points.append(at_now - at_then)
        drawn.append(np.mean(values, axis=0))
        changes.append(float(np.mean(points)))
        band = percentile_interval(drawn[-1], units)
        items.append(
            {
                "name": curve.name,
                "severity": severity,
                "unit": curve.stress.unit,
                "metrics": {
                    **{name: _mean([scores[name] for scores in every]) for name in every[0]},
                    "flip_rate": _mean([reading.flips(outputs) for outputs in draws]),
                    "change": finite(changes[-1]),
                    "change_interval": None if band is None else list(band),
                },
            }
        )
    curves = np.concatenate([clean[:, None], clean[:, None] + np.stack(drawn, 1)], axis=1)
    scores = np.array([at_clean, *(at_clean + change for change in changes)])
    guessed = reading.chance if reading.guess is None else _resampled(reading, reading.guess)[0]
    found = tolerance(curve.stress, curve.severities, scores, curves, reading.chance, guessed)
    if units < 2:  # resamples of one group are all the same
        found["interval"] = None
    facts = {"metric": reading.metric, "clean": at_clean, "unit": curve.stress.unit, "budget": curve.stress.budget}
    facts["positions"] = [curve.stress.position(severity) for severity in curve.severities]
    return Summary(
        name=curve.name, items=items, tolerance=found | facts, changes=np.array(changes), drawn=np.stack(drawn)
    )


def _resampled(reading: Reading, outputs: Outputs) -> tuple[Values, float]:
    """(the metric of each resample (B,), of the split itself)."""
    value = reading.evaluate(outputs)[reading.metric]
    return replicates(reading.units(outputs))[reading.metric], math.nan if value is None else float(value)


def tolerance(
    stress: Stress,
    severities: tuple[float, ...],
    points: Values,
    drawn: Values,
    chance: float,
    guessed: Values | float | None = None,
) -> dict[str, Any]:
    """The severity at which 5 % of clean minus chance are lost, with its interval, and the area that is kept.

    `points` (S + 1,) and resamples `drawn` (B, S + 1) begin with clean data. `value` is None and `censored` true where
    the loss is never reached; both bounds may be None for the same reason. `guessed` (B,) is what the largest class
    scores on each resample, by default chance on all. `withheld` says why where nothing is stated: one severity alone,
    clean data that does not clear chance, in itself or in one of forty resamples, or a score that is undefined.
    """
    positions = [0.0, *(stress.position(severity) for severity in severities)]
    withheld = None
    if len(severities) == 1:
        withheld = "it has one severity"
    elif not (points[0] > chance and np.quantile(drawn[:, 0] - (chance if guessed is None else guessed), 0.025) > 0):
        withheld = f"clean data does not clear chance ({chance:.3f})"
    elif not np.isfinite(points).all():
        withheld = "a score is undefined"
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
        "lost": LOST,
    }


def beside_null(found: Summary, null: dict[str, Values], tolerance: dict[str, Any], units: int) -> None:
    """Add to a summary how its changes differ from those of the null under the same stress, on the same samples.

    `null` holds its `changes` (S,) and `drawn` (S, B) by the same resamples. Differences of drops, not ratios, which
    explode where the null does not drop.
    """
    for i, item in enumerate(found.items):
        gaps = found.drawn[i] - null["drawn"][i]
        gap, band = float(found.changes[i] - null["changes"][i]), percentile_interval(gaps, units)
        item["metrics"]["beyond_null"] = finite(gap)
        item["metrics"]["beyond_null_interval"] = None if band is None else list(band)
        item["metrics"]["beyond_null_p"] = p_of(gap, gaps, units)
    kept = ("value", "censored", "withheld", "area", "clean")
    found.tolerance["null"] = {name: tolerance[name] for name in kept}


def p_of(gap: float, drawn: Values, units: int) -> float | None:
    """Two-sided p of a difference from its resamples (B,): over their deviation, with sqrt(G / (G - 1)), G - 1 degrees
    of freedom (Cameron & Miller 2015, section VI); None below five units, or where nothing varies.
    """
    error = float(drawn.std(ddof=1)) * math.sqrt(units / (units - 1)) if units >= LEAST else math.nan
    return t_two_sided(gap / error, units - 1) if math.isfinite(error) and error > NO_SPREAD else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known and len(known) == len(values) else None
