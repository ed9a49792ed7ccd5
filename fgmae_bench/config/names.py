"""Names that flags and protocols offer, each with where its code is found: it is imported only when a run uses it, so
that choices and help need no torch. To add one is to write its code and its line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from fgmae_bench.config.plugins import entry_points, loaded
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


class Tracker(NamedTuple):
    """What a value of `--tracker` stands for: how its package is installed, and the words of `--help`."""

    install: str
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
    "fcn": Choice("fgmae_bench.models.heads.fcn:FCN", "FCN"),
    "psp": Choice("fgmae_bench.models.heads.psp:PSP", "PSPNet"),
    "deeplabv3": Choice("fgmae_bench.models.heads.aspp:DeepLabV3", "DeepLabV3"),
    "deeplabv3plus": Choice("fgmae_bench.models.heads.aspp:DeepLabV3Plus", "DeepLabV3+"),
    "uper": Choice("fgmae_bench.models.heads.uper:UPer", "UPerNet as in mmsegmentation"),
    "nonlocal": Choice("fgmae_bench.models.heads.context:non_local", "non-local"),
    "dnl": Choice("fgmae_bench.models.heads.context:dnl", "disentangled non-local"),
    "gc": Choice("fgmae_bench.models.heads.context:gc", "GCNet"),
    "isa": Choice("fgmae_bench.models.heads.attention:ISA", "ISANet"),
    "psa": Choice("fgmae_bench.models.heads.psa:PSA", "PSANet"),
    "dm": Choice("fgmae_bench.models.heads.dm:DM", "DMNet"),
    "enc": Choice("fgmae_bench.models.heads.enc:Enc", "EncNet"),
    "ocr": Choice("fgmae_bench.models.heads.attention:OCR", "OCRNet"),
    "segformer": Choice("fgmae_bench.models.heads.segformer:SegFormer", "SegFormer"),
    "segmenter": Choice("fgmae_bench.models.heads.segmenter:MaskTransformer", "Segmenter's mask transformer"),
    "setr_naive": Choice("fgmae_bench.models.heads.setr:Naive", "SETR naive"),
    "setr_pup": Choice("fgmae_bench.models.heads.setr:PUP", "SETR-PUP"),
    "setr_mla": Choice("fgmae_bench.models.heads.setr:MLA", "SETR-MLA"),
    "lightham": Choice("fgmae_bench.models.heads.lightham:LightHam", "LightHam"),
    "semantic_fpn": Choice("fgmae_bench.models.heads.semantic_fpn:SemanticFPN", "Semantic FPN"),
    "pointrend": Choice("fgmae_bench.models.heads.pointrend:PointRend", "PointRend"),
    "knet_fcn": Choice("fgmae_bench.models.heads.knet:KNet", "K-Net on FCN"),
    "knet_psp": Choice("fgmae_bench.models.heads.knet:knet_psp", "on PSPNet"),
    "knet_deeplabv3": Choice("fgmae_bench.models.heads.knet:knet_deeplabv3", "on DeepLabV3"),
    "knet_uper": Choice("fgmae_bench.models.heads.knet:knet_uper", "on UPerNet"),
    "jpu_psp": Choice("fgmae_bench.models.heads.jpu:jpu_psp", "FastFCN's JPU before PSPNet"),
    "jpu_deeplabv3": Choice("fgmae_bench.models.heads.jpu:jpu_deeplabv3", "before DeepLabV3"),
    "jpu_enc": Choice("fgmae_bench.models.heads.jpu:jpu_enc", "before EncNet"),
    "smp_fpn": Choice("fgmae_bench.models.heads.smp:fpn", "of segmentation_models_pytorch FPN"),
    "smp_unet": Choice("fgmae_bench.models.heads.smp:unet", "U-Net"),
    "smp_pspnet": Choice("fgmae_bench.models.heads.smp:pspnet", "PSPNet"),
    "smp_deeplabv3plus": Choice("fgmae_bench.models.heads.smp:deeplabv3plus", "DeepLabV3+"),
    "smp_pan": Choice("fgmae_bench.models.heads.smp:pan", "PAN"),
    "smp_manet": Choice("fgmae_bench.models.heads.smp:manet", "MAnet"),
    "smp_segformer": Choice("fgmae_bench.models.heads.smp:segformer", "SegFormer"),
    "smp_dpt": Choice("fgmae_bench.models.heads.smp:dpt", "DPT"),
    "smp_upernet": Choice("fgmae_bench.models.heads.smp:upernet", "UPerNet"),
    "maskformer": Choice("fgmae_bench.models.heads.masks:MaskFormer", "of transformers MaskFormer"),
    "mask2former": Choice("fgmae_bench.models.heads.masks:Mask2Former", "Mask2Former"),
}
# A package adds its own under this entry-point group; one that is named as a shipped head is refused when it is used.
HEADS_GROUP = "fgmae_bench.heads"
SHIPPED_HEADS = tuple(HEADS)
HEADS |= {
    point.name: Choice(point.value, f"{point.name} of {point.value.partition(':')[0].partition('.')[0]}")
    for point in entry_points(group=HEADS_GROUP)
    if point.name not in HEADS
}
# Heads that learn what only classes have; a number a pixel is learnt by the others.
HEADS_OF_CLASSES = (
    "enc",
    "jpu_enc",
    "ocr",
    "segmenter",
    "pointrend",
    "knet_fcn",
    "knet_psp",
    "knet_deeplabv3",
    "knet_uper",
    "maskformer",
    "mask2former",
)
HEADS_THAT_DRAW = ("mask2former",)  # in training, from a generator of each process
# Necks between maps of one stride and heads that want a pyramid.
NECKS = {"scales": "transposed convolutions, as BEiT's", "multilevel": "1x1 and 3x3 convolutions, as SETR's"}
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
READS = {name: name[-2:].upper() for name in FITTED_HEADS if name.endswith(("_vv", "_vh"))}  # the band of those of one
# What a decode head sees of two dates, besides the features of the later one alone.
AFTER = "after"
DATES = {
    AFTER: "the later image alone",
    "concat": "features of both, one behind the other",
    "difference": "later less earlier features",
    "both": "all three",
}
# Heads of fine-tuning.
CLASS_HEADS = {
    "bn_linear": ClassHead(
        "fgmae_bench.models.norms:batch_norm", True, "batch norm (no affine) before the linear layer"
    ),
    "linear": ClassHead("torch.nn:Identity", False, "none"),
}
# Experiment trackers besides TensorBoard: see `fgmae_bench.runs.trackers`.
TRACKERS = {
    "wandb": Tracker("pip install 'fgmae-bench[wandb]'", "Weights & Biases"),
    "mlflow": Tracker("pip install 'fgmae-bench[mlflow]'", "MLflow"),
    "trackio": Tracker("docs/records.md says how", "trackio"),
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
    DatesName: TypeAlias = str
    HeadName: TypeAlias = str
    NeckName: TypeAlias = str
    NormName: TypeAlias = str
    OptimizerName: TypeAlias = str
    ProbeName: TypeAlias = str
    ScheduleName: TypeAlias = str
    TrackerName: TypeAlias = str
else:  # what the flags accept
    HeadName = Literal[(*HEADS, *FITTED_HEADS)]
    NeckName = Literal[tuple(NECKS)]
    NormName, OptimizerName = Literal[tuple(NORMS)], Literal[tuple(OPTIMIZERS)]
    ClassHeadName, DatesName = Literal[tuple(CLASS_HEADS)], Literal[tuple(DATES)]
    ProbeName, ScheduleName = Literal[tuple(PROBES)], Literal[tuple(SCHEDULES)]
    TrackerName = Literal[tuple(TRACKERS)]


def listed(choices: Iterable[Choice | ClassHead | Probe | Tracker]) -> str:
    """The words of some choices as a list in a sentence: `a, b, or c`."""
    *others, last = (choice.words for choice in choices)
    return ", ".join([*others, f"or {last}" if others else last])


def code_of(kind: str, name: str, table: Mapping[str, Choice | str]) -> Any:
    """The code that `name` stands for in a table, imported now. Raises BenchError on a name that is not there."""
    if name not in table:
        raise unknown(kind, name, table)
    entry = table[name]
    code = entry if isinstance(entry, str) else entry.code
    if code.startswith("fgmae_bench."):
        return imported(code)
    return loaded(kind, name, lambda: imported(code))


def imported(code: str) -> Any:
    """What `module:attribute` names."""
    module, _, attribute = code.partition(":")
    return getattr(importlib.import_module(module), attribute)
