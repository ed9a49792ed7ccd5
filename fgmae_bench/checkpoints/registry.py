"""Named weights: which published file belongs to which model, and where it lies once it was fetched."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fgmae_bench.checksums import PINS, noted
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.hub import Fetched, adopt, fetch
from fgmae_bench.hub_http import HubFile


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published checkpoint. `sha256` None: the hub's own is compared; `size` is in bytes, None where it was never seen."""

    hub: HubFile
    licence: str
    sha256: str | None = None
    size: int | None = None


# Revisions: torchgeo's ViT weights (SENTINEL1_GRD_FGMAE, SENTINEL1_GRD_MAE); encoders without decoder, as bare state dicts.
FGMAE_REPO, FGMAE_REVISION = "wangyi111/FGMAE", "24dd3077d7a99ecd454eaec7adb83d045d7fa122"
SSL4EO_REPO, SSL4EO_REVISION = "wangyi111/SSL4EO-S12", "75c72195d35201dc1fb210818993518c25da566b"


def _fgmae(file: str) -> Published:
    return Published(hub=HubFile(repo=FGMAE_REPO, file=file, revision=FGMAE_REVISION), licence="CC-BY-4.0")


def _ssl4eo(file: str) -> Published:
    return Published(hub=HubFile(repo=SSL4EO_REPO, file=file, revision=SSL4EO_REVISION), licence="not stated here; see the repository")


# Name of the weights -> model -> file.
WEIGHTS: dict[str, dict[str, Published]] = {
    "fgmae": {
        "vit_small_patch16": _fgmae("B2_vits16_fgmae_ep99_enc.pth"),
        "vit_base_patch16": _fgmae("B2_vitb16_fgmae_ep99_enc.pth"),
        "vit_large_patch16": _fgmae("B2_vitl16_fgmae_ep99_enc.pth"),
        "vit_huge_patch14": _fgmae("B2_vith14_fgmae_ep399_enc.pth"),
    },
    "ssl4eo-mae": {
        "vit_small_patch16": _ssl4eo("B2_vits16_mae_ep99_enc.pth"),
        "vit_base_patch16": _ssl4eo("B2_vitb16_mae_ep99_enc.pth"),
        "vit_large_patch16": _ssl4eo("B2_vitl16_mae_ep99_enc.pth"),
        "vit_huge_patch14": _ssl4eo("B2_vith14_mae_ep199_enc.pth"),
    },
}


def published(name: str, model: str) -> Published:
    """The entry of weights `name` for `model`; raises BenchError with the choices."""
    if name not in WEIGHTS:
        raise unknown("weights", name, WEIGHTS)
    if model not in WEIGHTS[name]:
        raise unknown(f"model of weights {name}:", model, WEIGHTS[name])
    return WEIGHTS[name][model]


def default_cache() -> Path:
    """The cache folder: $FGMAE_BENCH_CACHE, else ~/.cache/fgmae_bench."""
    return Path(os.environ.get("FGMAE_BENCH_CACHE") or "~/.cache/fgmae_bench").expanduser()


def weights_folder(cache: Path | None = None) -> Path:
    """Where fetched weights lie: `weights` in the cache folder."""
    return (cache.expanduser() if cache else default_cache()) / "weights"


def find_weights(name: str, model: str, folder: Path) -> Path | None:
    """The fetched and verified file in a weights folder, None where it is not. Raises BenchError when it has changed since."""
    entry = published(name, model)
    path = _place(name, entry, folder)
    return path if noted(path, str(entry.hub)) else None


def locate(name: str, model: str, cache: Path) -> Path:
    """The fetched and verified file below a cache folder; raises BenchError with the command that gets it."""
    path = find_weights(name, model, weights_folder(cache))
    if path is None:
        elsewhere = "" if cache.expanduser() == default_cache() else f" --cache_dir {cache}"
        get = f"python -m fgmae_bench.weights fetch {name} --model {model}{elsewhere}"
        raise BenchError(f"weights {name} for {model} are not here", f"get them with: {get}")
    return path


def fetch_weights(name: str, model: str, folder: Path, source: Path | None = None) -> Fetched:
    """Fetch and verify a named file into a weights folder, from the hub or from a folder that holds the published files."""
    entry = published(name, model)
    target, pins = _place(name, entry, folder), folder / PINS
    if source is None:
        return fetch(entry.hub, target, sha256=entry.sha256, pins=pins)
    return adopt(entry.hub, source / entry.hub.file, target, sha256=entry.sha256, pins=pins)


def _place(name: str, entry: Published, folder: Path) -> Path:
    return folder / name / entry.hub.file
