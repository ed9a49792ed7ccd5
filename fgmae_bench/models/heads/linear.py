"""A linear probe of each pixel: the last map standardised without learnt scale, a 1x1 convolution, resized logits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate

from fgmae_bench.models.norms import SyncBatchNorm


class PixelLinear(nn.Module):
    """The published linear probe, `BatchNorm(affine=False, eps=1e-6)` and a linear layer, on the last map's pixels."""

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 0, norm: str = "batch"
    ):
        """`dims` are the channels of the maps; a linear layer has no use for strides, `fpn_dim` and `norm`."""
        super().__init__()
        self.standardise = SyncBatchNorm(dims[-1], eps=1e-6, affine=False)
        self.classify = nn.Conv2d(dims[-1], num_classes, 1)
        nn.init.trunc_normal_(self.classify.weight, std=0.01)  # as the head of the published probe
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps, of which the last (B, D, h, w) is used, to logits (B, K, *size); resizing is linear and comes last."""
        logits = self.classify(self.standardise(maps[-1]))  # (B, K, h, w)
        return interpolate(logits, size=size, mode="bilinear", align_corners=False)
