"""Sentinel-1 encoders that torchgeo defines and timm does not: CROMA, DOFA, Copernicus-FM, under our contract, not its
transforms.

torchgeo is an optional extra (`pip install 'fgmae-bench[torchgeo]'`) and is imported only when one of these models is
built.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fgmae_bench.errors import BenchError
from fgmae_bench.models.pooling import PooledMap

DOFA_WAVELENGTHS = [3.75, 3.75]  # of VV and VH, in DOFA's unit, as in PANGAEA's configuration
COPERNICUS_WAVELENGTHS, COPERNICUS_BANDWIDTHS = [5e7, 5e7], [1e9, 1e9]  # nm, Sentinel-1 in Copernicus-FM


class Croma(nn.Module):
    """CROMA's radar encoder: a map of its patch tokens (`sar_encodings`), and its own pooled features (`sar_GAP`)."""

    optional = ""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(B, 2, S, S) to (B, D, S/8, S/8)."""
        return _as_map(self.network(x_sar=images)["sar_encodings"])

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 2, S, S) to (B, D)."""
        features: Tensor = self.network(x_sar=images)["sar_GAP"]
        return features


class Conditioned(nn.Module):
    """DOFA or Copernicus-FM, given what Sentinel-1 is: a map of its patch tokens, and their normed mean."""

    optional = r"fc_norm\..*"  # torchgeo allows files without it: then it stays as it is made, ones and zeros

    def __init__(self, network: nn.Module, inputs: Callable[[Tensor], dict[str, Any]]):
        super().__init__()
        self.network, self.inputs = network, inputs

    def forward(self, images: Tensor) -> Tensor:
        """(B, 2, S, S) to (B, D, h, w): patch tokens of the last block, normalised one by one."""
        network: Any = self.network
        kept: list[Tensor] = []
        handle = network.blocks[-1].register_forward_hook(lambda module, given, out: kept.append(out))
        try:
            self.pooled(images)
        finally:
            handle.remove()
        return _as_map(network.fc_norm(kept[0][:, 1:]))

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 2, S, S) to (B, D)."""
        network: Any = self.network
        features: Tensor = network.forward_features(images, **self.inputs(images))
        return features


class OwnPool(PooledMap):
    """A model of this file by its own pooled features; its map stays at hand as `inner`."""

    inner: Croma | Conditioned

    def forward(self, images: Tensor) -> Tensor:
        """(B, 2, S, S) to (B, D)."""
        return self.inner.pooled(images)


def patch_of(name: str) -> int:
    """Side of a patch in pixels: 8 for CROMA, 16 for the others."""
    return 8 if name.startswith("croma") else 16


def make(name: str, size: int) -> Croma | Conditioned:
    """The model `name` with random weights. Raises BenchError without torchgeo or at a size that it cannot take."""
    patch = patch_of(name)
    if size % patch:
        good = size // patch * patch or patch
        raise BenchError(f"--input_size {size} is not divisible by the patch of {patch} px", f"use --input_size {good}")
    return FACTORIES[name](size)


def _network(name: str, **options: Any) -> nn.Module:
    try:
        models = importlib.import_module("torchgeo.models")
    except ImportError as error:
        todo = "install it with: pip install 'fgmae-bench[torchgeo]'"
        raise BenchError(f"the model {name} needs torchgeo, which cannot be imported ({error})", todo) from error
    made: nn.Module = getattr(models, name)(**options)
    return made


def _croma(name: str) -> Callable[[int], Croma | Conditioned]:
    return lambda size: Croma(_network(name, modalities=["sar"], image_size=size))


def _dofa(name: str) -> Callable[[int], Croma | Conditioned]:
    return lambda size: Conditioned(
        _network(name, img_size=size, num_classes=0), lambda images: {"wavelengths": DOFA_WAVELENGTHS}
    )


def _copernicus(name: str) -> Callable[[int], Croma | Conditioned]:
    return lambda size: Conditioned(_network(name, img_size=size, num_classes=0), _copernicus_input)


def _copernicus_input(images: Tensor) -> dict[str, Any]:
    """Place, time and area are unknown (NaN): the model then uses what it learnt for that."""
    unknown = torch.full((len(images), 4), math.nan, device=images.device)
    return {
        "metadata": unknown,
        "wavelengths": COPERNICUS_WAVELENGTHS,
        "bandwidths": COPERNICUS_BANDWIDTHS,
        "input_mode": "spectral",
        "kernel_size": 16,
    }


def _as_map(tokens: Tensor) -> Tensor:
    """(B, N, D) to (B, D, h, w) of a square grid."""
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).unflatten(2, (side, side))


FACTORIES: dict[str, Callable[[int], Croma | Conditioned]] = {
    "croma_base": _croma("croma_base"),
    "croma_large": _croma("croma_large"),
    "dofa_base_patch16_224": _dofa("dofa_base_patch16_224"),
    "dofa_large_patch16_224": _dofa("dofa_large_patch16_224"),
    "copernicusfm_base": _copernicus("copernicusfm_base"),
}
