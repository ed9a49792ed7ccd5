"""Galileo (arXiv 2502.09356) on Sentinel-1 alone: the class of rslearn's copy of `single_file_galileo.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given, require_patches, single_file

# Of the published config.json of each size; the rest is equal for all.
SIZES: dict[str, dict[str, int]] = {
    "nano": {"embedding_size": 128, "depth": 4, "num_heads": 8},
    "tiny": {"embedding_size": 192, "depth": 12, "num_heads": 3},
    "base": {"embedding_size": 768, "depth": 12, "num_heads": 12},
}
ASSUMED_MONTH = 5  # 0 to 11; what the publishers' code takes where none is given
RESOLUTION = 10  # metres a pixel
S1 = 0  # of the groups of channels in space and time


class Galileo(Adapter):
    """Tokens of the Sentinel-1 group, one time step; every other sensor is masked."""

    def __init__(self, network: nn.Module, code: Any, patch: int):
        """`code` is the module of the class: it says how many channels there are, and in which groups."""
        super().__init__(network)
        self.patch = patch
        self.groups = {
            "space_time": (len(code.SPACE_TIME_BANDS), len(code.SPACE_TIME_BANDS_GROUPS_IDX)),
            "space": (len(code.SPACE_BANDS), len(code.SPACE_BAND_GROUPS_IDX)),
            "time": (len(code.TIME_BANDS), len(code.TIME_BAND_GROUPS_IDX)),
            "static": (len(code.STATIC_BANDS), len(code.STATIC_BAND_GROUPS_IDX)),
        }
        self.place = list(code.STATIC_BAND_GROUPS_IDX).index("location"), code.STATIC_BAND_GROUPS_IDX["location"]

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, H, W) to (B, D, H/p, W/p)."""
        tokens = self._tokens(images, given)[0]  # (B, h, w, T, groups, D)
        return tokens[:, :, :, 0, S1].permute(0, 3, 1, 2).contiguous()

    def pooled(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, H, W) to (B, D): the mean of all unmasked tokens, as the publishers pool; with a location its token
        is one of them.
        """
        network: Any = self.network
        features: Tensor = network.average_tokens(*self._tokens(images, given)[:8])
        return features

    def _tokens(self, images: Tensor, given: Given) -> Any:
        batch, _, height, width = images.shape
        require_patches("galileo", height, self.patch)

        def masked(kind: str, *where: int) -> tuple[Tensor, Tensor]:
            channels, groups = self.groups[kind]
            return images.new_zeros((batch, *where, channels)), images.new_ones((batch, *where, groups))

        s_t_x, s_t_m = masked("space_time", height, width, 1)
        sp_x, sp_m = masked("space", height, width)
        t_x, t_m = masked("time", 1)
        st_x, st_m = masked("static")
        s_t_x[..., :2] = images.permute(0, 2, 3, 1)[:, :, :, None]
        s_t_m[..., S1] = 0
        months = torch.full((batch, 1), ASSUMED_MONTH, dtype=torch.long, device=images.device)
        if "month" in given:
            months = given["month"].long()[:, None]
        if "location" in given:
            group, channels = self.place
            st_x[:, channels] = on_sphere(given["location"]).to(images.dtype)
            st_m[:, group] = 0
        return self.network(
            s_t_x, sp_x, t_x, st_x, s_t_m, sp_m, t_m, st_m, months, patch_size=self.patch, input_resolution_m=RESOLUTION
        )


def on_sphere(location: Tensor) -> Tensor:
    """Longitude and latitude (B, 2) in degrees to points of the unit sphere (B, 3)."""
    lon, lat = torch.deg2rad(location.double()).unbind(-1)
    return torch.stack([torch.cos(lat) * torch.cos(lon), torch.cos(lat) * torch.sin(lon), torch.sin(lat)], dim=-1)


def make(entry: Encoder, size: int, patch: int) -> Galileo:
    """Galileo with random weights, stochastic depth left out: its backbone is frozen or trained by our own recipe."""
    code = single_file(entry, "rslearn", "models/galileo/single_file_galileo.py")
    network = code.Encoder(max_patch_size=8, mlp_ratio=4, max_sequence_length=24, drop_path=0.0, **SIZES[entry.variant])
    return Galileo(network, code, patch)
