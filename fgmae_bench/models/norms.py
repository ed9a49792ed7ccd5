"""Norms of heads: batch norm over the batches of all processes, the same numbers as in one process, and group norm."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from fgmae_bench.config.names import NORMS, code_of
from fgmae_bench.errors import BenchError

GROUPS, LEAST = 32, 8  # groups at most (Wu & He 2018, arXiv 1803.08494), channels of a group at least


def make_norm(name: str, channels: int) -> nn.Module:
    """The norm of that name for maps of `channels`; raises BenchError with the choices."""
    norm: nn.Module = code_of("norm", name, NORMS)(channels)
    return norm


def group_norm(channels: int) -> nn.Module:
    """Group norm of at most 32 groups of at least 8 channels: at 1x1 they are all it has to average over."""
    fitting = [groups for groups in range(1, GROUPS + 1) if channels % groups == 0 and channels // groups >= LEAST]
    return nn.GroupNorm(max(fitting, default=1), channels)


def batch_norm(channels: int) -> nn.Module:
    """The norm of the published linear probe: batch norm without learnt scale and offset."""
    return nn.BatchNorm1d(channels, affine=False, eps=1e-6)


class SyncBatchNorm(nn.Module):
    """Batch norm of (B, C) or (B, C, ...) with statistics of every process's samples, of which each counts once.

    Every process must call it the same number of times, training or not being the same everywhere. Statistics are
    float32 or better whatever autocast says, running ones are identical on every process. Without a process group it is
    `torch.nn.functional.batch_norm`. Keys and defaults are those of `torch.nn.BatchNorm2d`. The gradient of the affine
    parameters is that of this process's samples; the average over processes is the business of the training loop.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type as `x`. Raises BenchError in training on a single value a channel in one process."""
        if not self.training:
            return self._plain(x)
        self.num_batches_tracked.add_(1)
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            if x.numel() // self.num_features < 2:
                raise BenchError(
                    "batch norm has a single value a channel to take statistics of",
                    "use group norm, or a larger batch or input",
                )
            return self._plain(x)
        # Half precision would lose the statistics; float64 input stays as it is.
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count, mean, variance = _world_statistics(values.detach())
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(
                (variance * count / (count - 1).clamp(min=1)).to(self.running_var.dtype), self.momentum
            )
        deviation = (variance + self.eps).sqrt()
        normal: Tensor = _Standardise.apply(
            values, mean.to(values.dtype), deviation.reciprocal().to(values.dtype), count
        )
        if self.weight is not None and self.bias is not None:
            shape = _channels(x)
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)

    def _plain(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.weight is not None}"


class _Standardise(torch.autograd.Function):
    """(x - mean) / deviation, both functions of x on every process; the gradient takes one sum over the processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, inverse: Tensor, count: Tensor) -> Tensor:
        shape = _channels(x)
        normal = (x - mean.view(shape)) * inverse.view(shape)
        ctx.save_for_backward(normal, inverse, count)
        return normal

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """dx = (g - mean(g) - normal * mean(g * normal)) / deviation, means over all processes (arXiv 1502.03167)."""
        gradient = gradients[0]
        normal, inverse, count = ctx.saved_tensors  # type: ignore[attr-defined]
        axes, shape = _all_but_channels(gradient), _channels(gradient)
        sums = torch.stack([gradient.sum(axes), (gradient * normal).sum(axes)]).double()  # (2, C)
        dist.all_reduce(sums)
        level, slope = (sums / count).to(gradient.dtype)
        return (gradient - level.view(shape) - normal * slope.view(shape)) * inverse.view(shape), None, None, None


def _world_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(values a channel, mean (C,), population variance (C,)) over all processes, float64, the same bits on each.

    Centred sums of each process are merged by Chan, Golub & LeVeque 1979, so that a mean far from zero costs no digits.
    """
    axes, channels = _all_but_channels(x), x.shape[1]
    own = torch.zeros(3, channels, dtype=torch.float64, device=x.device)
    if x.numel():
        variance, mean = torch.var_mean(x, axes, correction=0)
        count = x.numel() // channels
        own = torch.stack([torch.full_like(mean, count, dtype=torch.float64), mean.double(), variance.double() * count])
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    counts, means, squares = torch.stack(parts, dim=1)  # (world, C) each
    total = counts[:, 0].sum()
    mean = (counts * means).sum(0) / total
    centred = squares.sum(0) + (counts * (means - mean).square()).sum(0)
    return total, mean, centred / total


def _all_but_channels(x: Tensor) -> list[int]:
    return [axis for axis in range(x.dim()) if axis != 1]


def _channels(x: Tensor) -> tuple[int, ...]:
    return (1, -1) + (1,) * (x.dim() - 2)
