"""What the layout of a table may name: columns, with their words, and curves. Metrics come from their own table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fgmae_bench.config.stress import STRESS_NAMES
from fgmae_bench.errors import BenchError, closest


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the table looks: column names in order and metrics drawn as curves."""

    columns: tuple[str, ...]
    curves: tuple[str, ...] = ("loss", "oa")


# Column -> heading and explanation. What a row shows there is in `report/columns.py`, under the same names.
WORDS: dict[str, tuple[str, str]] = {
    "dataset": ("dataset", ""),
    "synthetic": ("synthetic", ""),
    "split": ("split", "Which samples are for training and which for the test"),
    "leaks": ("leaks", "Whether the split tears neighbours apart, so that the test images resemble training images"),
    "overlap": ("overlap", "What the pre-training has seen of the dataset, as far as that is published"),
    "run": ("run", "Opens the full record"),
    "run_id": ("run id", ""),
    "protocol": ("protocol", "What was trained"),
    "model": ("model", ""),
    "weights": ("weights", "Where the backbone's weights come from"),
    "recipe": ("recipe", "published: as the paper's code did; corrected: as recommended"),
    "probe": ("probe", ""),
    "features": ("features", ""),
    "views": ("views", "Augmented views of each training image in the feature bank"),
    "epochs": ("epochs", ""),
    "lr": ("lr", ""),
    "weight_decay": ("weight decay", ""),
    "batch_size": ("batch / process", "Samples in one step of one process"),
    "world_size": ("processes", ""),
    "effective_batch": ("batch", "Samples in one step over all processes and accumulated batches"),
    "amp": ("amp", ""),
    "train_frac": ("train fraction", "Share of the training split that was used"),
    "shots": ("shots", "Training labels of each class"),
    "labels": ("labels", "Labels that were used: of training, and of val where anything was chosen on it"),
    "label_area": ("area", "Area under the main metric over the logarithm of the number of labels, of each draw"),
    "draws_interval": ("95 % over draws", "Interval of the main metric over draws of few labels, on this test split"),
    "penalty": ("penalty", "L2 penalty of logistic regression that was chosen"),
    "candidates": ("candidates", "Settings from which one was chosen"),
    "n_train": ("n train", "Samples of the training split"),
    "n_val": ("n val", "Samples of the validation split"),
    "n_test": ("n test", "Samples of the test split"),
    "params_trainable": ("trainable", "Parameters that training changes"),
    "params_total": ("parameters", "Parameters of backbone and head"),
    "feature_dim": ("feature dim", "Length of the feature vector"),
    "seeds": (
        "seeds",
        "Seeds of this row, or draws of few labels where it says so; values are their mean ± sample standard deviation",
    ),
    "published_map": (
        "mAP published",
        "As published: Mean average precision; its publisher does not say whether over classes or over decisions",
    ),
    "gate": ("gate", "Whether the published number was reached, within the tolerance that the file states"),
    "source": ("source", "Who published the number"),
    "seconds": ("time (s)", "The whole run, in seconds"),
    "images_per_second": ("images/s", ""),
    "memory_gib": ("memory (GiB)", "Peak memory: the device's where there is one, else the process's"),
    "gflops": ("GFLOPs", "Thousand million operations of one image through the model, where the run counted them"),
    "energy_joules": ("energy (J)", "Energy of the run, where the machine reports it"),
    "device": ("device", ""),
    "remarks": ("remarks", "Notes below the table"),
    **{
        f"image_to_text_r{k}": (
            f"R@{k} image to text",
            f"Share of images with a text of theirs among the {k} most similar",
        )
        for k in (1, 5, 10)
    },
    **{
        f"text_to_image_r{k}": (
            f"R@{k} text to image",
            f"Share of classes with an image of theirs among the {k} nearest",
        )
        for k in (1, 5, 10)
    },
    "ece": ("ECE", "Expected calibration error: mean |accuracy - confidence| of 15 bins of equal width"),
    "ece_perfect": ("ECE perfect", "ECE of a perfectly calibrated model of the same confidences, from 200 draws"),
    "ece_mass": ("ECE mass", "Calibration error of 15 bins of as many samples each"),
    "ece_mass_perfect": ("ECE mass perfect", "The same of a perfectly calibrated model of the same confidences"),
    "ece_classwise": ("ECE classwise", "Calibration error of each class against the others, mean over classes"),
    "brier": ("Brier", "Mean squared error of the probabilities: 0 to 2 where they are of one label, else 0 to 1"),
    "nll": ("NLL", "Negative log-likelihood, in nats"),
    "temperature": ("temperature", "By which logits are to be divided, found on val; above 1: too sure"),
    "ece_scaled": ("ECE scaled", "ECE of the logits divided by the temperature"),
    "nll_scaled": ("NLL scaled", "Negative log-likelihood of the logits divided by the temperature"),
    "aurc": ("AURC", "Area under risk over coverage: error among the samples of most confidence, over all shares"),
}
# Columns of each metric: its test interval, the published number, and the difference from it.
INTERVAL, TOTAL = "{}_interval", "{}_total_interval"
DERIVED = (
    (INTERVAL, "{} 95 %", "Interval of the test samples, for the head as trained: {}"),
    (TOTAL, "{} 95 % in all", "Interval over seeds and test samples together: {}"),
    ("published_{}", "{} published", "As published: {}"),
    (
        "delta_{}",
        "Δ {}",
        "Measured − published; where data, protocol, recipe, model, weights or definition differ, which of them: {}",
    ),
)


# A score of one class is a column by both names, such as `iou:Water`, `omission:Water`; `iou:Water_interval` is the
# interval of its IoU over groups.
CLASS_SCORES = {
    "iou": ("IoU", "Intersection over union of {}"),
    "miou": ("mIoU", "Mean IoU with classes joined as the dataset's label scheme {} has them"),
    "accuracy": ("accuracy", "Share of {} that is found"),
    "precision": ("precision", "Share of what is predicted as {} that is right"),
    "omission": ("omission", "Share of {} that is missed"),
    "commission": ("commission", "Share of what is predicted as {} that is wrong"),
    "area_bias": ("area bias", "Predicted / reference area of {} - 1"),
    "boundary_f1_1": ("boundary F1, 1 px", "F1 of the outlines of {} within 1 pixel"),
    "boundary_f1_2": ("boundary F1, 2 px", "F1 of the outlines of {} within 2 pixels"),
    "iou_outside_permanent": ("IoU outside permanent water", "IoU of {} without the pixels of permanent water"),
    "omission_outside_permanent": ("omission outside permanent water", "Share of {} missed outside permanent water"),
    "commission_outside_permanent": (
        "commission outside permanent water",
        "Share of predicted {} that is wrong outside permanent water",
    ),
}


class ClassColumn(NamedTuple):
    """A column of one class: which score of CLASS_SCORES, and whether it is the interval of that."""

    score: str
    label: str
    interval: bool


def class_of(column: str) -> ClassColumn | None:
    """What a column of one class shows, None for other columns."""
    score, colon, label = column.partition(":")
    if not colon or score not in CLASS_SCORES:
        return None
    end = INTERVAL.format("")
    if score == "iou" and label.endswith(end):
        return ClassColumn(score, label.removesuffix(end), True)
    return ClassColumn(score, label, False)


# What a card says of one stress is a column by both names, such as `tolerance:speckle`.
STRESS_SCORES = {
    "tolerance": ("tolerates {}", "Severity of {} at which 5 % of what clean data scores above chance are lost"),
    "area": ("area {}", "Mean share of what clean data scores above chance that is kept over the severities of {}"),
    "beyond_null": (
        "{} beyond statistics",
        "Change at the last severity of {} less that of backscatter statistics under the same",
    ),
    "flips": ("flips {}", "Share of decisions that change at the last severity of {}"),
}


class StressColumn(NamedTuple):
    """A column of one stress: which of STRESS_SCORES, and of what."""

    score: str
    stress: str


def stress_of_column(column: str) -> StressColumn | None:
    """What a column of one stress shows, None for other columns."""
    score, colon, name = column.partition(":")
    return StressColumn(score, name) if colon and score in STRESS_SCORES and name in STRESS_NAMES else None


def words() -> dict[str, tuple[str, str]]:
    """Heading and explanation of every column that a layout may name."""
    from fgmae_bench.metrics.table import METRICS  # here: most commands start without numpy

    found = dict(WORDS)
    for name, metric in METRICS.items():
        found[name] = (metric.title, metric.hint)
        for pattern, title, meaning in DERIVED:
            if metric.interval or pattern not in (INTERVAL, TOTAL):
                found[pattern.format(name)] = (title.format(metric.title), meaning.format(metric.hint or metric.title))
    return found


def heading(name: str) -> tuple[str, str]:
    """Heading of a column and the sentence that explains it, empty where the heading says it all."""
    card = stress_of_column(name)
    if card:
        title, hint = STRESS_SCORES[card.score]
        return (title.format(card.stress.replace("_", " ")), hint.format(card.stress.replace("_", " ")))
    held = class_of(name)
    if held:
        name, hint = CLASS_SCORES[held.score]
        return (f"{name} {held.label}{' 95 %' * held.interval}", hint.format(held.label))
    return words().get(name, (name.replace("_", " "), ""))


def check_layout(layout: Layout, path: Path) -> None:
    """Raise BenchError, naming file and key path, for a column or curve that is unknown, or a column named twice."""
    from fgmae_bench.metrics.table import METRICS

    plain = tuple(name for name in layout.columns if not (class_of(name) or stress_of_column(name)))
    of_cards = {f"{score}:{name}" for score in STRESS_SCORES for name in STRESS_NAMES}
    _check(
        plain,
        {*words(), *(of_cards if any(":" in name for name in plain) else ())},
        f"{path}: layout.columns",
        "column",
    )
    _check(layout.curves, METRICS, f"{path}: layout.curves", "metric")
    for i, name in enumerate(layout.columns):
        if name in layout.columns[:i]:
            raise BenchError(f"{path}: layout.columns[{i}] repeats '{name}'", "name each column once")


def _check(names: tuple[str, ...], known: Iterable[str], where: str, kind: str) -> None:
    for i, name in enumerate(names):
        if name not in known:
            raise BenchError(f"{where}[{i}]: unknown {kind} '{name}'", closest(name, known))
