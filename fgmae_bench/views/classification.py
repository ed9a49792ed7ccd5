"""Views: the one place where a dataset's bands and units meet a backbone's input contract; geometry."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.config.contract import InputContract, feed, parse_bands
from fgmae_bench.errors import BenchError
from fgmae_bench.system.randomness import generator
from fgmae_bench.views.chip import Chip
from fgmae_bench.views.normalizers import OF_THE_EARLIER, UNITS, missing_input, normalize

LOG_ASPECT = math.log(4 / 3)
Band = tuple[float, ...]  # a value a band, in the contract's order
Box = tuple[int, int, int, int]  # top, left, height, width in pixels


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A keyed random view: crop of at least `crop_scale` of the area, then a horizontal flip half of the time.

    With `vflip` a vertical flip half of the time as well.
    """

    seed: int
    epoch: int
    crop_scale: float
    vflip: bool = False


@dataclass(frozen=True, kw_only=True)
class View:
    """How raw chips become input of a backbone.

    `order` picks the data's bands in the contract's order, -1 for one that it does not have, and `shift` is added to
    them, dB (see `fgmae_bench.config.contract.feed`); `input_resize` is the card's step before everything else.
    `statistics` are mean and deviation by sample id, where the normaliser takes those of a run of images.
    With `whole` the evaluation view holds the whole image, for labels of every pixel, not its centre.
    """

    contract: InputContract
    order: tuple[int, ...]
    input_resize: int | None = None
    whole: bool = False
    shift: tuple[float, ...] = (0.0, 0.0)
    words: tuple[str, ...] = ()
    statistics: Mapping[str, tuple[Band, Band]] = field(default_factory=dict)

    def batch(self, chips: Iterable[Chip], ids: list[str], augmentation: Augmentation | None = None) -> NDArray[Any]:
        """Chips to (B, 2, S, S): the evaluation view, or a random view of each when `augmentation` is given."""
        if self.contract.geometry == "native" and (augmentation is None or not self.contract.size):
            return self.before_geometry(list(chips))
        size, views = self.contract.size, np.empty(0)
        # one by one, decoding included: an image and its view stay in the processor's cache
        for i, (chip, id) in enumerate(zip(chips, ids, strict=True)):
            image = self._of(id).before_geometry([chip])[0] if chip.ready is None else self._ready(chip)
            if i == 0:
                views = np.empty((len(ids), len(image), size, size), image.dtype)
            if augmentation is not None:
                random_geometry(image, size, augmentation, id, views[i])
            else:
                views[i] = whole_geometry(image, size) if self.whole else evaluation_geometry(image, size)
        return views

    def seen(self, chip: Chip, id: str) -> Chip:
        """What the view makes of a sample's measurements before anything else: nothing."""
        return chip

    @property
    def earlier(self) -> View:
        """The view of the earlier of two dates: the same, but for normalisers that differ by date."""
        name = OF_THE_EARLIER.get(self.contract.normalizer, self.contract.normalizer)
        return replace(self, contract=replace(self.contract, normalizer=name))

    def _of(self, id: str) -> View:
        """The view of one sample: with the statistics of its run of images."""
        if id not in self.statistics:
            return self
        mean, std = self.statistics[id]
        return replace(self, contract=replace(self.contract, mean=mean, std=std), statistics={})

    def before_geometry(self, chips: list[Chip]) -> NDArray[Any]:
        """Chips to (B, 2, H, W) in the contract's range. Raises BenchError for packed input of another view."""
        if any(chip.ready is not None for chip in chips):
            return np.stack([self._ready(chip) for chip in chips])
        images = chips[0].db[None] if len(chips) == 1 else np.stack([chip.db for chip in chips])
        # the common case copies nothing
        there = [place for place in self.order if place >= 0]
        images = images if there == list(range(images.shape[1])) else images[:, there]
        if any(self.shift):
            shift = [add for add, place in zip(self.shift, self.order, strict=True) if place >= 0]
            images = images + np.array(shift, np.float32)[:, None, None]
        valid = None
        if any(chip.valid is not None for chip in chips):
            # one image with holes gives every image of the batch a mask
            ones = np.ones(images.shape[1:], bool)
            valid = np.stack([ones if chip.valid is None else chip.valid[there] for chip in chips])
        # in dB, as the card's publishers resized: before any quantile is taken
        if self.input_resize and self.contract.geometry != "native":
            images, valid = resized_db(images, valid, self.input_resize)
        if len(there) == len(self.order):
            return normalize(images, valid, self.contract)
        held = tuple(band for band, place in zip(self.contract.bands, self.order, strict=True) if place >= 0)
        return self._completed(normalize(images, valid, self.contract.of(held)))

    def _completed(self, images: NDArray[Any]) -> NDArray[Any]:
        """Normalised images (B, bands held, H, W) with what stands for the missing bands: (B, 2, H, W)."""
        whole = np.empty((len(images), len(self.order), *images.shape[2:]), images.dtype)
        whole[:] = missing_input(self.contract).astype(images.dtype)[:, None, None]
        whole[:, [place >= 0 for place in self.order]] = images
        return whole

    def _ready(self, chip: Chip) -> NDArray[np.uint8]:
        if chip.ready is None:
            raise BenchError("packed input and backscatter are mixed", "give one kind of data")
        # bytes cannot be taken back to backscatter, so a pack serves the views that it was made for
        held, wanted = made_of(chip.ready.contract, chip.ready.input_resize), made_of(self.contract, self.input_resize)
        if held != wanted:
            named = [
                f"{name} of {bands} (mean {mean}, std {std}, resize {side})"
                for name, bands, mean, std, side in (held, wanted)
            ]
            raise BenchError(
                f"the pack holds input made by {named[0]}, the backbone expects {named[1]}",
                "use a float32 pack, or the files",
            )
        if chip.ready.order != self.order:
            raise BenchError("--band_order cannot change a uint8 pack", "leave it out, or pack again with it")
        return chip.ready.image


def made_of(contract: InputContract, input_resize: int | None) -> tuple[object, ...]:
    """All that decides a chip's input before its geometry."""
    return contract.normalizer, ",".join(contract.bands), contract.mean, contract.std, input_resize


def make_view(
    card: Card,
    contract: InputContract,
    band_order: str | None,
    *,
    whole: bool = False,
    missing_band: str | None = None,
    bands_as: str | None = None,
) -> View:
    """The view that reconciles a card with a contract; raises BenchError where they cannot meet.

    `band_order` overrules the card's statement about the order of the bands in the files; `missing_band` and `bands_as`
    as of `feed`.
    """
    held = parse_bands(band_order) if band_order else card.signal.bands
    # another order is reconciled; other bands cannot be
    if sorted(held) != sorted(card.signal.bands):
        bands = card.signal.bands
        raise BenchError(f"--band_order is {band_order}", f"give {','.join(bands)} or {','.join(bands[::-1])}")
    if missing_band == "mean":
        contract = dataclasses.replace(contract, missing_band="mean")
    wanted = UNITS.get(contract.normalizer, "dB")
    if wanted != "dB" and card.signal.units != wanted:
        what = f"{card.title} is stated in {card.signal.units}, the backbone expects {wanted}"
        raise BenchError(what, "choose an encoder of dB")
    fed = feed(held, contract, missing_band, bands_as)
    return View(
        contract=contract,
        order=fed.order,
        input_resize=card.signal.input_resize,
        whole=whole,
        shift=fed.shift,
        words=fed.words,
    )


def resized_db(
    images: NDArray[np.float32], valid: NDArray[np.bool_] | None, side: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Images (B, 2, H, W) dB and their masks at (side, side): OpenCV's cubic, per band, before quantiles.

    Invalid pixels take their band's median first, so that they do not spread; every pixel one of them touched is
    invalid, but in a band that this leaves without any: there those next to a valid one count.
    """
    if valid is not None:
        images = images.copy()
        for image, mask in zip(images, valid, strict=True):
            for band, kept in zip(image, mask, strict=True):
                band[~kept] = np.median(band[kept]) if kept.any() else 0
    # the cubic kernel spreads over 4 pixels, so a hole would leak into its neighbours: hence the medians above
    bands = [_by_band(image, side, cv2.INTER_CUBIC) for image in images]
    resized = bands[0][None] if len(bands) == 1 else np.stack(bands)
    if valid is None:
        return resized, None
    # any weight on an invalid pixel makes the new pixel invalid
    clean = np.stack([_by_band((~mask).astype(np.float32), side, cv2.INTER_LINEAR) for mask in valid]) == 0
    for mask, kept in zip(valid, clean, strict=True):
        # a band of scattered measurements would have none left
        for band, left in zip(mask, kept, strict=True):
            if not left.any():
                left[:] = cv2.resize(band.view(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
    return resized, clean


def _by_band(image: NDArray[Any], side: int, interpolation: int, into: NDArray[Any] | None = None) -> NDArray[Any]:
    """(C, side, side) of an image (C, H, W). OpenCV's last bits depend on how many bands it resizes at once."""
    resized = np.empty((len(image), side, side), image.dtype) if into is None else into
    for band, target in zip(image, resized, strict=True):
        cv2.resize(band, (side, side), dst=target, interpolation=interpolation)
    return resized


def whole_geometry(image: NDArray[Any], size: int) -> NDArray[Any]:
    """An image (C, H, W) at (C, size, size): as it is, or resized bilinearly band by band; nothing is cropped away."""
    return image if image.shape[1:] == (size, size) else _by_band(np.ascontiguousarray(image), size, cv2.INTER_LINEAR)


def evaluation_geometry(image: NDArray[Any], size: int) -> NDArray[Any]:
    """Resize to round(size x 8/7) and take the centre (C, size, size); OpenCV, bilinear, on the normalised image (C, H,
    W).
    """
    side = round(size * 8 / 7)
    resized = cv2.resize(_channels_last(image), (side, side), interpolation=cv2.INTER_LINEAR)
    # as torchvision's CenterCrop rounds
    start = round((side - size) / 2)
    return np.ascontiguousarray(resized[start : start + size, start : start + size].transpose(2, 0, 1))


def random_geometry(
    image: NDArray[Any], size: int, augmentation: Augmentation, sample: str, into: NDArray[Any] | None = None
) -> NDArray[Any]:
    """A random resized crop and flip (C, size, size) of an image (C, H, W), keyed by seed, epoch and sample; written
    `into` where given.
    """
    view = np.empty((len(image), size, size), image.dtype) if into is None else into
    # no state: workers, batches and order change no draw
    draw = generator(augmentation.seed, "view", augmentation.epoch, sample)
    top, left, height, width = random_box(draw, image.shape[1], image.shape[2], augmentation.crop_scale)
    crop = image[:, top : top + height, left : left + width]
    if crop.dtype == np.uint8:  # by band: the same bytes as together, without a change of layout
        _by_band(crop, size, cv2.INTER_LINEAR, view)
        mirrored = draw.random() < 0.5
        for band in view if mirrored else ():
            cv2.flip(band, 1, dst=band)
        if augmentation.vflip and draw.random() < 0.5:
            for band in view:
                cv2.flip(band, 0, dst=band)
        return view
    together = cv2.resize(_channels_last(crop), (size, size), interpolation=cv2.INTER_LINEAR)
    if draw.random() < 0.5:
        together = together[:, ::-1]
    if augmentation.vflip and draw.random() < 0.5:
        together = together[::-1]
    view[:] = together.transpose(2, 0, 1)
    return view


def random_box(draw: np.random.Generator, height: int, width: int, smallest: float) -> Box:
    """The crop of torchvision's RandomResizedCrop: area share U(smallest, 1), log-uniform aspect 3/4..4/3, ten tries.

    Falls back to the largest centre crop within the aspect range, as there.
    """
    # all ten tries are drawn at once, so that the draws after them do not depend on which try fits
    drawn = draw.random(40).tolist()
    for area, ratio, down, right in zip(drawn[:10], drawn[10:20], drawn[20::2], drawn[21::2], strict=True):
        pixels, aspect = height * width * (smallest + (1 - smallest) * area), math.exp(LOG_ASPECT * (2 * ratio - 1))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
    # no try fits an image much longer than it is wide: its largest centre crop within the aspects
    shape = width / height
    w, h = (
        (width, round(width / (3 / 4)))
        if shape < 3 / 4
        else (round(height * 4 / 3), height)
        if shape > 4 / 3
        else (width, height)
    )
    return (height - h) // 2, (width - w) // 2, h, w


def _channels_last(image: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(image.transpose(1, 2, 0))
