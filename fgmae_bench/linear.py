"""Probes of a frozen backbone on a classification dataset.

  torchrun -m fgmae_bench.linear --dataset eurosat
  python -m fgmae_bench.linear --dataset eurosat --data_path DIR --weights random --features cached

Expected with FGMAE weights on EuroSAT-SAR: OA .80 (ViT-S) to .83 (ViT-L).
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from fgmae_bench.cards import load_card
from fgmae_bench.config import compose
from fgmae_bench.errors import run_entry
from fgmae_bench.flags import parse_run
from fgmae_bench.records import note

# Flags of published command lines that mean nothing here.
IGNORED = (
    "fine_tune", "dist_eval", "is_slurm_job", "pin_mem", "no_pin_mem", "cls_token",
    "mixup", "cutmix", "smoothing", "drop_path", "layer_decay", "clip_grad",
)  # fmt: skip


def main() -> None:
    """Parse the command line, run the grid, print its scores."""
    rank0 = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if rank0 else logging.ERROR, format="%(message)s", stream=sys.stderr)
    given, config, ignored = parse_run("linear", __doc__ or "", sys.argv[1:], IGNORED)
    card = load_card(str({**config, **given}["dataset"]))
    runs = compose("linear", given, card, config)
    notes = []
    if ignored:
        flags = ", ".join(f"--{flag}" for flag in ignored)
        logging.getLogger("fgmae_bench").warning("%s means nothing for a probe and is ignored", flags)
        notes = [note("ignored_flag", f"{flag} means nothing for a probe and was ignored") for flag in flags.split(", ")]

    if runs[0].execution.eval:
        from fgmae_bench.probe.resume import evaluate_checkpoint

        scored = evaluate_checkpoint(runs, card)
        if rank0:
            print(line(f"{scored['run_id']} {scored['which']}", scored["test"]))
            if runs[0].execution.legacy_metrics:
                print(legacy_line(scored["legacy"]))
        return

    from fgmae_bench.probe.engine import run_probe

    for record in run_probe(runs, card, notes):
        if rank0:
            mark = "  [synthetic data]" if record["dataset"]["synthetic"] else ""
            print(line(record["run_id"], record["metrics"]["test"]) + f"  n_test {record['dataset']['n_test']}{mark}")
            if runs[0].execution.legacy_metrics and record["metrics"]["legacy"]:
                print(legacy_line(record["metrics"]["legacy"]))


def line(name: str, metrics: dict[str, Any]) -> str:
    """One line of scores."""
    return "  ".join([name, *(f"{key} {value:.4f}" for key, value in metrics.items() if isinstance(value, float))])


def legacy_line(legacy: dict[str, Any]) -> str:
    """What the reference code would have printed."""
    return line(f"  per-batch averages (batches of {legacy['batch_size']}), not to be reported", legacy)


if __name__ == "__main__":
    run_entry(main)
