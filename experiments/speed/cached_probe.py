"""Cached mode against the bare forward pass, and a grid of 16 learning rates against one, bank cold, side by side.

  python experiments/speed/cached_probe.py [--per_class 250] [--model vit_small_patch16] [--amp bf16|off]
Expected: at most 1.1x for both. Imports are not counted; reading, views, heads, 50 evaluations and all outputs are.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path

import torch
from measured import keep

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone
from fgmae_bench.runs.grid import run_grid
from fgmae_bench.system.device import autocast, resolve_amp, resolve_device
from fgmae_bench.worlds.eurosat import write_eurosat

BATCH = 8  # what the suite uses at 224 px on a CPU, and the fastest of 4, 8, 16, 32, 64
GRID = [0.001 * 2**i for i in range(16)]


def bare(model: str, amp: str | None, images: int) -> tuple[float, float]:
    """(wall, CPU) seconds of the forward pass alone: one prepared batch again and again, as often as `images` need."""
    device = resolve_device("cpu")
    precision = resolve_amp(amp, device)
    module = build_backbone(Model(model=model, weights="random"), 42).module
    batch = torch.rand(BATCH, 2, 224, 224)
    start, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode(), autocast(precision, device):
        for i in range(0, images, BATCH):
            module(batch[: min(BATCH, images - i)])
    return time.perf_counter() - start, time.process_time() - cpu


def probe(world: Path, scratch: Path, model: str, amp: str | None, rates: list[float], tag: str) -> tuple[float, float]:
    """(wall, CPU) seconds of a whole cached probe of 50 epochs with a cold bank."""
    given = {
        "dataset": "eurosat",
        "data_path": str(world),
        "model": model,
        "weights": "random",
        "features": "cached",
        "lr": rates,
        "epochs": 50,
        "batch_size": 256,
        "device": "cpu",
        "cache_dir": str(scratch / f"cache-{tag}"),
        "results_dir": str(scratch / f"results-{tag}"),
        "output_dir": str(scratch / f"runs-{tag}"),
        **({"amp": amp} if amp else {}),
    }
    card = load_card("eurosat")
    start, cpu = time.perf_counter(), time.process_time()
    run_grid("linear", compose("linear", given, card), card)
    return time.perf_counter() - start, time.process_time() - cpu


def main() -> None:
    """Run bare, cached and grid in turns and print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--per_class", type=int, default=250)
    parser.add_argument("--model", default="vit_small_patch16")
    parser.add_argument("--amp", default=None)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    images = 10 * options.per_class
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_eurosat(scratch / "world", per_class=options.per_class)
        bare(options.model, options.amp, 2 * BATCH)
        probe(scratch / "world", scratch, "backscatter_stats", options.amp, [0.1], "warm")  # imports and page cache
        seconds: dict[str, list[tuple[float, float]]] = {"bare": [], "one": [], "grid": []}
        for i in range(options.rounds):
            seconds["bare"].append(bare(options.model, options.amp, images))
            seconds["one"].append(probe(scratch / "world", scratch, options.model, options.amp, [0.1], f"one{i}"))
            seconds["grid"].append(probe(scratch / "world", scratch, options.model, options.amp, GRID, f"grid{i}"))
    precision = resolve_amp(options.amp, resolve_device("cpu"))
    print(
        f"{options.model}, {images} images (synthetic), {precision}, {torch.get_num_threads()} threads, "
        f"median of {options.rounds}"
    )
    for clock, kind in enumerate(("wall", "CPU")):  # on a shared machine the CPU seconds are the steadier measure
        median = {name: statistics.median(pair[clock] for pair in values) for name, values in seconds.items()}
        print(
            f"{kind} seconds: bare {median['bare']:.1f}, cached 50 epochs {median['one']:.1f}, grid of 16 lr "
            f"{median['grid']:.1f}"
        )
        print(
            f"  cached / bare {median['one'] / median['bare']:.3f}x, grid / one "
            f"{median['grid'] / median['one']:.3f}x (wanted: 1.1x)"
        )
        if kind == "wall":
            keep(cached_ratio=median["one"] / median["bare"], grid_ratio=median["grid"] / median["one"])


if __name__ == "__main__":
    main()
