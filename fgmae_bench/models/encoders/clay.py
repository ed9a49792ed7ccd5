"""Clay v1.5's encoder: kernels made from wavelengths, positions that know the resolution, a ViT, as its code has them.

Source: Clay-foundation/model @ a5790ce, claymodel/model.py, factory.py, backbone.py and utils.py; wavelengths in
micrometres and the resolution of `sentinel-1-rtc` in configs/metadata.yaml. Nothing is masked; time and place: zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.models.encoders.adapter import NOTHING, Adapter, Given, require_patches
from fgmae_bench.models.torchgeo_models import as_map

SHAPES = {"large": (1024, 24, 16, 64, 4)}  # width, blocks, heads, width of a head, ratio of the MLP
WAVES = (3.5, 4.0)  # micrometres, of VV and VH
RESOLUTION = 10  # metres a pixel
PATCH, WAVE_DIM, LATENT, WAVE_HEADS, SMALL = 8, 128, 128, 4, 0.02
METADATA = 8  # channels of time and place, behind those of the position
TEMPERATURE = 10_000


class Residual(nn.Module):
    """Two layers added to their input."""

    def __init__(self, width: int):
        super().__init__()
        self.l1, self.l2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) to (N, D)."""
        return x + functional.gelu(self.l2(functional.gelu(self.l1(x))))


class Generator(nn.Module):
    """Wavelengths to kernels: a transformer layer over learnt tokens, the wavelengths and a token of the bias."""

    def __init__(self, width: int):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WAVE_DIM, WAVE_HEADS, dropout=0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.fc_weight = nn.Linear(WAVE_DIM, PATCH**2 * width)
        self.fc_bias = nn.Linear(WAVE_DIM, width)
        self.weight_tokens = nn.Parameter(torch.randn(LATENT, WAVE_DIM) * SMALL)
        self.bias_token = nn.Parameter(torch.randn(1, WAVE_DIM) * SMALL)

    def forward(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """(C, 128) to kernels (C, D x 8 x 8) and a bias (D,)."""
        out = self.encoder(torch.cat([self.weight_tokens, waves, self.bias_token]))
        return self.fc_weight(out[LATENT:-1] + waves), self.fc_bias(out[-1])


class Patches(nn.Module):
    """Images to tokens, by kernels that follow from the bands' wavelengths."""

    def __init__(self, width: int):
        super().__init__()
        self.weight_generator, self.fclayer = Generator(width), Residual(WAVE_DIM)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 2, H, W) to (B, D, H/8, W/8)."""
        known = self.fclayer(sines(images.new_tensor(WAVES), TEMPERATURE ** -steps(WAVE_DIM // 2, images)))
        kernels, bias = self.weight_generator(known)
        kernels = kernels.unflatten(1, (-1, PATCH, PATCH)).transpose(0, 1)  # (D, 2, 8, 8)
        return functional.conv2d(images, kernels * SMALL, bias, stride=PATCH)


def steps(count: int, like: Tensor) -> Tensor:
    """From 0 to 1 in `count` values."""
    return torch.arange(count, device=like.device, dtype=like.dtype) / (count - 1)


def sines(places: Tensor, rates: Tensor) -> Tensor:
    """(N,) and (D/2,) to (N, D): all sines, then all cosines."""
    angles = places[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def positions(rows: int, columns: int, width: int, like: Tensor) -> Tensor:
    """(rows x columns, D): sines of the column, then of the row, at rates times the resolution."""
    rates = TEMPERATURE ** (-2 * steps(width // 4, like) / width) * RESOLUTION
    across, down = (sines(torch.arange(n, device=like.device, dtype=like.dtype), rates) for n in (columns, rows))
    return torch.cat([across.repeat(rows, 1), down.repeat_interleave(columns, 0)], dim=1)


class Attention(nn.Module):
    """Attention behind a norm."""

    def __init__(self, width: int, heads: int, head_width: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        q, k, v = self.to_qkv(self.norm(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed: Tensor = self.to_out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class FeedForward(nn.Module):
    """An MLP behind a norm."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        found: Tensor = self.net(tokens)
        return found


class Transformer(nn.Module):
    """Blocks and a last norm."""

    def __init__(self, width: int, depth: int, heads: int, head_width: int, ratio: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(width, heads, head_width), FeedForward(width, ratio * width)])
            for _ in range(depth)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        for layer in self.layers:
            for part in layer:  # type: ignore[attr-defined]
                tokens = tokens + part(tokens)
        found: Tensor = self.norm(tokens)
        return found


class Network(nn.Module):
    """The encoder under its publishers' names."""

    def __init__(self, width: int, depth: int, heads: int, head_width: int, ratio: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * SMALL)
        self.patch_embedding = Patches(width)
        self.transformer = Transformer(width, depth, heads, head_width, ratio)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 2, S, S) to tokens (B, 1 + N, D), the CLS token first."""
        found = self.patch_embedding(images)
        batch, width, rows, columns = found.shape
        where = positions(rows, columns, width - METADATA, images)
        tokens = found.flatten(2).transpose(1, 2) + functional.pad(where, (0, METADATA))
        tokens = self.transformer(torch.cat([self.cls_token.expand(batch, -1, -1), tokens], dim=1))
        return tokens


class Clay(Adapter):
    """Clay's encoder: its patch tokens as a map, its CLS token as features."""

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D, S/8, S/8)."""
        return as_map(self.network(images)[:, 1:])

    def pooled(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, S, S) to (B, D)."""
        tokens: Tensor = self.network(images)
        return tokens[:, 0]


def make(entry: Encoder, size: int, patch: int) -> Clay:
    """The encoder with random weights; raises BenchError on an input that patches do not divide."""
    require_patches(entry.model, size, patch)
    return Clay(Network(*SHAPES[entry.variant]))
