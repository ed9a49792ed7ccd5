"""Fine-tuning steps of ViT-S against a naive loop, at equal precision and from naive float32 to our default; and the
loader alone.

  python experiments/speed/finetune_epoch.py [--per_class 13] [--rounds 2] [--model vit_small_patch16]
The naive loop is what the published scripts do: the per-sample view (two `np.quantile` a band) in loader workers, the
whole
batch through the model at once, SGD on everything, accuracy per batch. Ours: keyed views in threads, the backbone in
parts that
stay in the processor's caches, the same batch, the same optimiser. Both run the same number of steps of 64 images.
Expected: at least 1.2x at equal precision, 2.5x from naive float32 to our default; the loader twice what the model
    consumes.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from measured import keep
from stream_epoch import NaiveData
from torch import nn
from torch.utils.data import DataLoader

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.features.loader import ahead
from fgmae_bench.system.device import autocast, resolve_amp, resolve_device
from fgmae_bench.system.distributed import World
from fgmae_bench.train.finetune import prepare
from fgmae_bench.train.loop import Loop
from fgmae_bench.worlds.eurosat import write_eurosat

BATCH = 64
CPU = resolve_device("cpu")


def naive(files: list[Path], labels: list[int], amp: str, steps: int, model_name: str) -> float:
    """Images a second of the naive loop, its workers' start left out."""
    model = timm.create_model(model_name, in_chans=2, num_classes=0)
    head = nn.Sequential(nn.BatchNorm1d(model.num_features, affine=False, eps=1e-6), nn.Linear(model.num_features, 10))
    whole = nn.Sequential(model, head).train()
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
    loader = DataLoader(
        NaiveData(files, labels, train=True), batch_size=BATCH, shuffle=True, num_workers=2, drop_last=True
    )
    batches = iter(loader)
    first = next(batches)
    started = time.perf_counter()
    for images, targets in itertools.islice(itertools.chain([first], batches), steps):
        with autocast(amp, CPU):  # type: ignore[arg-type]
            loss = nn.functional.cross_entropy(whole(images).float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
    return steps * BATCH / (time.perf_counter() - started)


def ours(root: Path, amp: str, steps: int, place: Path, model_name: str) -> tuple[float, float]:
    """(images a second of our loop, of its loader alone)."""
    card = load_card("eurosat")
    given = {
        "dataset": "eurosat",
        "data_path": str(root),
        "model": model_name,
        "weights": "random",
        "batch_size": BATCH,
        "amp": amp,
        "max_steps": steps,
        "results_dir": str(place),
        "cache_dir": str(place / "cache"),
        "output_dir": str(place / "run"),
    }
    prepared = prepare(compose("finetune", given, card)[0], card, [], World(), CPU, 1)
    loop = Loop(
        job=prepared.job,
        plan=dataclasses.replace(prepared.plan, period=steps),
        recipe=prepared.run.recipe,
        world=World(),
        device=CPU,
        amp=prepared.amp,
        workers=2,
        stop=lambda: False,
    )
    rates = []
    loop.run(lambda: rates.append(loop.period.images / loop.period.seconds), lambda: None, lambda: False)
    rows = np.concatenate([prepared.plan.micro_steps(step, 0) for step in range(prepared.plan.steps_per_epoch)])
    started = time.perf_counter()
    for _ in ahead(lambda part: prepared.job.read(prepared.job.train[part], 0), list(rows), 2):
        pass
    return rates[0], rows.size / (time.perf_counter() - started)


def main() -> None:
    """Print images a second of each, and the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--per_class", type=int, default=26)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--model", default="vit_small_patch16")
    options = parser.parse_args()
    default = resolve_amp(None, CPU)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "world"
        write_eurosat(root, per_class=options.per_class)
        files = sorted(root.rglob("*.tif"))
        classes = sorted({file.parent.name for file in files})
        labels = [classes.index(file.parent.name) for file in files]
        timm_name = {"vit_small_patch16": "vit_small_patch16_224"}.get(options.model, options.model)
        measured: dict[str, list[float]] = {}
        for turn in range(options.rounds):
            for amp in dict.fromkeys(("off", default)):
                measured.setdefault(f"naive {amp}", []).append(naive(files, labels, amp, options.steps, timm_name))
                speed, loader = ours(root, amp, options.steps, Path(folder) / f"{turn}{amp}", options.model)
                measured.setdefault(f"ours {amp}", []).append(speed)
                measured.setdefault("loader", []).append(loader)
        middle = {name: statistics.median(values) for name, values in measured.items()}
    for name, value in middle.items():
        print(f"{name:<12} {value:8.1f} images/s")
    for amp in dict.fromkeys(("off", default)):
        print(f"equal precision, {amp}: {middle[f'ours {amp}'] / middle[f'naive {amp}']:.2f}x (wanted 1.2x)")
    print(
        f"naive float32 to our default ({default}): {middle[f'ours {default}'] / middle['naive off']:.2f}x "
        "(wanted 2.5x)"
    )
    print(f"loader against model: {middle['loader'] / middle[f'ours {default}']:.1f}x (wanted 2x)")
    ratios = {f"finetune_{amp}": middle[f"ours {amp}"] / middle[f"naive {amp}"] for amp in ("off", default)}
    keep(**ratios, finetune_default=middle[f"ours {default}"] / middle["naive off"])


if __name__ == "__main__":
    main()
