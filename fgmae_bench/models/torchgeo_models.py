"""Sentinel-1 encoders that torchgeo defines and timm does not, under our contract, not its transforms.

torchgeo is an optional extra (`pip install 'fgmae-bench[torchgeo]'`) and is imported only when one of these models is
built.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given, carrier, require_patches

# Of VV and VH in micrometres: of PANGAEA's and Copernicus-Bench's configuration; of DOFA's README.
DOFA_WAVELENGTHS = {"": [3.75, 3.75], "c-band": [5.405, 5.405]}
COPERNICUS_WAVELENGTHS, COPERNICUS_BANDWIDTHS = [5e7, 5e7], [1e9, 1e9]  # nm, Sentinel-1 in Copernicus-FM
PATCH_AREA = (16 * 10 / 1000) ** 2  # km2 of a patch token at 10 m a pixel
# Panopticon's ids of radar channels: VV, VH of an unknown orbit, ascending, descending.
CHANNEL_IDS = [-1.0, -2.0]


class Croma(Adapter):
    """CROMA's radar encoder: a map of its patch tokens (`sar_encodings`), and its own pooled features (`sar_GAP`)."""

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, S/8, S/8)."""
        return as_map(self.network(x_sar=images)["sar_encodings"])

    def pooled(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D)."""
        features: Tensor = self.network(x_sar=images)["sar_GAP"]
        return features


class Conditioned(Adapter):
    """DOFA or Copernicus-FM, given what Sentinel-1 is: a map of its patch tokens, and their normed mean."""

    optional = r"fc_norm\..*"  # torchgeo allows files without it: then it stays as it is made, ones and zeros

    def __init__(self, network: nn.Module, inputs: Callable[[Tensor, Given], dict[str, Any]]):
        super().__init__(network)
        self.inputs = inputs

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, h, w): patch tokens of the last block, normalised one by one."""
        network: Any = self.network
        kept: list[Tensor] = []
        handle = network.blocks[-1].register_forward_hook(lambda module, given, out: kept.append(out))
        try:
            self.pooled(images, given)
        finally:
            handle.remove()
        return as_map(network.fc_norm(kept[0][:, 1:]))

    def pooled(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D)."""
        network: Any = self.network
        features: Tensor = network.forward_features(images, **self.inputs(images, given))
        return features


class Panopticon(Adapter):
    """Panopticon, given the two channels as VV and VH: its patch tokens as a map, its CLS token as features."""

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, 768, S/14, S/14)."""
        network: Any = self.network
        return as_map(network.forward_features(self._input(images))[:, 1:])

    def pooled(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, 768)."""
        features: Tensor = self.network(self._input(images))
        return features

    @staticmethod
    def _input(images: Tensor) -> dict[str, Tensor]:
        ids = torch.tensor(CHANNEL_IDS, device=images.device).repeat(len(images), 1)
        return {"imgs": images.clone(), "chn_ids": ids}  # its channel embedding writes into both


class Swin(Adapter):
    """Satlas's Swin v2 on VH and VV: the last level as a map, its mean as features."""

    optional = r"head\..*"

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, 1024, S/32, S/32)."""
        network: Any = self.network
        levels: Tensor = network.permute(network.norm(network.features(images)))
        return levels


def make_encoder(entry: Encoder, size: int, patch: int) -> Adapter:
    """The encoder with random weights. Raises BenchError without torchgeo or at a size that it cannot take."""
    require_patches(entry.model, size, patch)
    return FACTORIES[entry.model](entry, size)


def _network(entry: Encoder, name: str = "", **options: Any) -> nn.Module:
    made: nn.Module = getattr(carrier(entry, "torchgeo.models"), name or entry.model)(**options)
    return made


def _croma(entry: Encoder, size: int) -> Adapter:
    return Croma(_network(entry, modalities=["sar"], image_size=size))


def _dofa(entry: Encoder, size: int) -> Adapter:
    network = _network(entry, entry.model.removesuffix("_c_band"), img_size=size, num_classes=0)
    return Conditioned(network, lambda images, given: {"wavelengths": DOFA_WAVELENGTHS[entry.variant]})


def _copernicus(entry: Encoder, size: int) -> Adapter:
    return Conditioned(_network(entry, img_size=size, num_classes=0), _copernicus_input)


def _panopticon(entry: Encoder, size: int) -> Adapter:
    made: Any = _network(entry, "panopticon_vitb14", img_size=size)
    return Panopticon(made.model)


def _satlas(entry: Encoder, size: int) -> Adapter:
    network: Any = _network(entry, "swin_v2_b")
    first = network.features[0][0]
    network.features[0][0] = nn.Conv2d(2, first.out_channels, kernel_size=4, stride=4)  # torchgeo does so with weights
    network.head = nn.Identity()
    return Swin(network)


def _copernicus_input(images: Tensor, given: Given) -> dict[str, Any]:
    """Longitude, latitude, days since 1970 and area of a patch token (km2). A column that is not given is NaN, for
    which the model uses what it learnt; one NaN would switch the whole batch, so a column is given for all or for none.
    """
    known = torch.full((len(images), 4), math.nan, device=images.device)
    if "location" in given:
        known[:, :2] = given["location"].to(known.dtype)
        known[:, 3] = PATCH_AREA
    return {
        "metadata": known,
        "wavelengths": COPERNICUS_WAVELENGTHS,
        "bandwidths": COPERNICUS_BANDWIDTHS,
        "input_mode": "spectral",
        "kernel_size": 16,
    }


def as_map(tokens: Tensor) -> Tensor:
    """(B, N, D) to (B, D, h, w) of a square grid."""
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).unflatten(2, (side, side))


FACTORIES: dict[str, Callable[[Encoder, int], Adapter]] = {
    "croma_base": _croma,
    "croma_large": _croma,
    "dofa_base_patch16_224": _dofa,
    "dofa_large_patch16_224": _dofa,
    "dofa_base_patch16_224_c_band": _dofa,
    "dofa_large_patch16_224_c_band": _dofa,
    "copernicusfm_base": _copernicus,
    "panopticon": _panopticon,
    "satlas-swin-b": _satlas,
}
