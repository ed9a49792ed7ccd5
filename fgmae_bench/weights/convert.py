"""Turn a checkpoint into a file to trust: the backbone's tensors alone, with where they came from and their input
contract.

python -m fgmae_bench.weights convert B2_vits16_fgmae_ep99.pth vits16.safetensors
python -m fgmae_bench.weights convert odd.pkl vits16.pth --repair --contract fgmae

Wrappers and prefixes are peeled off, decoders and heads dropped; --repair also turns numpy arrays, lists and numbers
into tensors and other precisions into float32; without it a file that needs this is refused. NaN, infinity and a file
without any known key always are. What was written is read back and compared before it takes its name.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgmae_bench.errors import BenchError, unknown

if TYPE_CHECKING:
    from fgmae_bench.checkpoints.reader import State
    from fgmae_bench.config.contract import InputContract


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `weights convert`."""
    parser.add_argument("source", metavar="IN", help="a .pth, .pt, .pkl or .safetensors file")
    parser.add_argument(
        "out", metavar="OUT", help="new file: .safetensors, or a .pth that torch.load(weights_only=True) reads"
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="turn numpy arrays, lists, numbers and other precisions into float32 tensors",
    )
    text = "input contract to embed, of the manifest (default: that of the published file with this name or SHA-256)"
    parser.add_argument("--contract", metavar="NAME", help=text)


def main(given: dict[str, Any]) -> None:
    """Convert; say what was kept, dropped and repaired."""
    source, out = Path(given["source"]), Path(given["out"])
    if out.exists():
        raise BenchError(f"{out} exists", "remove it or choose another name")
    from fgmae_bench.checkpoints.convert import convert  # here, so that --help does not wait for torch
    from fgmae_bench.checkpoints.names import of_entry
    from fgmae_bench.checkpoints.reader import read_state
    from fgmae_bench.checkpoints.registry import by_file

    state = read_state(source, repair=given.get("repair", False))
    if known := by_file(state.path, state.sha256):
        state = of_entry(state, known.entry)
    contract, origin = _contract(state, given.get("contract"))
    done = convert(state, out, contract, repair=given.get("repair", False))
    print(
        f"{out}: {done.kept} tensors, {out.stat().st_size:,} bytes, equal to those of {source} (layout {done.layout})"
    )
    print(f"peeled off: wrapper {state.wrapper or 'none'}, prefix {state.prefix or 'none'}")
    print(f"dropped: {_counts(done.dropped)}")
    print(f"repaired: {_counts(done.repaired)}")
    for note in state.notes:
        print(f"note: {note}")
    print(f"contract: {origin}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing"


def _contract(state: State, name: str | None) -> tuple[InputContract | None, str]:
    """(the contract to embed, in words where it is from)."""
    from fgmae_bench.checkpoints.registry import by_file, stated_contracts
    from fgmae_bench.models.contracts import carried_contract

    if name is not None:
        known = stated_contracts()
        if name not in known:
            raise unknown("contract", name, known)
        return known[name].contract(), f"{name}, as given"
    if carried := carried_contract(state):
        return carried, "the one that the file carries"
    if entry := by_file(state.path, state.sha256):
        return entry.contract, f"{entry.entry.contract}, of {entry.entry.name} in the manifest"
    return None, "not known: embed one with --contract, or runs will assume FGMAE's"
