"""Random checkpoints with exactly the published keys, shapes and wrappers, for tests and demos; they have learnt
nothing.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fgmae_bench.checkpoints.shapes import VitShape, encoder_shapes, full_shapes
from fgmae_bench.errors import BenchError
from fgmae_bench.system.files import replacing

Weights = OrderedDict[str, Tensor]
FIXED = (
    "pos_embed",
    "decoder_pos_embed",
    "hog.weight_x",
    "hog.weight_y",
    "hog.gkern",
)  # not trained: no optimizer state
EPOCH = 99


def write_synthetic(
    path: Path, vit: VitShape, layout: str, *, seed: int = 0, half: bool = False, with_optimizer: bool = False
) -> int:
    """Write a random checkpoint in a layout of LAYOUTS; number of keys of its state dict.

    Raises BenchError when `path` exists, or when an optimizer is asked of a layout without one.
    """
    if path.exists():
        raise BenchError(f"{path} exists", "remove it or choose another name")
    if with_optimizer and layout not in ("full", "mae"):
        raise BenchError(
            f"layout {layout} has no optimizer", "use the layout full or mae, or leave out --with_optimizer"
        )
    weights = random_weights(vit, layout, seed)
    if half:
        weights = OrderedDict((name, tensor.half()) for name, tensor in weights.items())
    with replacing(path) as temporary:
        LAYOUTS[layout](temporary, weights, with_optimizer)
    return len(weights)


def random_weights(vit: VitShape, layout: str, seed: int) -> Weights:
    """The state dict of a layout: truncated normal (std .02), unit norms, zero biases, the fixed sine-cosine positions
    of MAE.
    """
    shapes = encoder_shapes(vit) if layout == "encoder" else full_shapes(vit, hog=layout != "mae")
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = OrderedDict()
    for name, shape in shapes.items():
        if name.endswith("pos_embed"):
            weights[name] = sincos_positions(shape[2], vit.size // vit.patch)
        elif name.endswith("bias"):
            weights[name] = torch.zeros(shape)
        elif "norm" in name:
            weights[name] = torch.ones(shape)
        else:
            weights[name] = torch.nn.init.trunc_normal_(torch.empty(shape), std=0.02, generator=generator)
    return weights


def sincos_positions(dim: int, side: int) -> Tensor:
    """(1, 1 + side*side, dim): half of the channels for the column, half for the row, zeros for CLS.

    `get_2d_sincos_pos_embed` of facebookresearch/mae, util/pos_embed.py. `dim` is divisible by 4.
    """
    frequencies = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies  # (side, dim/4)
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, dim/2)
    columns, rows = line.repeat(side, 1), line.repeat_interleave(side, dim=0)
    return torch.cat([torch.zeros(1, dim), torch.cat([columns, rows], dim=1).float()])[None]


def _pretraining(path: Path, weights: Weights, with_optimizer: bool) -> None:
    """util/misc.py `save_model` of the published code; its arguments are an argparse.Namespace."""
    args = argparse.Namespace(
        synthetic=True, batch_size=64, epochs=EPOCH + 1, mask_ratio=0.7, feature="hog", output_dir="", device="cuda"
    )
    scaler = {
        "scale": 65536.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 0,
    }
    optimizer = _optimizer(weights, with_optimizer)
    torch.save({"model": weights, "optimizer": optimizer, "epoch": EPOCH, "scaler": scaler, "args": args}, path)


def _optimizer(weights: Weights, with_moments: bool) -> dict[str, Any]:
    """AdamW's state over two groups of parameters, without and with weight decay; its moments are zeros."""
    trained = [tensor for name, tensor in weights.items() if name not in FIXED]
    plain = [index for index, tensor in enumerate(trained) if tensor.dim() == 1]
    decayed = [index for index, tensor in enumerate(trained) if tensor.dim() > 1]
    common = {"lr": 1e-4, "betas": (0.9, 0.95), "eps": 1e-8}
    groups = [{"weight_decay": 0.0, **common, "params": plain}, {"weight_decay": 0.05, **common, "params": decayed}]
    state = {}
    if with_moments:
        for index, tensor in enumerate(trained):
            state[index] = {
                "step": torch.tensor(1.0),
                "exp_avg": torch.zeros_like(tensor),
                "exp_avg_sq": torch.zeros_like(tensor),
            }
    return {"state": state, "param_groups": groups}


def _bare(path: Path, weights: Weights, with_optimizer: bool) -> None:
    """The `_enc.pth` files: the encoder's state dict and nothing around it."""
    torch.save(weights, path)


def _dataparallel(path: Path, weights: Weights, with_optimizer: bool) -> None:
    """Saved from inside DistributedDataParallel."""
    torch.save(
        {"epoch": EPOCH, "state_dict": OrderedDict((f"module.{name}", tensor) for name, tensor in weights.items())},
        path,
    )


def _safetensors(path: Path, weights: Weights, with_optimizer: bool) -> None:
    save_file(dict(weights), path, metadata={"synthetic": "true"})


LAYOUTS: dict[str, Callable[[Path, Weights, bool], None]] = {
    "full": _pretraining,
    "encoder": _bare,
    "mae": _pretraining,
    "safetensors": _safetensors,
    "dataparallel": _dataparallel,
}
