"""Train the demo's small ViT on a synthetic BigEarthNet world and keep its encoder.

  python experiments/demo/pretrain.py [--out experiments/demo/demo_vit.safetensors]

Expected: micro mAP .56 and macro mAP .48 on val, after some minutes on two cores.
What it learnt is synthetic: the file serves demos and tests. The same machine and libraries give the same bytes again.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.models.contracts import METADATA
from fgmae_bench.records import Record
from fgmae_bench.runs.folder import ordered
from fgmae_bench.runs.grid import run_grid
from fgmae_bench.runs.tensors import BEST, load_tensors
from fgmae_bench.system.files import write_bytes
from fgmae_bench.worlds.bigearthnet import write_bigearthnet

CHECKPOINT = Path(__file__).with_name("demo_vit.safetensors")
MODEL, SIZE = "test_vit", 64  # timm's smallest ViT: width 64, 6 blocks, patches of 16 pixels
ENCODER = "backbone.vit."  # what stands before the ViT's own keys in a checkpoint of fine-tuning
# The FGMAE contract's normaliser is the default. The CLS token keeps timm's final norm in place, so that plain ViTs
# load the file.
RECIPE: dict[str, Any] = {
    "recipe": "corrected",
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.05,
    "batch_size": 32,
    "layer_decay": 1.0,
    "drop_path": 0.0,
    "crop_scale": 0.3,
    "amp": "off",
    "sync_bn": False,
}


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """All that the checkpoint depends on."""

    patches: int = 3000
    world_seed: int = 1
    epochs: int = 100
    seed: int = 0


def train(settings: Pretraining, scratch: Path) -> tuple[Record, dict[str, Tensor]]:
    """The record of the run and the encoder of its best epoch on val; the world and all outputs lie in `scratch`."""
    write_bigearthnet(scratch / "world", patches=settings.patches, seed=settings.world_seed, progress=True)
    card = load_card("bigearthnet")
    given = RECIPE | {
        "dataset": "bigearthnet",
        "data_path": str(scratch / "world"),
        "model": MODEL,
        "weights": "random",
        "pool": "cls",
        "input_size": SIZE,
        "epochs": settings.epochs,
        "warmup_epochs": settings.epochs / 20,
        "eval_every": max(1, settings.epochs // 10),
        "seed": settings.seed,
        "device": "cpu",
        "cache_dir": str(scratch / "cache"),
        "results_dir": str(scratch / "results"),
        "output_dir": str(scratch / "run"),
    }
    (record,) = run_grid("finetune", compose("finetune", given, card), card)
    return record, encoder(load_tensors(scratch / "run" / BEST)["model"])


def encoder(model: dict[str, Tensor]) -> dict[str, Tensor]:
    """The ViT's own tensors of a fine-tuned classifier, under timm's keys; the head is left out."""
    return {
        name.removeprefix(ENCODER): tensor.contiguous() for name, tensor in model.items() if name.startswith(ENCODER)
    }


def packed(weights: dict[str, Tensor], settings: Pretraining, record: Record) -> bytes:
    """The file's bytes, with how it was made and the contract that runs hold `--normalizer` against."""
    made = {
        "made_by": "experiments/demo/pretrain.py",
        "task": "19 land-cover classes of a synthetic BigEarthNet-S1 world",
        "model": MODEL,
        "input_size": SIZE,
        "pool": "cls",
        "normalizer": "fgmae",
        **asdict(settings),
        **RECIPE,
        "val_map_micro": round(record["metrics"]["best"]["map_micro"], 4),
    }
    contract = asdict(replace(FGMAE_CONTRACT, size=SIZE))
    return ordered(
        save(weights, metadata={"synthetic": json.dumps(made), METADATA: json.dumps({"contract": contract})})
    )


def main() -> None:
    """Train, write the encoder, print what it scored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="file to write (default: beside this script)")
    for name, value in asdict(Pretraining()).items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"(default: {value})")
    given = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)  # the model is too small to divide; one thread gives the same bits on any number of cores
    out, settings = given.pop("out"), Pretraining(**given)
    with tempfile.TemporaryDirectory() as scratch:
        record, weights = train(settings, Path(scratch))
    content = packed(weights, settings, record)
    write_bytes(out, content)
    best, seconds = record["metrics"]["best"], record["timing"]["total_seconds"]
    print(
        f"{out}: {sum(tensor.numel() for tensor in weights.values())} parameters, {len(content)} bytes (synthetic data)"
    )
    scores = f"micro mAP {best['map_micro']:.3f}, macro mAP {best['map_macro']:.3f}"
    print(f"best evaluation on val: number {best['epoch']}, {scores}; {seconds:.0f} s of training")


if __name__ == "__main__":
    main()
