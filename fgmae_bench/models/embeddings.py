"""Embeddings as a model: vectors that somebody else computed, by sample id, in place of a backbone's features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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
    except (OSError, ValueError, KeyError, TypeError, RecursionError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:120]
        raise BenchError(f"{path} holds no embeddings ({reason})", FORM) from error
    if vectors.ndim != 2 or len(ids) != len(vectors) or not vectors.size:
        raise BenchError(f"{path} holds {len(ids)} ids and vectors of shape {vectors.shape}", FORM)
    if len(set(ids)) != len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise BenchError(f"{path} holds {twice} twice", "keep one vector a sample")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        what = (
            f"{path} holds NaN or infinity in {int((~finite).sum())} vectors, that of {ids[int(finite.argmin())]} first"
        )
        raise BenchError(what, "leave such samples out of the data, or give finite vectors")
    digest = hashlib.sha256(json.dumps(ids).encode() + vectors.tobytes()).hexdigest()
    return Embeddings(ids, vectors, how if isinstance(how, dict) else {}, digest)


def _parquet(path: Path) -> tuple[list[str], NDArray[np.float32], str]:
    table = pyarrow.parquet.read_table(path, columns=["id", "vector"])
    column = table["vector"].combine_chunks()
    lengths = {len(value) for value in column}
    if len(lengths) != 1 or column.null_count:
        raise ValueError("its vectors are not of one length")
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    metadata = table.schema.metadata or {}
    return table["id"].to_pylist(), values.reshape(len(column), -1), metadata.get(KEY.encode(), b"").decode()


def _npz(path: Path) -> tuple[list[str], NDArray[np.float32], str]:
    with np.load(path, allow_pickle=False) as held:
        text = str(held[KEY]) if KEY in held else ""
        return [str(id) for id in held["id"]], np.ascontiguousarray(held["vector"], np.float32), text


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
