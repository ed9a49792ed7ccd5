"""Losses of what heads give in training: one interface for pixels, points, presence and masks, over all processes.

A loss is a list of terms, each a weighted sum and what it is divided by. Sums and numbers are those of all processes,
so that a run is the same on any number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import cross_entropy, interpolate

from fgmae_bench.metrics.segmentation import IGNORE
from fgmae_bench.models.heads.layers import sampled
from fgmae_bench.models.heads.outputs import MASKS, PIXELS, POINT_MASKS, POINTS, PRESENCE, Learnt
from fgmae_bench.system.distributed import World

NO_OBJECT = 0.1  # weight of queries that stand for no class
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss
POINTS_A_MASK, OVERSAMPLE, UNCERTAIN = 12_544, 3.0, 0.75


@dataclass(frozen=True)
class Term:
    """`weight` times `total` over `count`, both summed over processes."""

    weight: float
    total: Tensor
    count: Tensor


def loss_of(outputs: Tensor | Learnt, targets: Tensor, world: World) -> Tensor:
    """The loss of a micro-batch; targets (B, H, W) are class numbers, 255 for none. The gradient of this process is
    scaled so that the average over processes is that of the whole.
    """
    if isinstance(outputs, Tensor):
        outputs = Learnt(outputs, ())
    terms = [] if outputs.logits is None else pixel_terms((outputs.logits,), targets)
    for extra in outputs.extra:
        terms += [Term(extra.weight * t.weight, t.total, t.count) for t in KINDS[extra.kind](extra.tensors, targets)]
    counts = torch.stack([term.count for term in terms])
    # DDP averages over processes; dividing by the count of all of them weighs each pixel, point and mask the same.
    if world.size > 1:
        dist.all_reduce(counts)
    shares = [
        term.total * (term.weight * world.size) / count.clamp(min=1) for term, count in zip(terms, counts, strict=True)
    ]
    return torch.stack(shares).sum() if len(shares) > 1 else shares[0]


def pixel_terms(tensors: tuple[Tensor, ...], targets: Tensor) -> list[Term]:
    """Cross-entropy of labelled pixels; logits (B, K, h, w) of another size than the targets are resized."""
    logits = _wide(tensors[0])
    if logits.shape[-2:] != targets.shape[-2:]:
        logits = interpolate(logits, size=targets.shape[-2:], mode="bilinear", align_corners=False)
    flat, wanted = logits.permute(0, 2, 3, 1).flatten(0, 2), targets.flatten().long()
    return [_cross_entropy(flat, wanted)]


def point_terms(tensors: tuple[Tensor, ...], targets: Tensor) -> list[Term]:
    """Cross-entropy of points: logits (B, K, P) at (B, P, 2), shares of width and height; the nearest pixel's label."""
    logits, points = _wide(tensors[0]), tensors[1]
    size = torch.tensor(targets.shape[:0:-1], device=points.device)  # width, height
    columns, rows = (points * size).long().minimum(size - 1).unbind(-1)  # (B, P)
    wanted = targets.flatten(1).long().gather(1, rows * targets.shape[-1] + columns)
    return [_cross_entropy(logits.transpose(1, 2).flatten(0, 1), wanted.flatten())]


def presence_terms(tensors: tuple[Tensor, ...], targets: Tensor) -> list[Term]:
    """Which classes an image holds: binary cross-entropy of logits (B, K), a mean over images and classes."""
    logits = _wide(tensors[0])
    wanted = torch.zeros_like(logits)
    for row, mask in zip(wanted, targets, strict=True):
        row[mask[mask != IGNORE].unique().long()] = 1
    return [Term(1.0, bce(logits, wanted, reduction="sum"), torch.tensor(float(logits.numel())).to(logits))]


def mask_terms(tensors: tuple[Tensor, ...], targets: Tensor) -> list[Term]:
    """MaskFormer: cross-entropy of classes, 20 times focal and once dice loss of masks, matched with weights 1, 20, 1.

    Tensors are class logits (B, Q, K + 1), none last, and mask logits (B, Q, h, w). The same as transformers'
    `MaskFormerLoss`, whose masks of a class hold no unlabelled pixels.
    """
    classes, masks = map(_wide, tensors)
    present = [_masks_of(target, masks) for target in targets]
    matched = []
    for logits, mask, (labels, wanted) in zip(classes, masks, present, strict=True):
        small = interpolate(wanted[:, None], size=mask.shape[-2:], mode="nearest")[:, 0]
        cost = 20 * _focal_pairs(mask.flatten(1), small.flatten(1)) + _dice_pairs(mask.flatten(1), small.flatten(1))
        matched.append(_assigned(cost - logits.softmax(-1)[:, labels]))
    found, wanted = _pairs(masks, present, matched)
    found = interpolate(found[:, None], size=targets.shape[-2:], mode="bilinear", align_corners=False).flatten(1)
    wanted, count = wanted.flatten(1), _count(present, masks)
    return [
        _class_term(1.0, classes, present, matched),
        Term(20.0, _focal(found, wanted).mean(1).sum() if len(found) else masks.sum() * 0, count),
        Term(1.0, _dice(found, wanted).sum(), count),
    ]


def point_mask_terms(tensors: tuple[Tensor, ...], targets: Tensor, points: int = POINTS_A_MASK) -> list[Term]:
    """Mask2Former: twice cross-entropy of classes, five times that of 12,544 points of each mask, five times dice.

    Tensors as of `mask_terms`. Points are drawn from torch's generator, in the order of transformers'
    `Mask2FormerLoss`: as many for the costs of each image, then for each matched mask the least certain of three times
    as many.
    """
    classes, masks = map(_wide, tensors)
    present = [_masks_of(target, masks) for target in targets]
    matched = []
    for logits, mask, (labels, wanted) in zip(classes, masks, present, strict=True):
        places = torch.rand(1, points, 2, device=mask.device)
        seen, true = (sampled(each[None], places.to(each))[0] for each in (mask, wanted))
        pairs = bce(seen, torch.ones_like(seen), reduction="none") / points @ true.T
        pairs = pairs + bce(seen, torch.zeros_like(seen), reduction="none") / points @ (1 - true).T
        matched.append(_assigned(5 * pairs + 5 * _dice_pairs(seen, true) - 2 * logits.softmax(-1)[:, labels]))
    found, wanted = (each[:, None] for each in _pairs(masks, present, matched))  # (M, 1, h, w), (M, 1, H, W)
    with torch.no_grad():
        places = _least_certain(found, points)
        true = sampled(wanted, places)[:, 0]
    seen, count = sampled(found, places)[:, 0], _count(present, masks)
    return [
        _class_term(2.0, classes, present, matched),
        Term(5.0, bce(seen, true, reduction="none").mean(1).sum() if len(seen) else masks.sum() * 0, count),
        Term(5.0, _dice(seen, true).sum(), count),
    ]


KINDS: dict[str, Callable[[tuple[Tensor, ...], Tensor], list[Term]]] = {
    PIXELS: pixel_terms,
    POINTS: point_terms,
    PRESENCE: presence_terms,
    MASKS: mask_terms,
    POINT_MASKS: point_mask_terms,
}
Present = tuple[Tensor, Tensor]  # classes (n,) of an image, their masks (n, H, W)
Match = tuple[Tensor, Tensor]  # queries and the places of their classes in the list of an image


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _cross_entropy(flat: Tensor, wanted: Tensor) -> Term:
    total = cross_entropy(flat, wanted, ignore_index=IGNORE, reduction="sum")
    return Term(1.0, total, (wanted != IGNORE).sum().to(total.dtype))


def _masks_of(target: Tensor, like: Tensor) -> Present:
    """The classes of an image and where each is."""
    labels = target[target != IGNORE].unique().long()
    return labels, (target[None] == labels[:, None, None]).to(like.dtype)


def _assigned(cost: Tensor) -> Match:
    """The cheapest match of queries (rows) with classes (columns); what is not finite comes last."""
    largest = torch.finfo(cost.dtype).max
    held = torch.nan_to_num(cost.detach(), nan=largest, posinf=largest, neginf=largest).cpu()
    rows, columns = linear_sum_assignment(held.numpy())
    return torch.as_tensor(rows), torch.as_tensor(columns)


def _pairs(masks: Tensor, present: list[Present], matched: list[Match]) -> tuple[Tensor, Tensor]:
    """(mask logits (M, h, w), true masks (M, H, W)) of all matched queries."""
    found = torch.cat([mask[rows] for mask, (rows, _) in zip(masks, matched, strict=True)])
    return found, torch.cat([wanted[columns] for (_, wanted), (_, columns) in zip(present, matched, strict=True)])


def _count(present: list[Present], like: Tensor) -> Tensor:
    return torch.tensor(float(sum(len(labels) for labels, _ in present))).to(like)


def _class_term(weight: float, classes: Tensor, present: list[Present], matched: list[Match]) -> Term:
    """Cross-entropy of all queries, those without a match as none at a tenth of the weight."""
    none = classes.shape[-1] - 1
    wanted = torch.full(classes.shape[:2], none, device=classes.device)
    for row, (labels, _), (queries, columns) in zip(wanted, present, matched, strict=True):
        row[queries.to(row.device)] = labels[columns.to(labels.device)]
    weights = torch.ones(none + 1).to(classes)
    weights[-1] = NO_OBJECT
    total = cross_entropy(classes.flatten(0, 1), wanted.flatten(), weight=weights, reduction="sum")
    return Term(weight, total, weights[wanted].sum())


def _focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Focal loss of each pixel (Lin et al. 2017, arXiv 1708.02002)."""
    p = logits.sigmoid()
    right = p * wanted + (1 - p) * (1 - wanted)
    return (ALPHA * wanted + (1 - ALPHA) * (1 - wanted)) * (1 - right) ** GAMMA * bce(logits, wanted, reduction="none")


def _focal_pairs(logits: Tensor, wanted: Tensor) -> Tensor:
    """(Q, n): the mean focal loss of each query's mask (Q, N) for each true mask (n, N)."""
    ones, zeros = torch.ones_like(logits), torch.zeros_like(logits)
    return (_focal(logits, ones) @ wanted.T + _focal(logits, zeros) @ (1 - wanted).T) / logits.shape[1]


def _dice(logits: Tensor, wanted: Tensor) -> Tensor:
    """Dice loss (M,) of masks (M, N), both sums plus one."""
    p = logits.sigmoid()
    return 1 - (2 * (p * wanted).sum(-1) + 1) / (p.sum(-1) + wanted.sum(-1) + 1)


def _dice_pairs(logits: Tensor, wanted: Tensor) -> Tensor:
    p = logits.sigmoid()
    return 1 - (2 * p @ wanted.T + 1) / (p.sum(-1)[:, None] + wanted.sum(-1)[None] + 1)


def _least_certain(masks: Tensor, points: int) -> Tensor:
    """(M, P, 2): three quarters of the points where a mask (M, 1, h, w) is nearest to 0, the others anywhere."""
    candidates = torch.rand(len(masks), int(points * OVERSAMPLE), 2, device=masks.device).to(masks)
    chosen = int(UNCERTAIN * points)
    least = (-sampled(masks, candidates)[:, 0].abs()).topk(chosen, dim=1).indices
    held = candidates.gather(1, least.unsqueeze(-1).expand(-1, -1, 2))
    return torch.cat([held, torch.rand(len(masks), points - chosen, 2, device=masks.device).to(masks)], dim=1)
