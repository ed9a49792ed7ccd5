"""Probes of a frozen backbone on a classification dataset.

  torchrun -m fgmae_bench.linear --dataset eurosat
  python -m fgmae_bench.linear --dataset eurosat --data_path DIR --weights random --features cached

Expected with FGMAE weights on EuroSAT-SAR: OA .80 (ViT-S) to .83 (ViT-L).
"""

from __future__ import annotations

from fgmae_bench.command import run_command
from fgmae_bench.errors import run_entry

# Flags of fine-tuning that mean nothing here.
IGNORED = ("mixup", "cutmix", "smoothing", "drop_path", "layer_decay", "clip_grad")


def main() -> None:
    """Parse the command line, run the grid, print its scores."""
    run_command("linear", __doc__ or "", IGNORED, "a probe")


if __name__ == "__main__":
    run_entry(main)
