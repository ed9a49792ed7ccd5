"""Whether a checkpoint gives the features that its publishers' own code gave: `weights verify --features FILE`.

FILE is an npz of `x_db` (N, 2, H, W), dB, VV first, and of features of these chips, maps (N, D, h, w) or means (N, D):
`galileo_map`, `galileo_p8_mean`, ... by the weights or the model, and the patch where it is not the usual one.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fgmae_bench.config.encoders import adapter_of
from fgmae_bench.config.run import Model
from fgmae_bench.data.sample_cache import BROKEN_ARRAY
from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import build_backbone
from fgmae_bench.views.normalizers import normalize

CHIPS = "x_db"
NAME = re.compile(r"(?P<of>.+?)(?:_p(?P<patch>\d+))?_(?P<kind>map|mean)")
TOLERANCE = 1e-5
FORM = f"give an npz of {CHIPS} (N, 2, H, W) in dB and of features such as galileo_map or presto_mean"
MOST_BYTES, MOST_TIMES = 64 << 20, 16  # what it may unpack to, and how many times its own size


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Features of chips: `kind` map or mean, at a patch size; None is the encoder's usual one."""

    name: str
    patch: int | None
    kind: str
    values: NDArray[Any]


def differences(path: Path, model: str, weights: Path) -> list[str]:
    """What is wrong with the features of `weights`, one text an array of the file; empty where all agree to 1e-5.

    Raises BenchError where the file is none of features, or has none of this model.
    """
    chips, arrays = read_features(path)
    entry = adapter_of(model)
    names = {model} | ({entry.weights} if entry else set())
    expected = list(_of(names, arrays))
    if not expected:
        held = ", ".join(sorted(arrays)) or "none"
        raise BenchError(f"{path} holds no features of {model}: {held}", f"name them {sorted(names)[0]}_map or _mean")
    return [text for each in expected if (text := _difference(each, chips, model, weights))]


def _of(names: set[str], arrays: dict[str, NDArray[Any]]) -> Iterator[Expected]:
    for name, values in arrays.items():
        found = NAME.fullmatch(name)
        if found is not None and found["of"] in names:
            patch = int(found["patch"]) if found["patch"] else None
            yield Expected(name=name, patch=patch, kind=found["kind"], values=values)


def _difference(expected: Expected, chips: NDArray[np.float32], model: str, weights: Path) -> str | None:
    """Why an array and the model's own features differ, None where they do not."""
    asked = Model(model=model, weights=str(weights), patch_size=expected.patch)
    backbone: Any = build_backbone(asked, 0, data_size=chips.shape[2:])
    side = backbone.contract.size
    if chips.shape[2:] != (side, side):
        return f"{expected.name}: its chips are {chips.shape[2]}x{chips.shape[3]} px, {model} takes {side} px"
    network = backbone.module if expected.kind == "mean" else getattr(backbone.module, "inner", None)
    if network is None:
        return f"{expected.name}: {model} makes no map"
    with torch.inference_mode():
        found = network(torch.from_numpy(normalize(chips.copy(), None, backbone.contract))).numpy()
    if found.shape != expected.values.shape:
        return f"{expected.name} is {expected.values.shape}, the model's features are {found.shape}"
    worst = float(np.abs(found.astype(np.float64) - expected.values).max())
    if worst <= TOLERANCE:
        return None
    return f"{expected.name} differs by up to {worst:.2g} (at most {TOLERANCE:g})"


def read_features(path: Path) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
    """(chips, the other arrays of numbers) of an npz; raises BenchError on anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            taken = sum(member.file_size for member in archive.infolist())
        if taken > max(MOST_BYTES, MOST_TIMES * path.stat().st_size):
            raise ValueError(f"it unpacks to {taken >> 20} MiB")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, NotImplementedError, *BROKEN_ARRAY) as error:
        raise BenchError(f"{path} holds no features ({' '.join(str(error).split())[:120]})", FORM) from error
    numbers = {name: held for name, held in arrays.items() if held.dtype.kind == "f" and held.size}
    bad = [name for name, held in numbers.items() if not np.isfinite(held).all()]
    if bad:
        raise BenchError(f"{path}: {bad[0]} holds NaN or infinity", FORM)
    chips = numbers.pop(CHIPS, np.empty(0))
    if chips.ndim != 4 or chips.shape[1] != 2:
        raise BenchError(f"{path} holds no {CHIPS} of shape (N, 2, H, W)", FORM)
    return np.ascontiguousarray(chips, np.float32), numbers
