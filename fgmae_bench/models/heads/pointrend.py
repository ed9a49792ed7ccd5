"""PointRend (Kirillov et al. 2020, arXiv 1912.08193): Semantic FPN, refined at the points where it is least certain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fgmae_bench.models.heads.layers import resized, sampled
from fgmae_bench.models.heads.outputs import POINTS, Extra, Learnt
from fgmae_bench.models.heads.semantic_fpn import SemanticFPN

TRAINED, CANDIDATES, UNCERTAIN = 2048, 3, 0.75  # points an image, candidates a point, share of the least certain
REFINED, DOUBLINGS = 8196, 2  # points a doubling in evaluation


def uncertainty(logits: Tensor) -> Tensor:
    """(B, K, N) to (B, N): minus the gap between the two best classes; of one class, minus its distance from 0."""
    if logits.shape[1] == 1:
        return -logits[:, 0].abs()
    best = logits.topk(2, dim=1).values
    return best[:, 1] - best[:, 0]


class PointConv(nn.Module):
    """A linear layer of each point, under the name that mmcv gives it."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.conv = nn.Conv1d(inside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, P) to (B, D, P)."""
        return torch.relu(self.conv(x))


class PointHead(nn.Module):
    """Three layers on the fine features of points, each with the coarse logits appended, then a classifier."""

    def __init__(self, dim: int, num_classes: int, width: int):
        super().__init__()
        insides = (dim, width, width)
        self.fcs = nn.ModuleList([PointConv(inside + num_classes, width) for inside in insides])
        self.fc_seg = nn.Conv1d(width + num_classes, num_classes, 1)
        nn.init.normal_(self.fc_seg.weight, std=0.01)
        nn.init.zeros_(self.fc_seg.bias)  # type: ignore[arg-type]

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Features (B, C, P) and logits (B, K, P) of points to logits (B, K, P)."""
        x = torch.cat([fine, coarse], dim=1)
        for layer in self.fcs:
            x = torch.cat([layer(x), coarse], dim=1)
        logits: Tensor = self.fc_seg(x)
        return logits


class PointRend(SemanticFPN):
    """The coarse head, and in training also the loss of points; in evaluation two doublings, refined."""

    drawn: Tensor

    def __init__(
        self, dims: Sequence[int], strides: Sequence[int], num_classes: int, *, fpn_dim: int = 256, norm: str = "batch"
    ):
        """`dims` and `strides` of four maps, finest first."""
        super().__init__(dims, strides, num_classes, fpn_dim=fpn_dim, norm=norm)
        self.points = PointHead(fpn_dim, num_classes, fpn_dim)
        # batches so far, from which points are drawn: the same for all images and on all processes
        self.register_buffer("drawn", torch.tensor(0, dtype=torch.long))

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor | Learnt:
        """Logits (B, K, *size), and in training also points with theirs."""
        levels = self.neck(maps)
        coarse = self.decode(levels)
        if not self.training:
            return resized(self.refined(levels[0], coarse), size)
        points = self.chosen(coarse.detach())
        logits = self.points(sampled(levels[0], points), sampled(coarse, points))
        return Learnt(resized(coarse, size), (Extra(POINTS, 1.0, (logits, points)),))

    def chosen(self, coarse: Tensor) -> Tensor:
        """(B, P, 2): of three times as many uniform candidates the least certain, and uniform ones."""
        random = torch.Generator().manual_seed(int(self.drawn))
        self.drawn += 1
        candidates, others = (
            torch.rand(1, count, 2, generator=random).to(coarse).expand(len(coarse), -1, -1)
            for count in (CANDIDATES * TRAINED, TRAINED - int(UNCERTAIN * TRAINED))
        )
        least = uncertainty(sampled(coarse, candidates)).topk(int(UNCERTAIN * TRAINED), dim=1).indices
        return torch.cat([candidates.gather(1, least.unsqueeze(-1).expand(-1, -1, 2)), others], dim=1)

    def refined(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Logits (B, K, 4h, 4w): twice doubled, and replaced where they are least certain."""
        found = coarse
        for _ in range(DOUBLINGS):
            height, width = (2 * side for side in found.shape[-2:])
            found = resized(found, (height, width))
            least = uncertainty(found.flatten(2)).topk(min(REFINED, height * width), dim=1).indices  # (B, P)
            points = torch.stack([(least % width + 0.5) / width, (least // width + 0.5) / height], dim=-1).to(fine)
            logits = self.points(sampled(fine, points), sampled(coarse, points)).to(found.dtype)
            places = least.unsqueeze(1).expand(-1, found.shape[1], -1)
            found = found.flatten(2).scatter(2, places, logits).unflatten(2, (height, width))
        return found
