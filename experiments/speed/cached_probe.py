"""A first cached probe against the bare forward passes of its images, and a grid of 16 learning rates against one.

  python experiments/speed/cached_probe.py [--images 2000 500] [--rounds 2] [--model vit_small_patch16] [--amp bf16|off]
Each probe starts with an empty cache: index, audit, hashes, places, reading, views, features, 50 epochs with as many
evaluations, and all outputs are counted, imports are not. The bare passes run the same module with the attention that
runs take; beside them stands what they take with timm's own. The last comparison is of whole processes, imports and
all: `python -m fgmae_bench.linear` against a script of timm that forwards as many images.
Expected: at most 1.1x for 2,000 images, 1.2x for 500, 1.1x for the grid.
"""

from __future__ import annotations

import argparse
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measured import keep

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.pooling import write_out_attention
from fgmae_bench.runs.grid import run_grid
from fgmae_bench.system.device import autocast, resolve_amp, resolve_device
from fgmae_bench.worlds.eurosat import write_eurosat

BATCH = 8  # what runs take at 224 px on a CPU, and the fastest of 4, 8, 16, 32, 64
GRID = [0.001 * 2**i for i in range(16)]
CPU = resolve_device("cpu")
Clock = tuple[float, float]  # wall and CPU seconds
SCRIPT = """
import sys, timm, torch
model = timm.create_model("vit_small_patch16_224", in_chans=2, num_classes=0).eval()
if sys.argv[2] == "bf16":
    for part in model.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False
images = torch.rand(8, 2, 224, 224)
with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[2] == "bf16"):
    for _ in range(0, int(sys.argv[1]), 8):
        model(images)
"""


def bare(model: str, amp: str | None, images: int, *, as_timm: bool = False) -> Clock:
    """The forward passes alone: one prepared batch again and again, as often as `images` need."""
    precision = resolve_amp(amp, CPU)  # type: ignore[arg-type]
    module = build_backbone(Model(model=model, weights="random"), 42).module
    if precision == "bf16" and not as_timm:
        write_out_attention(module)
    batch = torch.rand(BATCH, 2, 224, 224)
    start, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode(), autocast(precision, CPU):
        for i in range(0, images, BATCH):
            module(batch[: min(BATCH, images - i)])
    return time.perf_counter() - start, time.process_time() - cpu


def flags(world: Path, scratch: Path, model: str, amp: str | None, tag: str) -> dict[str, object]:
    """What a probe is given."""
    given: dict[str, object] = {"dataset": "eurosat", "data_path": str(world), "model": model, "weights": "random"}
    given |= {"features": "cached", "epochs": 50, "batch_size": 256, "device": "cpu"}
    given |= {f"{name}_dir": str(scratch / tag / name) for name in ("cache", "results", "output")}
    return given | ({"amp": amp} if amp else {})


def probe(given: dict[str, object], rates: list[float]) -> Clock:
    """A whole cached probe of 50 epochs, its cache empty."""
    card = load_card("eurosat")
    start, cpu = time.perf_counter(), time.process_time()
    run_grid("linear", compose("linear", {**given, "lr": rates}, card), card)
    return time.perf_counter() - start, time.process_time() - cpu


def process(words: list[str]) -> Clock:
    """A process of its own, from its start to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter() - start
    return wall, used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime


def shown(what: str, ours: list[Clock], theirs: list[Clock], wanted: float | None) -> float:
    """Print the ratio of two ways, and return that of their wall seconds."""
    wall, cpu = (statistics.median(a[i] / b[i] for a, b in zip(ours, theirs, strict=True)) for i in (0, 1))
    seconds = f"{statistics.median(a[0] for a in ours):.1f} s / {statistics.median(b[0] for b in theirs):.1f} s"
    goal = f" (wanted: at most {wanted})" if wanted else ""
    print(f"{what}: {wall:.3f}x, {seconds}, in CPU seconds {cpu:.3f}x{goal}", flush=True)
    return wall


def main() -> None:
    """Run bare, cached and grid in turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs=2, default=[2000, 500], help="of the first and the second probe")
    parser.add_argument("--model", default="vit_small_patch16")
    parser.add_argument("--amp", default=None)
    parser.add_argument("--rounds", type=int, default=2, help="of the smaller probe; the larger one is run once")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    model, amp, (many, few) = options.model, options.amp, options.images
    precision = resolve_amp(amp, CPU)
    print(f"{model}, synthetic images, {precision}, {torch.get_num_threads()} threads", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        worlds = {count: scratch / f"world{count}" for count in {many, few}}
        for count, world in worlds.items():
            write_eurosat(world, per_class=count // 10)
        bare(model, amp, 2 * BATCH)
        probe(flags(worlds[few], scratch, "backscatter_stats", amp, "warm"), [0.1])  # what is imported on the way
        large = [probe(flags(worlds[many], scratch, model, amp, "many"), [0.1])]
        kept = {"cached_many": shown(f"{many} images, cached / bare", large, [bare(model, amp, many)], 1.1)}
        seconds: dict[str, list[Clock]] = {}
        for turn in range(options.rounds):
            given = {kind: flags(worlds[few], scratch, model, amp, f"{kind}{turn}") for kind in ("one", "grid")}
            seconds.setdefault("bare", []).append(bare(model, amp, few))
            seconds.setdefault("one", []).append(probe(given["one"], [0.1]))
            seconds.setdefault("grid", []).append(probe(given["grid"], GRID))
            seconds.setdefault("timm", []).append(bare(model, amp, few, as_timm=True))
        kept["cached_few"] = shown(f"{few} images, cached / bare", seconds["one"], seconds["bare"], 1.2)
        shown(f"{few} images, cached / bare with timm's attention", seconds["one"], seconds["timm"], None)
        kept["grid_ratio"] = shown(f"{few} images, grid of 16 / one", seconds["grid"], seconds["one"], 1.1)
        if model == "vit_small_patch16":
            named = flags(worlds[few], scratch, model, precision, "process") | {"lr": 0.1}
            words = [word for name, value in named.items() for word in (f"--{name}", str(value))]
            ours = [process(["-m", "fgmae_bench.linear", *words])]
            script = [process(["-c", SCRIPT, str(few), precision])]
            kept["cached_process"] = shown(f"{few} images, whole processes", ours, script, None)
    keep(**kept)


if __name__ == "__main__":
    main()
