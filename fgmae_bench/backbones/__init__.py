"""Backbones: the published architectures, any timm model, backscatter statistics, or a factory of the user's; images to features."""

from fgmae_bench.backbones.architectures import FGMAE_ARCHITECTURES, TORCHGEO_ARCHITECTURES, architecture, patch_side
from fgmae_bench.backbones.build import build_backbone, wrap_module
from fgmae_bench.backbones.contracts import resolve_contract
from fgmae_bench.backbones.frozen import Backbone, WeightsReport
from fgmae_bench.backbones.weights import find_weights_file
from fgmae_bench.extractors import BackscatterStats, Pool, PooledMap, TokenPool

__all__ = [
    "FGMAE_ARCHITECTURES",
    "TORCHGEO_ARCHITECTURES",
    "Backbone",
    "BackscatterStats",
    "Pool",
    "PooledMap",
    "TokenPool",
    "WeightsReport",
    "architecture",
    "build_backbone",
    "find_weights_file",
    "patch_side",
    "resolve_contract",
    "wrap_module",
]  # fmt: skip
