"""Presto (arXiv 2304.14065) on Sentinel-1 alone, one vector a cell: the class of rslearn's `single_file_presto.py`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given, require_patches, single_file

CHANNELS = 17
NO_LAND_COVER = 9  # of Dynamic World: masked
ASSUMED_MONTH = 5  # 0 to 11
CELLS = 4096  # sequences a pass: a chip of 224 px in cells of 4 is 3,136 of them


class Presto(Adapter):
    """A transformer over the series of one place: here one time step, the mean dB of a cell of patch x patch pixels.

    The normaliser is affine, so the mean of normalised pixels is the normalised mean.
    """

    def __init__(self, network: nn.Module, patch: int):
        super().__init__(network)
        self.patch = patch

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, H, W) to (B, 128, H/p, W/p)."""
        require_patches("presto", images.shape[-1], self.patch)
        cells = avg_pool2d(images, self.patch)  # (B, 2, h, w)
        batch, bands, rows, columns = cells.shape
        x = cells.new_zeros((batch * rows * columns, 1, CHANNELS))
        x[:, 0, :bands] = cells.permute(0, 2, 3, 1).reshape(-1, bands)
        each = rows * columns
        place = given["location"].flip(-1) if "location" in given else images.new_zeros((batch, 2))  # lat, lon
        places = place.to(images.dtype).repeat_interleave(each, 0)
        months = given["month"].long().repeat_interleave(each)[:, None] if "month" in given else None
        parts = []
        for start in range(0, len(x), CELLS):
            part = slice(start, start + CELLS)
            month = ASSUMED_MONTH if months is None else months[part]
            parts.append(self._vectors(x[part], month, places[part]))
        return torch.cat(parts).view(batch, rows, columns, -1).permute(0, 3, 1, 2).contiguous()

    def _vectors(self, x: Tensor, month: Tensor | int, place: Tensor) -> Tensor:
        mask = torch.ones_like(x)
        mask[..., :2] = 0
        cover = torch.full(x.shape[:2], NO_LAND_COVER, dtype=torch.long, device=x.device)
        vectors: Tensor = self.network(x=x, dynamic_world=cover, latlons=place, mask=mask, month=month)
        return vectors


def make(entry: Encoder, size: int, patch: int) -> Presto:
    """Presto's encoder with random weights."""
    code = single_file(entry, "rslearn", "models/presto/single_file_presto.py")
    return Presto(code.Presto.construct().encoder, patch)
