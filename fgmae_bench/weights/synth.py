"""`python -m fgmae_bench.weights synth --model vit_small_patch16 --out FILE`: a random checkpoint, published keys and
shapes.

The optimizer of the layouts full and mae has no moments unless --with_optimizer asks for them: they triple the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fgmae_bench.checkpoints.shapes import ARCHITECTURES
from fgmae_bench.config.flags import spellings
from fgmae_bench.errors import BenchError, unknown

# Name of a layout -> what it is; written by `fgmae_bench.checkpoints.synth`.
LAYOUTS = {
    "full": "pre-training file of FGMAE: encoder, decoder, HOG layer; optimizer, scaler, arguments",
    "encoder": "bare state dict of the encoder, as the published _enc.pth",
    "mae": "pre-training file of raw MAE, without HOG layer",
    "safetensors": "encoder, decoder and HOG layer in safetensors",
    "dataparallel": "the same below state_dict, keys begin with module.",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `weights synth`; what is not typed stays absent."""
    layouts = "; ".join(f"{name}: {text}" for name, text in LAYOUTS.items())
    parser.add_argument("--model", metavar="NAME", help=f"architecture (required): {', '.join(ARCHITECTURES)}")
    parser.add_argument("--out", metavar="FILE", help="new file (required)")
    parser.add_argument("--layout", metavar="NAME", help=f"{layouts} (default: full)")
    parser.add_argument("--seed", type=int, metavar="SEED", help="another seed gives other weights (default: 0)")
    parser.add_argument("--half", action="store_true", help="store the weights as float16")
    parser.add_argument(
        *spellings("with_optimizer"), dest="with_optimizer", action="store_true", help="with the moments of AdamW"
    )


def main(given: dict[str, Any]) -> None:
    """Write the file, then say what it is."""
    model, layout = given.get("model"), given.get("layout", "full")
    for flag in ("model", "out"):
        if flag not in given:
            raise BenchError(
                f"--{flag} is missing",
                f"choose from {', '.join(ARCHITECTURES)}" if flag == "model" else "name the new file",
            )
    if model not in ARCHITECTURES:
        raise unknown("model", str(model), ARCHITECTURES)
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    from fgmae_bench.checkpoints.synth import write_synthetic  # here, so that --help does not wait for torch

    options = {flag: given[flag] for flag in ("seed", "half", "with_optimizer") if flag in given}
    out = Path(given["out"])
    keys = write_synthetic(out, ARCHITECTURES[model], layout, **options)
    print(
        f"{keys} random tensors of {model} (synthetic, nothing learnt) written to {out}, layout {layout}, "
        f"{out.stat().st_size:,} bytes"
    )
