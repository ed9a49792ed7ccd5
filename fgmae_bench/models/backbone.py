"""A backbone as a run holds it: the module, its contract, and what became of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fgmae_bench.checkpoints.names import Head
from fgmae_bench.config.contract import InputContract
from fgmae_bench.config.plugins import foreign
from fgmae_bench.models.pooling import Pool, device_of

SHOWN = 64  # features of a fixed image that are kept as they are; the others by their hash


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
        """Rounded features of a fixed image, for a module of the user: its code may change where its tensors do not."""
        if not self.custom:
            return None
        size = self.contract.size
        with self.guarded("an image of its own"), torch.inference_mode():
            ramp = torch.linspace(0, 1, 2 * size * size).view(1, 2, size, size)
            features = self.module(ramp.to(device_of(self.module)))
        # As text, so that NaN is equal to itself: it is refused later, with the name of the image.
        texts = [f"{value:.2e}" for value in features[0].float().cpu().flatten().tolist()]
        rest = [hashlib.sha256(" ".join(texts[SHOWN:]).encode()).hexdigest()] if len(texts) > SHOWN else []
        return texts[:SHOWN] + rest
