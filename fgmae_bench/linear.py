"""Probes of a frozen backbone on a classification dataset.

  torchrun -m fgmae_bench.linear --dataset eurosat
  python -m fgmae_bench.linear --dataset eurosat --data_path DIR --weights random --features cached

Expected with FGMAE weights on EuroSAT-SAR: OA .80 (ViT-S) to .83 (ViT-L).
"""

from __future__ import annotations

import logging
import os
import sys

from fgmae_bench.cards import load_card
from fgmae_bench.config import compose
from fgmae_bench.errors import run_entry
from fgmae_bench.flags import parse_run
from fgmae_bench.records import Record, note

# Flags of published command lines that mean nothing here.
IGNORED = ("fine_tune", "dist_eval", "is_slurm_job", "pin_mem", "cls_token")


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

    from fgmae_bench.probe.engine import run_probe

    records = run_probe(runs, card, notes)
    if rank0:
        for record in records:
            print(summary(record))


def summary(record: Record) -> str:
    """One line of scores; synthetic data says so."""
    test = record["metrics"]["test"]
    values = "  ".join(f"{name} {value:.4f}" for name, value in test.items() if isinstance(value, float))
    mark = "  [synthetic data]" if record["dataset"]["synthetic"] else ""
    return f"{record['run_id']}  {values}  n_test {record['dataset']['n_test']}{mark}"


if __name__ == "__main__":
    run_entry(main)
