"""Keys and shapes of the published Vision Transformers, derived from their architecture; tests hold them against the
reference classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]
HOG_OUTPUTS = 9 * 4  # orientation bins x cells of a patch, a channel (arXiv 2310.18653 and its code)
HOG_WINDOW = 16


@dataclass(frozen=True, kw_only=True)
class VitShape:
    """A masked autoencoder: encoder of `depth` blocks, `dim` wide, on `size` pixels cut into patches; MLP ratio 4."""

    dim: int
    depth: int
    heads: int
    patch: int = 16
    size: int = 224
    channels: int = 2
    decoder_dim: int = 512
    decoder_depth: int = 8

    @property
    def tokens(self) -> int:
        """Patches and the CLS token."""
        return (self.size // self.patch) ** 2 + 1


# The names are FGMAE's; the decoder is the same for all (zhu-xlab/FGMAE, models_mae.py).
ARCHITECTURES = {
    "vit_small_patch16": VitShape(dim=384, depth=12, heads=6),
    "vit_base_patch16": VitShape(dim=768, depth=12, heads=12),
    "vit_large_patch16": VitShape(dim=1024, depth=24, heads=16),
    "vit_huge_patch14": VitShape(dim=1280, depth=32, heads=16, patch=14),
}


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What the keys and shapes of a ViT say about it."""

    dim: int
    depth: int
    patch: int
    channels: int

    @property
    def name(self) -> str:
        """The architecture of this width, depth and patch, or its numbers."""
        for name, vit in ARCHITECTURES.items():
            if (vit.dim, vit.depth, vit.patch) == (self.dim, self.depth, self.patch):
                return name
        return f"a ViT {self.dim} wide, {self.depth} deep, patch {self.patch}"


def geometry(shapes: Mapping[str, Sequence[int]]) -> Geometry | None:
    """The geometry of a state dict without prefix, None for anything but a ViT."""
    projection = tuple(shapes.get("patch_embed.proj.weight", ()))
    blocks = [int(found[1]) for name in shapes if (found := re.match(r"blocks\.(\d{1,6})\.", name))]
    if len(projection) != 4:
        return None
    dim, channels, patch, _ = projection
    return Geometry(dim=dim, depth=max(blocks, default=-1) + 1, patch=patch, channels=channels)


def named_widths(dim: int) -> str:
    """' (vit_base_patch16)' for a width that a published model has, else ''."""
    names = [name for name, vit in ARCHITECTURES.items() if vit.dim == dim]
    return f" ({', '.join(names)})" if names else ""


def encoder_shapes(vit: VitShape) -> dict[str, Shape]:
    """What a backbone uses: 150 keys for S and B, 294 for L, 390 for H."""
    shapes: dict[str, Shape] = {
        "cls_token": (1, 1, vit.dim),
        "pos_embed": (1, vit.tokens, vit.dim),
        "patch_embed.proj.weight": (vit.dim, vit.channels, vit.patch, vit.patch),
        "patch_embed.proj.bias": (vit.dim,),
    }
    for block in range(vit.depth):
        shapes |= _block(f"blocks.{block}", vit.dim)
    return shapes | _affine("norm", vit.dim)


def full_shapes(vit: VitShape, hog: bool) -> dict[str, Shape]:
    """The pre-training state dict: encoder, decoder and, with `hog`, FGMAE's target layer; without, the pixels of raw
    MAE.
    """
    dim = vit.decoder_dim
    outputs = vit.channels * (HOG_OUTPUTS if hog else vit.patch**2)
    shapes = encoder_shapes(vit)
    shapes |= {"mask_token": (1, 1, dim), "decoder_pos_embed": (1, vit.tokens, dim)}
    shapes |= {"decoder_embed.weight": (dim, vit.dim), "decoder_embed.bias": (dim,)}
    for block in range(vit.decoder_depth):
        shapes |= _block(f"decoder_blocks.{block}", dim)
    shapes |= _affine("decoder_norm", dim) | {"decoder_pred.weight": (outputs, dim), "decoder_pred.bias": (outputs,)}
    if hog:
        sobel = (vit.channels, 1, 3, 3)
        shapes |= {"hog.weight_x": sobel, "hog.weight_y": sobel, "hog.gkern": (HOG_WINDOW, HOG_WINDOW)}
    return shapes


def _affine(name: str, dim: int) -> dict[str, Shape]:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def _block(name: str, dim: int) -> dict[str, Shape]:
    """Pre-norm transformer block of timm, 12 keys."""
    linear = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "mlp.fc1": (4 * dim, dim), "mlp.fc2": (dim, 4 * dim)}
    shapes = _affine(f"{name}.norm1", dim) | _affine(f"{name}.norm2", dim)
    for part, weight in linear.items():
        shapes |= {f"{name}.{part}.weight": weight, f"{name}.{part}.bias": weight[:1]}
    return shapes
