"""Whether weights look as they were initialised: a file that loads cleanly and has learnt nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def untrained(tensors: Mapping[str, Tensor]) -> str | None:
    """Why a backbone's tensors look untrained, None where they do not.

    The criterion: every normalisation layer has the weights (all 1, or all 0 where residual branches start at zero) and biases
    (all 0) that initialisation gives it, which no step of training leaves; or a matrix or kernel holds one number throughout.
    """
    norms = [name for name, tensor in tensors.items() if name.endswith(".weight") and tensor.dim() == 1]
    if norms and all(_as_initialised(tensors, name) for name in norms):
        return f"all {len(norms)} normalisation layers are as initialised (weights 1, biases 0)"
    for name, tensor in tensors.items():
        if name.endswith(".weight") and tensor.dim() > 1 and tensor.numel() > 1 and tensor.is_floating_point():
            low, high = torch.aminmax(tensor)
            if low == high:
                return f"{name} holds the number {low.item():g} throughout"
    return None


def _as_initialised(tensors: Mapping[str, Tensor], weight: str) -> bool:
    values = tensors[weight]
    bias = tensors.get(weight.removesuffix("weight") + "bias")
    constant = bool((values == 1).all()) or bool((values == 0).all())
    return constant and (bias is None or not bool(bias.any()))
