"""Fetch published weights and verify them; an interrupted download goes on where it stopped.

python -m fgmae_bench.weights fetch fgmae --model vit_small_patch16
python -m fgmae_bench.weights fetch fgmae --model vit_small_patch16 --from DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fgmae_bench.checkpoints.registry import WEIGHTS, fetch_weights, weights_folder
from fgmae_bench.errors import BenchError
from fgmae_bench.flags import spellings

MODELS = sorted({model for models in WEIGHTS.values() for model in models})
CACHE_HELP = "cache folder, files go to its `weights` (default: $FGMAE_BENCH_CACHE or ~/.cache/fgmae_bench)"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("name", metavar="NAME", help=f"which weights: {', '.join(sorted(WEIGHTS))}")
    parser.add_argument("--model", metavar="MODEL", help=f"for which model (required): {', '.join(MODELS)}")
    parser.add_argument(*spellings("cache_dir"), metavar="DIR", help=CACHE_HELP)
    parser.add_argument("--from", dest="source", metavar="DIR", help="copy from a folder with the published file names, no download")


def main(given: dict[str, Any]) -> None:
    """Fetch one file; print where it lies and its SHA-256."""
    if "model" not in given:
        raise BenchError("--model is missing", f"choose from {', '.join(MODELS)}")
    folder = weights_folder(Path(given["cache_dir"]) if "cache_dir" in given else None)
    source = Path(given["source"]) if "source" in given else None
    fetched = fetch_weights(given["name"], given["model"], folder, source)
    print(f"{fetched.path}\nsha256 {fetched.sha256}")
