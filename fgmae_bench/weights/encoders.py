"""The registry of encoders: who carries each, what it is fed, how it pools, and what must be stated with its numbers.

python -m fgmae_bench.weights encoders
"""

from __future__ import annotations

import argparse
from typing import Any

from fgmae_bench.checkpoints.registry import Published, registered
from fgmae_bench.config.encoders import encoders

COLUMNS = (
    "encoder",
    "weights",
    "carrier",
    "extra",
    "dim",
    "parameters",
    "patch",
    "input",
    "contract",
    "extra inputs",
    "maps",
    "pooling",
    "pooling of origin",
    "licence",
    "statement",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command has no flags."""


def _fed(held: Published | None) -> tuple[str, str]:
    """(size of the input, name of the contract) of an entry; weights that timm publishes have none for radar."""
    if held is None:
        return "timm's", "assumed"
    size = "native" if held.contract.geometry == "native" else f"{held.contract.size} px"
    return size, held.entry.contract + (", assumed" if held.contract.assumed else "")


def main(given: dict[str, Any]) -> None:
    """Print one line an encoder."""
    rows = [COLUMNS]
    known = registered()
    for name, entry in encoders().items():
        held = known.get(entry.weights, {}).get(entry.model)
        patches = sorted(entry.patches)
        rows.append(
            (
                name,
                entry.weights,
                entry.carrier,
                entry.extra or "-",
                str(entry.dim),
                f"{entry.params / 1e6:.1f} M" if entry.params else "?",
                f"{patches[0]}-{patches[-1]}" if len(patches) > 1 else str(entry.patch),
                *_fed(held),
                ", ".join(entry.inputs) or "-",
                entry.maps,
                entry.pooling,
                entry.pooling_of_origin,
                held.licence if held else "timm's",
                entry.statement or "-",
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(COLUMNS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
