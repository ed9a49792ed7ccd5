"""An epoch of a frozen backbone's decoder from the bank against the decoder alone on tensors in memory, side by side.

  python experiments/speed/segment_bank.py [--tiles 24] [--batch 8] [--fpn_dim 256] [--head upernet] [--rounds 3]
Both take the same steps on the same sizes: forward, loss, backward, AdamW. The bank's side also reads features and
labels, maps
the labels, draws the order, follows the schedule and looks at the loss. Filling the bank and evaluation are not
counted.
On a machine that others use, the CPU seconds say more than the wall's.
Expected: at most 1.1x.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measured import keep

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.system.device import autocast, resolve_device
from fgmae_bench.system.distributed import World
from fgmae_bench.train.job import Prepared
from fgmae_bench.train.loop import Loop
from fgmae_bench.train.segment import prepare
from fgmae_bench.worlds.dfc import write_dfc


def prepared_run(world: Path, scratch: Path, given: argparse.Namespace) -> Prepared:
    """One epoch of the run, with its bank filled."""
    card = load_card("dfc2020")
    flags: dict[str, Any] = {
        "dataset": "dfc2020",
        "data_path": str(world),
        "model": given.model,
        "weights": "random",
        "freeze_backbone": True,
        "features": "cached",
        "head": given.head,
        "fpn_dim": given.fpn_dim,
        "batch_size": given.batch,
        "epochs": 1,
        "warmup_epochs": 0.0,
        "device": given.device,
        "cache_dir": str(scratch / "cache"),
        "results_dir": str(scratch / "results"),
        "output_dir": str(scratch / "run"),
    }
    (run,) = compose("segment", flags, card)
    return prepare(run, card, [], World(), resolve_device(given.device), 1)


def from_bank(prepared: Prepared) -> tuple[float, float]:
    """(wall, CPU) seconds of an epoch of the training loop."""
    recipe = prepared.run.recipe
    loop = Loop(
        job=prepared.job,
        plan=prepared.plan,
        recipe=recipe,
        world=prepared.world,
        device=prepared.device,
        amp=prepared.amp,
        workers=prepared.run.execution.num_workers,
        stop=lambda: False,
    )
    start, cpu = time.perf_counter(), time.process_time()
    loop.run(lambda: None, lambda: None, lambda: False)
    return time.perf_counter() - start, time.process_time() - cpu


def alone(prepared: Prepared) -> tuple[float, float]:
    """(wall, CPU) seconds of as many steps of the decoder on one batch in memory."""
    job, device, recipe = prepared.job, prepared.device, prepared.run.recipe
    rows, masks = job.read(job.train[: prepared.plan.batch], 0)
    maps, targets = torch.from_numpy(rows).to(device), torch.from_numpy(masks).to(device)
    optimizer = torch.optim.AdamW(job.kept.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    job.model.train()
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(prepared.plan.total):
        with autocast(prepared.amp, device):
            loss = job.loss(job.model(maps), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
    return time.perf_counter() - start, time.process_time() - cpu


def main() -> None:
    """Run both in turns and print seconds, ratio and the load of the machine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiles", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--fpn_dim", type=int, default=256)
    parser.add_argument("--head", default="upernet")
    parser.add_argument("--model", default="vit_small_patch16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        world = Path(scratch) / "dfc2020"
        write_dfc(world, tiles=given.tiles)
        prepared = prepared_run(world, Path(scratch), given)
        alone(prepared)  # warm
        pairs = [(from_bank(prepared), alone(prepared)) for _ in range(given.rounds)]
    steps, load = prepared.plan.total, os.getloadavg()[0]
    print(
        f"{given.head} {given.fpn_dim}, {given.model}, {steps} steps of {given.batch} at 256 px, "
        f"{prepared.device}, amp {prepared.amp}"
    )
    for bank, bare in pairs:
        print(
            "  "
            + "  ".join(
                f"{what}: bank {a:.2f} s, alone {b:.2f} s"
                for what, a, b in zip(("wall", "CPU"), bank, bare, strict=True)
            )
        )
    wall, cpu = (statistics.median(bank[i] / bare[i] for bank, bare in pairs) for i in (0, 1))
    print(
        f"median ratio: wall {wall:.3f}, CPU {cpu:.3f} (wanted at most 1.1)  load {load:.1f} on {os.cpu_count()} cores"
    )
    keep(segment_bank=wall)


if __name__ == "__main__":
    main()
