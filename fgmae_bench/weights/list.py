"""List the published weights that have a name here, what they were trained on, and which of them are fetched.

python -m fgmae_bench.weights list
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fgmae_bench.checkpoints.registry import find_weights, registered, weights_folder
from fgmae_bench.config.flags import spellings
from fgmae_bench.errors import BenchError

COLUMNS = (
    "name",
    "model",
    "file",
    "repository",
    "revision",
    "layout",
    "contract",
    "bands",
    "epochs",
    "data",
    "licence",
    "local",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        *spellings("cache_dir"),
        metavar="DIR",
        help="cache folder (default: $FGMAE_BENCH_CACHE or ~/.cache/fgmae_bench)",
    )


def main(given: dict[str, Any]) -> None:
    """Print one line a file."""
    folder = weights_folder(Path(given["cache_dir"]) if "cache_dir" in given else None)
    rows = [COLUMNS]
    for name, models in registered().items():
        for model, published in models.items():
            hub, entry = published.hub, published.entry
            rows.append(
                (
                    name,
                    model,
                    hub.file,
                    hub.repo,
                    hub.revision[:10],
                    entry.layout,
                    f"{entry.contract} {published.contract.size} px",
                    ",".join(published.contract.bands),
                    "?" if entry.epochs is None else str(entry.epochs),
                    entry.data,
                    entry.licence,
                    _local(name, model, folder),
                )
            )
    widths = [max(len(row[k]) for row in rows) for k in range(len(COLUMNS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _local(name: str, model: str, folder: Path) -> str:
    """Path of the fetched file, `-` without one; a file that was changed is said, not an end of the list."""
    try:
        return str(find_weights(name, model, folder) or "-")
    except BenchError as error:
        return str(error)
