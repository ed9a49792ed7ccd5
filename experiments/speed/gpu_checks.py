"""Whether a GPU computes what the CPU computes: the first half of `gpu.py`, where each comparison stands alone."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from measured import ROOT
from safetensors.numpy import load_file
from torch.nn.parallel import DistributedDataParallel

from fgmae_bench.config.run import Model
from fgmae_bench.models.build import build_backbone
from fgmae_bench.system.device import autocast
from fgmae_bench.worlds.dfc import write_dfc
from fgmae_bench.worlds.eurosat import write_eurosat

FAULTS = (
    RuntimeError,
    OSError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    subprocess.SubprocessError,
)
# A run that is asked to stop after its fourth step, as SIGTERM of a scheduler would.
STOPPED = """
import os, runpy, signal, sys
from fgmae_bench.train.loop import Loop
step = Loop._step
def stopped(self, batches):
    found = step(self, batches)
    if self.step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return found
Loop._step = stopped
runpy.run_module("fgmae_bench.finetune", run_name="__main__", alter_sys=True)
"""
# A run on a card of which a hundredth is free.
SMALL = """
import runpy, torch
torch.cuda.set_per_process_memory_fraction(0.01)
runpy.run_module("fgmae_bench.finetune", run_name="__main__", alter_sys=True)
"""


@dataclass
class Bench:
    """What is measured, on which device, until when."""

    device: torch.device
    tiny: bool
    deadline: float
    scratch: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def row(self, what: str, value: float, unit: str, passed: bool | None = None, name: str = "") -> None:
        """Note a number, and print it; `passed` of a comparison, `name` of what the table of speed shows."""
        self.rows.append({"what": what, "value": float(f"{value:.4g}"), "unit": unit, "passed": passed, "name": name})
        mark = "" if passed is None else "  ok" if passed else "  FAILED"
        print(f"{what:<64}{value:>12.4g} {unit}{mark}", flush=True)

    def attempt(self, what: str, work: Callable[[], None], least: float = 5.0) -> None:
        """Do one part, where so many seconds are left; what fails is noted, and the next part goes on."""
        if self.left < least:
            print(f"no time left for {what}", flush=True)
            return
        try:
            work()
        except FAULTS as error:
            self.failed.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")
            print(f"FAILED {self.failed[-1]}", flush=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.deadline - time.monotonic()


def command(bench: Bench, entry: str, tag: str, *flags: str, code: str = "", ends: int = 0) -> dict[str, Any]:
    """The record of one run, started as a user starts it, or by the program `code`, of which `ends` is the exit code;
    where that is not 0, what it said. A dry run stays in this process where it can: there the start takes longest.
    """
    place = bench.scratch / tag
    words = [*flags, "--results_dir", str(place / "results"), "--output_dir", str(place / "run")]
    words += ["--cache_dir", str(bench.scratch / "cache"), "--weights", "random"]
    if bench.tiny and not code:
        _in_this_process(f"fgmae_bench.{entry}", words)
    else:
        start = [sys.executable, *(("-c", code) if code else ("-m", f"fgmae_bench.{entry}"))]
        done = subprocess.run([*start, *words], capture_output=True, text=True, cwd=ROOT, timeout=max(5, bench.left))
        if done.returncode != ends:
            raise RuntimeError(f"{tag}: exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
        if ends:
            return {"stderr": done.stderr}
    (record,) = (place / "results" / "records").rglob("*.json")
    held: dict[str, Any] = json.loads(record.read_text())
    return held


def _in_this_process(module: str, words: list[str]) -> None:
    """Run a module as `python -m` does. Raises RuntimeError where it fails."""
    before, sys.argv = sys.argv, [module, *words]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if error.code:
            raise RuntimeError(f"{module} ended with {error.code}") from error
    finally:
        sys.argv = before


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """|a - b| / |b|."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


class Checks:
    """The comparisons. float32 is float32 but for convolutions, for which cuDNN takes TF32 by default."""

    def __init__(self, bench: Bench):
        self.bench, tiny = bench, bench.tiny
        self.name, self.size = ("vit_tiny_patch16_224", 32) if tiny else ("vit_small_patch16", 224)
        self.device = str(bench.device)
        world, self.tiles = bench.scratch / "eurosat", bench.scratch / "dfc2020"
        write_eurosat(world, per_class=8)
        write_dfc(self.tiles, tiles=8, **({"size": 64} if tiny else {}))
        self.common = ["--dataset", "eurosat", "--data_path", str(world), "--model", self.name]
        self.common += ["--input_size", str(self.size)]
        # nothing that a device draws by itself
        self.tune = [*self.common, "--max_steps", "10", "--eval_every", "5", "--batch_size", "8", "--num_workers", "0"]
        self.tune += ["--drop_path", "0"]
        self.losses: dict[str, float] = {}

    def run(self) -> None:
        """All of them."""
        bench, cuda = self.bench, self.bench.device.type == "cuda"
        bench.attempt("features", self.features)
        bench.attempt("probe", self.probe)
        for tag, most, flags in (
            ("tune-cpu", None, ("--amp", "off", "--device", "cpu")),
            ("tune", 5e-3, ("--amp", "off", "--device", self.device)),
            ("tune-bf16", 5e-2, ("--amp", "bf16", "--device", self.device)),
            *((("tune-fp16", 5e-2, ("--amp", "fp16", "--device", self.device)),) if cuda else ()),
        ):
            bench.attempt(tag, lambda tag=tag, most=most, flags=flags: self.steps(tag, most, *flags))  # type: ignore[misc]
        bench.attempt("resume", self.resume)
        bench.attempt("one process of nccl", self.one_process)
        bench.attempt("segmentation", self.segmentation)
        if cuda:
            bench.attempt("a card with too little memory", self.too_little_memory)
            compiled = ("--amp", "off", "--compile", "--device", self.device)
            bench.attempt("tune-compiled", lambda: self.steps("tune-compiled", 5e-2, *compiled), least=90)

    def features(self) -> None:
        """Of a random backbone, the same on every device."""
        images = torch.rand(16, 2, self.size, self.size, generator=torch.Generator().manual_seed(0))
        model = Model(model=self.name, weights="random", input_size=self.size)

        def of(device: torch.device, amp: Any) -> np.ndarray:
            module = build_backbone(model, 0).module.to(device)
            with torch.inference_mode(), autocast(amp, device):
                found: np.ndarray = module(images.to(device)).float().cpu().numpy()
            return found

        exact = of(torch.device("cpu"), "off")
        for amp, most in (("off", 2e-3), ("bf16", 3e-2)):  # bf16 has eight bits
            far = relative(of(self.bench.device, amp), exact)
            self.bench.row(f"features, {amp}, against float32 on the CPU", far, "relative", far < most)

    def probe(self) -> None:
        """Logits of the test split after five epochs on cached features."""
        flags = [*self.common, "--features", "cached", "--epochs", "5", "--batch_size", "16"]
        ways = {"probe-cpu": ("off", "cpu"), "probe": ("off", self.device), "probe-bf16": ("bf16", self.device)}
        logits = {}
        for tag, (amp, device) in ways.items():
            command(self.bench, "linear", tag, *flags, "--amp", amp, "--device", device)
            (path,) = (self.bench.scratch / tag / "results" / "predictions").glob("*.safetensors")
            logits[tag] = load_file(path)["logits"]
        for tag, most in (("probe", 1e-2), ("probe-bf16", 2e-1)):
            far = relative(logits[tag], logits["probe-cpu"])
            self.bench.row(f"{tag} of 5 epochs, logits", far, "relative", far < most)

    def steps(self, tag: str, most: float | None, *flags: str) -> None:
        """Training loss of steps 6 to 10; of fp16 the scale of its gradients too."""
        self.losses[tag] = float(command(self.bench, "finetune", tag, *self.tune, *flags)["history"][-1]["train_loss"])
        if most is not None:
            far = abs(self.losses[tag] - self.losses["tune-cpu"])
            self.bench.row(f"{tag}: training loss after ten steps, to the CPU's", far, "nats", far < most)
        if tag == "tune-fp16":
            scale = self._scale(tag)
            self.bench.row(f"{tag}: scale of the gradients in the checkpoint", scale, "", scale >= 1)

    def _scale(self, tag: str) -> float:
        """The scale that a checkpoint holds of the fp16 scaler."""
        held = torch.load(self.bench.scratch / tag / "run" / "checkpoint-last.pth", weights_only=True)
        return float(held["scaler"]["scale"])

    def resume(self) -> None:
        """A run that SIGTERM ends after four steps and that goes on, against the one in a piece."""
        flags = [*self.tune, "--amp", "off", "--device", self.device]
        command(self.bench, "finetune", "resume", *flags, code=STOPPED, ends=130)
        gone_on = command(self.bench, "finetune", "resume", *flags)
        steps = [entry["step"] for entry in gone_on["history"]]
        far = abs(gone_on["history"][-1]["train_loss"] - self.losses["tune"])
        least = 1e-6 if self.bench.device.type == "cpu" else 1e-3  # sums of atomic additions differ in their last bits
        self.bench.row("stopped and resumed, training loss, to the run in a piece", far, "nats", far <= least)
        self.bench.row("stopped and resumed, evaluations", len(steps), "", steps == [5, 10])

    def one_process(self) -> None:
        """Three steps under DDP in a group of one process, against the same without; the exchanges that runs use."""
        backend = "nccl" if self.bench.device.type == "cuda" else "gloo"
        place = self.bench.scratch / "rendezvous"
        dist.init_process_group(backend, init_method=f"file://{place}", rank=0, world_size=1)
        try:
            one = torch.ones(3, device=self.bench.device)
            dist.all_reduce(one)
            dist.broadcast(one, src=0)
            gathered: list[Any] = [None]
            dist.all_gather_object(gathered, {"rank": 0})
            dist.barrier()
            found = [self._three_steps(parallel) for parallel in (True, False)]
        finally:
            dist.destroy_process_group()
        far = relative(*found)
        good = far < 1e-4 and gathered == [{"rank": 0}] and bool((one == 1).all())
        self.bench.row(f"{backend}, one process: weights after three steps of DDP", far, "relative", good)

    def _three_steps(self, parallel: bool) -> np.ndarray:
        """A weight after three steps of SGD."""
        module = build_backbone(Model(model=self.name, weights="random", input_size=self.size), 0).module
        module = module.to(self.bench.device).requires_grad_(True)
        model: torch.nn.Module = module
        if parallel:
            model = DistributedDataParallel(module, gradient_as_bucket_view=True)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        images = torch.rand(4, 2, self.size, self.size, generator=torch.Generator().manual_seed(1))
        for _ in range(3):
            model(images.to(self.bench.device)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        weights = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
        found: np.ndarray = weights.cpu().numpy()
        return found

    def segmentation(self) -> None:
        """The loss of the first step of UPerNet."""
        flags = f"--dataset dfc2020 --data_path {self.tiles} --model {self.name} --max_steps 1 --warmup_steps 0"
        flags += " --batch_size 2 --fpn_dim 16 --panels 0 --num_workers 0 --drop_path 0 --head_dropout 0"
        flags += f" --input_size {64 if self.bench.tiny else 224}"
        ways = (("seg-cpu", "off", "cpu"), ("seg", "off", self.device), ("seg-bf16", "bf16", self.device))
        losses = {
            tag: command(self.bench, "segment", tag, *flags.split(), "--amp", amp, "--device", device)["history"][-1][
                "train_loss"
            ]
            for tag, amp, device in ways
        }
        for tag, most in (("seg", 1e-2), ("seg-bf16", 5e-2)):
            far = abs(losses[tag] - losses["seg-cpu"])
            self.bench.row(f"{tag}: one step of UPerNet, loss, to the CPU's", far, "nats", far < most)

    def too_little_memory(self) -> None:
        """A batch that does not fit is one line that names one that may."""
        flags = [*self.tune, "--amp", "off", "--device", self.device]
        flags[flags.index("--batch_size") + 1] = "48"
        said = command(self.bench, "finetune", "small", *flags, code=SMALL, ends=1)["stderr"]
        named = "out of memory at --batch_size 48; use --batch_size 24 --accum_iter 2" in said
        self.bench.row("a card with too little memory names a batch that fits", float(named), "", named)


def joules() -> float | None:
    """Joules that the first card has used since its driver was loaded, by NVML; None where there is none."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        handle, used = ctypes.c_void_p(), ctypes.c_ulonglong()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)):
            return None
        if not nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(used)):
            return used.value / 1000  # the driver counts millijoules
    return None
