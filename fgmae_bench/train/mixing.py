"""Mixup and cutmix as one matrix: which share of which image, and so of its label, stands in each place of a batch."""

from __future__ import annotations

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor

from fgmae_bench.randomness import key


class Mixing:
    """timm's mixup and cutmix, for targets of any kind; keyed, so that it needs no state."""

    def __init__(self, mixup: float, cutmix: float, seed: int):
        self.mixup, self.cutmix, self.seed = mixup, cutmix, seed

    def __call__(self, images: Tensor, targets: Tensor, *place: int) -> tuple[Tensor, Tensor]:
        """Mixed images (B, C, H, W) and targets (B, K) of soft targets (B, K); B is even. `place` keys the draw.

        timm mixes image i with image B - 1 - i. Asked for the labels 0..B-1 it answers with the matrix M (B, B) of shares
        whose rows add up to 1; M @ targets then holds for class shares and for several labels an image alike.
        """
        count = len(images)
        mix = Mixup(mixup_alpha=self.mixup, cutmix_alpha=self.cutmix, label_smoothing=0.0, num_classes=count)
        state = np.random.get_state()  # noqa: NPY002 (timm draws from numpy's global generator)
        np.random.seed(key(self.seed, "mix", *place) % 2**32)  # noqa: NPY002
        try:
            mixed, shares = mix(images.clone(), torch.arange(count, device=images.device))
        finally:
            np.random.set_state(state)  # noqa: NPY002
        return mixed, shares.to(targets.dtype) @ targets
