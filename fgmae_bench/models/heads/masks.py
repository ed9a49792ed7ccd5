"""Mask classification by layers of transformers (Apache-2.0): MaskFormer (arXiv 2107.06278) and Mask2Former.

Each of 100 queries gives a class, or none, and a mask. In training every layer's queries are matched with the classes
of an image, see `fgmae_bench.train.head_losses`; in evaluation a pixel's score of a class is the sum over queries of
the class's probability times the mask's, and its logarithm is the logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fgmae_bench.errors import BenchError
from fgmae_bench.models.heads.layers import resized
from fgmae_bench.models.heads.library import library
from fgmae_bench.models.heads.necks import pyramid
from fgmae_bench.models.heads.outputs import MASKS, POINT_MASKS, Extra, Learnt

QUERIES, GROUPS, SMALLEST = 100, 32, 1e-6


def semantic(classes: Tensor, masks: Tensor) -> Tensor:
    """Queries' class logits (B, Q, K + 1), none last, and mask logits (B, Q, h, w) to log scores (B, K, h, w)."""
    scores = torch.einsum("bqk,bqhw->bkhw", classes.float().softmax(-1)[..., :-1], masks.float().sigmoid())
    return scores.clamp(min=SMALLEST).log()


class MaskHead(nn.Module):
    """What both have in common: `queries` gives (class logits, mask logits) of each layer, the last one last."""

    kind: str  # of the loss

    def __init__(self, name: str, dims: Sequence[int], strides: Sequence[int], fpn_dim: int, norm: str):
        super().__init__()
        if fpn_dim % GROUPS:
            raise BenchError(f"--fpn_dim {fpn_dim}: {name} takes multiples of {GROUPS}", f"give {GROUPS} or 256")
        self.neck, self.dims = pyramid(name, dims, strides, norm)

    def queries(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """(B, Q, K + 1) and (B, Q, h, w) of each layer."""
        raise NotImplementedError

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor | Learnt:
        """Logits (B, K, *size); in training the queries of each layer in their place."""
        found = self.queries(self.neck(maps))
        if self.training:
            return Learnt(None, tuple(Extra(self.kind, 1.0, each) for each in found))
        classes, masks = found[-1]
        return semantic(classes, resized(masks, size))


class MaskFormer(MaskHead):
    """A feature pyramid of pixels and six layers of a DETR decoder over the coarsest map."""

    kind = MASKS

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 256, norm: str = "batch"
    ):
        """`dims` and `strides` of four maps, finest first."""
        super().__init__("maskformer", dims, strides, fpn_dim, norm)
        code = library("maskformer", "transformers.models.maskformer.modeling_maskformer")
        config = library("maskformer", "transformers").MaskFormerConfig(
            decoder_config={
                "model_type": "detr",
                "d_model": fpn_dim,
                "num_queries": QUERIES,
                "decoder_ffn_dim": 8 * fpn_dim,
                "dropout": 0.0,
                "attention_dropout": 0.0,
                "activation_dropout": 0.0,
            },
            mask_feature_size=fpn_dim,
            fpn_feature_size=fpn_dim,
        )
        self.pixels = code.MaskFormerPixelDecoder(
            in_features=self.dims[-1],
            feature_size=fpn_dim,
            mask_feature_size=fpn_dim,
            lateral_widths=list(self.dims[:-1]),
        )
        self.transformer = code.MaskFormerTransformerModule(in_features=self.dims[-1], config=config)
        self.class_predictor = nn.Linear(fpn_dim, num_classes + 1)
        self.mask_embedder = code.MaskformerMLPPredictionHead(fpn_dim, fpn_dim, fpn_dim)

    def queries(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Of the last layer in evaluation, of each in training."""
        pixels = self.pixels(list(maps)).last_hidden_state
        out = self.transformer(maps[-1], output_hidden_states=True, return_dict=True)
        layers = out.hidden_states[1:] if self.training else (out.last_hidden_state,)
        layers = (*layers[:-1], out.last_hidden_state)  # behind the final norm
        return [
            (self.class_predictor(each), torch.einsum("bqc,bchw->bqhw", self.mask_embedder(each), pixels))
            for each in layers
        ]


class Mask2Former(MaskHead):
    """Six layers of deformable attention over three scales, nine of masked attention; losses at sampled points."""

    kind = POINT_MASKS

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 256, norm: str = "batch"
    ):
        """`dims` and `strides` of four maps, finest first."""
        super().__init__("mask2former", dims, strides, fpn_dim, norm)
        code = library("mask2former", "transformers.models.mask2former.modeling_mask2former")
        config = library("mask2former", "transformers").Mask2FormerConfig(
            feature_size=fpn_dim,
            mask_feature_size=fpn_dim,
            hidden_dim=fpn_dim,
            encoder_feedforward_dim=4 * fpn_dim,
            dim_feedforward=8 * fpn_dim,
            num_queries=QUERIES,
            num_labels=num_classes,
        )
        self.pixels = code.Mask2FormerPixelDecoder(config, list(self.dims))
        self.transformer = code.Mask2FormerTransformerModule(in_features=fpn_dim, config=config)
        self.class_predictor = nn.Linear(fpn_dim, num_classes + 1)
        self._draw()

    def _draw(self) -> None:
        """What the library's model draws outside of its parts."""
        nn.init.normal_(self.pixels.level_embed)
        for layer in self.pixels.encoder.layers:
            attention: Any = layer.self_attn
            nn.init.zeros_(attention.sampling_offsets.weight)
            nn.init.zeros_(attention.attention_weights.weight)
            nn.init.zeros_(attention.attention_weights.bias)

    def queries(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Of the last layer in evaluation, of each in training."""
        pixels = self.pixels(list(maps), output_attentions=False, output_hidden_states=False, return_dict=True)
        out = self.transformer(pixels.multi_scale_features, pixels.mask_features, output_hidden_states=True)
        layers = list(zip(out.intermediate_hidden_states, out.masks_queries_logits, strict=True))
        return [
            (self.class_predictor(each.transpose(0, 1)), masks)
            for each, masks in (layers if self.training else layers[-1:])
        ]
