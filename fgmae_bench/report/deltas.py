"""Measured - published: where the two may be compared, and the note where they may not."""

from __future__ import annotations

import statistics
from typing import Any

from fgmae_bench.records import Record
from fgmae_bench.report.published import SPLITS, Published, impossible_pair, title_of
from fgmae_bench.report.row import Note

NO_LEGACY = Note(
    code="no_legacy",
    text="No difference shown: the published number is a per-batch average and the record has no legacy metrics; "
    "run with --legacy_metrics.",
)
LEGACY = Note(
    code="legacy_compared",
    text="The difference is taken from the record's legacy metrics (averaged per batch, as the published number is), "
    "not from the values shown.",
)


def differences(records: tuple[Record, ...], published: Published) -> tuple[dict[str, float], tuple[Note, ...]]:
    """Measured (mean over seeds) - published for each metric that both sides have, and notes on how or why not.

    Dataset, split, protocol and metric definition must all match; per-batch averages are compared with
    `metrics.legacy` only.
    """
    obstacle = _obstacle(records, published)
    if obstacle:
        return {}, (obstacle,)
    legacy = "per-batch" in published.definition
    measured = [record["metrics"]["legacy" if legacy else "test"] for record in records]
    if any(values is None for values in measured):
        return {}, (NO_LEGACY,)
    if legacy and any(
        values.get("batch_size", published.batch_per_process) != published.batch_per_process for values in measured
    ):
        text = f"No difference shown: the published per-batch averages are of batches of {published.batch_per_process}."
        return {}, (Note(code="other_batch", text=text),)
    found = {}
    for metric, value in published.metrics:
        seeds = [values.get(metric) for values in measured]
        if all(isinstance(seed, int | float) for seed in seeds):
            found[metric] = statistics.fmean(seeds) - value
    return found, (LEGACY,) if legacy and found else ()


def statement(published: Published) -> tuple[Note, ...]:
    """Notes on a published row: how it was averaged, its remark, and whether its pair of values is possible."""
    words = "; ".join(part for part in (published.definition, published.remark) if part)
    notes = [Note(code="published_as", text=f"Published by {published.source}: {words}.")] if words else []
    bound = impossible_pair(published)
    if bound is not None:
        text = (
            f"Published OA {published.value('oa')} and AA {published.value('aa')} cannot both be values "
            "of the whole set: "
            f"with the class shares of {published.dataset}, OA and AA differ by at most {bound:.4f}."
        )
        notes.append(Note(code="impossible_pair", text=text))
    return tuple(notes)


def _obstacle(records: tuple[Record, ...], published: Published) -> Note | None:
    """Why nothing may be compared, None where it may. All records agree on everything that is looked at here."""
    record: dict[str, Any] = records[0]
    dataset = record["dataset"]

    def no(code: str, reason: str) -> Note:
        return Note(code=code, text=f"No difference shown: {reason}.")

    if any(each["dataset"]["synthetic"] for each in records):
        return no("synthetic", "the data is synthetic")
    if title_of(dataset["name"]) != published.dataset:
        return no("other_dataset", f"the published number is of {published.dataset}")
    if record["protocol"] != published.protocol:
        return no("other_protocol", f"the published protocol is {published.protocol}")
    split, seed = SPLITS.get(published.table, (None, None))
    if split is None:
        return no("other_split", "the split of the published number is not known")
    if dataset["split"] != split or seed not in (None, dataset["split_seed"]):
        return no(
            "other_split",
            f"the published number is of the split '{split}'" + (f", seed {seed}" if seed is not None else ""),
        )
    data = record["config"]["data"]
    if data.get("train_frac", 1.0) != 1.0 or data.get("shots") is not None:
        return no("other_split", "the published number is of the whole training split")
    if not any(known in published.definition for known in ("per-batch", "whole")):
        return no("other_definition", "how the published number was averaged is not known")
    return None
