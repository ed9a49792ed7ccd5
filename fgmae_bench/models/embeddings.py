"""Embeddings as a model: vectors that somebody else computed, by sample id, in place of a backbone's features."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from pyarrow import types
from torch import Tensor, nn

from fgmae_bench.data.bigearthnet.parquet import read_parquet
from fgmae_bench.data.raster import MEMORY_BYTES, MEMORY_TIMES
from fgmae_bench.data.sample_cache import BROKEN_ARRAY, require_letters
from fgmae_bench.errors import BenchError
from fgmae_bench.models.encoders.adapter import NOTHING, Given

NAME = "embeddings"
KEY = "fgmae_bench"  # of a file's metadata: the record of how its vectors were made
ROW = "row"  # the extra input that says which vector is a sample's
FORM = "give a .parquet with the columns id and vector, or a .npz with the arrays id (N,) and vector (N, D)"
SHOWN = 3


class Embeddings(nn.Module):
    """Vectors (N, D) by sample id; `how` is the record that the file carries, {} without one."""

    vectors: Tensor

    def __init__(self, ids: Sequence[str], vectors: NDArray[np.float32], how: dict[str, Any], sha256: str):
        super().__init__()
        self.rows = {id: row for row, id in enumerate(ids)}
        self.register_buffer("vectors", torch.from_numpy(vectors))
        self.how, self.sha256 = how, sha256

    def forward(self, images: Tensor, given: Given = NOTHING) -> Tensor:
        """The vectors (B, D) of the samples that `given` names by row; images are not looked at."""
        return self.vectors[given[ROW]]

    def positions(self, ids: Sequence[str], used: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each sample's vector, -1 where the file has none; raises BenchError where one of `used` lacks it."""
        found = np.array([self.rows.get(id, -1) for id in ids], np.int64)
        lacking = [ids[row] for row in used[found[used] < 0]]
        if lacking:
            some = ", ".join(lacking[:SHOWN]) + (", ..." if len(lacking) > SHOWN else "")
            raise BenchError(
                f"the embeddings lack {len(lacking)} of {len(used)} samples: {some}", "export them for all samples"
            )
        return found

    def require_dataset(self, ids: Sequence[str], content: NDArray[np.uint64]) -> None:
        """Raise BenchError where the file says that its vectors are of other pixels than the samples `ids` hold."""
        stated = self.how.get("pixels_sha256")
        if stated is None:
            return
        held = [(id, value) for id, value in zip(ids, content.tolist(), strict=True) if id in self.rows]
        if len(held) != len(self.rows) or pixels_sha256(held) != stated:
            name = str(self.how.get("dataset", "another dataset"))[:60]
            raise BenchError(
                f"the embeddings are of other pixels than this data holds: they were made from {name!r}",
                "export them from this data",
            )


def pixels_sha256(samples: Sequence[tuple[str, int]]) -> str:
    """Hash of what samples (id, hash of its pixels) hold, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(samples)).encode()).hexdigest()


def read_embeddings(path: Path) -> Embeddings:
    """Read a file of vectors. Raises BenchError naming it where it is not of a known form, an id is there twice, or a
    vector is not finite.
    """
    if not path.is_file():
        raise BenchError(f"--weights {path}: no such file of embeddings", FORM)
    try:
        ids, vectors, text = _npz(path) if path.suffix == ".npz" else _parquet(path)
        how = json.loads(text) if text else {}
    except (OSError, NotImplementedError, pyarrow.ArrowException, *BROKEN_ARRAY) as error:
        reason = " ".join(str(error).split())[:120]
        raise BenchError(f"{path} holds no embeddings ({reason})", FORM) from error
    if vectors.ndim != 2 or len(ids) != len(vectors) or not vectors.size:
        raise BenchError(f"{path} holds {len(ids)} ids and vectors of shape {vectors.shape}", FORM)
    if len(set(ids)) != len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise BenchError(f"{path} holds {twice} twice", "keep one vector a sample")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        what = (
            f"{path} holds NaN or infinity in {int((~finite).sum())} vectors, that of {ids[int(finite.argmin())]} first"
        )
        raise BenchError(what, "leave such samples out of the data, or give finite vectors")
    order = sorted(range(len(ids)), key=ids.__getitem__)  # a file in another order holds the same
    ids, vectors = [ids[row] for row in order], vectors[order]
    digest = hashlib.sha256(json.dumps(ids).encode() + vectors.tobytes()).hexdigest()
    return Embeddings(ids, vectors, how if isinstance(how, dict) else {}, digest)


def _parquet(path: Path) -> tuple[list[str], NDArray[np.float32], str]:
    table = read_parquet(path, "file of embeddings", FORM, ("id", "vector"))
    column, kind = table["vector"].combine_chunks(), table["vector"].type
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    numbers = lists and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type))
    if not numbers or column.null_count:
        raise ValueError("its vectors are not lists of numbers")
    if not len(column):
        raise ValueError("it is empty")
    if len(pyarrow.compute.unique(pyarrow.compute.list_value_length(column))) != 1:
        raise ValueError("its vectors are not of one length")
    ids = table["id"].cast(pyarrow.string())
    if ids.null_count:
        raise ValueError("a sample has no id")
    with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, and is refused as that
        values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    metadata = table.schema.metadata or {}
    return ids.to_pylist(), values.reshape(len(column), -1), metadata.get(KEY.encode(), b"").decode()


def _npz(path: Path) -> tuple[list[str], NDArray[np.float32], str]:
    with zipfile.ZipFile(path) as archive:
        taken, size = sum(member.file_size for member in archive.infolist()), path.stat().st_size
    if taken > max(MEMORY_BYTES, MEMORY_TIMES * size):
        raise ValueError(f"it unpacks to {taken >> 20} MiB, too much for a file of {size} bytes")
    with np.load(path, allow_pickle=False) as arrays:
        ids, vectors, text = arrays["id"], arrays["vector"], arrays[KEY] if KEY in arrays else np.array("")
    for held in (ids, text):
        require_letters(held)
    if ids.ndim != 1 or ids.dtype.kind not in "USiu" or vectors.dtype.kind not in "fiu":
        raise ValueError(f"its ids are {ids.dtype} of shape {ids.shape}, its vectors {vectors.dtype}")
    if len(ids) > len(vectors.reshape(-1)):  # texts of no letters take no bytes, however many there are
        raise ValueError(f"it has {len(ids)} ids and {vectors.size} numbers")
    with np.errstate(over="ignore"):
        return ids.astype(str).tolist(), np.ascontiguousarray(vectors, np.float32), str(text)


def write_embeddings(
    path: Path,
    ids: Sequence[str],
    labels: Sequence[Any],
    groups: Sequence[str] | None,
    vectors: NDArray[np.float32],
    how: dict[str, Any],
) -> None:
    """Write a parquet of the columns id, label, group and vector; `how` stands in its metadata as JSON."""
    columns = {
        "id": pyarrow.array(list(ids), pyarrow.string()),
        "label": pyarrow.array(list(labels)),
        "group": pyarrow.array(list(groups) if groups is not None else [None] * len(ids), pyarrow.string()),
        "vector": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), vectors.shape[1]),
    }
    table = pyarrow.table(columns).replace_schema_metadata({KEY: json.dumps(how, sort_keys=True)})
    pyarrow.parquet.write_table(table, path)
