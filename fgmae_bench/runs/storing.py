"""The end of every run: predictions, what belongs into its folder, and last of all its record; by one process at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from fgmae_bench.checksums import sha256_of
from fgmae_bench.locks import alone
from fgmae_bench.records import Record, read_record, record_path, store
from fgmae_bench.runs.folder import RunFolder, repeatable

log = logging.getLogger("fgmae_bench")


def store_run(
    results: Path, parts: tuple[str, str, str], folder: RunFolder, *, write: Callable[[Path], None] | None,
    assembled: Callable[[dict[str, str] | None], Record], leave: Callable[[], None] = lambda: None,
) -> Record:  # fmt: skip
    """Write what a run leaves and return its record, as it was read back. `parts` are its dataset, protocol and run id.

    `write` puts the predictions under the path it is given (None for a run without), `assembled` makes the record from their
    description, `leave` adds what else belongs into the folder. Where another process has recorded the same run meanwhile, its
    record and predictions stay and are returned. A failure takes the predictions back, so that none lie there without a record.
    """
    run_id, path = parts[2], record_path(results, parts)
    predictions = results / "predictions" / f"{run_id}.safetensors"
    with alone(predictions.with_name(f".{run_id}.storing")):
        found = path.exists()
        if found:
            log.info("%s was recorded by another process meanwhile (%s)", run_id, path)
        try:
            if write is not None and not found:
                write(predictions)
            record = read_record(path) if found else assembled(None if write is None else _described(predictions))
            folder.tell_of_another(run_id)
            folder.finish(repeatable(record["config"], (folder.folder, folder.log_dir)))
            leave()
            if predictions.exists():
                folder.copy_in(predictions, "predictions-test.safetensors")
            stored = store(record, results)
        except BaseException:  # whatever happens after the rename, a record keeps its predictions
            if not path.exists():
                predictions.unlink(missing_ok=True)
            raise
        folder.copy_in(stored, "record.json")
        return read_record(stored)


def _described(predictions: Path) -> dict[str, str]:
    """The record's `predictions`: their hash, and their place below the results folder."""
    return {"sha256": sha256_of(predictions), "file": f"predictions/{predictions.name}"}
