"""What a GPU makes of the suite: first whether it computes the same, then how fast, in at most eight minutes.

  python experiments/speed/gpu.py [--minutes 8] [--out gpu.json]
  python experiments/speed/gpu.py --dry_run          the same on a CPU with tiny models, to try the script itself
Needs no network and what the suite itself needs. Correctness: features, a probe, ten steps of fine-tuning and one of
UPerNet on CPU and CUDA, in float32 and bf16; fp16 with its scaler; nccl with one process; --compile; the same run
again.
Speed: the measured peak of a matrix product, forward passes of a linear probe, steps of fine-tuning, a cached and a
streamed epoch, with memory, share of the peak, waiting for data, and power where the driver reports energy. It prints a
table and a JSON, which `table.py` takes; exit code 1 where a comparison fails, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured import ROOT, keep
from safetensors.numpy import load_file
from torch.utils.flop_counter import FlopCounterMode

from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone
from fgmae_bench.system.device import autocast
from fgmae_bench.worlds.dfc import write_dfc
from fgmae_bench.worlds.eurosat import write_eurosat

GOAL = {"forward_share": 0.5, "data_wait": 0.02, "stream_over_forward": 1.1}
BYTES_AN_IMAGE = {"vit_small_patch16": 40e6, "vit_base_patch16": 90e6, "vit_large_patch16": 240e6}  # of a training step


@dataclass
class Bench:
    """What is measured, on which device, until when."""

    device: torch.device
    tiny: bool
    deadline: float
    scratch: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def row(self, what: str, value: float, unit: str, passed: bool | None = None) -> None:
        """Note a number, and print it; `passed` of a comparison."""
        self.rows.append({"what": what, "value": float(f"{value:.4g}"), "unit": unit, "passed": passed})
        mark = "" if passed is None else "  ok" if passed else "  FAILED"
        print(f"{what:<58}{value:>12.4g} {unit}{mark}", flush=True)

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.deadline - time.monotonic()


# --- correctness


def features(bench: Bench, name: str, device: torch.device, amp: str, images: torch.Tensor) -> np.ndarray:
    """Features (N, D) of a random backbone, the same on every device."""
    module = build_backbone(Model(model=name, weights="random", input_size=images.shape[-1]), 0).module.to(device)
    with torch.inference_mode(), autocast(amp, device):
        found: np.ndarray = module(images.to(device)).float().cpu().numpy()
    return found


def command(bench: Bench, entry: str, tag: str, *flags: str, processes: int = 0) -> dict[str, Any]:
    """The record of one run, started as a user starts it."""
    place = bench.scratch / tag
    launcher = [sys.executable, "-m"]
    if processes:
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "-m"]
    words = [*launcher, f"fgmae_bench.{entry}", *flags, "--results_dir", str(place / "results")]
    words += ["--output_dir", str(place / "run"), "--cache_dir", str(bench.scratch / "cache"), "--weights", "random"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=max(30, bench.left))
    if done.returncode:
        raise RuntimeError(f"{tag}: exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    (record,) = (place / "results" / "records").rglob("*.json")
    held: dict[str, Any] = json.loads(record.read_text())
    return held


def logits(bench: Bench, tag: str) -> np.ndarray:
    """The logits of the test split that a run left."""
    (path,) = (bench.scratch / tag / "results" / "predictions").glob("*.safetensors")
    found: np.ndarray = load_file(path)["logits"]
    return found


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """|a - b| / |b|."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def correctness(bench: Bench) -> None:
    """CPU against the device, command by command."""
    name, size = ("vit_tiny_patch16_224", 32) if bench.tiny else ("vit_small_patch16", 224)
    device, cpu = str(bench.device), torch.device("cpu")
    images = torch.rand(16, 2, size, size, generator=torch.Generator().manual_seed(0))
    exact = features(bench, name, cpu, "off", images)
    for amp, most in (("off", 2e-3), ("bf16", 3e-2)):  # TF32 is off by default, bf16 has eight bits
        far = relative(features(bench, name, bench.device, amp, images), exact)
        bench.row(f"features, {amp}, against float32 on the CPU", far, "relative", far < most)
    world, tiles = bench.scratch / "eurosat", bench.scratch / "dfc2020"
    write_eurosat(world, per_class=8)
    write_dfc(tiles, tiles=8, **({"size": 64} if bench.tiny else {}))
    common = ["--dataset", "eurosat", "--data_path", str(world), "--model", name, "--input_size", str(size)]
    probe = [*common, "--features", "cached", "--epochs", "5", "--batch_size", "16", "--amp", "off"]
    command(bench, "linear", "probe-cpu", *probe, "--device", "cpu")
    command(bench, "linear", "probe", *probe, "--device", device)
    far = relative(logits(bench, "probe"), logits(bench, "probe-cpu"))
    bench.row("probe of 5 epochs, logits", far, "relative", far < 5e-3)
    tune = [*common, "--max_steps", "10", "--eval_every", "10", "--batch_size", "8", "--num_workers", "0"]
    losses = {}
    for tag, more in (
        ("tune-cpu", ("--amp", "off", "--device", "cpu")),
        ("tune", ("--amp", "off", "--device", device)),
        ("tune-bf16", ("--amp", "bf16", "--device", device)),
        *(() if bench.device.type == "cpu" else (("tune-fp16", ("--amp", "fp16", "--device", device)),)),
        ("tune-compiled", ("--amp", "off", "--compile", "--device", device)),
    ):
        if tag == "tune-compiled" and bench.tiny:
            continue
        losses[tag] = float(command(bench, "finetune", tag, *tune, *more)["history"][-1]["train_loss"])
    for tag, loss in losses.items():
        most = 1e-3 if tag == "tune" else 5e-2
        far = abs(loss - losses["tune-cpu"])
        bench.row(f"{tag}: training loss after ten steps, difference to the CPU", far, "nats", far < most)
    alone = command(bench, "finetune", "nccl", *tune, "--amp", "off", "--device", device, processes=1)
    far = abs(alone["history"][-1]["train_loss"] - losses["tune"])
    bench.row("torchrun with one process", far, "nats", far < 1e-4)
    resumed = command(bench, "finetune", "resume", *tune, "--amp", "off", "--device", device)
    again = command(bench, "finetune", "resume2", *tune, "--amp", "off", "--device", device)
    far = abs(resumed["history"][-1]["train_loss"] - again["history"][-1]["train_loss"])
    bench.row("the same run again", far, "nats", far < 1e-3)
    seg = f"--dataset dfc2020 --data_path {tiles} --model {name} --max_steps 1 --warmup_steps 0 --batch_size 2".split()
    seg += ["--fpn_dim", "16", "--panels", "0", "--amp", "off", "--num_workers", "0"]
    seg += ["--input_size", "64" if bench.tiny else "224"]
    both = [
        command(bench, "segment", tag, *seg, "--device", where)["history"][-1]["train_loss"]
        for tag, where in (("seg-cpu", "cpu"), ("seg", device))
    ]
    bench.row("one step of UPerNet, loss", abs(both[1] - both[0]), "nats", abs(both[1] - both[0]) < 1e-2)


# --- speed


def seconds_of(bench: Bench, work: Callable[[], Any], least: float) -> float:
    """Seconds of one call, the best of those that fit into `least` seconds, after two that warm up."""

    def once() -> float:
        _wait(bench)
        start = time.perf_counter()
        work()
        _wait(bench)
        return time.perf_counter() - start

    once(), once()
    spent: list[float] = []
    while sum(spent) < least and len(spent) < 200:
        spent.append(once())
    return min(spent)


def _wait(bench: Bench) -> None:
    if bench.device.type == "cuda":
        torch.cuda.synchronize()


def matrix_peak(bench: Bench) -> float:
    """Measured peak of a product of bf16 matrices, FLOP/s."""
    side = 512 if bench.tiny else 8192
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds_of(bench, lambda: a @ b, 0.2 if bench.tiny else 2)


def flops(module: torch.nn.Module, images: torch.Tensor) -> int:
    """Floating-point operations of a forward pass."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(images)
    return int(counter.get_total_flops())


def batch_that_fits(bench: Bench, name: str, wanted: int) -> int:
    """The batch, or what of it fits into the card's free memory; says so where it is less."""
    if bench.device.type != "cuda" or name not in BYTES_AN_IMAGE:
        return wanted
    free, _ = torch.cuda.mem_get_info(bench.device)
    fits = int(0.8 * free / BYTES_AN_IMAGE[name])
    if fits >= wanted:
        return wanted
    batch = 2 ** int(math.log2(fits)) if fits >= 1 else 0
    if not batch:
        raise SystemExit(f"error: {name} does not fit into {free / 2**30:.1f} GiB; free the card or take a larger one")
    print(f"{name}: {free / 2**30:.1f} GiB are free, so the batch is {batch} in place of {wanted}")
    return batch


def speed(bench: Bench) -> None:
    """Forward passes, steps of training, epochs."""
    peak = matrix_peak(bench)
    bench.row("measured peak of a bf16 matrix product", peak / 1e12, "TFLOP/s")
    names = ["vit_tiny_patch16_224"] if bench.tiny else ["vit_small_patch16", "vit_base_patch16", "vit_large_patch16"]
    size = 32 if bench.tiny else 224
    for name in names:
        if bench.left < 60:
            print(f"no time left for {name}")
            return
        _forward(bench, name, size, peak)
        _training(bench, name, size)
    _epochs(bench, names[0], size)


def _forward(bench: Bench, name: str, size: int, peak: float) -> None:
    batch = 8 if bench.tiny else 256
    module = build_backbone(Model(model=name, weights="random", input_size=size), 0).module.to(bench.device)
    images = torch.rand(batch, 2, size, size, device=bench.device)
    work = flops(module, images)

    def run() -> None:
        with torch.inference_mode(), autocast("bf16", bench.device):
            module(images)

    taken = seconds_of(bench, run, 0.2 if bench.tiny else 3)
    bench.row(f"{name}: forward, bf16", batch / taken, "images/s")
    share = work / taken / peak
    large = "large" in name
    bench.row(f"{name}: of the measured peak", share, "share", share >= GOAL["forward_share"] if large else None)
    if not bench.tiny and bench.left > 90:
        module.compile()
        bench.row(f"{name}: forward, compiled", batch / seconds_of(bench, run, 2), "images/s")


def _training(bench: Bench, name: str, size: int) -> None:
    batch = 4 if bench.tiny else batch_that_fits(bench, name, 128)
    module = build_backbone(Model(model=name, weights="random", input_size=size), 0).module.to(bench.device)
    module.train().requires_grad_(True)
    head = torch.nn.Linear(int(module(torch.rand(2, 2, size, size, device=bench.device)).shape[1]), 10).to(bench.device)
    optimizer = torch.optim.AdamW([*module.parameters(), *head.parameters()], lr=1e-4)
    images = torch.rand(batch, 2, size, size, device=bench.device)
    labels = torch.randint(0, 10, (batch,), device=bench.device)

    def step() -> None:
        with autocast("bf16", bench.device):
            loss = torch.nn.functional.cross_entropy(head(module(images)), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = _energy()
    start = time.perf_counter()
    taken = seconds_of(bench, step, 0.2 if bench.tiny else 3)
    bench.row(f"{name}: bare step of fine-tuning, bf16, batch {batch}", batch / taken, "images/s")
    after = _energy()
    if before is not None and after is not None:
        bench.row(f"{name}: power while training", (after - before) / (time.perf_counter() - start), "W")
    if bench.device.type == "cuda":
        bench.row(f"{name}: peak memory of a step", torch.cuda.max_memory_allocated() / 2**30, "GiB")


def _energy() -> float | None:
    """Joules that the card has used since it was started, where its driver says so."""
    words = ["nvidia-smi", "--query-gpu=total_energy_consumption", "--format=csv,noheader,nounits", "--id=0"]
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        told = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout
        return float(told.strip()) / 1000  # the driver counts millijoules
    return None


def _epochs(bench: Bench, name: str, size: int) -> None:
    """Whole commands on a synthetic EuroSAT: a cached probe, and streamed epochs against the bare forward passes."""
    world, per_class = bench.scratch / "larger", 8 if bench.tiny else 300
    write_eurosat(world, per_class=per_class)
    device = str(bench.device)
    batch, workers = (16, 2) if bench.tiny else (256, 14)
    flags = f"--dataset eurosat --data_path {world} --model {name} --input_size {size} --amp bf16".split()
    flags += f"--batch_size {batch} --num_workers {workers} --device {device}".split()
    for kind, epochs in (("cached", 50), ("stream", 3)):
        if bench.left < 30:
            print(f"no time left for the {kind} epochs")
            return
        record = command(bench, "linear", f"epochs-{kind}", *flags, "--features", kind, "--epochs", str(epochs))
        timing = record["timing"]
        bench.row(f"{kind} probe of {epochs} epochs, {10 * per_class} images", timing["total_seconds"], "s")
        bench.row(f"{kind}: images forwarded", timing["images_per_second"] or 0.0, "images/s")
        wait = timing["data_wait_fraction"] or 0.0
        good = wait < GOAL["data_wait"] if kind == "stream" and not bench.tiny else None
        bench.row(f"{kind}: waiting for data", wait, "share", good)
        if kind == "stream":
            bare = next(row["value"] for row in bench.rows if row["what"] == f"{name}: forward, bf16")
            seconds = float(np.median([entry["seconds"] for entry in record["history"]]))
            ratio = seconds / (8 * per_class / bare)
            bench.row(
                "streamed epoch against its bare forward passes",
                ratio,
                "times",
                None if bench.tiny else ratio <= GOAL["stream_over_forward"],
            )


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> int:
    """Correctness first, then speed; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry_run", action="store_true", help="on the CPU, with tiny models")
    parser.add_argument("--minutes", type=float, default=8.0, help="time that may be taken (default: 8)")
    parser.add_argument("--out", type=Path, help="a JSON of all rows")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        print("error: no GPU is found; run it where there is one, or try it with --dry_run", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.dry_run else "cuda:0")
    name = "CPU, dry run" if options.dry_run else torch.cuda.get_device_name(device)
    print(f"{name}, torch {torch.__version__}, timm and Python {sys.version.split()[0]}")
    with _scratch() as scratch:
        bench = Bench(device, options.dry_run, time.monotonic() + 60 * options.minutes, scratch)
        failed = None
        for part in (correctness, speed):
            try:
                part(bench)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                failed = f"{part.__name__}: {error}"
                print(f"FAILED {failed}", file=sys.stderr)
    said = {"machine": name, "torch": torch.__version__, "rows": bench.rows, "failed": failed}
    if options.out:
        options.out.write_text(json.dumps(said, indent=1) + "\n")
    print(json.dumps(said))
    if not options.dry_run:
        values = {f"gpu: {row['what']}": row["value"] for row in bench.rows}
        sys.argv = sys.argv[:1]  # flags of this script change no size
        keep(name, **values)
    return 1 if failed or any(row["passed"] is False for row in bench.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
