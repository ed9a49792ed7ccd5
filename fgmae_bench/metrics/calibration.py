"""Whether stated confidences are right: calibration error next to its value for a perfectly calibrated model, proper
scores, temperature, and the risk of the samples that a model is surest of.

Confidences are the largest probability of a single-label sample or a pixel, and each label's probability of a
multi-label one. Guo et al. 2017 (arXiv 1706.04599); Roelofs et al. 2022 (arXiv 2012.08668) on the bias of small sets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.metrics.multi_label import binary_cross_entropy, probabilities
from fgmae_bench.metrics.single_label import cross_entropy
from fgmae_bench.metrics.table import MULTI, SINGLE
from fgmae_bench.system.randomness import generator

BINS = 15
FINE_BINS = 60  # that confidences of pixels are kept in: a multiple of BINS
DRAWS = 200
MOST_DRAWN = 20_000_000  # outcomes that are drawn one by one; of more, sums of a bin are drawn, as normal as they are
COLDEST, HOTTEST = 0.01, 100.0  # temperatures that are looked at
POINTS = 20  # of the curve of risk over coverage
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Samples by confidence: how many, the sums of their confidences, outcomes and confidence x (1 - confidence)."""

    count: Values
    confidence: Values
    correct: Values
    variance: Values

    def merged(self, starts: NDArray[np.int64]) -> Bins:
        """Fewer bins: each from one start to the next."""
        every = np.stack([self.count, self.confidence, self.correct, self.variance])
        sums = np.add.reduceat(every, starts, axis=1).astype(np.float64)
        return Bins(count=sums[0], confidence=sums[1], correct=sums[2], variance=sums[3])


def softmax(logits: NDArray[Any]) -> Values:
    """Probabilities (N, K) in float64."""
    z = np.asarray(logits, np.float64)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def equal_width(confidence: NDArray[Any], bins: int = BINS) -> NDArray[np.int64]:
    """The bin of each confidence: (lo, hi] of equal width over [0, 1], 0 in the first."""
    return np.clip(np.ceil(np.asarray(confidence, np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)


def equal_mass(confidence: NDArray[Any], bins: int = BINS) -> NDArray[np.int64]:
    """The bin of each confidence, as many in each as can be; equal ones stay together, in the bin of the first."""
    ordered = np.sort(confidence)
    first = np.searchsorted(ordered, confidence)
    sizes = [len(part) for part in np.array_split(ordered, bins)]
    return np.searchsorted(np.cumsum(sizes), first, side="right")


def binned(confidence: NDArray[Any], correct: NDArray[Any], place: NDArray[np.int64], bins: int) -> Bins:
    """The samples in their bins."""
    p, y = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    sums = [np.bincount(place, each, bins).astype(np.float64) for each in (np.ones_like(p), p, y, p * (1 - p))]
    return Bins(count=sums[0], confidence=sums[1], correct=sums[2], variance=sums[3])


def calibration_error(bins: Bins, correct: Values | None = None) -> Values:
    """Mean over samples of |share that is right - mean confidence| of their bin (ECE).

    `correct` (B, bins) are other outcomes in the same bins: gives (B,).
    """
    apart = np.abs((bins.correct[None] if correct is None else correct) - bins.confidence).sum(1)
    return np.asarray(apart / bins.count.sum())


def perfect_error(bins: Bins, samples: tuple[NDArray[Any], NDArray[np.int64]] | None = None) -> float:
    """The calibration error that a model of just these confidences has on average when it is perfectly calibrated.

    DRAWS sets of outcomes are drawn, of `samples` (confidence, bin) one by one; of pixels, whose sums alone are kept,
    and of many samples from a normal of each bin's mean and variance.
    """
    rng = generator("calibration", int(bins.count.sum()), len(bins.count))
    if samples is None or DRAWS * len(samples[0]) > MOST_DRAWN:
        drawn = rng.normal(bins.confidence, np.sqrt(bins.variance), (DRAWS, len(bins.count)))
        drawn = np.clip(drawn, 0, bins.count)
    else:
        p, place = np.asarray(samples[0], np.float64), samples[1]
        drawn = np.stack([np.bincount(place, rng.random(len(p)) < p, len(bins.count)) for _ in range(DRAWS)])
    return float(calibration_error(bins, drawn).mean())


def brier(p: NDArray[Any], targets: NDArray[Any]) -> float:
    """Single label: mean over samples of sum_k (p_k - y_k)^2, 0 to 2; multi-hot targets: mean of (p - y)^2."""
    if targets.ndim == 1:
        return float(((p - np.eye(p.shape[1])[targets]) ** 2).sum(1).mean())
    return float(((p - targets) ** 2).mean())


def temperature(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """The T from COLDEST to HOTTEST at which logits / T have the smallest loss: to be found on val alone."""
    from scipy.optimize import minimize_scalar  # here: a report without calibration needs no scipy

    z = np.asarray(logits, np.float64)
    loss = cross_entropy if targets.ndim == 1 else binary_cross_entropy
    ends = math.log(COLDEST), math.log(HOTTEST)
    found = minimize_scalar(
        lambda log_t: loss(z / math.exp(log_t), targets), bounds=ends, method="bounded", options={"xatol": 1e-8}
    )
    return float(math.exp(found.x))


def risk_over_coverage(confidence: NDArray[Any], correct: NDArray[Any]) -> tuple[float, list[list[float]]]:
    """(area under the curve, [coverage, risk] at POINTS coverages) of the errors among the samples of most confidence.

    Samples of equal confidence come in no order: each counts as the mean of them. The area is the mean over all
    coverages 1/n, 2/n, ... 1 (Geifman & El-Yaniv 2017).
    """
    _, group = np.unique(-np.asarray(confidence, np.float64), return_inverse=True)
    wrong = 1 - np.asarray(correct, np.float64)
    mean = np.bincount(group, wrong) / np.bincount(group)
    risk = np.cumsum(mean[np.sort(group)]) / np.arange(1, len(wrong) + 1)
    places = [max(1, round(share * len(risk) / POINTS)) for share in range(1, POINTS + 1)]
    return float(risk.mean()), [[place / len(risk), float(risk[place - 1])] for place in places]


def calibration(
    task: str, logits: NDArray[Any], targets: NDArray[Any], val: tuple[NDArray[Any], NDArray[Any]] | None = None
) -> dict[str, Any]:
    """The record's `metrics.calibration` from test logits (N, K) and targets; `val` (logits, targets) fits T.

    Without `val` the temperature and what follows from it are None.
    """
    found = {"bins": BINS, **_of_logits(task, logits, targets)}
    if val is None:
        return found | {"temperature": None, "ece_scaled": None, "nll_scaled": None}
    t = temperature(*val)
    scaled = _of_logits(task, np.asarray(logits, np.float64) / t, targets)
    return found | {"temperature": t, "ece_scaled": scaled["ece"], "nll_scaled": scaled["nll"]}


def _of_logits(task: str, logits: NDArray[Any], targets: NDArray[Any]) -> dict[str, Any]:
    if task == SINGLE:
        p = softmax(logits)
        confidence, correct, nll = p.max(1), p.argmax(1) == targets, cross_entropy(logits, targets)
        sure, right = confidence, correct
    else:
        assert task == MULTI
        p = probabilities(logits)
        confidence, correct, nll = p.ravel(), targets.ravel() != 0, binary_cross_entropy(logits, targets)
        sure, right = np.maximum(confidence, 1 - confidence), (confidence >= 0.5) == correct
    by_width, by_mass = equal_width(confidence), equal_mass(confidence)
    width, mass = binned(confidence, correct, by_width, BINS), binned(confidence, correct, by_mass, BINS)
    area, curve = risk_over_coverage(sure, right)
    return {
        **_errors(width, mass, (confidence, by_width), (confidence, by_mass)),
        "ece_classwise": _classwise(p, targets),
        "brier": brier(p, targets),
        "nll": nll,
        "aurc": area,
        "risk": curve,
    }


def _classwise(p: Values, targets: NDArray[Any]) -> float:
    """Mean over classes of the calibration error of one class against the others."""
    hot = np.eye(p.shape[1])[targets] if targets.ndim == 1 else targets
    each = [binned(q, y, equal_width(q), BINS) for q, y in zip(p.T, hot.T, strict=True)]
    return float(np.mean([calibration_error(bins)[0] for bins in each]))


def _errors(width: Bins, mass: Bins, of_width: Any = None, of_mass: Any = None) -> dict[str, Any]:
    reliability = np.stack([width.count, width.confidence, width.correct], axis=1)
    return {
        "ece": float(calibration_error(width)[0]),
        "ece_perfect": perfect_error(width, of_width),
        "ece_mass": float(calibration_error(mass)[0]),
        "ece_mass_perfect": perfect_error(mass, of_mass),
        "reliability": reliability.tolist(),
    }


KEPT = 5  # numbers of a bin of pixels: those of `Bins`, and the sum of their squared errors


def pixel_confidence(p: NDArray[Any], targets: NDArray[Any]) -> Values:
    """(FINE_BINS, KEPT) of an image's labelled pixels: probabilities (N, K), class numbers (N,)."""
    table = np.zeros((FINE_BINS, KEPT))
    confidence, correct = p.max(1), p.argmax(1) == targets
    place = equal_width(confidence, FINE_BINS)
    bins = binned(confidence, correct, place, FINE_BINS)
    # sum_k (p_k - y_k)^2 = sum_k p_k^2 - 2 p_y + 1
    squared = (np.asarray(p, np.float64) ** 2).sum(1) - 2 * p[np.arange(len(p)), targets] + 1
    for column, values in enumerate((bins.count, bins.confidence, bins.correct, bins.variance)):
        table[:, column] = values
    table[:, -1] = np.bincount(place, squared, FINE_BINS)
    return table


def pixel_calibration(kept: NDArray[Any], loss: float | None) -> dict[str, Any]:
    """The same as `calibration`, of the pixels of all images: `kept` (N, FINE_BINS, KEPT), and their mean loss.

    Bins of equal mass are whole fine bins; risk over coverage is by fine bins. A temperature is not fitted.
    """
    count, confidence, correct, variance, squared = np.asarray(kept, np.float64).sum(0).T
    fine = Bins(count=count, confidence=confidence, correct=correct, variance=variance)
    width = fine.merged(np.arange(0, FINE_BINS, FINE_BINS // BINS))
    before = (np.cumsum(count) - count) / count.sum()  # share of pixels of less confidence
    mass = fine.merged(np.unique(np.searchsorted(before, np.arange(BINS) / BINS)))
    held = count[::-1] > 0
    errors, seen = np.cumsum((count - correct)[::-1][held]), np.cumsum(count[::-1][held])
    risk = np.interp(np.arange(1, POINTS + 1) / POINTS, seen / count.sum(), errors / seen)
    return {
        "bins": BINS,
        **_errors(width, mass),
        "ece_classwise": None,
        "brier": float(squared.sum() / count.sum()),
        "nll": loss,
        "aurc": float(risk.mean()),
        "risk": [[(i + 1) / POINTS, float(value)] for i, value in enumerate(risk)],
        "temperature": None,
        "ece_scaled": None,
        "nll_scaled": None,
    }
