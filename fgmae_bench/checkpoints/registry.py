"""Named weights: which published file belongs to which model, its training data, where it is once fetched."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from fgmae_bench.checkpoints.factory_files import factory_files
from fgmae_bench.checkpoints.manifest import (
    SHIPPED,
    Entry,
    StatedContract,
    read_manifest,
    require_models,
    user_manifest,
)
from fgmae_bench.checkpoints.shapes import ARCHITECTURES
from fgmae_bench.config.contract import InputContract
from fgmae_bench.config.encoders import encoders
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.hub.checksums import PINS, noted, sha256_of
from fgmae_bench.hub.fetch import Fetched, adopt, fetch
from fgmae_bench.hub.http import HubFile

if TYPE_CHECKING:
    from fgmae_bench.checkpoints.reader import State  # it imports torch


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published checkpoint. `sha256` None: the hub's own is compared; `entry` is all that the manifest says of it."""

    hub: HubFile
    contract: InputContract
    entry: Entry

    @property
    def licence(self) -> str:
        """Licence of the weights."""
        return self.entry.licence

    @property
    def sha256(self) -> str | None:
        """SHA-256 where it is known."""
        return self.entry.sha256


# Names that files of many models have: they say nothing about a file.
COMMON_NAMES = (
    "model.safetensors",
    "pytorch_model.bin",
    "weights.pth",
    "encoder.pt",
    "default_model.pt",
    "epoch_099.pt",
)
Registry = dict[str, dict[str, Published]]  # name of the weights -> model -> file


def _registry(entries: tuple[Entry, ...], contracts: dict[str, StatedContract]) -> Registry:
    named: Registry = {}
    for entry in entries:
        hub = HubFile(repo=entry.repo, file=entry.file, revision=entry.revision)
        named.setdefault(entry.name, {})[entry.model] = Published(
            hub=hub, contract=contracts[entry.contract].contract(), entry=entry
        )
    return named


_SHIPPED = read_manifest(SHIPPED, {})
WEIGHTS: Registry = _registry(_SHIPPED.weights, _SHIPPED.contracts)


def registered() -> Registry:
    """All known weights: the shipped ones, and above them those of the user's file."""
    path = user_manifest()
    if path is None:
        return WEIGHTS
    own = read_manifest(path, _SHIPPED.contracts)
    require_models(
        path,
        own.weights,
        {*ARCHITECTURES, *(e.model for e in _SHIPPED.weights), *(e.model for e in encoders().values())},
    )
    theirs = _registry(own.weights, {**_SHIPPED.contracts, **own.contracts})
    return {
        name: {**WEIGHTS.get(name, {}), **theirs.get(name, {})}
        for name in [*WEIGHTS, *(n for n in theirs if n not in WEIGHTS)]
    }


def stated_contracts() -> dict[str, StatedContract]:
    """The named contracts of the shipped manifest and of the user's."""
    path = user_manifest()
    return {**_SHIPPED.contracts, **(read_manifest(path, _SHIPPED.contracts).contracts if path else {})}


def published(name: str, model: str) -> Published:
    """The entry of weights `name` for `model`; raises BenchError with the choices."""
    known = registered()
    if name not in known:
        raise unknown("weights", name, known)
    if model not in known[name]:
        raise unknown(f"model of weights {name}:", model, known[name])
    return known[name][model]


def by_file(path: Path, sha256: str | None = None, model: str | None = None) -> Published | None:
    """The entry that a file is, by its SHA-256, or by its published name where that says whose file it is; None for any
    other. Of several entries of one file that of `model` comes first.
    """
    entries = [entry for models in registered().values() for entry in models.values()]
    found = [entry for entry in entries if sha256 and entry.sha256 == sha256]
    if not found and path.name not in COMMON_NAMES:
        found = [entry for entry in entries if Path(entry.hub.file).name == path.name]
    return next((entry for entry in found if entry.entry.model == model), next(iter(found), None))


def entry_of(weights: str, model: str, state: State) -> Published | None:
    """The entry of what `--weights` names, a registered name or a file, for a model; None where there is none."""
    named = registered().get(weights, {}).get(model)
    if named is not None:
        return named
    found = by_file(state.path, state.sha256, model)
    return found if found is not None and found.entry.model == model else None


def default_cache() -> Path:
    """The cache folder: $FGMAE_BENCH_CACHE, else ~/.cache/fgmae_bench."""
    return Path(os.environ.get("FGMAE_BENCH_CACHE") or "~/.cache/fgmae_bench").expanduser()


def weights_folder(cache: Path | None = None) -> Path:
    """The folder of fetched weights: `weights` in the cache folder."""
    return (cache.expanduser() if cache else default_cache()) / "weights"


def find_weights(name: str, model: str, folder: Path) -> Path | None:
    """The fetched and verified file in a weights folder, None where it is not. Raises BenchError when it has changed
    since.
    """
    entry = published(name, model)
    path = place_of(name, entry, folder)
    return path if noted(path, str(entry.hub)) else None


def locate(name: str, model: str, cache: Path) -> Path:
    """The fetched and verified file below a cache folder; raises BenchError with the command that gets it."""
    entry = published(name, model)
    own = Path(entry.entry.file)
    if own.is_absolute():
        if not own.is_file():
            raise BenchError(f"weights {name} for {model}: {own} is not there", "correct the manifest that names it")
        if entry.sha256 is not None and sha256_of(own) != entry.sha256:
            raise BenchError(f"{own} has another SHA-256 than the manifest states", "restore the file, or correct it")
        return own
    path = find_weights(name, model, weights_folder(cache))
    if path is None:
        elsewhere = "" if cache.expanduser() == default_cache() else f" --cache_dir {quote(str(cache))}"
        get = f"python -m fgmae_bench.weights fetch {name} --model {model}{elsewhere}"
        raise BenchError(f"weights {name} for {model} are not here", f"get them with: {get}")
    return path


def files_of(model: str, weights: str, cache: Path) -> tuple[Path, ...]:
    """The places that a model with its weights comes from, read or not: a file of weights, the code of a factory.

    Nothing is imported or verified; () where weights are random, none, or a hub's.
    """
    found: list[Path] = []
    if ":" in model:
        found += factory_files(model.partition(":")[0])
    known = registered()
    if weights in known and model in known[weights]:
        entry = known[weights][model]
        own = Path(entry.entry.file)
        found.append(own if own.is_absolute() else place_of(weights, entry, weights_folder(cache)))
    elif weights not in known and ("/" in weights or "." in weights):
        path = Path(weights)
        found.append(path)
        if path.name.endswith(".index.json"):  # of a file in shards
            found += sorted(path.parent.glob("*.safetensors"))
    return tuple(found)


def fetch_weights(name: str, model: str, folder: Path, source: Path | None = None, *, repin: bool = False) -> Fetched:
    """Fetch and verify a named file into a weights folder, from the hub, from a folder that holds the published
    files, or from the file itself. `repin` fetches it anew and replaces its pin.
    """
    entry = published(name, model)
    if Path(entry.entry.file).is_absolute():
        raise BenchError(
            f"weights {name} for {model} are a file of this machine: {entry.entry.file}", "use it as it is"
        )
    target, pins, size = place_of(name, entry, folder), folder / PINS, entry.entry.size
    if source is None and entry.entry.by_hand:
        what = f"weights {name} for {model} cannot be fetched: {entry.entry.by_hand}"
        raise BenchError(what, f"get the file there, then name it: fetch {name} --model {model} --from FILE")
    replaces = f"python -m fgmae_bench.weights fetch {name} --model {model} --repin"
    if source is None:
        return fetch(entry.hub, target, sha256=entry.sha256, size=size, pins=pins, repin=repin, repin_with=replaces)
    file = source if source.is_file() else source / entry.hub.file
    return adopt(entry.hub, file, target, sha256=entry.sha256, size=size, pins=pins, repin=repin, repin_with=replaces)


def place_of(name: str, entry: Published, folder: Path) -> Path:
    """The path of a named file in a weights folder, fetched or not; names of one file share it."""
    return folder / (entry.entry.same_as or name) / entry.hub.file
