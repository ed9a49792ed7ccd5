"""Real pixels: three genuine scenes with masks fitted by a small ViT with UPerNet, then met again in a scene larger
than its input.

  python experiments/real_scenes.py --data DIR [--out real_scenes] [--steps 700]
DIR holds the folders S1RTC and LULC (see datasets/terramesh_masks). The scenes are fitted at 224 px; the same model is
then slid
over the three side by side, 224 x 672 px: windows a scene wide see what was fitted and must score the same, windows
every 112 px
also see two halves of neighbours, which were never fitted.
Expected: training mIoU above .9 after about two minutes of one CPU core, and the same to the last digit by windows a
    scene wide. That
says that the chain fits real pixels, not how well it transfers. On a machine that others use, OMP_NUM_THREADS=1 is
faster.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch

from fgmae_bench.config.cards import Card, load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.run import Run
from fgmae_bench.runs.grid import run_grid
from fgmae_bench.system.device import resolve_device
from fgmae_bench.system.distributed import World
from fgmae_bench.train.segment import prepare

CARD = "terramesh_masks"
SIDE = 224
SETTINGS: dict[str, Any] = {
    "recipe": "corrected",
    "split": "fit",
    "model": "test_vit",
    "weights": "random",
    "fpn_dim": 64,
    "norm": "group",
    "batch_size": 3,
    "lr": 3e-3,
    "weight_decay": 0.0,
    "layer_decay": 1.0,
    "drop_path": 0.0,
    "warmup_steps": 20,
    "amp": "off",
    "device": "cpu",
    "seed": 0,
    # a fixed one: the quantiles of one scene are not those of several side by side
    "input_size": SIDE,
    "normalizer": "zscore",
}


def a_run(card: Card, data: Path, out: Path, name: str, **flags: Any) -> Run:
    """One run of the settings above; its outputs lie in `out`/`name`."""
    places = {
        "data_path": str(data),
        "output_dir": str(out / name),
        "results_dir": str(out / "results"),
        "cache_dir": str(out / "cache"),
    }
    (run,) = compose("segment", {"dataset": str(card.path), **places, **SETTINGS, **flags}, card)
    return run


def fit(title: str, run: Run, card: Card) -> None:
    """Train and print mIoU, seconds and where the panels are; a run that is recorded is only read."""
    cpu = time.process_time()
    (record,) = run_grid("segment", [run], card)
    cpu = time.process_time() - cpu
    test, seconds, panels = (
        record["metrics"]["test"],
        record["timing"]["total_seconds"],
        f"{run.execution.output_dir}/panels.png",
    )
    print(f"{title}: mIoU {test['miou']:.4f}  OA {test['oa']:.4f}  {seconds:.0f} s ({cpu:.0f} s of CPU)  {panels}")


def side_by_side(data: Path, out: Path) -> Card:
    """The scenes and their masks as one image each, with a card of its own; the card."""
    for folder in ("S1RTC", "LULC"):
        parts = []
        for path in sorted((data / folder).glob("*.tif")):
            with rasterio.open(path) as source:
                parts.append(source.read())
        pixels = np.concatenate(parts, axis=2)
        (out / folder).mkdir(parents=True, exist_ok=True)
        count, height, width = pixels.shape
        profile = {"driver": "GTiff", "dtype": pixels.dtype.name, "count": count, "height": height, "width": width}
        with rasterio.open(out / folder / "side_by_side.tif", "w", **profile) as target:
            target.write(pixels)
    text = load_card(CARD).path.read_text()
    for old, new in ((f"[{SIDE}, {SIDE}]", f"[{SIDE}, {width}]"), ("total = 3", "total = 1")):
        assert old in text
        text = text.replace(old, new)
    (out / "card.toml").write_text(text)
    return load_card(str(out / "card.toml"))


def score(title: str, run: Run, card: Card, checkpoint: Path) -> None:
    """Score a checkpoint on another dataset, draw its panels, print mIoU and seconds."""
    prepared = prepare(run, card, [], World(), resolve_device("cpu"), 1)
    prepared.job.model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    prepared.job.model.eval()
    started = time.perf_counter()
    test = prepared.job.evaluate("test").metrics
    seconds = time.perf_counter() - started
    folder = Path(str(run.execution.output_dir))
    folder.mkdir(parents=True, exist_ok=True)
    prepared.finish(folder)
    print(f"{title}: mIoU {test['miou']:.4f}  OA {test['oa']:.4f}  {seconds:.1f} s  {folder}/panels.png")


def main() -> None:
    """Fit the scenes, then score them side by side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("real_scenes"))
    parser.add_argument("--steps", type=int, default=700)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    card, out = load_card(CARD), given.out
    steps = {"max_steps": given.steps, "eval_every": given.steps}
    fit(f"three scenes of {SIDE} px", a_run(card, given.data, out, "scenes", **steps, augment=False), card)
    joined = side_by_side(given.data, out / "joined")
    for stride in (SIDE, SIDE // 2):
        run = a_run(joined, out / "joined", out, f"stride_{stride}", **{**steps, "batch_size": 1, "stride": stride})
        score(f"side by side, windows every {stride} px", run, joined, out / "scenes" / "checkpoint-last.pth")


if __name__ == "__main__":
    main()
