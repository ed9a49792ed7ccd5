"""What the entries that run something share: from a command line to runs, and from records to printed scores."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.flags import parse_run
from fgmae_bench.errors import Diverged, note
from fgmae_bench.records import Record

# Flags of published command lines that mean nothing for any entry.
IGNORED = ("fine_tune", "dist_eval", "is_slurm_job", "pin_mem", "no_pin_mem", "cls_token", "global_pool")


def run_command(module: str, doc: str, ignored: tuple[str, ...], what: str) -> None:
    """Parse the command line of the entry `module`, run its grid or score a checkpoint, print the scores.

    `IGNORED` flags and those `ignored` mean nothing for `what`: accepted, named in one warning, noted in the record.
    """
    given, config, skipped = parse_run(module, doc, sys.argv[1:], IGNORED + ignored)
    card = load_card(str({**config, **given}["dataset"]))
    runs = compose(module, given, card, config)
    notes = _ignored_notes(skipped, what)
    legacy = runs[0].execution.legacy_metrics
    from fgmae_bench.runs.grid import run_grid, score_checkpoint  # torch: bad flags are refused before it is imported

    if runs[0].execution.eval:
        scored = score_checkpoint(module, runs, card)
        _say(line(f"{scored['run_id']} {scored['which']}", scored["test"]))
        if legacy:
            _say(legacy_line(scored["legacy"]))
        return
    failure = None
    try:
        records = run_grid(module, runs, card, notes)
    except Diverged as error:
        records, failure = error.records, error
    for record in records:
        _say_scores(record, legacy)
    if failure is not None:
        raise failure


def _ignored_notes(skipped: tuple[str, ...], what: str) -> list[dict[str, str]]:
    """A note for each flag that means nothing for `what`, and one warning of them all."""
    if skipped:
        flags = ", ".join(f"--{flag}" for flag in skipped)
        words = "mean nothing for %s and are ignored" if len(skipped) > 1 else "means nothing for %s and is ignored"
        logging.getLogger("fgmae_bench").warning(f"%s {words}", flags, what)
    return [note("ignored_flag", f"--{flag} means nothing for {what} and was ignored") for flag in skipped]


def _say_scores(record: Record, legacy: bool) -> None:
    """Print what a run scored, and with `legacy` the per-batch averages too."""
    mark = "  [synthetic data]" if record["dataset"]["synthetic"] else ""
    if record["status"] == "diverged":
        _say(f"{record['run_id']}  diverged: no scores{mark}")
        return
    _say(line(record["run_id"], record["metrics"]["test"]) + f"  n_test {record['dataset']['n_test']}{mark}")
    if legacy and record["metrics"]["legacy"]:
        _say(legacy_line(record["metrics"]["legacy"]))


def line(name: str, metrics: dict[str, Any]) -> str:
    """One line of scores."""
    return "  ".join([name, *(f"{key} {value:.4f}" for key, value in metrics.items() if isinstance(value, float))])


def legacy_line(legacy: dict[str, Any]) -> str:
    """What the reference code would have printed."""
    return line(f"  per-batch averages (batches of {legacy.get('batch_size')}), not to be reported", legacy)


def _say(text: str) -> None:
    """Print on the first process."""
    if os.environ.get("RANK", "0") == "0":
        print(text)  # noqa: T201 (entries print their result)
