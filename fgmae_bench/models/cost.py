"""What a model costs: its parameters, and the floating-point operations of one image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fgmae_bench.models.backbone import Backbone
from fgmae_bench.models.segmenter import SegmentationModel, taps_of_images
from fgmae_bench.models.two_dates import TwoDates


def cost_of(model: SegmentationModel) -> dict[str, Any]:
    """The record's `cost`: parameters of backbone and head, GFLOPs of one image at the input's size, no energy.

    Of a cached run the backbone is counted too, for each of two dates.
    """
    taps = taps_of_images(model.taps)
    parameter = next(model.parameters())
    channels = 4 if isinstance(taps, TwoDates) else 2
    # a model of the user's may be float64
    image = torch.zeros(1, channels, *model.size, device=parameter.device, dtype=parameter.dtype)
    return _cost(_params(model), gflops_of(model, lambda: model.head(taps(image), model.size)))


def cost_of_classifier(model: nn.Module, image: Tensor) -> dict[str, Any]:
    """The same of a model of one image (1, C, S, S)."""
    return _cost(_params(model), gflops_of(model, lambda: model(image)))


def cost_of_probe(backbone: Backbone, image: Callable[[], Tensor], given: dict[str, Tensor]) -> dict[str, Any]:
    """The same of a frozen backbone alone; `image` is asked for only where the backbone has parameters."""
    module = backbone.module
    if not backbone.params:
        return _cost(0, None)
    image_ = image()
    return _cost(backbone.params, gflops_of(module, lambda: module(image_, given) if given else module(image_)))


def with_linear_head(cost: dict[str, Any], dim: int, outputs: int) -> dict[str, Any]:
    """The cost of a backbone with a linear layer and its bias on (dim,) features; a layer alone has no GFLOPs."""
    gflops = None if cost["gflops"] is None else cost["gflops"] + 2 * dim * outputs / 1e9
    return {**cost, "params": cost["params"] + (dim + 1) * outputs, "gflops": gflops}


def gflops_of(model: nn.Module, forward: Callable[[], Any]) -> float | None:
    """1e9 floating-point operations of a forward pass in evaluation mode; None where none of those counted occurs.

    Operations are torch's count of convolutions, matrix products and attention, a multiplication and an addition each;
    elementwise work, norms and resizing are not in it.
    """
    modes = [(module, module.training) for module in model.modules()]  # of a frozen part too
    model.eval()
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            forward()
    finally:
        for module, training in modes:
            module.training = training
    return counter.get_total_flops() / 1e9 or None


def _params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _cost(params: int, gflops: float | None) -> dict[str, Any]:
    return {"params": params, "gflops": gflops, "energy_joules": None}
