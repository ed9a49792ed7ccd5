"""FCN with a context module between its convolutions: non-local, disentangled non-local, global context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from fgmae_bench.models.heads.fcn import FCN
from fgmae_bench.models.heads.layers import ConvNorm

TEMPERATURE = 0.05  # of DNL's pairwise term
GC_RATIO = 4


class NonLocalBlock(nn.Module):
    """Attention of each place over all others, added to the map (Wang et al. 2018, arXiv 1711.07971)."""

    def __init__(self, dim: int, norm: str):
        super().__init__()
        inner = dim // 2
        self.g = ConvNorm(dim, inner, norm=None, act=False)
        self.theta = ConvNorm(dim, inner, norm=None, act=False)
        self.phi = ConvNorm(dim, inner, norm=None, act=False)
        self.conv_out = ConvNorm(inner, dim, norm=norm, act=False)
        nn.init.zeros_(self.conv_out.get_submodule("bn").weight)  # type: ignore[arg-type]  # the block begins as the identity

    def pairwise(self, theta: Tensor, phi: Tensor) -> Tensor:
        """Weights (B, N, N) of queries (B, N, D) and keys (B, D, N)."""
        return (theta @ phi / theta.shape[-1] ** 0.5).softmax(-1)

    def attended(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(what each place takes in (B, D, h, w), values (B, N, D))."""
        g = self.g(x).flatten(2).transpose(1, 2)
        weights = self.pairwise(self.theta(x).flatten(2).transpose(1, 2), self.phi(x).flatten(2))
        return (weights @ g).transpose(1, 2).unflatten(2, x.shape[-2:]), g

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        out: Tensor = x + self.conv_out(self.attended(x)[0])
        return out


class DisentangledBlock(NonLocalBlock):
    """Whitened pairs at a low temperature and a term of single places (Yin et al. 2020, arXiv 2006.06668)."""

    def __init__(self, dim: int, norm: str):
        super().__init__(dim, norm)
        self.conv_mask = nn.Conv2d(dim, 1, 1)

    def pairwise(self, theta: Tensor, phi: Tensor) -> Tensor:
        """As of the block, of what is left when each side's mean over places is gone."""
        theta, phi = theta - theta.mean(-2, keepdim=True), phi - phi.mean(-1, keepdim=True)
        return (theta @ phi / theta.shape[-1] ** 0.5 / TEMPERATURE).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        y, g = self.attended(x)
        unary = self.conv_mask(x).flatten(2).softmax(-1) @ g  # (B, 1, D)
        out: Tensor = x + self.conv_out(y + unary.transpose(1, 2).unsqueeze(-1))
        return out


class ContextBlock(nn.Module):
    """One attention for all places, its context added to each of them (Cao et al. 2019, arXiv 1904.11492).

    Its own norm is a layer norm, whatever `norm` is.
    """

    def __init__(self, dim: int, norm: str):
        super().__init__()
        inner = dim // GC_RATIO
        self.conv_mask = nn.Conv2d(dim, 1, 1)
        self.channel_add_conv = nn.Sequential(
            nn.Conv2d(dim, inner, 1), nn.LayerNorm([inner, 1, 1]), nn.ReLU(), nn.Conv2d(inner, dim, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        weights = self.conv_mask(x).flatten(2).softmax(-1)  # (B, 1, N)
        context = (x.flatten(2) @ weights.transpose(1, 2)).unsqueeze(-1)  # (B, C, 1, 1)
        out: Tensor = x + self.channel_add_conv(context)
        return out


class Contextual(FCN):
    """FCN with a block, `block(channels, norm)`, between its convolutions, under the key of mmsegmentation."""

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        fpn_dim: int = 512,
        norm: str = "batch",
        key: str,
        block: Callable[[int, str], nn.Module],
    ):
        super().__init__(dims, strides, num_classes, fpn_dim=fpn_dim, norm=norm)
        self.key = key
        self.add_module(key, block(fpn_dim, norm))

    def between(self, x: Tensor) -> Tensor:
        """The block."""
        out: Tensor = self.get_submodule(self.key)(x)
        return out


non_local = partial(Contextual, key="nl_block", block=NonLocalBlock)
dnl = partial(Contextual, key="dnl_block", block=DisentangledBlock)
gc = partial(Contextual, key="gc_block", block=ContextBlock)
