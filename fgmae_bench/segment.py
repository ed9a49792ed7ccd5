"""Segmentation with a decode head on a segmentation dataset: with the backbone, or on top of a frozen one.

  torchrun --nproc_per_node=2 -m fgmae_bench.segment --dataset dfc2020 --data_path DIR
  python -m fgmae_bench.segment --dataset dfc2020 --freeze_backbone --head linear --recipe corrected

Expected of FGMAE ViT-S on DFC2020: mIoU .39 in its paper (8 classes).
"""

from __future__ import annotations

from fgmae_bench.command import run_command
from fgmae_bench.errors import run_entry

# Flags of fine-tuning that mean nothing here.
IGNORED = ("mixup", "cutmix", "smoothing")


def main() -> None:
    """Parse the command line, run the grid, print its scores."""
    run_command("segment", __doc__ or "", IGNORED, "segmentation")


if __name__ == "__main__":
    run_entry(main)
