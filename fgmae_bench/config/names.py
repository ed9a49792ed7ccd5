"""Names that flags and protocols offer, each with where its code is found: it is imported only when a run uses it, so
that choices and help need no torch. To add one is to write its code and its line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from fgmae_bench.config.schedules import SCHEDULES
from fgmae_bench.errors import unknown


class Choice(NamedTuple):
    """What a name stands for: its `code` as `module:attribute`, and the words of `--help`."""

    code: str
    words: str


class Probe(NamedTuple):
    """What a value of `--probe` stands for: the protocol of its runs, and the words of `--help`."""

    protocol: str
    words: str


class ClassHead(NamedTuple):
    """What a value of `finetune --head` stands for: `norm` before the linear layer, channels to a module, as
    `module:attribute`; whether it uses statistics of the batch; and the words of `--help`.
    """

    norm: str
    batch_statistics: bool
    words: str


# Entry -> its engine: (runs, card, notes, world, device, module) to `fgmae_bench.runs.grid.Share`s.
ENGINES = {
    "linear": "fgmae_bench.probe.engine:shares",
    "finetune": "fgmae_bench.train.finetune:shares",
    "segment": "fgmae_bench.train.segment:shares",
}
# Decode heads of segmentation: (dims, strides, num_classes, *, fpn_dim, norm) to a module that maps (maps, size) to
# logits (B, K, *size); see `fgmae_bench.models.heads`. Each is a protocol frozen_<name> too.
HEADS = {
    "upernet": Choice("fgmae_bench.models.heads.upernet:UPerNet", "UPerNet"),
    "linear": Choice("fgmae_bench.models.heads.linear:PixelLinear", "a per-pixel linear layer"),
}
# Rules that are fitted to backscatter at once, without a backbone: the baselines of each segmentation table. Each is a
# protocol of its name. (images (N, 2, H, W) dB VV and VH, masks (N, H, W), classes, seed) to images -> class numbers.
FITTED_HEADS = {
    "otsu_vv": Choice("fgmae_bench.train.rules:otsu_vv", "Otsu's threshold on VV"),
    "otsu_vh": Choice("fgmae_bench.train.rules:otsu_vh", "Otsu's threshold on VH"),
    "log_ratio_vv": Choice("fgmae_bench.train.rules:log_ratio_vv", "Otsu's threshold on the ratio of two dates in VV"),
    "log_ratio_vh": Choice("fgmae_bench.train.rules:log_ratio_vh", "the same in VH"),
    "random_forest": Choice("fgmae_bench.train.rules:random_forest", "a random forest on boxcar VV, VH, VV-VH"),
}
TWO_DATES = ("log_ratio_vv", "log_ratio_vh")  # of them, those that look at an earlier image too
# Heads of fine-tuning.
CLASS_HEADS = {
    "bn_linear": ClassHead(
        "fgmae_bench.models.norms:batch_norm", True, "batch norm (no affine) before the linear layer"
    ),
    "linear": ClassHead("torch.nn:Identity", False, "none"),
}
# Norms of decode heads: channels to a module.
NORMS = {
    "batch": Choice("fgmae_bench.models.norms:SyncBatchNorm", "batch norm over all processes"),
    "group": Choice("fgmae_bench.models.norms:group_norm", "group norm"),
}
# Optimisers of training: (model, recipe) to a torch.optim.Optimizer.
OPTIMIZERS = {
    "sgd": Choice("fgmae_bench.train.optim:sgd", "SGD with momentum"),
    "adamw": Choice("fgmae_bench.train.optim:adamw", "AdamW"),
}
PROBES = {
    "sgd": Probe("linear_probe", "linear probe by SGD"),
    "lbfgs": Probe("logistic_regression", "logistic regression"),
    "knn": Probe("knn", "nearest neighbours"),
    "ridge": Probe("ridge", "ridge regression, of a number"),
    "inference": Probe("inference", "the checkpoint's own head"),
    "zero_shot": Probe("zero_shot", "the texts of the classes (--class_text)"),
}

if TYPE_CHECKING:
    ClassHeadName: TypeAlias = str
    HeadName: TypeAlias = str
    NormName: TypeAlias = str
    OptimizerName: TypeAlias = str
    ProbeName: TypeAlias = str
    ScheduleName: TypeAlias = str
else:  # what the flags accept
    HeadName = Literal[(*HEADS, *FITTED_HEADS)]
    NormName, OptimizerName = Literal[tuple(NORMS)], Literal[tuple(OPTIMIZERS)]
    ClassHeadName = Literal[tuple(CLASS_HEADS)]
    ProbeName, ScheduleName = Literal[tuple(PROBES)], Literal[tuple(SCHEDULES)]


def listed(choices: Iterable[Choice | ClassHead | Probe]) -> str:
    """The words of some choices as a list in a sentence: `a, b, or c`."""
    *others, last = (choice.words for choice in choices)
    return ", ".join([*others, f"or {last}" if others else last])


def code_of(kind: str, name: str, table: Mapping[str, Choice | str]) -> Any:
    """The code that `name` stands for in a table, imported now. Raises BenchError on a name that is not there."""
    if name not in table:
        raise unknown(kind, name, table)
    entry = table[name]
    return imported(entry if isinstance(entry, str) else entry.code)


def imported(code: str) -> Any:
    """What `module:attribute` names."""
    module, _, attribute = code.partition(":")
    return getattr(importlib.import_module(module), attribute)
