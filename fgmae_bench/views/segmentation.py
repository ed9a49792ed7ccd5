"""Views of an image with its mask: one geometry for both, nearest for labels, 255 where nothing is to be learnt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.segmentation import IGNORE
from fgmae_bench.system.randomness import generator
from fgmae_bench.views.chip import Chip
from fgmae_bench.views.classification import View, random_box, whole_geometry

Mask = NDArray[Any]  # uint8 class numbers, or float32 targets


def nothing(mask: Mask) -> Any:
    """What stands in a mask where nothing is to be learnt: 255, or NaN among targets."""
    return np.float32(np.nan) if mask.dtype.kind == "f" else np.uint8(IGNORE)


@dataclass(frozen=True, kw_only=True)
class JointAugmentation:
    """A keyed random view of image and mask.

    `crop` resized: a crop of at least `crop_scale` of the area, aspect 3/4 to 4/3, resized to the input; plain: a crop
    of the input's size at the image's own resolution, padded where the image is smaller. Then half of the time a
    rotation by up to `rotate` degrees either way, then flips, each half of the time.
    """

    seed: int
    epoch: int
    crop: Literal["resized", "plain"] = "resized"
    crop_scale: float = 0.5
    hflip: bool = True
    vflip: bool = False
    rotate: float = 0.0
    rotate_fill: Literal["ignore", "zero"] = "ignore"


def mask_invalid(mask: Mask, valid: NDArray[np.bool_] | None) -> Mask:
    """The mask (H, W) with 255 where any band of `valid` (C, H, W) says that the pixel holds no backscatter."""
    if valid is None:
        return mask
    _require_same(valid, mask)
    return np.where(valid.all(axis=0), mask, nothing(mask))


def training_pair(
    image: NDArray[Any], mask: Mask, size: int, augmentation: JointAugmentation, sample: str
) -> tuple[NDArray[Any], Mask]:
    """A random view (C, size, size) of an image (C, H, W) and of its mask (H, W), keyed by seed, epoch and sample.

    Raises BenchError where image and mask differ in size.
    """
    _require_same(image, mask)
    draw = generator(augmentation.seed, "segmentation view", augmentation.epoch, sample)
    if augmentation.crop == "resized":
        # the same box for image and mask, cut before either is resized
        top, left, height, width = random_box(draw, mask.shape[0], mask.shape[1], augmentation.crop_scale)
    else:
        image, mask = _padded(image, mask, size)
        top, left = (int(draw.integers(0, length - size + 1)) for length in mask.shape)
        height = width = size
    image, mask = image[:, top : top + height, left : left + width], mask[top : top + height, left : left + width]
    if mask.shape != (size, size):
        # "exact" nearest counts from pixel centres, as bilinear does; OpenCV's plain one is off by up to half a pixel
        image, mask = _resized(image, size, cv2.INTER_LINEAR), _resized(mask[None], size, cv2.INTER_NEAREST_EXACT)[0]
    # both are drawn whether or not they are used: switching one off changes no other draw
    horizontal, vertical = draw.random(2) < 0.5
    turned, angle = draw.random(2)
    if turned < 0.5 and augmentation.rotate:
        image, mask = _rotated(image, mask, augmentation.rotate * (2 * angle - 1), augmentation.rotate_fill)
    if horizontal and augmentation.hflip:
        image, mask = image[:, :, ::-1], mask[:, ::-1]
    if vertical and augmentation.vflip:
        image, mask = image[:, ::-1], mask[::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def segmentation_batch(
    view: View,
    chips: Iterable[Chip],
    masks: Iterable[Mask],
    ids: Sequence[str],
    augmentation: JointAugmentation | None = None,
    earlier: Sequence[Chip] | None = None,
) -> tuple[NDArray[Any], list[Mask]]:
    """Chips and masks (H, W) of training ids to (images (B, 2, S, S), masks), 255 under invalid pixels.

    Of two dates the `earlier` chips are behind: (B, 4, S, S), one geometry for both.

    In the evaluation view (no `augmentation`) masks keep their own size: logits are resized to them, never they to the
    logits. Raises BenchError, naming the sample, where image and mask differ in size.
    """
    images, labels = [], []
    for place, (chip, mask, sample) in enumerate(zip(chips, masks, ids, strict=True)):
        if chip.db.shape[1:] != mask.shape and chip.ready is None:
            raise _differ(f"{sample}: image", chip.db.shape[1:], mask.shape)
        # before the geometry, where image and mask still have the same pixels; uint8 packs did it when written
        label = mask_invalid(mask, chip.valid if chip.ready is None else None)
        image = dated(view, chip, earlier[place] if earlier else None)  # (2, H, W), or (4, H, W)
        if augmentation is None:
            image = whole_geometry(image, view.contract.size)
        else:
            image, label = training_pair(image, label, view.contract.size, augmentation, sample)
        images.append(image)
        labels.append(label)
    return np.stack(images), labels


def dated(view: View, chip: Chip, earlier: Chip | None) -> NDArray[Any]:
    """A chip in the contract's range before its geometry, (2, H, W), with the earlier date behind, (4, H, W)."""
    image: NDArray[Any] = view.before_geometry([chip])[0]
    if earlier is None:
        return image
    if earlier.db.shape != chip.db.shape:
        raise _differ("image", chip.db.shape[1:], earlier.db.shape[1:])
    return np.concatenate([image, view.earlier.before_geometry([earlier])[0]])


def _resized(image: NDArray[Any], size: int, interpolation: int) -> NDArray[Any]:
    """(C, size, size) of (C, H, W), band by band."""
    return np.stack(
        [cv2.resize(np.ascontiguousarray(band), (size, size), interpolation=interpolation) for band in image]
    )


def _rotated(image: NDArray[Any], mask: Mask, degrees: float, fill: str) -> tuple[NDArray[Any], Mask]:
    """Image (C, S, S) and mask (S, S) turned about their centre: bilinear, nearest for labels.

    Outside is 0 for both with `fill` zero, as kornia's RandomRotation has it; else each band's mean, and no label.
    """
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix, centre = np.array([[cosine, -sine], [sine, cosine]]), (np.array(mask.shape) - 1) / 2
    # pixel centres are whole numbers; with "grid-constant" pixels at the edge mix with what is outside
    how: dict[str, Any] = {"matrix": matrix, "offset": centre - matrix @ centre, "mode": "grid-constant"}
    zero, whole = fill == "zero", image.dtype.kind in "iu"
    outside = np.zeros(len(image)) if zero else image.mean(axis=(1, 2), dtype=np.float64)
    bands = [
        ndimage.affine_transform(band, order=1, cval=value, output=np.float32, **how)
        for band, value in zip(image, outside, strict=True)
    ]
    turned = np.stack(bands)
    labels = ndimage.affine_transform(mask, order=0, cval=0 if zero else nothing(mask), **how)
    return (np.rint(turned) if whole else turned).astype(image.dtype), labels


def _padded(image: NDArray[Any], mask: Mask, size: int) -> tuple[NDArray[Any], Mask]:
    """Image and mask with at least `size` pixels a side: padded right and below, with each band's mean and 255."""
    down, right = (max(0, size - length) for length in mask.shape)
    if not (down or right):
        return image, mask
    larger = np.empty((len(image), mask.shape[0] + down, mask.shape[1] + right), image.dtype)
    # the mean is what invalid pixels get too; the mask says that none of it is learnt
    larger[:] = image.mean(axis=(1, 2), dtype=np.float64).astype(image.dtype)[:, None, None]
    larger[:, : mask.shape[0], : mask.shape[1]] = image
    return larger, np.pad(mask, ((0, down), (0, right)), constant_values=nothing(mask))


def _require_same(image: NDArray[Any], mask: Mask) -> None:
    if image.shape[1:] != mask.shape:
        raise _differ("image", image.shape[1:], mask.shape)


def _differ(what: str, image: tuple[int, ...], mask: tuple[int, ...]) -> BenchError:
    sizes = f"{'x'.join(map(str, image))} px, its mask {'x'.join(map(str, mask))}"
    return BenchError(f"{what} has {sizes}", "give image and mask of one size, and leave out a resize on reading")
