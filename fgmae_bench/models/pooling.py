"""What turns images into one vector each: a ViT's token, a module's averaged map, or statistics of backscatter."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fgmae_bench.errors import BenchError

Pool = Literal["cls", "mean"]


class TokenPool(nn.Module):
    """A ViT whose feature is the CLS token or the mean of the patch tokens, after the final norm."""

    def __init__(self, vit: VisionTransformer | Eva | Beit, pool: Pool):
        super().__init__()
        self.vit, self.pool = vit, pool

    def forward(self, images: Tensor) -> Tensor:
        """(B, 2, S, S) to (B, D)."""
        tokens = self.vit.forward_features(images)  # (B, prefix + patches, D)
        pooled = tokens[:, 0] if self.pool == "cls" else tokens[:, self.vit.num_prefix_tokens :].mean(1)
        return self.vit.fc_norm(pooled)  # the only norm of average-pooled ViTs, else identity


class PooledMap(nn.Module):
    """A module of any kind whose feature map (B, D, h, w) is averaged; (B, D) passes through."""

    unread: float = 0  # pixels of each side that strides leave out, as measured

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        """(B, 2, S, S) to (B, D)."""
        todo = "return (B, D) features or a (B, D, h, w) map"
        out = checked(self.inner(images), images, type(self.inner).__name__, (2, 4), todo)
        return out.mean((2, 3)) if out.dim() == 4 else out


class BackscatterStats(nn.Module):
    """The null baseline: mean, deviation, quantiles of VV, VH, VV - VH in dB, (B, 2, H, W) to (B, 21). Ignores NaN."""

    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    feature_dim = 3 * (2 + len(levels))

    def forward(self, backscatter_db: Tensor) -> Tensor:
        """Per channel: mean, population deviation, then the quantiles (linear interpolation)."""
        vv, vh = backscatter_db[:, 0].flatten(1), backscatter_db[:, 1].flatten(1)
        channels = torch.stack([vv, vh, vv - vh], dim=1).double()  # (B, 3, H*W)
        mean = channels.nanmean(-1)
        deviation = (channels - mean[..., None]).square().nanmean(-1).sqrt()
        levels = torch.tensor(self.levels, dtype=channels.dtype, device=channels.device)
        quantiles = channels.nanquantile(levels, dim=-1).permute(1, 2, 0)  # (B, 3, Q)
        return torch.cat([mean[..., None], deviation[..., None], quantiles], dim=-1).flatten(1).float()


def device_of(module: nn.Module) -> torch.device:
    """Where a module's first parameter or buffer is; the CPU where it has neither."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def write_out_attention(module: nn.Module) -> None:
    """Let timm's attention be matrix products instead of torch's fused kernel.

    On CPUs the products in bfloat16 are the faster ones: ViT-S at 224 px on two cores, 70 instead of 59 images/s
    forward.
    """
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False  # type: ignore[assignment]


def checked(out: object, images: Tensor, name: str, dims: tuple[int, ...], todo: str) -> Tensor:
    """What the module `name` made of images, as it is. Raises BenchError where that is not a tensor of floating-point
    numbers of as many `dims`, none of them empty, with one row an image.
    """
    if not isinstance(out, Tensor) or out.dim() not in dims or 0 in out.shape[1:]:
        raise BenchError(f"{name} returned {_shape(out)}", todo)
    if len(out) != len(images):
        what = f"{name} returned {_shape(out)} for {len(images)} images"
        raise BenchError(what, f"{todo}, one row an image")
    if not out.is_floating_point():
        raise BenchError(f"{name} returned numbers of type {out.dtype}", "return floating-point numbers")
    return out


def _shape(out: object) -> str:
    return f"a tensor of shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
