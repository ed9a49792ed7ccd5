"""What the entries that run something share: from a command line to runs, and from records to printed scores."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from fgmae_bench.config.cards import Card, load_card
from fgmae_bench.config.flags import parse_run
from fgmae_bench.config.run import Run, compose
from fgmae_bench.errors import Diverged, note
from fgmae_bench.records import Record

Engine = Callable[[list[Run], Card, list[dict[str, str]]], list[Record]]
Evaluate = Callable[[list[Run], Card], dict[str, Any]]


def run_command(module: str, doc: str, ignored: tuple[str, ...], what: str, engine: Engine, evaluate: Evaluate) -> None:
    """Parse the command line of `module`, run its grid with `engine` or score a checkpoint with `evaluate`, print the
    scores.

    `ignored` flags mean nothing for `what`: accepted, named in one warning, and noted in the record.
    """
    rank0 = os.environ.get("RANK", "0") == "0"
    given, config, skipped = parse_run(module, doc, sys.argv[1:], ignored)
    card = load_card(str({**config, **given}["dataset"]))
    runs = compose(module, given, card, config)
    if skipped:
        flags = ", ".join(f"--{flag}" for flag in skipped)
        words = "mean nothing for %s and are ignored" if len(skipped) > 1 else "means nothing for %s and is ignored"
        logging.getLogger("fgmae_bench").warning(f"%s {words}", flags, what)
    notes = [note("ignored_flag", f"--{flag} means nothing for {what} and was ignored") for flag in skipped]
    legacy = runs[0].execution.legacy_metrics
    if runs[0].execution.eval:
        scored = evaluate(runs, card)
        _say(rank0, line(f"{scored['run_id']} {scored['which']}", scored["test"]))
        _say(rank0 and legacy, legacy_line(scored["legacy"]))
        return
    failure = None
    try:
        records = engine(runs, card, notes)
    except Diverged as error:
        records, failure = error.records, error
    for record in records:
        mark = "  [synthetic data]" if record["dataset"]["synthetic"] else ""
        if record["status"] == "diverged":
            _say(rank0, f"{record['run_id']}  diverged: no scores{mark}")
            continue
        _say(rank0, line(record["run_id"], record["metrics"]["test"]) + f"  n_test {record['dataset']['n_test']}{mark}")
        _say(rank0 and legacy and bool(record["metrics"]["legacy"]), legacy_line(record["metrics"]["legacy"] or {}))
    if failure is not None:
        raise failure


def line(name: str, metrics: dict[str, Any]) -> str:
    """One line of scores."""
    return "  ".join([name, *(f"{key} {value:.4f}" for key, value in metrics.items() if isinstance(value, float))])


def legacy_line(legacy: dict[str, Any]) -> str:
    """What the reference code would have printed."""
    return line(f"  per-batch averages (batches of {legacy.get('batch_size')}), not to be reported", legacy)


def _say(wanted: bool, text: str) -> None:
    if wanted:
        print(text)  # noqa: T201 (entries print their result)
