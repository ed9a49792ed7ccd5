"""What a segmentation model costs: its parameters, and the floating-point operations of one image."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fgmae_bench.models.segmenter import SegmentationModel, taps_of_images
from fgmae_bench.models.two_dates import TwoDates


def cost_of(model: SegmentationModel) -> dict[str, Any]:
    """The record's `cost`: parameters of backbone and head, GFLOPs of one image at the input's size, no energy.

    Operations are torch's count of convolutions, matrix products and attention, a multiplication and an addition each;
    elementwise work, norms and resizing are not in it. Of a cached run the backbone is counted too, for each
    of two dates.
    """
    taps = taps_of_images(model.taps)
    parameter = next(model.parameters())
    training = model.training
    model.eval()
    # a model of the user's may be float64
    channels = 4 if isinstance(taps, TwoDates) else 2
    image = torch.zeros(1, channels, *model.size, device=parameter.device, dtype=parameter.dtype)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.head(taps(image), model.size)
    model.train(training)
    return {
        "params": sum(p.numel() for p in model.parameters()),
        "gflops": counter.get_total_flops() / 1e9,
        "energy_joules": None,
    }
