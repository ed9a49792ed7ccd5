"""Taps: the four maps (B, D, h, w) that a decoder sees of a ViT's blocks, of a pyramid's levels, or of one map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fgmae_bench.errors import BenchError
from fgmae_bench.models.pooling import PooledMap, TokenPool, checked, device_of

LEVELS = 4
Vit: TypeAlias = VisionTransformer | Eva | Beit  # EVA-02 and DINOv3 are built as Eva


def even_blocks(depth: int, count: int = LEVELS) -> tuple[int, ...]:
    """Indices of `count` evenly spaced blocks up to the last: 2, 5, 8, 11 of 12. Raises BenchError on too few."""
    if depth < count:
        raise BenchError(
            f"a backbone of {depth} blocks has no {count} evenly spaced ones",
            "name the blocks, or take a deeper backbone",
        )
    return tuple(depth * (i + 1) // count - 1 for i in range(count))


def fitting_size(size: int, patch: int) -> int:
    """Largest input of at most `size` pixels that patches divide: 252 for 256 and 14. Raises BenchError on none."""
    if size < patch:
        raise BenchError(f"an input of {size} px is smaller than a patch of {patch} px", f"give {patch} px or more")
    return size // patch * patch


class BlockMaps(nn.Module):
    """The outputs of blocks of a ViT as maps, without prefix tokens; `dims` and `strides` (pixels) of each.

    The final norm is applied to the last block's map, which is the encoder's output, and to no other. A ViT that pools
    before its norm (`fc_norm`) has none to apply.
    """

    def __init__(self, vit: Vit, blocks: Sequence[int] | None = None):
        """Raises BenchError on blocks that the ViT does not have or that are not in rising order."""
        super().__init__()
        depth = len(vit.blocks)
        self.vit, self.blocks = vit, tuple(blocks) if blocks is not None else even_blocks(depth)
        if (
            not self.blocks
            or min(self.blocks) < 0
            or max(self.blocks) >= depth
            or sorted(set(self.blocks)) != list(self.blocks)
        ):
            raise BenchError(
                f"blocks {self.blocks} of a backbone that has {depth}", f"give rising indices from 0 to {depth - 1}"
            )
        self.dims = (vit.num_features,) * len(self.blocks)
        self.strides = (vit.patch_embed.patch_size[0],) * len(self.blocks)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, S, S) to maps (B, D, S/p, S/p). Raises BenchError on a size the ViT was not built for."""
        expected = self.vit.patch_embed.img_size
        height, width = images.shape[-2:]
        if expected is not None and (height, width) != tuple(expected):
            raise BenchError(
                f"{height}x{width} px for a backbone built at {expected[0]}x{expected[1]}",
                f"give input_size {expected[0]}",
            )
        tokens: list[Tensor] = self.vit.forward_intermediates(
            images, indices=list(self.blocks), output_fmt="NLC", intermediates_only=True, stop_early=True
        )  # (B, h*w, D) each
        # Only the last block's map is the encoder's output, which the final norm belongs to.
        if self.blocks[-1] == len(self.vit.blocks) - 1:
            tokens[-1] = self.vit.norm(tokens[-1])
        rows, columns = self.vit.patch_embed.dynamic_feat_size((height, width))
        return [block.transpose(1, 2).unflatten(2, (rows, columns)).contiguous() for block in tokens]


class PyramidMaps(nn.Module):
    """The last four levels of a timm model with a feature pyramid, finest first: strides 4, 8, 16, 32 of a ResNet.

    Of a model whose levels are all of one stride, such as CaiT, those of four evenly spaced `blocks`.
    """

    def __init__(self, inner: nn.Module):
        """Raises BenchError on a model without four levels."""
        super().__init__()
        levels = [(int(level["num_chs"]), int(level["reduction"])) for level in getattr(inner, "feature_info", [])]
        self.indices: int | list[int] = LEVELS
        if len(levels) > LEVELS and len({stride for _, stride in levels}) == 1:
            self.blocks = even_blocks(len(levels))
            self.indices = list(self.blocks)
            levels = [levels[index] for index in self.blocks]
        levels = levels[-LEVELS:]
        if len(levels) < LEVELS or not hasattr(inner, "forward_intermediates"):
            raise BenchError(
                f"{type(inner).__name__} has no pyramid of {LEVELS} feature maps",
                "take a ViT or a model that returns a map",
            )
        self.inner = inner
        self.dims, self.strides = tuple(d for d, _ in levels), tuple(s for _, s in levels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) to maps (B, D_i, H/s_i, W/s_i)."""
        maps: list[Tensor] = self.inner.forward_intermediates(images, indices=self.indices, intermediates_only=True)  # type: ignore[operator]
        return maps


class OneMap(nn.Module):
    """The one map (B, D, h, w) of any module, four times over, as ViTDet makes its pyramid (arXiv 2203.16527)."""

    def __init__(self, inner: nn.Module, size: int, channels: int = 2):
        """Measured on one image of `size` pixels. Raises BenchError where the module returns no map."""
        super().__init__()
        self.inner = inner
        was_training = inner.training
        inner.eval()
        with torch.no_grad():
            shape = self(torch.zeros(1, channels, size, size, device=device_of(inner)))[0].shape
        inner.train(was_training)
        self.dims, self.strides = (int(shape[1]),) * LEVELS, (max(1, size // int(shape[2])),) * LEVELS

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) to the same map (B, D, h, w) at every level."""
        todo = "return a (B, D, h, w) map for segmentation"
        return [checked(self.inner(images), images, type(self.inner).__name__, (4,), todo)] * LEVELS


Taps: TypeAlias = BlockMaps | PyramidMaps | OneMap


def make_taps(module: nn.Module, size: int, blocks: Sequence[int] | None = None) -> Taps:
    """The taps of a backbone's module at inputs of `size` pixels; `blocks` only where it is a ViT.

    Raises BenchError on a module that gives neither blocks, nor a pyramid, nor a map.
    """
    inner = module.vit if isinstance(module, TokenPool) else module.inner if isinstance(module, PooledMap) else module
    if isinstance(inner, Vit):
        return BlockMaps(inner, blocks)
    if blocks is not None:
        raise BenchError(f"{type(inner).__name__} is not a ViT: it has no blocks to name", "leave the blocks out")
    if hasattr(inner, "feature_info") and hasattr(inner, "forward_intermediates"):
        return PyramidMaps(inner)
    if not getattr(inner, "has_map", True):
        raise BenchError(
            f"{type(inner).__name__} gives one vector an image and no map for segmentation", "take another encoder"
        )
    return OneMap(inner, size)
