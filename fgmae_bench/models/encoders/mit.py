"""SegFormer's MiT (arXiv 2105.15203), B0 to B5: the network of segmentation_models_pytorch; timm has none."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given
from fgmae_bench.models.heads.library import library

NAMES = tuple(f"mit_b{size}" for size in range(6))


class MixTransformer(Adapter):
    """Images (B, 2, H, W) to the last of four maps; a pyramid of strides 4 to 32 for decoders, as timm's models are."""

    reductions: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)

    def __init__(self, network: nn.Module, dims: tuple[int, ...]):
        super().__init__(network)
        self.feature_info = [
            {"num_chs": dim, "reduction": stride} for dim, stride in zip(dims, self.reductions, strict=True)
        ]

    def forward_intermediates(self, images: Tensor, indices: int = 4, intermediates_only: bool = True) -> list[Tensor]:
        """(B, 2, H, W) to the last `indices` of four maps (B, D_i, H/s_i, W/s_i)."""
        network: Any = self.network
        x, found = images, []
        for level in range(1, 5):
            for part in ("patch_embed", "block", "norm"):
                x = getattr(network, f"{part}{level}")(x)
            x = x.contiguous()
            found.append(x)
        return found[-indices:]

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, H, W) to (B, D, H/32, W/32)."""
        return self.forward_intermediates(images)[-1]


def make(name: str, drop_path: float = 0.0) -> MixTransformer:
    """MiT of that name with random weights; raises BenchError where the library is not installed."""
    code = library(name, "segmentation_models_pytorch.encoders.mix_transformer", "model")
    settings = dict(code.mix_transformer_encoders[name]["params"])
    dims = tuple(settings.pop("out_channels")[2:])
    with torch.device("cpu"):  # it reads its rates of stochastic depth, which a meta tensor does not hold
        network = code.MixVisionTransformer(**settings | {"in_chans": 2, "drop_path_rate": drop_path})
    return MixTransformer(network, dims)
