"""A checkpoint to a file that can be trusted: the backbone's tensors alone, in safetensors or a plain .pth, with where
they came from.

safetensors is written here and not by its library, which holds all tensors in memory twice and orders its metadata at
random: the format is a length, a JSON header and the bytes in order (huggingface.co/docs/safetensors), and one tensor
at a time is enough.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from fgmae_bench.checkpoints.layouts import NO_TENSOR, drop_rule, knows, layout_of
from fgmae_bench.checkpoints.reader import State, read_state
from fgmae_bench.checkpoints.scan import room_for, shown
from fgmae_bench.config.contract import InputContract
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import replacing

KEY = "fgmae_bench"  # of the metadata that says where the tensors came from
CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALONE = "save the backbone's state dict alone, with its own keys"
PIECE = 1 << 24  # bytes that are written at once


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What a conversion kept, dropped (by rule) and repaired (by kind), and the layout that the source had."""

    kept: int
    dropped: dict[str, int]
    repaired: dict[str, int]
    layout: str


def convert(state: State, out: Path, contract: InputContract | None, *, repair: bool) -> Converted:
    """Write the backbone's tensors of `state` to `out`, read them back and compare before the file takes its name.

    Raises BenchError where `out` exists or has another ending, on unknown keys outside the backbone or no known ones,
    on NaN and infinity, and where something needs `repair` and it is not asked for.
    """
    if out.exists():
        raise BenchError(f"{out} exists", "remove it or choose another name")
    if out.suffix not in WRITERS:
        raise BenchError(f"{out} ends in '{out.suffix}'", f"choose a name that ends in {' or '.join(WRITERS)}")
    _require_repaired(state)
    tensors, dropped = backbone_of(state)
    if not knows(tensors):
        some = ", ".join(shown(name) for name in list(tensors)[:5])
        raise BenchError(
            f"{state.path} has no known layout: none of its {len(tensors)} keys is of a known backbone ({some})", ALONE
        )
    repairs = _repairs(state, tensors)
    if repairs and not repair:
        found = ", ".join(f"{count} x {kind}" for kind, count in repairs.items())
        raise BenchError(f"{state.path} needs repair: {found}", "convert it with --repair")
    _require_room(state, tensors, repair)
    _require_finite(state.path, tensors, repair)
    layout = layout_of(state.wrapper, state.prefix, dropped)
    story = {
        "source": shown(state.path.name),
        "source_sha256": state.sha256,
        "layout": layout,
        "wrapper": state.wrapper,
        "prefix": state.prefix,
        "dropped": dropped,
        "repaired": repairs,
        "contract": dataclasses.asdict(contract) if contract else None,
    }
    with replacing(out) as temporary:
        WRITERS[out.suffix](temporary, tensors, {"format": "pt", KEY: json.dumps(story, sort_keys=True)}, repair)
        _require_equal(tensors, read_state(temporary), repair, out)
    return Converted(kept=len(tensors), dropped=dropped, repaired=repairs, layout=layout)


def backbone_of(state: State) -> tuple[dict[str, Tensor], dict[str, int]]:
    """(tensors of the backbone, count a drop rule); raises BenchError on keys outside the prefix that no rule knows."""
    kept: dict[str, Tensor] = {}
    dropped = Counter[str]()
    for name, tensor in state.tensors.items():
        if (rule := drop_rule(name)) is None:
            kept[name] = tensor
        else:
            dropped[rule] += 1
    unknown = []
    for name in state.outside:
        if (rule := drop_rule(name, sibling=True)) is None:
            unknown.append(shown(name))
        else:
            dropped[rule] += 1
    if unknown:
        raise BenchError(
            f"{state.path}: {len(unknown)} keys are neither of the backbone nor of a known head: "
            f"{', '.join(unknown[:5])}",
            ALONE,
        )
    if not kept:
        raise BenchError(
            f"{state.path} holds no tensors of a backbone", "give a checkpoint with the weights of a backbone"
        )
    if state.plain:
        dropped[NO_TENSOR] += len(state.plain)
    return kept, dict(dropped)


def _require_repaired(state: State) -> None:
    """Refuse weights that are lists or numbers; what a rule drops may be anything."""
    waiting = {
        name: kind for name, kind in state.unrepaired.items() if drop_rule(name.removeprefix(state.prefix)) is None
    }
    if waiting:
        found = ", ".join(f"{count} x {kind}" for kind, count in sorted(Counter(waiting.values()).items()))
        names = ", ".join(shown(name) for name in list(waiting)[:5]) + (", ..." if len(waiting) > 5 else "")
        raise BenchError(f"{state.path} needs repair: {found} ({names})", "convert it with --repair")


def _require_room(state: State, tensors: dict[str, Tensor], repair: bool) -> None:
    """Refuse to write more than the source's bytes account for: many names for the same numbers."""
    kinds = {name: torch.float32 if repair and t.is_floating_point() else t.dtype for name, t in tensors.items()}
    total = sum(tensor.numel() * kinds[name].itemsize for name, tensor in tensors.items())
    if total > room_for(state.bytes):
        raise BenchError(f"{state.path} has {state.bytes:,} bytes and would become {total:,}", ALONE)


def _require_finite(path: Path, tensors: dict[str, Tensor], repair: bool) -> None:
    """Refuse NaN and infinity, in the numbers as they would be written."""
    bad = {name: text for name, tensor in tensors.items() if (text := _not_finite(_cast(tensor, repair)))}
    if bad:
        name, text = next(iter(bad.items()))
        more = f", and {len(bad) - 1} more tensors hold such numbers" if len(bad) > 1 else ""
        raise BenchError(
            f"{path}: {shown(name)} holds {text}{more}",
            "its training has diverged or the file is damaged; get another one",
        )


def _not_finite(tensor: Tensor) -> str:
    """'3 NaN, 1 infinite' for such numbers in a tensor, "" without them."""
    if (
        not tensor.is_floating_point() or not tensor.numel() or torch.stack(torch.aminmax(tensor)).isfinite().all()
    ):  # NaN wins both
        return ""
    counts = {"NaN": int(tensor.isnan().sum()), "infinite": int(tensor.isinf().sum())}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def _repairs(state: State, tensors: dict[str, Tensor]) -> dict[str, int]:
    """Kind -> count of what `--repair` changes among the tensors that are kept."""
    kinds = Counter(kind for name, kind in state.repaired.items() if name.removeprefix(state.prefix) in tensors)
    kinds.update(_dtype(tensor) for tensor in tensors.values() if _cast(tensor, True) is not tensor)
    return dict(sorted(kinds.items()))


def _cast(tensor: Tensor, repair: bool) -> Tensor:
    """float32 of other floating-point numbers, where `repair` is asked for."""
    return tensor.float() if repair and tensor.is_floating_point() else tensor


def _require_equal(tensors: dict[str, Tensor], written: State, repair: bool, out: Path) -> None:
    """Raise BenchError unless the file holds the tensors bit by bit."""
    same = set(written.tensors) == set(tensors) and not written.outside and not written.prefix
    if not same or not all(_equal(written.tensors[name], _cast(tensor, repair)) for name, tensor in tensors.items()):
        raise BenchError(
            f"{out}: what was written is not what was read", "check the disk, then run the same command again"
        )


def _equal(a: Tensor, b: Tensor) -> bool:
    """Same type, shape and bits; NaN equals itself."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).contiguous().view(torch.uint8))


def _write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], repair: bool) -> None:
    """One tensor at a time, in order."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        dtype = torch.float32 if repair and tensor.is_floating_point() else tensor.dtype
        if dtype not in CODES:
            raise BenchError(f"{shown(name)} holds {_dtype(tensor)}, which safetensors does not know", "write a .pth")
        start, end = end, end + tensor.numel() * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            _pour(_cast(tensor, repair), stream)


def _pour(tensor: Tensor, stream: IO[bytes]) -> None:
    view = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    for start in range(0, len(view), PIECE):
        stream.write(view[start : start + PIECE])


def _write_pth(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], repair: bool) -> None:
    """torch.save of {'model', 'metadata'}; a part of a larger storage is copied, or the whole of it would be
    written.
    """
    whole = {name: _own_storage(_cast(tensor, repair)) for name, tensor in tensors.items()}
    torch.save({"model": whole, "metadata": metadata}, path)


def _own_storage(tensor: Tensor) -> Tensor:
    own = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if own else tensor.clone(memory_format=torch.contiguous_format)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


WRITERS: dict[str, Callable[[Path, dict[str, Tensor], dict[str, str], bool], None]] = {
    ".safetensors": _write_safetensors,
    ".pth": _write_pth,
}
