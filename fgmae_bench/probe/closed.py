"""Probes that are fitted, not trained by epochs: logistic regression to convergence, and nearest neighbours."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.recipes import FIXED_PENALTY, PENALTIES, TUNED_FROM
from fgmae_bench.config.run import Run
from fgmae_bench.data.index import Rows
from fgmae_bench.errors import BenchError, note
from fgmae_bench.features.bank import Bank
from fgmae_bench.probe.fitted import Fitted, Labels, Matrix, Part, unit
from fgmae_bench.probe.logistic import MAX_ITERATIONS, Logistic, logistic
from fgmae_bench.probe.penalty import Fold, choose_penalty, cross_validation
from fgmae_bench.probe.resolve import Materials
from fgmae_bench.probe.ridge import fit_knn_mean, fit_ridge
from fgmae_bench.probe.zero_shot import zero_shot
from fgmae_bench.runs.tasks import Outcome, Task

NO_VOTE = 1e-6  # share that stands for none, so that its logit is finite


def fit_closed(
    run: Run,
    materials: Materials,
    groups: Sequence[str] | None,
    classes: int,
    task: Task,
    *,
    train: Part | None = None,
) -> Outcome:
    """Outcome of logistic regression or nearest neighbours, as the recipe says, on the banks of features; `groups` are
    those of all rows, and `train` stands in for the training rows of the bank.
    """
    start = time.perf_counter()
    bank = materials.train_banks[0]
    train = train or _part(materials, bank, materials.train, groups)
    parts = {part: _part(materials, held, rows, groups) for part, (held, rows) in materials.evaluation.items()}
    if train.labels.dtype.kind == "f":
        fit = fit_knn_mean if run.recipe.probe == "knn" else fit_ridge
        fitted = fit(train, parts, run.recipe)
    elif run.recipe.probe == "lbfgs":
        few = run.data.shots is not None or run.data.train_frac < 1
        fitted = fit_logistic(train, parts, classes, run.recipe.penalties, run.recipe.seed, few=few)
    elif run.recipe.probe == "inference":
        fitted = own_head(materials, {part: held.features for part, held in parts.items()})
    elif run.recipe.probe == "zero_shot":
        fitted = zero_shot(materials.extractor.backbone, run, materials.extractor.dataset.card, parts)
    else:
        fitted = fit_knn(train, parts, classes, run.recipe.knn_k)
    outcome = Outcome(logits=fitted.logits["test"], notes=list(fitted.notes), fitted=fitted.parameters)
    outcome.targets, outcome.selection = parts["test"].labels, fitted.selection
    outcome.test = task.evaluate(fitted.logits["test"], outcome.targets)
    watched = "val" if "val" in parts else "test"
    outcome.final = task.evaluate(fitted.logits[watched], parts[watched].labels)
    outcome.val_logits = fitted.logits.get("val")
    outcome.retrieval = fitted.retrieval
    seconds = time.perf_counter() - start
    outcome.history.append(
        {
            "epoch": 0,
            "lr": None,
            "train_loss": None,
            "val": dict(outcome.final),
            "seconds": seconds,
            "images_per_second": len(train.labels) / seconds,
        }
    )
    return outcome


def _part(materials: Materials, bank: Bank, rows: Rows, groups: Sequence[str] | None) -> Part:
    own = None if groups is None else tuple(groups[row] for row in rows)
    return Part(features=np.asarray(bank.features[rows]), labels=materials.labels[rows], groups=own)


def own_head(materials: Materials, parts: dict[str, Matrix]) -> Fitted:
    """Logits of the classifier that the checkpoint holds: nothing is trained.

    Raises BenchError where it holds none, or one of other features or another number of classes.
    """
    backbone, names = materials.extractor.backbone, materials.extractor.dataset.card.classes
    head = backbone.head
    if head is None:
        raise BenchError(
            f"the weights {backbone.weights.source} hold no linear head, or several", "give a checkpoint that holds one"
        )
    if tuple(head.weight.shape) != (len(names), backbone.feature_dim):
        outputs, inputs, dim = *head.weight.shape, backbone.feature_dim
        raise BenchError(
            f"{head.name} maps {inputs} features to {outputs} classes, here are {dim} and {len(names)}",
            "give a checkpoint of this dataset's classes, or the --pool of its head",
        )
    order = np.arange(len(names))
    if backbone.head_order == "alphabetical":
        order = np.argsort(np.argsort(np.array(names)))
    weight, bias = head.weight.double().numpy()[order], head.bias.double().numpy()[order]
    parameters = {
        "weight": weight,
        "bias": bias,
        "mean": np.zeros(weight.shape[1]),
        "deviation": np.ones(weight.shape[1]),
    }
    logits = {part: logistic_logits(parameters, features) for part, features in parts.items()}
    text = f"{head.name} of the checkpoint classified, its outputs in {backbone.head_order or 'the card'}'s order"
    text = text.replace("alphabetical's", "alphabetical")
    return Fitted(logits=logits, penalty=None, parameters=parameters, notes=(note("own_head", text),))


def fit_logistic(
    train: Part, parts: dict[str, Part], classes: int, penalties: tuple[float, ...], seed: int, *, few: bool = False
) -> Fitted:
    """Logistic regression by L-BFGS on standardised features, mean loss + penalty/2 |w|^2: multinomial, or one a class
    for multi-hot.

    Of several penalties one is chosen on `val` where there is one, else by cross-validation inside the training split:
    never on test. With `few` labels that is always inside them, since labels of val would be more labels, and nothing
    is chosen below TUNED_FROM labels of the smallest class.
    """
    # statistics of train alone, applied to every part
    mean = train.features.mean(0, dtype=np.float64)
    deviation = train.features.std(0, dtype=np.float64) + 1e-12
    every = {**parts, "train": train}
    scaled = {part: ((held.features - mean) / deviation).astype(np.float32) for part, held in every.items()}
    notes: list[dict[str, str]] = []
    choice = None
    if len(penalties) == 1:
        penalty, how = penalties[0], "given"
    elif few and _smallest(train.labels, classes) < TUNED_FROM:
        penalty, how = FIXED_PENALTY, f"fixed, since a class has fewer than {TUNED_FROM} labels to choose on"
    else:
        folds, on, notes = _judges(scaled, train, None if few else parts.get("val"), classes, seed)
        choice = choose_penalty(folds, penalties, classes, on, open_ended=penalties == PENALTIES["lbfgs"])
        penalty, how = choice.penalty, f"chosen {choice.how}"
    notes.insert(0, note("penalty_chosen", f"L2 penalty {penalty:.3g} {how}"))
    if choice is not None and choice.edge:
        notes.append(note("penalty_at_edge", f"the chosen L2 penalty {penalty:.3g} is at the edge of the candidates"))
    model = logistic(scaled["train"], train.labels, penalty, classes)
    if not model.converged:
        notes.append(note("not_converged", f"logistic regression stopped at {MAX_ITERATIONS} iterations"))
    logits = {part: model.decision(scaled[part]).astype(np.float32) for part in parts}
    parameters = {"weight": model.weight, "bias": model.bias, "mean": mean, "deviation": deviation}
    return Fitted(
        logits=logits,
        penalty=penalty,
        parameters=parameters,
        notes=tuple(notes),
        selection=None if choice is None else choice.selection,
    )


def _judges(
    scaled: dict[str, Matrix], train: Part, val: Part | None, classes: int, seed: int
) -> tuple[list[Fold], str, list[dict[str, str]]]:
    """(what penalties are judged on, in words, notes): val, its groups or samples as units, else folds of train."""
    if val is None:
        return cross_validation(scaled["train"], train.labels, train.groups, classes, seed)
    return [Fold(fitted=(scaled["train"], train.labels), held=(scaled["val"], val.labels), units=val.units)], "val", []


def _smallest(labels: Labels, classes: int) -> int:
    """Training labels of the class that has fewest, of those that have any."""
    counts = np.bincount(labels, minlength=classes) if labels.ndim == 1 else labels.sum(axis=0)
    return int(counts[counts > 0].min())


def fit_knn(train: Part, parts: dict[str, Part], classes: int, k: int) -> Fitted:
    """k nearest training samples by cosine.

    Single label: logits are logarithms of the shares of votes, whose softmax are the shares; ties go to the first
    class, as in scikit-learn. Multi-hot: the logit of the share of neighbours that carry a class.
    """
    reference, labels, single = unit(train.features), train.labels, train.labels.ndim == 1
    carried = np.eye(classes, dtype=np.float32)[labels] if single else labels.astype(np.float32)  # (N, C)
    logits = {}
    for part, x in ((part, held.features) for part, held in parts.items()):
        shares = np.zeros((len(x), classes), np.float32)
        for start in range(0, len(x), 1024):
            similarity = unit(x[start : start + 1024]) @ reference.T
            # Ties in similarity fall as argpartition puts them; ties in votes go to the first class.
            nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
            shares[start : start + len(nearest)] = carried[nearest].sum(axis=1) / np.float32(k)
        # Single label: softmax of the logarithms gives the shares back. Multi-hot: each class has its own logit.
        p = np.clip(shares, NO_VOTE, 1 - NO_VOTE)
        logits[part] = np.log(np.maximum(shares, NO_VOTE)) if single else np.log(p / (1 - p))
    return Fitted(logits=logits, penalty=None, parameters={})


def logistic_logits(parameters: dict[str, NDArray[np.float64]], features: Matrix) -> NDArray[np.float32]:
    """Logits (N, C) of features (N, D) by the `parameters` that a fitted logistic regression keeps."""
    scaled = ((features - parameters["mean"]) / parameters["deviation"]).astype(np.float32)
    model = Logistic(weight=parameters["weight"], bias=parameters["bias"], converged=True, solutions={})
    return model.decision(scaled).astype(np.float32)
