"""Fetch published weights and verify them; an interrupted download goes on where it stopped.

python -m fgmae_bench.weights fetch fgmae --model vit_small_patch16
python -m fgmae_bench.weights fetch fgmae --model vit_small_patch16 --from DIR

HF_ENDPOINT names a mirror. Names of your own: a manifest at $FGMAE_BENCH_WEIGHTS or ~/.config/fgmae_bench/weights.toml.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fgmae_bench.checkpoints.registry import WEIGHTS, fetch_weights, published, registered, weights_folder
from fgmae_bench.config.flags import spellings
from fgmae_bench.errors import BenchError, unknown

CACHE_HELP = "cache folder, files go to its `weights` (default: $FGMAE_BENCH_CACHE or ~/.cache/fgmae_bench)"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "name", metavar="NAME", help=f"which weights: {', '.join(WEIGHTS)}, torchgeo:ENUM.MEMBER, or your manifest's"
    )
    parser.add_argument("--model", metavar="MODEL", help="for which model (required where the weights are for several)")
    parser.add_argument(*spellings("cache_dir"), metavar="DIR", help=CACHE_HELP)
    parser.add_argument(
        "--from",
        dest="source",
        metavar="PATH",
        help="copy a file, or out of a folder of published file names; no download",
    )
    text = "fetch anew and trust what comes in place of what was trusted on first use; says both SHA-256 (default: off)"
    parser.add_argument("--repin", action="store_true", help=text)


def main(given: dict[str, Any]) -> None:
    """Fetch one file; print its path, its SHA-256 and its licence, which may forbid a use."""
    name, model = _named(given["name"], given.get("model"))
    folder = weights_folder(Path(given["cache_dir"]) if "cache_dir" in given else None)
    source = Path(given["source"]) if "source" in given else None
    fetched = fetch_weights(name, model, folder, source, repin=bool(given.get("repin")))
    print(f"{fetched.path}\nsha256 {fetched.sha256}")
    print(f"licence: {published(name, model).licence}", file=sys.stderr)


def _named(name: str, model: str | None) -> tuple[str, str]:
    """(registered name, model); raises BenchError where several models are meant."""
    known = registered()
    if name.startswith("torchgeo:"):
        from fgmae_bench.models.weights import (  # here, so that --help does not wait for torch
            torchgeo_model,
            torchgeo_name,
        )

        model = model or torchgeo_model(name)
        return torchgeo_name(name, model), model
    if name not in known:
        raise unknown("weights", name, known)
    if model is None and len(known[name]) > 1:
        raise BenchError("--model is missing", f"choose from {', '.join(sorted(known[name]))}")
    return name, model or next(iter(known[name]))
