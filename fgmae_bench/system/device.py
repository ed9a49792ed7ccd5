"""Which device computes, and in which precision."""

from __future__ import annotations

import contextlib
import logging
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fgmae_bench.errors import BenchError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("fgmae_bench")


def resolve_device(name: str) -> torch.device:
    """`auto` is cuda where there is one, else cpu. Raises BenchError for a device that is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BenchError(f"unknown device '{name}'", "choose from auto, cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise BenchError(f"device '{name}' is not supported", "choose from auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BenchError(f"--device {name}: this machine or this build of torch has no CUDA device", "use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BenchError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices", "use a smaller number")
    return device


def as_input(images: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Prepared images on the device in the model's type; uint8 input is brought to [0, 1]."""
    import torch

    moved = images.to(device, non_blocking=True)
    return moved.to(dtype).div_(255) if images.dtype == torch.uint8 else moved.to(dtype)


Precision = Literal["off", "bf16", "fp16"]


def resolve_amp(amp: Precision | None, device: torch.device, published: bool = False) -> Precision:
    """`off`, `bf16` or `fp16`; fp16 is refused on a CPU.

    By default bf16 where the hardware has it. The reference code runs fp16 with a gradient scaler on CUDA, and so does
    a `published` recipe there: its runs on a CPU have ids of their own.
    """
    if amp is None and published and device.type == "cuda":
        log.info("precision fp16, as the published code; it is part of the run id, which on a CPU is another")
        return "fp16"
    if amp is None:
        return "bf16" if has_bf16(device) else "off"
    if amp == "fp16" and device.type == "cpu":
        raise BenchError("--amp fp16 on a CPU", "use --amp bf16 or off")
    return amp


def has_bf16(device: torch.device) -> bool:
    """True where bfloat16 products are native: by the GPU's own word, or the CPU's feature flags."""
    if device.type == "cuda":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    features = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & features)


def device_name(device: torch.device) -> str:
    """Name of the GPU, or of the CPU as the system states it."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def gpu_id(device: torch.device) -> str:
    """The UUID of a GPU as its driver knows it, `GPU-…`; empty for a CPU, or where this torch does not say it."""
    if device.type != "cuda":
        return ""
    import torch

    uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    return uuid if not uuid or uuid.startswith("GPU-") else f"GPU-{uuid}"


def autocast(amp: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The autocast context of a precision; nothing for `off`."""
    if amp == "off":
        return contextlib.nullcontext()
    import torch

    return torch.autocast(device.type, dtype=torch.bfloat16 if amp == "bf16" else torch.float16)
