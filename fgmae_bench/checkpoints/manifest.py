"""The manifest of known checkpoints: where each is found, what it is, and the input contract of its training; in TOML.

The shipped one is `manifest.toml` in this folder. Users add theirs in a file of the same form:
`$FGMAE_BENCH_WEIGHTS`, by default `~/.config/fgmae_bench/weights.toml`; its entries stand above shipped ones of the
same name and model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fgmae_bench.config.contract import BANDS, InputContract
from fgmae_bench.config.strict import from_plain, load_toml
from fgmae_bench.errors import BenchError, closest, unknown
from fgmae_bench.hub.checksums import is_sha256
from fgmae_bench.system.endpoint import hub_endpoint
from fgmae_bench.views.normalizers import NORMALIZERS

SHIPPED = Path(__file__).with_name("manifest.toml")
RESERVED = ("random", "imagenet", "module")  # words of --weights that name no file
Layout = Literal["encoder", "full", "mae", "moco", "croma", "any"]


@dataclass(frozen=True, kw_only=True)
class StatedContract:
    """An input contract as the manifest states it: `mean` and `std` in dB per band, `size` in pixels; `source`: who
    says so. With the geometry `native`, images are taken as they are and `size` is 0.

    `assumed` where the publishers state no input for Sentinel-1.
    """

    source: str
    bands: tuple[str, ...]
    normalizer: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    calibration: str = "sigma0"
    missing_band: Literal["mean", "mask"] = "mean"  # mask: the encoder leaves out a band that is NaN
    geometry: Literal["resize_crop", "native"] = "resize_crop"
    assumed: bool = False
    transductive: bool = False  # statistics over the images of a batch

    def contract(self) -> InputContract:
        """What `views` works by."""
        return InputContract(
            bands=self.bands,
            normalizer=self.normalizer,
            mean=self.mean,
            std=self.std,
            size=self.size,
            calibration=self.calibration,
            missing_band=self.missing_band,
            geometry=self.geometry,
            assumed=self.assumed,
            transductive=self.transductive,
        )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One checkpoint. `contract` names a table of `contracts`; what is not known is left out.

    `size` is in bytes and exact; `about_mb` is a size as a listing prints it; `torchgeo` is the enum member that names
    the same file, `same_as` another name under which it is fetched. `places`, `period` and `labels` are those of
    pre-training, where published. `by_hand` says where a file is to be had that no address can be asked for.
    """

    name: str
    model: str
    file: str
    layout: Layout
    contract: str
    licence: str
    data: str
    repo: str = ""  # none for a file on this machine, which is named by its absolute path
    revision: str = ""
    keys: dict[str, str] = field(default_factory=dict)  # beginnings of the file's keys -> those of the model's
    prefix: str = ""  # beginning of the backbone's keys, where no layout says it
    same_as: str = ""
    by_hand: str = ""
    overlap: dict[str, str] = field(default_factory=dict)  # dataset's card -> what of it the pre-training has seen
    classes: Literal["", "alphabetical"] = ""  # order of the outputs of the head that the file holds
    places: str = ""
    period: str = ""
    labels: str = ""  # and what else it learnt from; "none" where it was images alone
    epochs: int | None = None
    size: int | None = None
    about_mb: float | None = None
    sha256: str | None = None
    torchgeo: str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One file: checkpoints, and the contracts that they name."""

    contracts: dict[str, StatedContract] = field(default_factory=dict)
    weights: tuple[Entry, ...] = ()


def user_manifest() -> Path | None:
    """The user's file, None without one; raises BenchError when $FGMAE_BENCH_WEIGHTS names a file that is not there."""
    named = os.environ.get("FGMAE_BENCH_WEIGHTS")
    path = Path(named or "~/.config/fgmae_bench/weights.toml").expanduser()
    if named and not path.is_file():
        raise BenchError(f"FGMAE_BENCH_WEIGHTS names {path}, which is not there", "correct or unset it")
    return path if path.is_file() else None


def read_manifest(path: Path, known: dict[str, StatedContract]) -> Manifest:
    """Read and check a manifest; `known` are contracts that its entries may name in addition to its own.

    Raises BenchError, naming file and entry, on an entry without a contract, repeats, unknown names and values that
    cannot be.
    """
    raw = load_toml(path)
    listed = raw.get("weights", [])
    for place, item in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(item, dict) and "contract" not in item:
            what = f"{path}: weights[{place}] ({item.get('name', 'unnamed')}) states no input contract"
            raise BenchError(
                what, f"name one with contract = ..., a table of [contracts] or one of {', '.join(sorted(known))}"
            )
    manifest = from_plain(Manifest, raw, str(path))
    for name, contract in manifest.contracts.items():
        _check_contract(contract, f"{path}: contracts.{name}")
    seen: set[tuple[str, str]] = set()
    for place, entry in enumerate(manifest.weights):
        where = f"{path}: weights[{place}]"
        if entry.contract not in {**known, **manifest.contracts}:
            raise BenchError(
                f"{where}: {(error := unknown('contract', entry.contract, {**known, **manifest.contracts})).what}",
                error.todo,
            )
        if (entry.name, entry.model) in seen:
            raise BenchError(f"{where} repeats {entry.name} for {entry.model}", "keep one of them")
        seen.add((entry.name, entry.model))
        _check_entry(entry, where)
    return manifest


def require_models(path: Path, entries: Collection[Entry], known: Collection[str]) -> None:
    """Raise BenchError, naming file, entry and the closest name, on a model that is neither `known` nor one of timm."""
    for place, entry in enumerate(entries):
        if entry.model in known:
            continue
        hub_endpoint()
        import timm  # here, because the manifest shall not wait for torch

        if not timm.is_model(entry.model):
            hint = closest(entry.model, [*known, *timm.list_models()]).split("?")[0]
            hint = f"{hint}? " if hint.startswith("did") else ""
            todo = f"{hint}choose from {', '.join(sorted(known))}, or any timm name"
            raise BenchError(f"{path}: weights[{place}] ({entry.name}): unknown model '{entry.model}'", todo)


def _check_entry(entry: Entry, where: str) -> None:
    if entry.sha256 is not None and not is_sha256(entry.sha256):
        raise BenchError(f"{where}: sha256 is '{entry.sha256}'", "give 64 lower-case hex digits, or leave it out")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", entry.name) or entry.name in RESERVED:
        raise BenchError(
            f"{where}: name is '{entry.name}'", "give letters, digits, - and _; random, imagenet and module are taken"
        )
    if entry.file.startswith("/"):
        if entry.repo or entry.revision:
            raise BenchError(
                f"{where}: file is '{entry.file}'", "give the file's path inside its repository, or leave repo out"
            )
        return
    if ".." in entry.file.split("/"):
        raise BenchError(f"{where}: file is '{entry.file}'", "give the file's path inside its repository")
    for name in ("repo", "revision"):
        if not getattr(entry, name):
            raise BenchError(f"{where}: key '{name}' is missing", "add it, or give the absolute path of a file")


def _check_contract(contract: StatedContract, where: str) -> None:
    if contract.normalizer not in NORMALIZERS:
        error = unknown("normalizer", contract.normalizer, NORMALIZERS)
        raise BenchError(f"{where}: {error.what}", error.todo)
    if sorted(contract.bands) != sorted(BANDS):
        raise BenchError(
            f"{where}: bands are {', '.join(contract.bands)}", f"give {' and '.join(BANDS)} in the order of the weights"
        )
    if len(contract.mean) != len(contract.bands) or len(contract.std) != len(contract.bands) or min(contract.std) <= 0:
        raise BenchError(f"{where}: mean and std do not fit", "give one value a band, std above 0")
    if (contract.size < 1) != (contract.geometry == "native"):
        raise BenchError(f"{where}: size is {contract.size}", "give the side of the input in pixels, 0 for native ones")
