"""Probes that are fitted at once, logistic regression and nearest neighbours, against scikit-learn's."""

import numpy as np
import pytest
from blobs import clusters
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from fgmae_bench.errors import BenchError
from fgmae_bench.probe import closed
from fgmae_bench.probe.closed import Part
from fgmae_bench.runs.tasks import TASKS

CLASSES = 5


def fit_logistic(train, parts, *settings, **more):
    """Of (features, labels) and, where there are any, groups."""
    return closed.fit_logistic(Part(*train), {name: Part(*part) for name, part in parts.items()}, *settings, **more)


def fit_knn(train, parts, *settings):
    return closed.fit_knn(Part(*train), {name: Part(*part) for name, part in parts.items()}, *settings)


# --- logistic regression


def standardised(train_x, x):
    return StandardScaler().fit(train_x.astype(np.float64)).transform(x.astype(np.float64))


def oracle(train_x, train_y, penalty):
    """Mean loss + penalty/2 |w|^2 is scikit-learn's with C = 1 / (penalty n)."""
    model = LogisticRegression(C=1 / (penalty * len(train_y)), tol=1e-10, max_iter=20_000)
    return model.fit(standardised(train_x, train_x), train_y)


@pytest.mark.parametrize("penalty", [1e-3, 1e-1, 1.0])
def test_logistic_regression_is_scikit_learns_on_standardised_features(penalty):
    x, y = clusters(300)
    test = clusters(100, seed=1)
    fitted = fit_logistic((x, y), {"test": test}, CLASSES, (penalty,), 42)
    expected = oracle(x, y, penalty).decision_function(standardised(x, test[0]))
    np.testing.assert_allclose(fitted.logits["test"], expected, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_array_equal(fitted.logits["test"].argmax(1), expected.argmax(1))
    assert fitted.penalty == penalty


def test_penalty_is_the_one_with_the_lowest_loss_on_val():
    x, y = clusters(120)
    val, test = clusters(200, seed=1), clusters(100, seed=2)
    candidates = (1e-4, 1e-2, 1e-1, 1.0, 10.0)
    losses = [log_loss(val[1], oracle(x, y, p).predict_proba(standardised(x, val[0]))) for p in candidates]
    best = int(np.argmin(losses))
    assert 0 < best < 4
    fitted = fit_logistic((x, y), {"val": val, "test": test}, CLASSES, candidates, 42)
    assert fitted.penalty == candidates[best]
    assert "on val" in fitted.notes[0]["text"]
    alone = fit_logistic((x, y), {"test": test}, CLASSES, (candidates[best],), 42)
    np.testing.assert_array_equal(
        fitted.logits["test"], alone.logits["test"]
    )  # fitted on train, never on train and val


def test_without_val_the_penalty_is_chosen_by_cross_validation_inside_train():
    """Never on test: with its labels shuffled the choice stays the same."""
    x, y = clusters(120)
    test = clusters(100, seed=2)
    candidates = (1e-4, 1e-2, 1e-1, 1.0, 10.0)
    n = len(y) * 4 // 5
    search = GridSearchCV(
        LogisticRegression(tol=1e-8, max_iter=20_000),
        {"C": [1 / (p * n) for p in candidates]},
        scoring="neg_log_loss",
        cv=StratifiedKFold(5, shuffle=True, random_state=42),
        refit=False,
    ).fit(standardised(x, x), y)
    expected = candidates[int(search.best_index_)]
    assert expected not in (candidates[0], candidates[-1])
    fitted = fit_logistic((x, y), {"test": test}, CLASSES, candidates, 42)
    shuffled = fit_logistic((x, y), {"test": (test[0], test[1][::-1].copy())}, CLASSES, candidates, 42)
    assert fitted.penalty == shuffled.penalty == expected
    assert "cross-validation inside train" in fitted.notes[0]["text"]


def test_penalty_at_the_edge_of_the_candidates_is_noted():
    x, y = clusters(120)
    val = clusters(200, seed=1)
    codes = [note["code"] for note in fit_logistic((x, y), {"val": val, "test": val}, CLASSES, (1e-5, 1e-4), 42).notes]
    assert "penalty_at_edge" in codes
    assert "penalty_at_edge" not in [
        note["code"] for note in fit_logistic((x, y), {"val": val, "test": val}, CLASSES, (1e-4,), 42).notes
    ]


def test_logistic_regression_of_two_classes_has_two_logits():
    """scikit-learn's binary form has one decision value, ours is the difference of the logits; half its penalty is
    ours.
    """
    x, y = clusters(200, classes=2)
    test = clusters(80, seed=1, classes=2)
    fitted = fit_logistic((x, y), {"test": test}, 2, (0.05,), 42)
    expected = oracle(x, y, 0.05 / 2).decision_function(standardised(x, test[0]))
    assert fitted.logits["test"].shape == (80, 2)
    np.testing.assert_allclose(
        fitted.logits["test"][:, 1] - fitted.logits["test"][:, 0], expected, atol=2e-3 * np.abs(expected).max()
    )


def test_class_absent_from_training_is_never_predicted():
    x, y = clusters(200)
    keep = y != 2
    fitted = fit_logistic((x[keep], y[keep]), {"test": (x, y)}, CLASSES, (0.01,), 42)
    assert fitted.logits["test"].shape == (200, CLASSES)
    assert 2 not in fitted.logits["test"].argmax(1)
    expected = oracle(x[keep], y[keep], 0.01).predict(standardised(x[keep], x))
    np.testing.assert_array_equal(fitted.logits["test"].argmax(1), expected)


def test_constant_feature_is_no_division_by_zero():
    x, y = clusters(100)
    x[:, 3] = 7
    with np.errstate(all="raise"):
        fitted = fit_logistic((x, y), {"test": (x, y)}, CLASSES, (0.1,), 42)
    assert np.isfinite(fitted.logits["test"]).all()


def test_one_sample_of_a_class_is_too_few_to_cross_validate():
    x, y = clusters(60)
    keep = (y != 2) | (np.arange(60) == np.flatnonzero(y == 2)[0])
    with pytest.raises(BenchError, match="no cross-validation"):
        fit_logistic((x[keep], y[keep]), {"test": (x, y)}, CLASSES, (0.1, 1.0), 42)


# --- nearest neighbours


@pytest.mark.parametrize("k", [1, 4, 5, 20])
def test_nearest_neighbours_are_scikit_learns_by_cosine(k):
    (x, y), (tx, ty) = clusters(300), clusters(1100, seed=1)  # more than one chunk of 1024
    model = KNeighborsClassifier(n_neighbors=k, metric="cosine").fit(x.astype(np.float64), y)
    fitted = fit_knn((x, y), {"test": (tx, ty)}, CLASSES, k)
    np.testing.assert_allclose(
        softmax(fitted.logits["test"], axis=1), model.predict_proba(tx.astype(np.float64)), atol=1e-5
    )
    np.testing.assert_array_equal(fitted.logits["test"].argmax(1), model.predict(tx.astype(np.float64)))
    assert fitted.penalty is None


def test_nearest_neighbours_ignore_the_length_of_features():
    (x, y), (tx, ty) = clusters(200), clusters(50, seed=1)
    scale = np.random.default_rng(0).uniform(0.1, 10, (len(x), 1)).astype(np.float32)
    a, b = fit_knn((x, y), {"test": (tx, ty)}, CLASSES, 5), fit_knn((x * scale, y), {"test": (tx * 3, ty)}, CLASSES, 5)
    np.testing.assert_array_equal(a.logits["test"], b.logits["test"])


def test_all_samples_as_neighbours_give_the_class_shares():
    shares = np.bincount(clusters(60)[1]) / 60
    logits = fit_knn(clusters(60), {"test": clusters(10)}, CLASSES, 60).logits["test"]
    np.testing.assert_allclose(softmax(logits, axis=1), np.tile(shares, (10, 1)), atol=1e-6)


def test_the_loss_of_nearest_neighbours_is_that_of_their_shares():
    (x, y), (tx, ty) = clusters(300), clusters(200, seed=1)
    logits = fit_knn((x, y), {"test": (tx, ty)}, CLASSES, 5).logits["test"]
    shares = (
        KNeighborsClassifier(n_neighbors=5, metric="cosine")
        .fit(x.astype(np.float64), y)
        .predict_proba(tx.astype(np.float64))
    )
    expected = -np.log(np.maximum(shares[np.arange(len(ty)), ty], 1e-6)).mean()
    assert TASKS["single_label"].evaluate(logits, ty)["loss"] == pytest.approx(expected, abs=1e-4)
    same = fit_knn((x, y), {"test": (x, y)}, CLASSES, 1).logits["test"]
    assert TASKS["single_label"].evaluate(same, y)["loss"] == pytest.approx(0, abs=1e-4)
