"""A U-Net for training from scratch: what a small network made for the task reaches without any pre-training."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

WIDTHS = (32, 64, 128, 256, 512)


def _block(before: int, after: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with group norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.GroupNorm(8, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Images (B, 2, S, S) to a map (B, 32, S, S): four halvings, four doublings with the finer map concatenated.

    Ronneberger, Fischer & Brox 2015 (arXiv 1505.04597) at half its widths, padded, and with group norm, which does not
    depend on the batch.
    """

    channels: ClassVar[int] = WIDTHS[0]
    patch: ClassVar[int] = 2 ** (len(WIDTHS) - 1)  # pixels that the input's side must be a multiple of

    def __init__(self, in_chans: int = 2):
        super().__init__()
        self.down = nn.ModuleList(_block(a, b) for a, b in zip((in_chans, *WIDTHS), WIDTHS, strict=False))
        self.up = nn.ModuleList(_block(a + b, b) for a, b in zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, S, S) to (B, 32, S, S)."""
        held, x = [], images
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            held.append(x)
        for block, finer in zip(self.up, held[-2::-1], strict=True):
            larger = interpolate(x, size=finer.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([larger, finer], dim=1))
        return x
