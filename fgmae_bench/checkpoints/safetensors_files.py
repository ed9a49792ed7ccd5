"""safetensors: one file, or several with the index that names them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from fgmae_bench.checkpoints.scan import Refused, room_for, shown
from fgmae_bench.hub.checksums import sha256_of

INDEX = ".safetensors.index.json"
ENTRY = 2600  # bytes of memory that a tensor takes without its numbers: the library's entry, torch's, and ours
MAX_HEADER = 100_000_000  # the limit of the library
MAX_INDEX = 8 << 20  # bytes; one of 10,000 tensors has 1 MB
SHARD = re.compile(r"\w[\w.+-]*\.safetensors")

Held = tuple[dict[str, Tensor], dict[str, str]]  # tensors, which stay in the mapped files, and metadata


def read_safetensors(path: Path) -> Held:
    """Tensors and metadata of one file; raises Refused where it lists more tensors than there is room for."""
    with open(path, "rb") as stream:
        header = stream.read(int.from_bytes(stream.read(8), "little"))
    if header.count(b"{") * ENTRY > room_for(path.stat().st_size):  # each tensor's entry begins with a brace
        raise Refused("it asks for memory out of proportion to its size")
    del header
    with safe_open(path, framework="pt", device="cpu") as archive:
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - no mapping
        return tensors, archive.metadata() or {}


def read_sharded(path: Path) -> Held:
    """Tensors and metadata of all files that an index names, each in the index's own folder.

    Raises Refused where the index names anything else, or where names and files differ.
    """
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    named = _weight_map(path)
    for shard in shards_of(path):
        found, texts = read_safetensors(shard)
        listed = {name for name, file in named.items() if file == shard.name}
        if set(found) != listed:
            odd = min(set(found) ^ listed)
            raise Refused(f"its index and {shown(shard.name)} differ in {shown(odd)}")
        tensors |= found
        metadata |= texts
    return {name: tensors[name] for name in named}, metadata


def shards_of(path: Path) -> list[Path]:
    """The files that an index names, in the order of their names; raises Refused where one is missing."""
    shards = [path.with_name(name) for name in sorted(set(_weight_map(path).values()))]
    for shard in shards:
        if not shard.is_file():
            raise Refused(f"its part {shown(shard.name)} is not in the same folder")
    return shards


def sha256_of_sharded(path: Path) -> str:
    """SHA-256 over the SHA-256s of the files that an index names, one a line, in the order of their names."""
    lines = "".join(f"{sha256_of(shard)}\n" for shard in shards_of(path))
    return hashlib.sha256(lines.encode()).hexdigest()


def _weight_map(path: Path) -> dict[str, str]:
    """Name of a tensor -> name of its file."""
    if path.stat().st_size > MAX_INDEX:
        raise Refused(f"its index is longer than {MAX_INDEX} bytes")
    held: Any = json.loads(path.read_bytes())
    named = held.get("weight_map") if isinstance(held, dict) else None
    if not isinstance(named, dict) or not named:
        raise Refused("it is not an index of safetensors files: weight_map is missing")
    for name in named.values():
        if not isinstance(name, str) or not SHARD.fullmatch(name):
            raise Refused(f"its index names {shown(name)}, which is not a safetensors file in the same folder")
    return named
