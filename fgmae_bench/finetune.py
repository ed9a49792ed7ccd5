"""End-to-end fine-tuning on a classification dataset.

  torchrun --nproc_per_node=2 -m fgmae_bench.finetune --dataset eurosat --lr 0.01
  python -m fgmae_bench.finetune --dataset bigearthnet --data_path DIR --recipe corrected

Expected with FGMAE weights: EuroSAT-SAR OA .86 to .87, BigEarthNet-S1 micro mAP about .85 (per-batch averages as
published).
"""

from __future__ import annotations

from fgmae_bench.command import run_command
from fgmae_bench.errors import run_entry


def main() -> None:
    """Parse the command line, run the grid, print its scores."""
    run_command("finetune", __doc__ or "", (), "fine-tuning")


if __name__ == "__main__":
    run_entry(main)
