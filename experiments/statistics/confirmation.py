"""A second world of simulated test splits, built in another way than `simulated.py`: what was chosen on one is tried on
the other.

Sizes of groups have heavy tails (Pareto); a group holds few classes; hits have a beta distribution of each group and
class, which both models share but in a third of the groups; labels' scores have skewed groups (gamma) and logistic
noise. Shares no code with what is tested, and of the other world nothing but how a design is described.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from simulated import Design

SHARES = 0.55 ** np.arange(9)
SHARES = np.append(0.997 * SHARES / SHARES.sum(), 0.003)  # of ten classes
ACCURACY = np.array([0.95, 0.9, 0.7, 0.85, 0.6, 0.8, 0.75, 0.65, 0.9, 0.6])
PREVALENCE = np.array([0.5, 0.25, 0.1, 0.03, 0.003])  # of the labels
SHIFT = np.array([2.0, 3.0, 2.5, 3.5, 4.5])  # by which a score is higher where its label is there
TAIL = 2.2  # exponent of the sizes: of two of the largest groups one may hold a fifth of all samples
CONCENTRATION = 5.0  # of a group's composition: few classes each
SKEW = 2.0  # shape of the gamma distribution of a group's shift
STEP = 0.02  # to which scores are rounded
SIZES = {"single": 200, "segmentation": 20, "tags": 120}  # samples a group, on average


def sizes(random: np.random.Generator, design: Design) -> np.ndarray:
    """Samples of each group."""
    drawn = (1 + random.pareto(TAIL, design.groups)) * (TAIL - 1) / TAIL * design.size
    return np.maximum(4, np.rint(drawn)).astype(int)


def compositions(random: np.random.Generator, design: Design) -> np.ndarray:
    """Shares of the classes in each group (groups, classes); without correlation all groups are alike."""
    if not design.correlation:
        return np.repeat(SHARES[None], design.groups, axis=0)
    return random.dirichlet(SHARES * CONCENTRATION, design.groups)


def shared_hits(random: np.random.Generator, counts: np.ndarray, correlation: float) -> list[np.ndarray]:
    """Hits (groups, classes) of two models that see the same rate of each group and class."""
    rate = np.broadcast_to(ACCURACY, counts.shape)
    if correlation:
        scale = (1 - correlation) / correlation
        rate = random.beta(rate * scale, (1 - rate) * scale)
        # a third of the groups is hard for one model alone: it has a rate of its own there
        own = random.beta(ACCURACY * scale, (1 - ACCURACY) * scale, (2, *counts.shape))
        apart = random.random((2, len(counts), 1)) < 1 / 3
        return [random.binomial(counts, np.where(apart[m], own[m], rate)) for m in range(2)]
    return [random.binomial(counts, rate) for _ in range(2)]


def single_label(random: np.random.Generator, design: Design) -> tuple[np.ndarray, list[np.ndarray]]:
    """(samples of each group and class, hits of two models)."""
    counts = random.multinomial(sizes(random, design), compositions(random, design))
    return counts, shared_hits(random, counts, design.correlation)


@cache
def errors() -> np.ndarray:
    """(K, K): where the errors of a class go, half of them to the next."""
    k = len(SHARES)
    found = np.full((k, k), 0.5 / (k - 2))
    for own in range(k):
        found[own, own], found[own, (own + 1) % k] = 0, 0.5
    return found


def confusions(random: np.random.Generator, design: Design, pixels: int = 64) -> list[np.ndarray]:
    """Confusion matrices (groups, K, K) of two models."""
    counts = random.multinomial(sizes(random, design) * pixels, compositions(random, design))
    k = len(SHARES)
    found = []
    for hits in shared_hits(random, counts, design.correlation):
        matrix = np.stack([random.multinomial(counts[:, own] - hits[:, own], errors()[own]) for own in range(k)], 1)
        matrix[:, np.arange(k), np.arange(k)] = hits
        found.append(matrix)
    return found


def shifts(random: np.random.Generator, shape: tuple[int, ...], correlation: float) -> np.ndarray:
    """What a group adds to its scores: gamma, mean 0, of the logistic distribution's variance times a ratio that gives
    the correlation.
    """
    deviation = np.sqrt(np.pi**2 / 3 * correlation / (1 - correlation))
    return deviation * (random.gamma(SKEW, size=shape) - SKEW) / np.sqrt(SKEW)


def tags(random: np.random.Generator, design: Design) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """(group, labels, scores of two models) of each sample; the models share half of the groups' shifts."""
    unit = np.repeat(np.arange(design.groups), sizes(random, design))
    rate = np.repeat(PREVALENCE[None], design.groups, axis=0)
    if design.correlation:
        scale = (1 - design.correlation / 4) / (design.correlation / 4)
        rate = random.beta(rate * scale, (1 - rate) * scale)
    y = random.random((len(unit), len(PREVALENCE))) < rate[unit]
    common, *own = shifts(random, (3, *rate.shape), design.correlation)
    models = []
    for each in own:
        shift = np.where(random.random(rate.shape) < 0.5, common, each)
        scores = SHIFT * y + shift[unit] + random.logistic(size=y.shape)
        models.append(np.round(scores / STEP) * STEP)
    return unit, y, models


# True values


def truth(kind: str, design: Design, held: np.ndarray) -> dict[str, float]:
    """True scores of a split that has these classes (classes,)."""
    if kind == "single":
        return {"oa": float(SHARES @ ACCURACY), "aa": float(ACCURACY[held].mean())}
    if kind == "segmentation":
        wrong = (SHARES * (1 - ACCURACY)) @ errors()
        return {"miou": float((SHARES * ACCURACY / (SHARES + wrong))[held].mean())}
    each, together = true_average_precisions(design.correlation)
    return {"map_micro": together, "map_macro": float(np.array(each)[held].mean())}


@cache
def true_average_precisions(correlation: float, draws: int = 2_000_000) -> tuple[tuple[float, ...], float]:
    """(of each label, of all labels together), from draws of what scores are beside their labels."""
    random = np.random.default_rng(0)
    noise = shifts(random, (draws,), correlation) + random.logistic(size=draws)
    low, high = int(-40 / STEP), int(60 / STEP)

    def histogram(values: np.ndarray) -> np.ndarray:
        levels = np.clip(np.round(values / STEP).astype(int), low, high) - low
        return np.bincount(levels, minlength=high - low + 1)[::-1] / draws  # the highest score first

    wrong = histogram(noise)
    positive = np.stack([p * histogram(noise + shift) for p, shift in zip(PREVALENCE, SHIFT, strict=True)])
    negative = (1 - PREVALENCE)[:, None] * wrong
    both = [*zip(positive, negative, strict=True), (positive.sum(0), negative.sum(0))]
    found = []
    for p, n in both:
        hits, seen = np.cumsum(p), np.cumsum(p + n)
        found.append(float((p * hits / np.maximum(seen, 1e-300)).sum() / hits[-1]))
    return tuple(found[:-1]), found[-1]
