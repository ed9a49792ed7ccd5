"""The interface that every encoder of the registry has, and how its library is found."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from fgmae_bench.config.encoders import Encoder
from fgmae_bench.errors import BenchError
from fgmae_bench.models.pooling import PooledMap, checked

Given = Mapping[str, Tensor]  # extra inputs of a batch by name: month (B,), day_of_year (B,), location (B, 2) lon, lat
NOTHING: Given = {}


class Adapter(nn.Module):
    """An encoder, images (B, 2, H, W) in its contract's range to a map; `network` is what its checkpoint fills."""

    optional = ""  # pattern of the keys that its files may lack
    has_map = True  # False where an image is one vector, which no decoder can take

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, H, W) to a map (B, D, h, w)."""
        raise NotImplementedError

    def pooled(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, H, W) to (B, D): the mean of the map."""
        features: Tensor = self(images, given).mean((2, 3))
        return features


class OwnPool(PooledMap):
    """An encoder by its own pooled features; its map stays at hand as `inner`."""

    inner: Adapter

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """(B, 2, H, W) to (B, D)."""
        features = self.inner.pooled(images, given)
        return checked(features, images, type(self.inner).__name__, (2,), "return (B, D) features")


def require_patches(name: str, size: int, patch: int) -> None:
    """Raise BenchError on an input that patches do not divide."""
    if size % patch:
        good = size // patch * patch or patch
        raise BenchError(f"--input_size {size} is not divisible by the patch of {patch} px", f"use --input_size {good}")


def carrier(entry: Encoder, module: str) -> Any:
    """A module of the library that carries the encoder; raises BenchError naming the extra where it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(entry, str(error)) from error


def missing(entry: Encoder, reason: str) -> BenchError:
    """The error of an encoder whose library cannot be imported."""
    todo = f"install it with: pip install 'fgmae-bench[{entry.extra}]'"
    return BenchError(f"the model {entry.model} needs {entry.carrier}, which cannot be imported ({reason})", todo)


def single_file(entry: Encoder, package: str, path: str) -> ModuleType:
    """One file of an installed package as a module, without the imports of the package around it.

    rslearn's own wrappers pull in rasterio, lightning and fsspec; the files with the architectures need torch and
    einops alone. Raises BenchError naming the extra where the package or the file is not there.
    """
    name = f"{__name__}.{package}.{Path(path).stem}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise missing(entry, f"No module named '{package}'")
    file = Path(next(iter(found.submodule_search_locations))) / path
    spec = importlib.util.spec_from_file_location(name, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise missing(entry, f"{package} has no {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        del sys.modules[name]
        raise missing(entry, str(error)) from error
    return module
