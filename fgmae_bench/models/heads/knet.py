"""K-Net (Zhang et al. 2021, arXiv 2106.14855): the classifier's weights as kernels, updated three times by what they
find.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fgmae_bench.models.heads.aspp import DeepLabV3
from fgmae_bench.models.heads.fcn import FCN
from fgmae_bench.models.heads.layers import ConvNorm, Decoder, FeedForward, SelfAttention, resized
from fgmae_bench.models.heads.outputs import PIXELS, Extra, Learnt
from fgmae_bench.models.heads.psp import PSP
from fgmae_bench.models.heads.uper import UPer

STAGES, HEADS = 3, 8


class KernelUpdator(nn.Module):
    """New kernels from the features that kernels gathered and the kernels themselves, each through a gate."""

    def __init__(self, dim: int):
        super().__init__()
        self.dynamic_layer, self.input_layer = nn.Linear(dim, 2 * dim), nn.Linear(dim, 2 * dim)
        self.input_gate, self.update_gate = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm_in, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.input_norm_in, self.input_norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.fc_layer, self.fc_norm = nn.Linear(dim, dim), nn.LayerNorm(dim)

    def forward(self, gathered: Tensor, kernels: Tensor) -> Tensor:
        """(B, K, C) each to (B, K, C)."""
        into, out = self.dynamic_layer(gathered).chunk(2, dim=-1)
        kernel_in, kernel_out = self.input_layer(kernels).chunk(2, dim=-1)
        both = kernel_in * into
        keep = torch.sigmoid(self.input_norm_in(self.input_gate(both)))
        update = torch.sigmoid(self.norm_in(self.update_gate(both)))
        mixed = update * self.norm_out(out) + keep * self.input_norm_out(kernel_out)
        return torch.relu(self.fc_norm(self.fc_layer(mixed)))


class KernelUpdate(nn.Module):
    """One stage: kernels gather features under their masks, are updated, exchanged, and give new masks."""

    def __init__(self, dim: int, heads: int, inner: int):
        super().__init__()
        self.attention, self.attention_norm = SelfAttention(dim, heads), nn.LayerNorm(dim)
        self.kernel_update_conv = KernelUpdator(dim)
        self.feat_transform = ConvNorm(dim, dim, norm=None, act=False)
        self.ffn, self.ffn_norm = FeedForward(dim, inner, torch.relu), nn.LayerNorm(dim)
        self.mask_fcs = nn.ModuleList([nn.Linear(dim, dim, bias=False), nn.LayerNorm(dim), nn.ReLU()])
        self.fc_mask = nn.Linear(dim, dim)

    def forward(self, features: Tensor, kernels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, h, w), kernels (B, K, C), logits (B, K, h, w) to new logits and new kernels."""
        x = self.feat_transform(features)
        gathered = masks.softmax(1).flatten(2) @ x.flatten(2).transpose(1, 2)
        kernels = self.kernel_update_conv(gathered, kernels)
        kernels = self.attention_norm(kernels + self.attention(kernels))
        kernels = self.ffn_norm(kernels + self.ffn(kernels))
        weights = kernels
        for layer in self.mask_fcs:
            weights = layer(weights)
        return (self.fc_mask(weights) @ x.flatten(2)).unflatten(2, x.shape[-2:]), kernels


class KNet(nn.Module):
    """Three updates of the kernels of another head; in training each stage is scored, the last counts."""

    def __init__(
        self,
        dims: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        fpn_dim: int = 512,
        norm: str = "batch",
        base: type[Decoder] = FCN,
        stages: int = STAGES,
        heads: int = HEADS,
        inner: int | None = None,
    ):
        """`base` is the head whose features and classifier are the beginning; `inner` is its feed-forward width."""
        super().__init__()
        heads = heads if fpn_dim % heads == 0 else 1
        self.kernel_generate_head = base(dims, strides, num_classes, fpn_dim=fpn_dim, norm=norm)  # type: ignore[call-arg,arg-type]
        self.kernel_update_head = nn.ModuleList(
            [KernelUpdate(fpn_dim, heads, inner or 4 * fpn_dim) for _ in range(stages)]
        )

    def stages(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Logits (B, K, h, w) of the base and after each update."""
        base = self.kernel_generate_head
        features = base.features(base.neck(maps))
        kernels = base.conv_seg.weight.flatten(1).expand(len(features), -1, -1)  # (B, K, C)
        found = [base.classify(features)]
        for update in self.kernel_update_head:
            masks, kernels = update(features, kernels, found[-1])
            found.append(masks)
        return found

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor | Learnt:
        """Logits (B, K, *size), and in training also those of the earlier stages."""
        *earlier, last = self.stages(maps)
        logits = resized(last, size)
        return Learnt(logits, tuple(Extra(PIXELS, 1.0, (each,)) for each in earlier)) if self.training else logits


knet_psp = partial(KNet, base=PSP)
knet_deeplabv3 = partial(KNet, base=DeepLabV3)
knet_uper = partial(KNet, base=UPer)
