"""The L2 penalty of logistic regression, chosen along a path of candidates on labels that were held out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import BenchError, note
from fgmae_bench.metrics.multi_label import binary_cross_entropies
from fgmae_bench.metrics.selection import one_standard_error
from fgmae_bench.metrics.single_label import cross_entropies
from fgmae_bench.probe.logistic import ALWAYS, Labels, Logistic, Matrix, logistic

FOLDS = 5
MOST_GROUPS_LEFT_OUT = 10  # with no more groups than these each is left out once
ON_THE_WAY = 1e-4  # tolerance of the fits along a path, ten times that of the one that is kept
FLAT = 1e-6  # relative fall of the mean loss, per tenfold step, below which a path's end is level
NOTHING = 1e-3  # mean loss of classes that are separated: weaker penalties have next to nothing to gain
WEAKEST, STRONGEST = 1e-12, 1e8  # how far a path is extended
RULE = "one_standard_error"
Losses = tuple[NDArray[np.float64], NDArray[np.float64]]  # of held samples: (loss, share of it that could be judged)


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Samples to fit and samples that judge, each (features, labels), and the unit of each of the latter."""

    fitted: tuple[Matrix, Labels]
    held: tuple[Matrix, Labels]
    units: NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The penalty that was chosen, `how` in words, the path as a record keeps it; `edge`: the best may be beyond."""

    penalty: float
    on: str
    how: str
    path: dict[str, Any]
    edge: bool

    @property
    def selection(self) -> dict[str, Any]:
        """The record's `selection`."""
        return {"on": self.on, "budget": len(self.path["penalty"]), "path": self.path}


def choose_penalty(
    folds: Sequence[Fold], penalties: tuple[float, ...], classes: int, on: str, *, open_ended: bool
) -> Choice:
    """The penalty of logistic regression by the losses of all folds, pooled."""
    units = np.concatenate([fold.units for fold in folds])
    return choose(_judge(folds, classes), units, penalties, on, open_ended=open_ended)


def choose(
    judge: Callable[[float], Losses], units: NDArray[Any], penalties: tuple[float, ...], on: str, *, open_ended: bool
) -> Choice:
    """The strongest penalty whose held-out loss is within one standard error of the smallest.

    `judge` gives the losses of the samples whose `units` are given; the error is that of the mean over units (groups,
    else folds or samples). An `open_ended` path goes on by tenfold steps while the smallest loss is at its end.
    """
    found = {penalty: judge(penalty) for penalty in sorted(set(penalties), reverse=True)}  # a weaker one starts there
    while (
        open_ended
        and (end := _falling_end({p: losses.sum() / weights.sum() for p, (losses, weights) in found.items()}))
        is not None
    ):
        further = end * 10 if end == max(found) else end / 10
        if not WEAKEST <= further <= STRONGEST:
            break
        found[further] = judge(further)
    path = sorted(found)
    chosen, best, means, errors = one_standard_error(path, [found[p] for p in path], units)
    count = len(np.unique(units))
    return Choice(
        penalty=chosen,
        on=on,
        how=f"by {'loss on ' if on == 'val' else ''}{on} from {len(path)}",
        path={"penalty": path, "loss": means, "error": errors, "units": count, "smallest": best, "chosen": chosen},
        edge=(chosen in (path[0], path[-1]) and not (chosen == path[0] and means[0] < NOTHING))
        or _falling_end(dict(zip(path, means, strict=True))) is not None,
    )


def _falling_end(losses: dict[float, float]) -> float | None:
    """The end of a path at which the loss is smallest and still falls; None where the path is flat there, or turns."""
    path = sorted(losses)
    best = min(path, key=losses.__getitem__)
    if best == path[0] and losses[best] < NOTHING:
        return None
    for end, inner in ((path[0], path[1:2]), (path[-1], path[-2:-1])):
        if best == end and all(losses[other] - losses[end] > FLAT * abs(losses[end]) for other in inner):
            return end
    return None


def _judge(folds: Sequence[Fold], classes: int) -> Callable[[float], Losses]:
    """Penalty -> losses of all held samples; each fit starts where the last one of its fold ended."""
    last: list[Logistic | None] = [None] * len(folds)

    def judge(penalty: float) -> Losses:
        parts = []
        for i, fold in enumerate(folds):
            last[i] = model = logistic(*fold.fitted, penalty, classes, start=last[i], tolerance=ON_THE_WAY)
            parts.append(_losses(model, *fold.held))
        losses, weights = (np.concatenate(each) for each in zip(*parts, strict=True))
        return losses, weights

    return judge


def _losses(model: Logistic, features: Matrix, labels: Labels) -> Losses:
    """Loss and weight of each sample. A class that the fold's training side lacks cannot be judged: its weight is 0."""
    logits, known = model.decision(features), np.isfinite(model.bias)
    if labels.ndim == 1:
        judged = known[labels]
        return np.where(judged, cross_entropies(logits, labels), 0.0), judged.astype(np.float64)
    both = known & (model.bias < ALWAYS)
    cells = binary_cross_entropies(logits, labels)[:, both]
    share = both.mean() if both.any() else 0.0
    return (cells.mean(axis=1) if both.any() else np.zeros(len(labels))) * share, np.full(len(labels), share)


def cross_validation(
    features: Matrix, labels: Labels, groups: Sequence[str] | None, classes: int, seed: int
) -> tuple[list[Fold], str, list[dict[str, str]]]:
    """(folds inside a training split, in words, notes): whole groups where several are known, else samples.

    Up to MOST_GROUPS_LEFT_OUT groups are left out one at a time. Folds whose training side has one class fall away;
    where none is left, samples are dealt. Raises BenchError where a class has a single sample and groups do not help.
    """
    units, count = group_numbers(groups)
    if units is not None and count > 1:
        pairs = by_group(labels, units, count, seed)
        folds = [_fold(features, labels, *pair, units[pair[1]]) for pair in pairs if _two_classes(labels[pair[0]])]
        if len(folds) > 1:
            return folds, *group_words(len(folds), count)
    alone = "the groups of train leave no two folds with two classes: penalties were judged over samples"
    notes = [note("few_groups", alone)] if count else []
    pairs = _by_sample(features, labels, classes, seed)
    numbers = [np.full(len(pair[1]), i) for i, pair in enumerate(pairs)]
    folds = [_fold(features, labels, *pair, number) for pair, number in zip(pairs, numbers, strict=True)]
    return folds, f"{len(folds)}-fold cross-validation inside train", notes


Pair = tuple[NDArray[np.int64], NDArray[np.int64]]


def group_numbers(groups: Sequence[str] | None) -> tuple[NDArray[np.int64] | None, int]:
    """(number of each sample's group, how many there are); None and 0 where no groups are known."""
    if groups is None:
        return None, 0
    names, units = np.unique(np.asarray(groups), return_inverse=True)
    return units, len(names)


def group_words(folds: int, count: int) -> tuple[str, list[dict[str, str]]]:
    """(folds of whole groups in words, notes)."""
    if count > MOST_GROUPS_LEFT_OUT:
        return f"{folds} folds of whole groups of train", []
    few = f"penalties were judged over {count} groups of train, fewer than the {FOLDS} folds of samples"
    return f"leaving out each of {count} groups of train", [note("few_groups", few)] if count < FOLDS else []


def by_group(labels: Labels, units: NDArray[Any], count: int, seed: int) -> list[Pair]:
    """(samples to fit, samples that judge) of each fold of whole groups; few groups are left out one at a time."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    if count <= MOST_GROUPS_LEFT_OUT:
        return [(np.flatnonzero(units != g), np.flatnonzero(units == g)) for g in range(count)]
    # stratified where some class can be in every fold; rarer ones are dealt as their groups fall
    if labels.ndim == 1 and np.bincount(labels).max() >= FOLDS:
        kind = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return list(kind.split(labels, labels, units))
    return list(GroupKFold(FOLDS, shuffle=True, random_state=seed % 2**32).split(labels, labels, units))


def _by_sample(features: Matrix, labels: Labels, classes: int, seed: int) -> list[Pair]:
    from sklearn.model_selection import KFold, StratifiedKFold

    counts = np.bincount(labels, minlength=classes) if labels.ndim == 1 else np.array([len(labels)])
    folds = min(FOLDS, int(counts.min()))
    if folds < 2:
        raise BenchError(
            "a class has one training sample: no cross-validation", "give one --weight_decay, or more samples"
        )
    kind = KFold if labels.ndim == 2 else StratifiedKFold
    return list(kind(folds, shuffle=True, random_state=seed % 2**32).split(features, labels))


def _fold(
    features: Matrix, labels: Labels, fitted: NDArray[np.int64], held: NDArray[np.int64], units: NDArray[Any]
) -> Fold:
    return Fold(fitted=(features[fitted], labels[fitted]), held=(features[held], labels[held]), units=units)


def _two_classes(labels: Labels) -> bool:
    return labels.ndim == 2 or len(np.unique(labels)) > 1
