"""OlmoEarth v1 to v1.3 on Sentinel-1 alone: the encoder of olmoearth-pretrain-minimal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given, carrier, require_patches

PACKAGE = "olmoearth_pretrain_minimal"
VERSIONS = ("v1", "v1.1", "v1.2", "v1.3")  # the package builds v1 for any other text, without a word
ASSUMED_MONTH, DAY, YEAR = 5, 15, 2020  # month 0 to 11
RESOLUTION = 10  # metres a pixel
SEEN = 0  # mask value of what the encoder reads


class OlmoEarth(Adapter):
    """Tokens of Sentinel-1, one time step; the other sensors are absent."""

    def __init__(self, network: nn.Module, sample: Any, patch: int):
        """`sample` is the package's class of a masked sample."""
        super().__init__(network)
        self.sample, self.patch = sample, patch

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, H, W) to (B, D, H/p, W/p)."""
        batch, _, height, width = images.shape
        require_patches("olmoearth", height, self.patch)
        months = torch.full((batch,), ASSUMED_MONTH, dtype=torch.long, device=images.device)
        months = given["month"].long() if "month" in given else months
        stamps = torch.stack([torch.full_like(months, DAY), months, torch.full_like(months, YEAR)], dim=-1)
        sample = self.sample(
            sentinel1=images.permute(0, 2, 3, 1)[:, :, :, None].contiguous(),  # (B, H, W, T, 2)
            sentinel1_mask=torch.full((batch, height, width, 1, 1), SEEN, dtype=torch.long, device=images.device),
            timestamps=stamps[:, None],
        )
        network: Any = self.network
        out = network(sample, patch_size=self.patch, input_res=RESOLUTION, fast_pass=True)
        tokens: Tensor = out["tokens_and_masks"].sentinel1  # (B, h, w, T, band sets, D)
        return tokens.mean((3, 4)).permute(0, 3, 1, 2).contiguous()


def make(entry: Encoder, size: int, patch: int) -> OlmoEarth:
    """The encoder with random weights, of a version and a size; raises BenchError on a version that is not there."""
    version, _, width = entry.variant.partition(" ")
    if version not in VERSIONS:
        raise unknown("version of OlmoEarth", version, VERSIONS)
    package = carrier(entry, PACKAGE)
    types = carrier(entry, f"{PACKAGE}.olmoearth_pretrain_v1.utils.datatypes")
    try:
        whole = package.OlmoEarthPretrain_v1(model_size=width, model_version=version, drop_path=0.0)
    except ValueError as error:
        raise BenchError(f"{entry.model} cannot be built ({error})", "choose another size") from error
    return OlmoEarth(whole.model.encoder, types.MaskedOlmoEarthSample, patch)
