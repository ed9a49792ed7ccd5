"""The penalty of logistic regression: folds by groups, the path and its ends, one standard error, against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

from fgmae_bench.config.recipes import FIXED_PENALTY, PENALTIES
from fgmae_bench.errors import BenchError
from fgmae_bench.probe.closed import Part, fit_logistic
from fgmae_bench.probe.logistic import logistic
from fgmae_bench.probe.penalty import choose, cross_validation

CLASSES = 3
CANDIDATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def scenes(n=240, groups=6, seed=0, shift=1.0, dim=8):
    """Classes in scenes of unequal size, each of which moves all its features: (features, labels, groups)."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, n - CLASSES)])
    group = rng.choice(groups, n, p=np.arange(1, groups + 1) / np.arange(1, groups + 1).sum())
    centres = np.random.default_rng(99).normal(0, 1, (CLASSES, dim))
    x = centres[labels] + shift * rng.normal(0, 1, (groups, dim))[group] + rng.normal(0, 1, (n, dim))
    return Part(x.astype(np.float32), labels, tuple(f"scene-{g}" for g in group))


def standardised(x):
    x = x.astype(np.float64)
    return (x - x.mean(0)) / (x.std(0) + 1e-12)


def held_out(x, y, splits, penalty):
    """Losses (N,) of held-out samples by scikit-learn's models, each fitted on the other side of its fold."""
    losses = np.full(len(y), np.nan)
    for fitted, held in splits:
        model = LogisticRegression(C=1 / (penalty * len(fitted)), tol=1e-10, max_iter=20_000).fit(x[fitted], y[fitted])
        p = model.predict_proba(x[held])
        losses[held] = -np.log(p[np.arange(len(held)), np.searchsorted(model.classes_, y[held])])
    return losses


def by_oracle(losses, units, penalties):
    """(mean losses, errors, the strongest penalty within one standard error of the smallest), as glmnet says it."""
    means, errors = losses.mean(1), []
    for row, mean in zip(losses, means, strict=True):
        sizes = np.array([(units == u).sum() for u in np.unique(units)])
        folds = np.array([row[units == u].mean() for u in np.unique(units)])
        errors.append(math.sqrt((sizes / sizes.sum() * (folds - mean) ** 2).sum() / (len(sizes) - 1)))
    best = int(means.argmin())
    return means, errors, max(p for p, m in zip(penalties, means, strict=True) if m <= means[best] + errors[best])


def test_few_groups_are_left_out_one_at_a_time_and_their_losses_pooled():
    train, test = scenes(), scenes(60, seed=1)
    candidates = (0.01, 0.05, 0.1, 0.15, 0.2, 0.3)
    fitted = fit_logistic(train, {"test": test}, CLASSES, candidates, 42)
    x, units = standardised(train.features), np.asarray(train.groups)
    splits = list(LeaveOneGroupOut().split(x, train.labels, units))
    losses = np.stack([held_out(x, train.labels, splits, p) for p in candidates])
    means, errors, chosen = by_oracle(losses, units, candidates)
    path = fitted.selection["path"]
    assert path["penalty"] == list(candidates)
    assert path["loss"] == pytest.approx(means, rel=2e-3)
    assert path["error"] == pytest.approx(errors, rel=1e-2)
    assert fitted.penalty == path["chosen"] == chosen
    assert path["smallest"] == candidates[int(means.argmin())] < chosen
    assert (fitted.selection["on"], fitted.selection["budget"]) == ("leaving out each of 6 groups of train", 6)
    assert (path["units"], fitted.notes[0]["code"]) == (6, "penalty_chosen")


def test_folds_of_samples_would_choose_another_penalty():
    """What shifts from scene to scene is learnt by heart where samples of a scene are on both sides."""
    train, test = scenes(shift=2.0), scenes(60, seed=1)
    alone = Part(train.features, train.labels)
    grouped, plain = (fit_logistic(each, {"test": test}, CLASSES, CANDIDATES, 42) for each in (train, alone))
    assert grouped.selection["path"]["smallest"] > plain.selection["path"]["smallest"]
    assert min(grouped.selection["path"]["loss"]) > 1.2 * min(plain.selection["path"]["loss"])


def test_many_groups_are_dealt_into_folds_as_scikit_learn_does():
    train, test = scenes(300, groups=14), scenes(40, seed=1)
    fitted = fit_logistic(train, {"test": test}, CLASSES, CANDIDATES, 7)
    x, units = standardised(train.features), np.unique(train.groups, return_inverse=True)[1]
    splits = list(StratifiedGroupKFold(5, shuffle=True, random_state=7).split(x, train.labels, units))
    losses = np.stack([held_out(x, train.labels, splits, p) for p in CANDIDATES])
    _, _, chosen = by_oracle(losses, units, CANDIDATES)
    assert fitted.selection["path"]["loss"] == pytest.approx(losses.mean(1), rel=2e-3)
    assert (fitted.penalty, fitted.selection["on"]) == (chosen, "5 folds of whole groups of train")


def test_val_judges_by_its_groups_where_they_are_known():
    train, val, test = scenes(), scenes(120, seed=3), scenes(60, seed=1)
    x = train.features.astype(np.float64)
    moved = (val.features - x.mean(0)) / (x.std(0) + 1e-12)
    losses = []
    for penalty in CANDIDATES:
        model = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=20_000)
        model.fit(standardised(x), train.labels)
        losses.append(-np.log(model.predict_proba(moved)[np.arange(120), val.labels]))
        assert losses[-1].mean() == pytest.approx(log_loss(val.labels, model.predict_proba(moved)))
    for part, units in ((val, np.asarray(val.groups)), (Part(val.features, val.labels), np.arange(120))):
        fitted = fit_logistic(train, {"val": part, "test": test}, CLASSES, CANDIDATES, 42)
        _, errors, chosen = by_oracle(np.stack(losses), units, CANDIDATES)
        assert fitted.penalty == chosen
        assert fitted.selection["path"]["error"] == pytest.approx(errors, rel=2e-2)
        assert fitted.selection["on"] == "val"


def test_the_path_goes_on_while_the_smallest_loss_is_at_its_end():
    """Labels that have nothing to do with features want the strongest penalty, and are noted at the last one."""
    rng = np.random.default_rng(0)
    noise = Part(rng.normal(size=(90, 30)).astype(np.float32), rng.integers(0, 3, 90))
    fitted = fit_logistic(noise, {"test": noise}, 3, PENALTIES["lbfgs"], 42)
    path = fitted.selection["path"]
    assert path["penalty"][0] == 1e-8
    assert path["penalty"][-1] > 1e4
    assert path["penalty"] == pytest.approx([10.0**e for e in range(-8, len(path["penalty"]) - 8)])
    assert path["smallest"] < path["penalty"][-1] or path["loss"][-1] == pytest.approx(path["loss"][-2], rel=1e-5)
    assert len(path["penalty"]) <= 17
    given = fit_logistic(noise, {"test": noise}, 3, (1e-3, 1e-2), 42)
    assert given.selection["path"]["penalty"] == [1e-3, 1e-2]  # what is given is not extended
    assert "penalty_at_edge" in [note["code"] for note in given.notes]


@pytest.mark.parametrize("penalty", [1e-5, 1e-3, 1e-1])
def test_weak_penalties_are_fitted_to_their_minimum_not_part_of_the_way(penalty):
    """Classes that a plane separates: the weaker the penalty, the further the minimum, and the worse on other scenes."""
    part = scenes(n=160, dim=40, seed=3, shift=0.0)
    part = part._replace(
        features=part.features + np.float32(3) * np.random.default_rng(1).normal(0, 1, (160, 40)).astype(np.float32)
    )
    x = standardised(part.features).astype(np.float32)
    here, there = np.arange(160) < 110, np.arange(160) >= 110
    exact = LogisticRegression(C=1 / (penalty * here.sum()), solver="newton-cg", tol=1e-10, max_iter=20_000)
    exact.fit(x[here].astype(np.float64), part.labels[here])
    wanted = log_loss(part.labels[there], exact.predict_proba(x[there].astype(np.float64)))
    found = logistic(x[here], part.labels[here], penalty, CLASSES, tolerance=1e-4).decision(x[there])
    shares = np.exp(found - found.max(1, keepdims=True))
    assert log_loss(part.labels[there], shares / shares.sum(1, keepdims=True)) == pytest.approx(wanted, rel=0.03)


def test_a_path_that_is_level_at_its_weak_end_does_not_go_on():
    """Classes that a line separates have the same loss, next to nothing, at every weak penalty."""
    x = np.repeat([[0.0], [10.0]], 30, axis=0) + np.random.default_rng(0).normal(0, 0.1, (60, 1))
    apart = Part(x.astype(np.float32), np.repeat([0, 1], 30))
    fitted = fit_logistic(apart, {"test": apart}, 2, PENALTIES["lbfgs"], 42)
    path = fitted.selection["path"]
    assert path["penalty"][0] == 1e-8
    assert path["loss"][0] == pytest.approx(path["loss"][1], abs=1e-4)
    assert "penalty_at_edge" not in [note["code"] for note in fitted.notes]


@pytest.mark.parametrize(
    ("losses", "asked"),
    [
        ((0.5, 0.6, 0.4, 0.7), 4),  # smallest inside: that an end is lower than its neighbour says nothing
        ((0.7, 0.6, 0.7, 0.5), 5),  # smallest at the strong end: one step on, where it is larger
        ((0.5, 0.6, 0.7, 0.6), 5),  # at the weak end
    ],
)
def test_a_path_goes_on_from_its_smallest_loss_alone(losses, asked):
    known, seen = dict(zip((0.1, 1.0, 10.0, 100.0), losses, strict=True)), []

    def judge(penalty):
        seen.append(penalty)
        return np.full(4, known.get(penalty, 1.0)), np.ones(4)

    choose(judge, np.arange(4), tuple(known), "val", open_ended=True)
    assert len(seen) == asked


def test_a_fit_that_starts_from_another_ends_where_it_would_from_nothing():
    train = scenes()
    x = standardised(train.features).astype(np.float32)
    many = np.eye(3, dtype=np.uint8)[train.labels]
    two = (train.labels == 0).astype(np.int64)
    for labels, classes in ((train.labels, 3), (two, 2), (many, 3)):
        start = logistic(x, labels, 1.0, classes)
        warm, cold = logistic(x, labels, 0.01, classes, start=start), logistic(x, labels, 0.01, classes)
        np.testing.assert_allclose(warm.weight, cold.weight, atol=2e-3)
        np.testing.assert_allclose(warm.decision(x), cold.decision(x), atol=5e-3)


def test_a_class_that_a_fold_lacks_is_not_held_against_a_penalty():
    """Class 2 lies in one scene alone: the fold that leaves it out cannot know it."""
    train = scenes(groups=4)
    groups = tuple("only" if label == 2 else group for label, group in zip(train.labels, train.groups, strict=True))
    fitted = fit_logistic(train._replace(groups=groups), {"test": train}, CLASSES, CANDIDATES, 42)
    assert max(fitted.selection["path"]["loss"]) < 5  # a class that is absent would cost 30 each
    assert fitted.selection["on"] == "leaving out each of 5 groups of train"


def test_fewer_groups_than_folds_are_said():
    train = scenes(groups=3)
    fitted = fit_logistic(train, {"test": train}, CLASSES, CANDIDATES, 42)
    texts = {note["code"]: note["text"] for note in fitted.notes}
    assert texts["few_groups"] == "penalties were judged over 3 groups of train, fewer than the 5 folds of samples"


def test_groups_that_leave_no_folds_give_way_to_samples_and_that_is_said():
    train = scenes()
    by_class = tuple(f"scene of class {min(label, 1)}" for label in train.labels)
    for groups in (("one",) * len(train.labels), by_class):
        fitted = fit_logistic(train._replace(groups=groups), {"test": train}, CLASSES, CANDIDATES, 42)
        assert fitted.selection["on"] == "5-fold cross-validation inside train"
        texts = {note["code"]: note["text"] for note in fitted.notes}
        assert texts["few_groups"].endswith("penalties were judged over samples")


def test_groups_help_where_a_class_has_one_sample():
    x = scenes(60)
    keep = (x.labels != 2) | (np.arange(60) == np.flatnonzero(x.labels == 2)[0])
    one = Part(x.features[keep], x.labels[keep], tuple(np.asarray(x.groups)[keep]))
    found = fit_logistic(one, {"test": x}, CLASSES, CANDIDATES, 42).selection
    assert found["path"]["units"] == len(set(one.groups)) > 1
    with pytest.raises(BenchError, match="no cross-validation"):
        fit_logistic(one._replace(groups=None), {"test": x}, CLASSES, CANDIDATES, 42)


@pytest.mark.parametrize("count", [1, 5, 9, 10])
def test_few_labels_choose_nothing_below_ten_of_a_class_and_never_on_val(count):
    pool, val = scenes(400), scenes(100, seed=2)
    rows = np.concatenate([np.flatnonzero(pool.labels == k)[:count] for k in range(3)])
    few = Part(pool.features[rows], pool.labels[rows], tuple(np.asarray(pool.groups)[rows]))
    fitted = fit_logistic(few, {"val": val, "test": val}, CLASSES, PENALTIES["lbfgs"], 42, few=True)
    if count < 10:
        assert (fitted.penalty, fitted.selection) == (FIXED_PENALTY, None)
        assert "fixed, since a class has fewer than 10 labels" in fitted.notes[0]["text"]
    else:
        assert "groups of train" in fitted.selection["on"]
    given = fit_logistic(few, {"test": val}, CLASSES, (0.5,), 42, few=True)
    assert given.penalty == 0.5


def test_multi_label_paths_pool_the_losses_of_whole_groups():
    train = scenes()
    y = np.stack([train.labels == 0, train.labels == 1, train.features[:, 0] > 1], 1).astype(np.uint8)
    fitted = fit_logistic(train._replace(labels=y), {"test": train._replace(labels=y)}, 3, CANDIDATES[1:5], 42)
    x, units = standardised(train.features), np.asarray(train.groups)
    splits = list(LeaveOneGroupOut().split(x, train.labels, units))
    losses = np.stack([np.mean([held_out(x, y[:, k], splits, p) for k in range(3)], axis=0) for p in CANDIDATES[1:5]])
    assert fitted.selection["path"]["loss"] == pytest.approx(losses.mean(1), rel=5e-3)
    assert fitted.penalty == by_oracle(losses, units, CANDIDATES[1:5])[2]


def test_folds_do_not_share_groups():
    train = scenes(300, groups=14)
    folds, _, _ = cross_validation(train.features, train.labels, train.groups, CLASSES, 0)
    held = [set(fold.units.tolist()) for fold in folds]
    assert sum(map(len, held)) == len(set().union(*held)) == 14
