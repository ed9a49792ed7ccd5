"""Simulated test splits whose true scores are known: groups of unequal size, rare classes, samples that look alike.

Shares no code with what is tested: numpy and scipy alone. Within a group the hits of a class are beta-binomial, so that
two of them have the intra-group correlation asked for; what makes a group hard is half common to its classes. Scores of
labels are normal with a part common to the group and label. Of each split there are two models that are equally good:
what makes a group hard is hard for both. `confirmation.py` builds its splits in another way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import beta, norm

SHARES = np.array([0.35, 0.25, 0.18, 0.12, 0.067, 0.03, 0.003])  # of the classes
ACCURACY = np.array([0.90, 0.80, 0.85, 0.70, 0.75, 0.60, 0.70])
PREVALENCE = np.array([0.4, 0.2, 0.05, 0.003])  # of the labels
SHIFT = np.array([1.5, 1.2, 1.8, 2.0])  # by which a score is higher where its label is there
COMMON = 0.5  # of a group's difficulty: the same for all classes
SPREAD = 0.6  # standard deviation of the logarithm of the groups' sizes
TABLE = 2048  # quantiles that stand for a beta distribution
STEP = 0.01  # to which scores of labels are rounded
SIZES = {"single": 200, "segmentation": 20, "tags": 120}  # samples a group, on average


@dataclass(frozen=True, kw_only=True)
class Design:
    """`groups` of `size` samples on average, intra-group `correlation`; the rarest class is in `held` groups, in any
    where that is 0.
    """

    groups: int
    size: int
    correlation: float
    held: int = 0


@cache
def quantiles(means: tuple[float, ...], correlation: float) -> np.ndarray:
    """(classes, TABLE) quantiles of beta distributions of these means and this intra-class correlation."""
    middle = (np.arange(TABLE) + 0.5) / TABLE
    if correlation == 0:
        return np.repeat(np.array(means)[:, None], TABLE, axis=1)
    scale = (1 - correlation) / correlation
    return np.stack([beta.ppf(middle, mean * scale, (1 - mean) * scale) for mean in means])


def rates(
    random: np.random.Generator, means: np.ndarray, correlation: float, groups: int, shared: np.ndarray | None = None
) -> np.ndarray:
    """Rates (groups, classes) with the given means; `shared` (groups,) are normal values that other rates share."""
    common = random.normal(size=groups) if shared is None else shared
    own = random.normal(size=(groups, len(means)))
    place = norm.cdf(np.sqrt(COMMON) * common[:, None] + np.sqrt(1 - COMMON) * own)
    table = quantiles(tuple(means), correlation)
    return table[np.arange(len(means)), np.minimum((place * TABLE).astype(int), TABLE - 1)]


def sizes(random: np.random.Generator, design: Design) -> np.ndarray:
    """Samples of each group: log-normal, the largest of ten about six times the smallest."""
    drawn = np.exp(random.normal(0, SPREAD, design.groups) - SPREAD**2 / 2) * design.size
    return np.maximum(4, np.rint(drawn)).astype(int)


def compositions(random: np.random.Generator, design: Design, shares: np.ndarray) -> np.ndarray:
    """Shares of the classes in each group (groups, classes): Dirichlet, and the rarest in the groups that hold it."""
    found = np.repeat(shares[None], design.groups, axis=0)
    if design.correlation:
        found = random.dirichlet(shares * 12 * (1 - design.correlation) / design.correlation + 1e-3, design.groups)
    if design.held:
        holders = random.permutation(design.groups)[: design.held]
        found[:, -1] = 0
        found[holders, -1] = min(0.5, shares[-1] * design.groups / design.held)
        rest = found[:, :-1].sum(1, keepdims=True)
        found[:, :-1] *= (1 - found[:, -1:]) / rest
    return found


def counted(random: np.random.Generator, design: Design, per_sample: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(samples or pixels of each class, shares) of each group (groups, classes); a group that holds the rarest class
    has at least one sample of it.
    """
    share = compositions(random, design, SHARES)
    counts = random.multinomial(sizes(random, design) * per_sample, share)
    if design.held:
        counts[:, -1] = np.maximum(counts[:, -1], share[:, -1] > 0)
    return counts, share


def single_label(random: np.random.Generator, design: Design) -> tuple[np.ndarray, list[np.ndarray]]:
    """(samples of each group and class (groups, classes), hits of two models)."""
    counts, _ = counted(random, design)
    shared = random.normal(size=design.groups)
    models = [rates(random, ACCURACY, design.correlation, design.groups, shared) for _ in range(2)]
    return counts, [random.binomial(counts, rate) for rate in models]


def confusions(random: np.random.Generator, design: Design, pixels: int = 64) -> list[np.ndarray]:
    """Confusion matrices (groups, K, K) of two models; errors go to the other classes as these are in the group."""
    counts, share = counted(random, design, pixels)
    shared = random.normal(size=design.groups)
    return [_confused(random, design, counts, share, shared) for _ in range(2)]


def _confused(
    random: np.random.Generator, design: Design, counts: np.ndarray, share: np.ndarray, shared: np.ndarray
) -> np.ndarray:
    hits = random.binomial(counts, rates(random, ACCURACY, design.correlation, design.groups, shared))
    k = len(SHARES)
    found = np.zeros((design.groups, k, k), np.int64)
    for own in range(k):
        wrong = share.copy()
        wrong[:, own] = 0
        wrong /= wrong.sum(1, keepdims=True)
        found[:, own] = random.multinomial(counts[:, own] - hits[:, own], wrong)
        found[:, own, own] = hits[:, own]
    return found


def tags(random: np.random.Generator, design: Design) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """(group (N,), labels (N, C), scores (N, C) of two models) of each sample; half of what a score is beside its label
    both models share.
    """
    unit = np.repeat(np.arange(design.groups), sizes(random, design))
    wanted = PREVALENCE.copy()
    prevalence = rates(random, wanted, design.correlation / 4, design.groups)
    if design.held:
        holders = random.permutation(design.groups)[: design.held]
        prevalence[:, -1] = 0
        prevalence[holders, -1] = min(0.5, wanted[-1] * design.groups / design.held)
    y = random.random((len(unit), len(wanted))) < prevalence[unit]
    for group in np.flatnonzero(prevalence[:, -1]) if design.held else ():
        y[np.flatnonzero(unit == group)[0], -1] = True
    of_group = random.normal(size=(3, design.groups, len(wanted)))[:, unit]
    of_sample = random.normal(size=(3, *y.shape))
    noise = np.sqrt(design.correlation) * of_group + np.sqrt(1 - design.correlation) * of_sample
    return unit, y, [np.round((SHIFT * y + np.sqrt(0.5) * (noise[0] + own)) / STEP) * STEP for own in noise[1:]]


# True values


def truth(kind: str, design: Design, held: np.ndarray) -> dict[str, float]:
    """True scores of a split that has these classes (classes,)."""
    if kind == "single":
        return {"oa": float(SHARES @ ACCURACY), "aa": float(ACCURACY[held].mean())}
    if kind == "segmentation":
        return {"miou": float(np.array(true_ious(design))[held].mean())}
    each, together = true_average_precisions()
    return {"map_micro": together, "map_macro": float(np.array(each)[held].mean())}


@cache
def true_ious(design: Design, population: int = 40_000) -> tuple[float, ...]:
    """IoU of each class over a population of groups: expected pixels, no draws of hits."""
    random = np.random.default_rng(0)
    many = Design(groups=population, size=design.size, correlation=design.correlation)
    share = compositions(random, many, SHARES)
    if design.held:
        holds = np.arange(population) < population * design.held // design.groups
        share[:, -1] = np.where(holds, min(0.5, SHARES[-1] * design.groups / design.held), 0)
        share[:, :-1] *= (1 - share[:, -1:]) / share[:, :-1].sum(1, keepdims=True)
    reference, hits = share.mean(0), share.mean(0) * ACCURACY
    wrong = np.zeros(len(SHARES))
    for own in range(len(SHARES)):
        others = share.copy()
        others[:, own] = 0
        others /= others.sum(1, keepdims=True)
        wrong += (share[:, own : own + 1] * (1 - ACCURACY[own]) * others).mean(0)
    return tuple(hits / (reference + wrong))


@cache
def true_average_precisions() -> tuple[tuple[float, ...], float]:
    """(of each label, of all labels together) of scores rounded to STEP: sum over levels of recall step x precision."""
    edges = np.arange(9, -8, -STEP) - STEP / 2
    right, wrong = norm.sf(edges - SHIFT[:, None]), norm.sf(edges)
    positive, negative = PREVALENCE[:, None] * right, (1 - PREVALENCE)[:, None] * wrong
    both = [*zip(positive, negative, strict=True), (positive.sum(0), negative.sum(0))]
    found = [float((np.diff(p, prepend=0) * p / np.maximum(p + n, 1e-300)).sum() / p[-1]) for p, n in both]
    return tuple(found[:-1]), found[-1]


# Chips in blocks, as of EuroSAT

BLOCKS, CHIPS, CLASSES = 150, 36, 10


def in_blocks(random: np.random.Generator, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """(samples, hits) of 150 blocks and 10 classes: few classes a block, 36 chips on average, accuracy .8 of each."""
    design = Design(groups=BLOCKS, size=CHIPS, correlation=correlation)
    share = random.dirichlet(np.full(CLASSES, 0.3), BLOCKS)
    counts = random.multinomial(sizes(random, design), share)
    return counts, random.binomial(counts, rates(random, np.full(CLASSES, 0.8), correlation, BLOCKS))
