"""What the heads share: convolutions under the keys of mmsegmentation, a norm of pooled maps, and the way to logits.

The heads that follow mmsegmentation 1.2.2 (Apache-2.0) keep its names of layers, so that its decode heads load into
them. Its dropout before the classifier is there at rate 0: see `--head_dropout`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import batch_norm, grid_sample, interpolate

from fgmae_bench.errors import BenchError
from fgmae_bench.models.heads.outputs import Learnt
from fgmae_bench.models.norms import LEAST, SyncBatchNorm, make_norm


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear to (height, width), corners not aligned."""
    return interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def sampled(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values (B, C, P) of maps (B, C, h, w) at points (B, P, 2), x then y, as shares of width and height."""
    return grid_sample(maps, 2 * points.unsqueeze(2) - 1, align_corners=False).squeeze(3)


class PooledBatchNorm(SyncBatchNorm):
    """Batch norm of a map that was pooled to 1x1: of one image it has no statistics, and the running ones are taken."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        alone = not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)
        if self.training and alone and x.numel() // self.num_features < 2:
            return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


class ConvNorm(nn.Module):
    """Convolution, norm and ReLU, any of the last two left out: `ConvModule` of mmcv. The size stays."""

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: int = 1,
        *,
        norm: str | nn.Module | None = "batch",
        dilation: int = 1,
        groups: int = 1,
        padding: int | None = None,
        act: bool = True,
        pooled: bool = False,
    ):
        """`norm` None: a convolution with bias; a module: a group norm. `pooled`: of maps of one pixel."""
        super().__init__()
        padding = dilation * (kernel // 2) if padding is None else padding
        self.conv = nn.Conv2d(
            inside, outside, kernel, padding=padding, dilation=dilation, groups=groups, bias=norm is None
        )
        self.key = "gn" if isinstance(norm, nn.Module) else "bn" if norm else ""  # as mmcv names the layer
        if isinstance(norm, str):
            norm = PooledBatchNorm(outside) if pooled and norm == "batch" else make_norm(norm, outside)
        if norm is not None:
            self.add_module(self.key, norm)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, D, h, w)."""
        x = self.conv(x)
        x = self.get_submodule(self.key)(x) if self.key else x
        return torch.relu(x) if self.act else x


class Separable(nn.Module):
    """A 3x3 convolution of each channel, then one across channels, each with norm and ReLU; `act` is the first's."""

    def __init__(self, inside: int, outside: int, *, norm: str, dilation: int = 1, act: bool = True):
        super().__init__()
        self.depthwise_conv = ConvNorm(inside, inside, 3, norm=norm, dilation=dilation, groups=inside, act=act)
        self.pointwise_conv = ConvNorm(inside, outside, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, D, h, w)."""
        out: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return out


class SelfAttention(nn.Module):
    """Multi-head attention of tokens over one another, under the key that mmcv gives it."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to the same."""
        out: Tensor = self.attn(x, x, x, need_weights=False)[0]
        return out


class FeedForward(nn.Module):
    """Two linear layers; `layers.0.0` and `layers.1`, as mmcv names them."""

    def __init__(self, dim: int, inner: int, act: Callable[[Tensor], Tensor]):
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(dim, inner)), nn.Linear(inner, dim)])
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to the same."""
        out: Tensor = self.layers[1](self.act(self.layers[0](x)))
        return out


def classifier(width: int, num_classes: int) -> nn.Conv2d:
    """A 1x1 convolution to logits."""
    made = nn.Conv2d(width, num_classes, 1)
    nn.init.trunc_normal_(made.weight, std=0.01)
    nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    return made


class Decoder(nn.Module):
    """A head: `features` of the maps, which a 1x1 convolution classifies; `neck` comes first where one is needed."""

    def __init__(self, num_classes: int, width: int):
        """`width` is the number of channels that the classifier sees."""
        super().__init__()
        if width < LEAST:
            raise BenchError(f"--fpn_dim gives a layer of {width} channels, too narrow to normalise", "give more")
        self.neck: nn.Module = nn.Identity()
        self.dropout = nn.Dropout2d(0.0)
        self.conv_seg = classifier(width, num_classes)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, finest first, to (B, width, h, w)."""
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """(B, width, h, w) to logits (B, K, h, w)."""
        logits: Tensor = self.conv_seg(self.dropout(features))
        return logits

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps behind the neck to logits at the head's own size."""
        return self.classify(self.features(maps))

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor | Learnt:
        """Maps, finest first, to logits (B, K, *size)."""
        return resized(self.decode(self.neck(maps)), size)
