"""A backbone as a run holds it: the module, its contract, and what became of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fgmae_bench.checkpoints.names import Head
from fgmae_bench.config.contract import InputContract
from fgmae_bench.config.plugins import foreign
from fgmae_bench.errors import BenchError
from fgmae_bench.models.pooling import Pool, PooledMap, device_of

SHOWN = 64  # features of a fixed image that are kept as they are; the others by their hash
INPUT_RANGES = ((-8.0, 8.0), (-50.0, 15.0), (0.0, 255.0))  # of z-scores, dB and eight bits; 0 to 1 is the first image


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a device or of the machine."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def images_a_pass(size: int) -> int:
    """Images of `size` pixels (0: the data's own) in a forward pass on a CPU: few, so that activations stay in its
    caches.

    8 at 224 px: with ViT-S on two AVX-512 cores 63 images/s in bfloat16, against 54 at 32 and 48 at 64.
    """
    return min(32, max(8, round(8 * (224 / (size or 64)) ** 2)))


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """Where weights came from and what became of each key of their file."""

    source: str
    sha256: str | None
    used: int
    dropped: int
    missing: int
    choice: str | None = None  # what was taken, where a file held several or the source is a hub's


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen feature extractor (B, 2, S, S) to (B, feature_dim). `lowers_precision` where autocast may apply."""

    module: nn.Module
    name: str
    pool: Pool | None  # None: the module's own
    feature_dim: int
    contract: InputContract
    weights: WeightsReport
    lowers_precision: bool = True
    custom: bool = False  # a module of the user's
    notes: tuple[dict[str, str], ...] = ()
    head: Head | None = None  # the classifier that the checkpoint holds
    projection: Head | None = None  # from its features to the space of texts, of a model of images and texts
    head_order: str = ""  # of its outputs: "" as on the card, or alphabetical
    inputs: dict[str, Any] = field(default_factory=dict)  # what it is fed besides pixels, as the record says it
    usual: InputContract | None = None  # without the flags that state one; None where there are none
    departs: tuple[str, ...] = ()  # flags whose value is not what would hold without them

    @property
    def params(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.module.parameters())

    def fingerprint(self) -> str:
        """SHA-256 of the structure, the pooling and every tensor: what the feature bank knows the backbone by."""
        digest = hashlib.sha256(f"{self.name}\0{self.pool}\0{self.module!r}".encode())
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turn what a module of the user raises into one line that names it and `what` it was given; nothing where it
        is one of the suite, or where memory ran out: whoever runs it knows what helps.
        """
        try:
            yield
        except (Exception, SystemExit) as error:
            if not self.custom or out_of_memory(error):
                raise
            with foreign(f"{self.name} failed on {what}", "correct the module"):
                raise

    def behaviour(self) -> list[str] | None:
        """Rounded features of fixed images, for a module of the user: its code may change where its tensors do not.

        Of the first image the features as they are; of every image, over the ranges that normalisers give, a sketch of
        what the module returns before its map is averaged.
        """
        if not self.custom:
            return None
        raw = self.module.inner if isinstance(self.module, PooledMap) else self.module
        images = _fixed_images(self.contract.size).to(device_of(self.module))
        with self.guarded("an image of its own"), torch.inference_mode():
            features = self.module(images[:1])
            sketches = [text for image in images for text in _sketch(raw, image[None])]
        # As text, so that NaN is equal to itself: it is refused later, with the name of the image.
        texts = [f"{value:.2e}" for value in features[0].float().cpu().flatten().tolist()]
        rest = [hashlib.sha256(" ".join([*texts[SHOWN:], *sketches]).encode()).hexdigest()]
        return texts[:SHOWN] + rest


def _fixed_images(size: int) -> Tensor:
    """Images (N, 2, size, size): ramps over the ranges of inputs, and noise without structure as speckle is."""
    count = 2 * size * size
    ramp = torch.linspace(0, 1, count)
    # a multiplicative hash: the same numbers on every machine and in every version of torch
    noise = (torch.arange(count) * 2654435761 % 2**32).double().div(2**32).float()
    values = [ramp, *(low + (high - low) * ramp for low, high in INPUT_RANGES), 6 * noise - 3]
    return torch.stack(values).view(-1, 2, size, size)


def _sketch(module: nn.Module, images: Tensor) -> list[str]:
    """Length of what a module makes of images and where it points: its shares along four directions, rounded beyond
    what machines differ by; the error where it takes no such values.

    The directions differ from place to place, so that the same values elsewhere in a map are another sketch.
    """
    try:
        with foreign("", ""):
            values = module(images).detach().double().cpu().flatten()
    except BenchError as error:
        return [error.what.partition(":")[0]]
    length = values.norm()
    places = torch.arange(1, len(values) + 1, dtype=torch.float64)
    shares = [(values * torch.cos(places * root**0.5)).sum() / length.clamp_min(1e-30) for root in (2, 3, 5, 7)]
    return [f"{float(length):.2e}", *(f"{float(share):.3f}".replace("-0.000", "0.000") for share in shares)]
