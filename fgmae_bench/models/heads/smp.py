"""Decoders of segmentation_models_pytorch (MIT) on our maps, each followed by its own segmentation layer.

Its decoders want a list of maps of every stride from 1 on: the first two, which no backbone here gives, are a shape and
a map without channels. `smp_pspnet` has branches of a quarter of the channels and a 1x1 fusion: it is not `psp`.
`smp_upernet` normalises each map first: it is not `upernet`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from fgmae_bench.models.heads.aspp import rates_of
from fgmae_bench.models.heads.layers import resized
from fgmae_bench.models.heads.library import doubling, library, with_norm
from fgmae_bench.models.heads.necks import pyramid

PACKAGE = "segmentation_models_pytorch"
LEAST_PAN = 8  # places a side of PAN's last map, which it halves three times
Maps = Sequence[Tensor]
Taken = Callable[[list[Tensor]], tuple[Any, ...]]  # maps behind the neck to the arguments of the decoder


class SmpHead(nn.Module):
    """A decoder, the layer to classes, and how our maps are handed over."""

    def __init__(self, neck: nn.Module, decoder: nn.Module, classify: nn.Module, taken: Taken, norm: str):
        super().__init__()
        self.neck, self.taken = neck, taken
        self.decoder, self.classify = with_norm(decoder, norm), classify

    def forward(self, maps: Maps, size: tuple[int, int]) -> Tensor:
        """Maps, finest first, to logits (B, K, *size)."""
        return resized(self.classify(self.decoder(*self.taken(self.neck(maps)))), size)


def _decoder(head: str, module: str, name: str) -> Any:
    return getattr(library(head, f"{PACKAGE}.decoders.{module}.decoder"), name)


def _classify(head: str, width: int, classes: int, kernel: int) -> nn.Module:
    made: nn.Module = library(head, f"{PACKAGE}.base").SegmentationHead(width, classes, kernel_size=kernel)
    return made


def _channels(dims: Sequence[int]) -> list[int]:
    """Of the image, of stride 2 and of the maps."""
    return [3, 0, *dims]


def _whole(maps: list[Tensor], least: int = 1) -> tuple[list[Tensor]]:
    """A list from stride 1 on: a shape, a map without channels, the maps."""
    maps = doubling(maps, least)
    count, _, height, width = maps[0].shape
    image = maps[0].new_zeros(1).expand(count, 3, 4 * height, 4 * width)
    return ([image, maps[0].new_zeros(count, 0, 2 * height, 2 * width), *maps],)


def _last(maps: list[Tensor]) -> tuple[list[Tensor]]:
    return (list(maps),)


def fpn(dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int, norm: str) -> nn.Module:
    """FPN: `fpn_dim` channels in the pyramid, 32 or more; half of them behind it."""
    neck, dims = pyramid("smp_fpn", dims, strides, norm)
    width = max(32, fpn_dim // 2)  # its group norm has 32 groups
    decoder = _decoder("smp_fpn", "fpn", "FPNDecoder")(_channels(dims), 5, fpn_dim, width)
    return SmpHead(neck, decoder, _classify("smp_fpn", width, num_classes, 1), _whole, norm)


def _steps(fpn_dim: int) -> tuple[int, ...]:
    return tuple(max(8, fpn_dim >> step) for step in range(5))


def unet(dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int, norm: str) -> nn.Module:
    """U-Net: `fpn_dim` channels at first, half of them at each doubling."""
    neck, dims = pyramid("smp_unet", dims, strides, norm)
    decoder = _decoder("smp_unet", "unet", "UnetDecoder")(_channels(dims), _steps(fpn_dim))
    return SmpHead(neck, decoder, _classify("smp_unet", _steps(fpn_dim)[-1], num_classes, 3), _whole, norm)


def manet(dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int, norm: str) -> nn.Module:
    """MAnet, as wide as the U-Net."""
    neck, dims = pyramid("smp_manet", dims, strides, norm)
    decoder = _decoder("smp_manet", "manet", "MAnetDecoder")(_channels(dims), _steps(fpn_dim))
    return SmpHead(neck, decoder, _classify("smp_manet", _steps(fpn_dim)[-1], num_classes, 3), _whole, norm)


def pspnet(dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int, norm: str) -> nn.Module:
    """PSPNet on the last map."""
    decoder = _decoder("smp_pspnet", "pspnet", "PSPDecoder")(list(dims), out_channels=fpn_dim)
    return SmpHead(nn.Identity(), decoder, _classify("smp_pspnet", fpn_dim, num_classes, 3), _last, norm)


def deeplabv3plus(
    dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int, norm: str
) -> nn.Module:
    """DeepLabV3+, whose last map is a quarter of the first: the coarsest is brought to that."""
    neck, dims = pyramid("smp_deeplabv3plus", dims, strides, norm, used=(0, 3))
    rates = rates_of(16)[1:]
    decoder = _decoder("smp_deeplabv3plus", "deeplabv3", "DeepLabV3PlusDecoder")(
        _channels(dims), 5, fpn_dim, rates, 16, True, 0.0
    )

    def taken(maps: list[Tensor]) -> tuple[list[Tensor]]:
        (whole,) = _whole(maps)
        whole[-1] = resized(whole[-1], whole[-2].shape[-2:])
        return (whole,)

    return SmpHead(neck, decoder, _classify("smp_deeplabv3plus", fpn_dim, num_classes, 1), taken, norm)


def pan(dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int, norm: str) -> nn.Module:
    """PAN: a last map of fewer than 8x8 places is enlarged to that."""
    neck, dims = pyramid("smp_pan", dims, strides, norm)
    decoder = _decoder("smp_pan", "pan", "PANDecoder")(_channels(dims), 5, fpn_dim)

    def taken(maps: list[Tensor]) -> tuple[list[Tensor]]:
        return _whole(maps, LEAST_PAN)

    return SmpHead(neck, decoder, _classify("smp_pan", fpn_dim, num_classes, 3), taken, norm)


def segformer(dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int, norm: str) -> nn.Module:
    """SegFormer's head, in the paper's form: linears with bias, one convolution."""
    neck, dims = pyramid("smp_segformer", dims, strides, norm)
    decoder = _decoder("smp_segformer", "segformer", "SegformerDecoder")(_channels(dims), 5, fpn_dim)
    return SmpHead(neck, decoder, _classify("smp_segformer", fpn_dim, num_classes, 1), _whole, norm)


def upernet(dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int, norm: str) -> nn.Module:
    """UPerNet with a layer norm of each map."""
    neck, dims = pyramid("smp_upernet", dims, strides, norm)
    decoder = _decoder("smp_upernet", "upernet", "UPerNetDecoder")(_channels(dims), 5, fpn_dim)
    return SmpHead(neck, decoder, _classify("smp_upernet", fpn_dim, num_classes, 1), _whole, norm)


def dpt(dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int, norm: str) -> nn.Module:
    """DPT (Ranftl et al. 2021, arXiv 2103.13413), made for the maps of a ViT; a patch counts as one of 16 pixels."""
    pyramid("smp_dpt", dims, strides, norm)  # four maps
    flat = len(set(strides)) == 1
    module = library("smp_dpt", f"{PACKAGE}.decoders.dpt.decoder")
    decoder = module.DPTDecoder(
        encoder_out_channels=list(dims),
        encoder_output_strides=[16] * 4 if flat else [4, 8, 16, 32],
        encoder_has_prefix_tokens=False,
        readout="ignore",
        intermediate_channels=(fpn_dim, 2 * fpn_dim, 4 * fpn_dim, 4 * fpn_dim),
        fusion_channels=fpn_dim,
    )
    classify = nn.Sequential(module.DPTSegmentationHead(fpn_dim, num_classes, upsampling=1.0))

    def taken(maps: list[Tensor]) -> tuple[Any, ...]:
        if not flat:
            return doubling(maps), [None] * 4
        even = tuple(side + side % 2 for side in maps[0].shape[-2:])
        return [level if tuple(level.shape[-2:]) == even else resized(level, even) for level in maps], [None] * 4

    return SmpHead(nn.Identity(), decoder, with_norm(classify, norm), taken, norm)
