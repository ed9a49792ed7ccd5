"""What a GPU makes of the suite: first whether it computes the same, then how fast, in at most eight minutes.

  python experiments/speed/gpu.py [--minutes 8] [--memory GIB] [--parts correctness speed] [--out gpu.json]
  python experiments/speed/gpu.py --dry_run          the same on a CPU with tiny models, to try the script itself
Needs no network, and of packages what `pip install fgmae-bench` brings (torch, timm, numpy, safetensors, rasterio,
opencv); `--compile` needs a C compiler as well. Correctness: features, a probe, ten steps of fine-tuning and one of
UPerNet on CPU and CUDA, in float32 and bf16; fp16 with its scaler; nccl with one process; --compile; a run that was
stopped and resumed; a card with too little memory. Speed: the measured peak of a matrix product, forward passes and
steps of ViT-S, B and L, with compilation, channels-last, CUDA graphs and each kernel of attention, then whole commands:
fine-tuning, UPerNet, a cached and a streamed probe, with memory, share of the peak, waiting for data, and power where
the driver counts energy. It prints a table and a JSON, which `table.py` takes; exit code 1 where anything fails, 2
without a GPU. The dry run leaves out fp16, --compile, memory and energy, which need the card.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_checks import Bench, Checks, command, joules
from measured import keep
from torch.utils.flop_counter import FlopCounterMode

from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.pooling import write_out_attention
from fgmae_bench.system.device import autocast
from fgmae_bench.worlds.dfc import write_dfc
from fgmae_bench.worlds.eurosat import write_eurosat

GOAL = {"forward_share": 0.5, "data_wait": 0.02, "stream_over_forward": 1.1}
BATCH = {"forward": 256, "training": 128}
SPARE = 0.8  # of the free memory that a batch may take


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
    while sum(spent) < (0.1 if bench.tiny else least) and len(spent) < 200:
        spent.append(once())
    return min(spent)


def _wait(bench: Bench) -> None:
    if bench.device.type == "cuda":
        torch.cuda.synchronize()


def matrix_peak(bench: Bench) -> float:
    """Measured peak of a product of bf16 matrices, FLOP/s."""
    side = 512 if bench.tiny else 8192
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds_of(bench, lambda: a @ b, 2)


def saved_bytes(step: Callable[[int], torch.Tensor], batch: int) -> int:
    """Bytes that the forward pass of `step(batch)` keeps for its backward pass, each storage once."""
    held: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(batch).sum()
    return sum(held.values())


def batch_that_fits(fixed: float, an_image: float, free: float, wanted: int) -> int:
    """`wanted`, or the largest power of two that fits into the `free` bytes; 0 where none does."""
    room = SPARE * free - fixed
    if wanted * an_image <= room:
        return wanted
    return 2 ** int(math.log2(room / an_image)) if room >= an_image > 0 else 0


def fitting(bench: Bench, name: str, module: torch.nn.Module, size: int, memory: float | None) -> int:
    """The batch of a training step; says so where it is less than wanted. Raises RuntimeError where none fits."""

    def step(batch: int) -> torch.Tensor:
        with autocast("bf16", bench.device):
            found: torch.Tensor = module(torch.rand(batch, 2, size, size, device=bench.device))
        return found.float()

    wanted = 8 if bench.tiny else BATCH["training"]
    two, four = saved_bytes(step, 2), saved_bytes(step, 4)
    fixed = 16 * sum(parameter.numel() for parameter in module.parameters())  # weights, gradients, AdamW's two
    free = float("inf") if memory is None else memory * 2**30
    if bench.device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(bench.device)[0])
    batch = batch_that_fits(fixed, 1.5 * max(four - two, 1) / 2, free, wanted)
    if not batch:
        raise RuntimeError(f"{name} does not fit into {free / 2**30:.3g} GiB; free the card or take a larger one")
    if batch < wanted:
        print(f"{name}: {free / 2**30:.3g} GiB are free, so the batch is {batch} in place of {wanted}", flush=True)
    return batch


class Speed:
    """Forward passes and training steps of one model, and whole commands."""

    def __init__(self, bench: Bench, memory: float | None):
        self.bench, self.memory, self.size = bench, memory, 32 if bench.tiny else 224
        self.least = 1.5
        self.forward_rate: dict[str, float] = {}

    def run(self) -> None:
        """All, the most wanted first."""
        bench, cuda = self.bench, self.bench.device.type == "cuda"
        self.peak = matrix_peak(bench)
        bench.row("measured peak of a bf16 matrix product", self.peak / 1e12, "TFLOP/s", name="gpu_peak")
        names = (
            ["vit_tiny_patch16_224"] if bench.tiny else [f"vit_{size}_patch16" for size in ("small", "large", "base")]
        )
        for name in names:
            bench.attempt(f"{name}: forward", lambda name=name: self.forward(name))  # type: ignore[misc]
            bench.attempt(f"{name}: training", lambda name=name: self.training(name))  # type: ignore[misc]
        bench.attempt("streamed probe", lambda: self.epochs(names[0], "stream", 3), least=30)
        bench.attempt("cached probe", lambda: self.epochs(names[0], "cached", 50), least=30)
        bench.attempt("fine-tuning", lambda: self.finetune(names[0]), least=30)
        bench.attempt("UPerNet", lambda: self.segment(names[0]), least=30)
        for what, work in (
            ("kernels of attention", self.kernels),
            ("channels-last", self.channels_last),
            *((("CUDA graph", self.graph),) if cuda else ()),
            *((("compiled", self.compiled),) if cuda else ()),
        ):
            for name in names[:2]:
                bench.attempt(f"{name}: {what}", lambda work=work, name=name: work(name), least=20)  # type: ignore[misc]

    def _module(self, name: str) -> torch.nn.Module:
        return build_backbone(Model(model=name, weights="random", input_size=self.size), 0).module

    def _images(self, batch: int) -> torch.Tensor:
        return torch.rand(batch, 2, self.size, self.size, device=self.bench.device)

    def _rate(self, module: torch.nn.Module, images: torch.Tensor) -> float:
        """Images a second of forward passes in bf16."""

        def run() -> None:
            with torch.inference_mode(), autocast("bf16", self.bench.device):
                module(images)

        return len(images) / seconds_of(self.bench, run, self.least)

    def _compared(self, name: str, what: str, rate: float) -> None:
        """A way of the forward pass beside the plain one."""
        self.bench.row(f"{name}: forward, {what}", rate / self.forward_rate[name], "times the plain one")

    def forward(self, name: str) -> None:
        """Images a second, and the share of the measured peak."""
        module = self._module(name)
        fused = {part: part.fused_attn for part in module.modules() if hasattr(part, "fused_attn")}
        write_out_attention(module)  # as products, which every version of torch counts
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            module(torch.rand(1, 2, self.size, self.size))
        for part, kernel in fused.items():
            part.fused_attn = kernel  # type: ignore[assignment]
        batch = 8 if self.bench.tiny else BATCH["forward"]
        rate = self.forward_rate[name] = self._rate(module.to(self.bench.device), self._images(batch))
        share = counter.get_total_flops() * rate / self.peak
        kind = name.split("_")[1]
        self.bench.row(f"{name}: forward, bf16", rate, "images/s", name=f"gpu_forward_{kind}")
        good = share >= GOAL["forward_share"] if kind == "large" else None
        self.bench.row(f"{name}: of the measured peak", share, "share", good, name=f"gpu_share_{kind}")

    def training(self, name: str) -> None:
        """Images a second of a bare step: forward, backward, AdamW; its memory and power."""
        bench, module = self.bench, self._module(name).to(self.bench.device).train().requires_grad_(True)
        batch = fitting(bench, name, module, self.size, self.memory)
        images, labels = self._images(batch), torch.randint(0, 10, (batch,), device=bench.device)
        with torch.inference_mode():
            dim = int(module(images[:2]).shape[1])
        head = torch.nn.Linear(dim, 10).to(bench.device)
        optimizer = torch.optim.AdamW([*module.parameters(), *head.parameters()], lr=1e-4)

        def step() -> None:
            with autocast("bf16", bench.device):
                loss = torch.nn.functional.cross_entropy(head(module(images)), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before, start = joules(), time.perf_counter()
        rate = batch / seconds_of(bench, step, self.least)
        bench.row(f"{name}: bare step, bf16, batch {batch}", rate, "images/s", name=f"gpu_step_{name.split('_')[1]}")
        after = joules()
        if before is not None and after is not None:
            bench.row(f"{name}: power while training", (after - before) / (time.perf_counter() - start), "W")
        if bench.device.type == "cuda":
            bench.row(f"{name}: peak memory of a step", torch.cuda.max_memory_allocated() / 2**30, "GiB")

    def kernels(self, name: str) -> None:
        """Each kernel that torch's attention can take, and products in its place."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        module, images = self._module(name).to(self.bench.device), self._images(8 if self.bench.tiny else 64)
        plain = self._rate(module, images)
        for kernel in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"):
            try:
                with sdpa_kernel(getattr(SDPBackend, kernel)):
                    rate = self._rate(module, images)
            except (RuntimeError, AttributeError):
                continue  # this device or this torch does not have it
            self.bench.row(f"{name}: attention by {kernel}", rate / plain, "times torch's choice")
        write_out_attention(module)
        self.bench.row(f"{name}: attention as products", self._rate(module, images) / plain, "times torch's choice")

    def channels_last(self, name: str) -> None:
        """Images and convolutions with channels last."""
        module = self._module(name).to(self.bench.device, memory_format=torch.channels_last)
        images = self._images(8 if self.bench.tiny else BATCH["forward"]).to(memory_format=torch.channels_last)
        self._compared(name, "channels-last", self._rate(module, images))

    def graph(self, name: str) -> None:
        """A CUDA graph of a small batch, where launching kernels takes longest, against the same without."""
        module, images = self._module(name).to(self.bench.device), self._images(8)
        plain = self._rate(module, images)
        with torch.inference_mode(), autocast("bf16", self.bench.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    module(images)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                module(images)
        rate = len(images) / seconds_of(self.bench, graph.replay, self.least)
        self.bench.row(f"{name}: CUDA graph, batch 8", rate / plain, "times without")

    def compiled(self, name: str) -> None:
        """torch.compile."""
        module, images = self._module(name).to(self.bench.device), self._images(BATCH["forward"])
        module.compile()
        self._compared(name, "compiled", self._rate(module, images))

    def epochs(self, name: str, kind: str, epochs: int) -> None:
        """A probe of a synthetic EuroSAT as a command; streamed epochs against their bare forward passes."""
        bench, per_class = self.bench, 8 if self.bench.tiny else 300
        world = bench.scratch / "larger"
        write_eurosat(world, per_class=per_class)
        batch, workers = (16, 2) if bench.tiny else (256, 14)
        flags = f"--dataset eurosat --data_path {world} --model {name} --input_size {self.size} --amp bf16".split()
        flags += f"--batch_size {batch} --num_workers {workers} --device {bench.device}".split()
        record = command(bench, "linear", f"epochs-{kind}", *flags, "--features", kind, "--epochs", str(epochs))
        timing = record["timing"]
        bench.row(f"{kind} probe of {epochs} epochs, {10 * per_class} images", timing["total_seconds"], "s")
        bench.row(f"{kind}: images forwarded", timing["images_per_second"] or 0.0, "images/s")
        wait = timing["data_wait_fraction"] or 0.0
        streamed = kind == "stream" and not bench.tiny
        good = wait < GOAL["data_wait"] if streamed else None
        bench.row(f"{kind}: waiting for data", wait, "share", good, name=f"gpu_wait_{kind}")
        if kind != "stream":
            return
        seconds = float(np.median([entry["seconds"] for entry in record["history"]]))
        images = record["history"][-1]["images_per_second"] * record["history"][-1]["seconds"]
        ratio = seconds / (images / self.forward_rate[name])
        good = ratio <= GOAL["stream_over_forward"] if streamed else None
        bench.row("streamed epoch against its bare forward passes", ratio, "times", good, name="gpu_stream")

    def finetune(self, name: str) -> None:
        """Fine-tuning as a command, against the bare step."""
        bench, tiny = self.bench, self.bench.tiny
        flags = f"--dataset eurosat --data_path {bench.scratch / 'larger'} --model {name} --amp bf16".split()
        steps, batch, workers = (2, 8, 2) if tiny else (60, BATCH["training"], 14)
        flags += f"--input_size {self.size} --max_steps {steps} --eval_every {steps} --batch_size {batch}".split()
        flags += f"--num_workers {workers} --device {bench.device}".split()
        self._trained("fine-tuning", command(bench, "finetune", "finetune", *flags))

    def segment(self, name: str) -> None:
        """UPerNet on a fine-tuned backbone as a command."""
        bench, tiny = self.bench, self.bench.tiny
        tiles = bench.scratch / "tiles"
        write_dfc(tiles, tiles=8 if tiny else 48, **({"size": 64} if tiny else {}))
        steps, batch, workers = (2, 2, 2) if tiny else (40, 16, 14)
        flags = f"--dataset dfc2020 --data_path {tiles} --model {name} --amp bf16 --panels 0".split()
        flags += f"--max_steps {steps} --eval_every {steps} --warmup_steps 0 --batch_size {batch}".split()
        flags += f"--fpn_dim {16 if tiny else 256} --num_workers {workers} --device {bench.device}".split()
        self._trained("UPerNet", command(bench, "segment", "upernet", *flags))

    def _trained(self, what: str, record: dict[str, Any]) -> None:
        timing, last = record["timing"], record["history"][-1]
        self.bench.row(f"{what}, whole command: steps", last["images_per_second"], "images/s")
        self.bench.row(f"{what}, whole command: waiting for data", timing["data_wait_fraction"] or 0.0, "share")
        if timing["peak_device_memory_bytes"]:
            self.bench.row(f"{what}, whole command: memory", timing["peak_device_memory_bytes"] / 2**30, "GiB")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> int:
    """Correctness first, then speed; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry_run", action="store_true", help="on the CPU, with tiny models")
    parser.add_argument("--minutes", type=float, default=8.0, help="time that may be taken (default: 8)")
    parser.add_argument("--memory", type=float, help="GiB of the card that count as free (default: what is free)")
    parser.add_argument("--parts", nargs="+", choices=("correctness", "speed"), default=["correctness", "speed"])
    parser.add_argument("--out", type=Path, help="a JSON of all rows")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        print("error: no GPU is found; run it where there is one, or try it with --dry_run", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.dry_run else "cuda:0")
    name = "CPU, dry run" if options.dry_run else torch.cuda.get_device_name(device)
    print(f"{name}, torch {torch.__version__}, Python {sys.version.split()[0]}", flush=True)
    with _scratch() as scratch:
        bench = Bench(device, options.dry_run, time.monotonic() + 60 * options.minutes, scratch)
        if "correctness" in options.parts:
            bench.attempt("correctness", lambda: Checks(bench).run())
        if "speed" in options.parts:
            bench.attempt("speed", lambda: Speed(bench, options.memory).run())
    said = {"machine": name, "torch": torch.__version__, "rows": bench.rows, "failed": bench.failed}
    if options.out:
        options.out.write_text(json.dumps(said, indent=1) + "\n")
    print(json.dumps(said))
    if not options.dry_run:
        values = {row["name"] or f"gpu: {row['what']}": row["value"] for row in bench.rows}
        sys.argv = sys.argv[:1]  # flags of this script change no size
        keep(name, **values)
    return 1 if bench.failed or any(row["passed"] is False for row in bench.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
