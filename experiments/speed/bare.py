"""What training costs beyond its own arithmetic: a streamed epoch, fine-tuning and segmentation from files, each
against the bare forward (backward, update) of the same model on one batch in memory, in one run.

  python experiments/speed/bare.py [--rounds 2] [--parts stream finetune segment]
Ours read files, draw views, follow schedules, look at losses, log and, in the streamed epoch, score the test split from
the bank. The bare loops run the same module in the same parts and precision, with the same attention, and read nothing.
Setting up is not counted. On a machine that others use, the CPU seconds say more than the wall's.
Expected: at most 1.1x each.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measured import keep

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.run import Model
from fgmae_bench.models.backbone import images_a_pass
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.pooling import write_out_attention
from fgmae_bench.runs import folder
from fgmae_bench.runs.grid import run_grid
from fgmae_bench.system.device import autocast, resolve_amp, resolve_device
from fgmae_bench.system.distributed import World
from fgmae_bench.train import finetune, segment
from fgmae_bench.train.job import Prepared
from fgmae_bench.train.loop import Loop
from fgmae_bench.worlds.dfc import write_dfc
from fgmae_bench.worlds.eurosat import write_eurosat

CPU = resolve_device("cpu")
VIT = "vit_small_patch16"
PER_CLASS, STREAM_BATCH = 40, 64  # 320 images to train on, 80 to test
STEPS = 2
Clock = tuple[float, float]  # wall and CPU seconds


def now() -> Clock:
    """Wall and CPU seconds of this process."""
    return time.perf_counter(), time.process_time()


def since(start: Clock) -> Clock:
    """Wall and CPU seconds since `start`."""
    wall, cpu = now()
    return wall - start[0], cpu - start[1]


def places(scratch: Path, tag: str) -> dict[str, str]:
    """Folders of a run of its own."""
    return {f"{name}_dir": str(scratch / tag / name) for name in ("cache", "results", "output")}


def streamed(world: Path, scratch: Path, tag: str) -> Clock:
    """The second of two streamed epochs, its evaluation included."""
    ends: list[Clock] = []
    real = folder.RunFolder.epoch

    def timed(self: folder.RunFolder, entry: dict[str, Any]) -> None:
        real(self, entry)
        ends.append(now())

    folder.RunFolder.epoch = timed  # type: ignore[method-assign]
    given = {"dataset": "eurosat", "data_path": str(world), "model": VIT, "weights": "random", "features": "stream"}
    given |= {"epochs": 2, "batch_size": STREAM_BATCH, "device": "cpu", **places(scratch, tag)}  # type: ignore[dict-item]
    card = load_card("eurosat")
    try:
        run_grid("linear", compose("linear", given, card), card)
    finally:
        folder.RunFolder.epoch = real  # type: ignore[method-assign]
    ((first, second),) = itertools.pairwise(ends)
    return second[0] - first[0], second[1] - first[1]


def forward_passes(images: int) -> Clock:
    """Forward passes of so many images, as few at a time as runs take."""
    amp = resolve_amp(None, CPU)
    module = build_backbone(Model(model=VIT, weights="random"), 42).module
    if amp == "bf16":
        write_out_attention(module)
    size = images_a_pass(224)
    batch = torch.rand(size, 2, 224, 224)
    start = now()
    with torch.inference_mode(), autocast(amp, CPU):
        for _ in range(0, images, size):
            module(batch)
    return since(start)


def stream(scratch: Path, tag: str) -> tuple[Clock, Clock]:
    """(ours, bare) of an epoch."""
    world = scratch / "eurosat"
    write_eurosat(world, per_class=PER_CLASS)
    trained = 8 * PER_CLASS // STREAM_BATCH * STREAM_BATCH
    return streamed(world, scratch, tag), forward_passes(trained)


def trained(prepared: Prepared) -> tuple[Clock, Clock]:
    """(ours, bare) of STEPS steps of a prepared run, after one of each that warms up."""
    plan = dataclasses.replace(prepared.plan, period=1)
    loop = Loop(
        job=prepared.job,
        plan=plan,
        recipe=prepared.run.recipe,
        world=World(),
        device=CPU,
        amp=prepared.amp,
        workers=prepared.run.execution.num_workers,
        stop=lambda: False,
    )
    ends: list[Clock] = []
    loop.run(lambda: ends.append(now()), lambda: None, lambda: False)
    ours = tuple(last - first for first, last in zip(ends[0], ends[STEPS], strict=True))
    return ours, steps_of(prepared)  # type: ignore[return-value]


def steps_of(prepared: Prepared) -> Clock:
    """The bare steps: forward, loss, backward and update on one batch in memory."""
    job, recipe = prepared.job, prepared.run.recipe
    images, targets = map(torch.from_numpy, job.read(job.train[: prepared.plan.batch], 0))
    images = images.float().div_(255) if images.dtype == torch.uint8 else images
    if recipe.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(job.kept.parameters(), lr=1e-3, momentum=recipe.momentum)
    else:
        optimizer = torch.optim.AdamW(job.kept.parameters(), lr=1e-4, weight_decay=recipe.weight_decay)
    job.model.train()
    start = now()
    for step in range(STEPS + 1):
        start = now() if step == 1 else start
        with autocast(prepared.amp, CPU):
            loss = job.loss(job.model(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
    return since(start)


def tuned(scratch: Path, tag: str) -> tuple[Clock, Clock]:
    """(ours, bare) of steps of fine-tuning with 64 images."""
    write_eurosat(scratch / "eurosat", per_class=PER_CLASS)
    given = {"dataset": "eurosat", "data_path": str(scratch / "eurosat"), "model": VIT, "weights": "random"}
    given |= {"batch_size": 64, "max_steps": STEPS + 1, "device": "cpu", **places(scratch, tag)}  # type: ignore[dict-item]
    card = load_card("eurosat")
    return trained(finetune.prepare(compose("finetune", given, card)[0], card, [], World(), CPU, 1))


def segmented(scratch: Path, tag: str) -> tuple[Clock, Clock]:
    """(ours, bare) of steps of a small UPerNet on a fine-tuned backbone with 8 scenes of 256 px, from files."""
    write_dfc(scratch / "dfc2020", tiles=24)
    given = {"dataset": "dfc2020", "data_path": str(scratch / "dfc2020"), "model": VIT, "weights": "random"}
    given |= {"batch_size": 8, "fpn_dim": 64, "max_steps": STEPS + 1, "warmup_steps": 0, "device": "cpu"}  # type: ignore[dict-item]
    card = load_card("dfc2020")
    (run,) = compose("segment", given | places(scratch, tag), card)
    return trained(segment.prepare(run, card, [], World(), CPU, 1))


PARTS: dict[str, tuple[str, Callable[[Path, str], tuple[Clock, Clock]]]] = {
    "stream": ("streamed epoch of 320 images", stream),
    "finetune": (f"{STEPS} steps of fine-tuning with 64 images", tuned),
    "segment": (f"{STEPS} steps of UPerNet (64 wide) with 8 scenes", segmented),
}


def main() -> None:
    """Both in turns, and the median of their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    amp, kept = resolve_amp(None, CPU), {}
    print(f"{VIT}, {amp}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as scratch:
        for part in options.parts:
            what, measure = PARTS[part]
            pairs = [measure(Path(scratch), f"{part}{turn}") for turn in range(options.rounds)]
            for ours, bare in pairs:
                print(f"  {what}: ours {ours[0]:.2f} s (CPU {ours[1]:.2f}), bare {bare[0]:.2f} s (CPU {bare[1]:.2f})")
            wall, cpu = (statistics.median(ours[clock] / bare[clock] for ours, bare in pairs) for clock in (0, 1))
            print(f"{what}: {wall:.3f} times the bare passes, in CPU seconds {cpu:.3f} (wanted: at most 1.1)")
            kept[f"bare_{part}"] = wall
    keep(**kept)


if __name__ == "__main__":
    main()
