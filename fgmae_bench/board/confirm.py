"""Authors' confirmations of an integration: read from the repository of the weights, where authors alone can put them.

Neither a record nor a store can hold one. The file is `fgmae_bench.json` in the repository that the suite's manifest
names for the weights: {"confirms": [{"model": …, "weights_sha256": …, "contract": {…}}]}.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from fgmae_bench.board.judge import Served
from fgmae_bench.checkpoints.registry import WEIGHTS
from fgmae_bench.errors import BenchError
from fgmae_bench.hub.fetch import fetch
from fgmae_bench.hub.http import HubFile
from fgmae_bench.records import Record

FILE, BRANCH, MAX_BYTES = "fgmae_bench.json", "main", 1 << 20
CONTRACT = ("bands", "normalizer", "mean", "std", "size")  # what an author confirms of the input

log = logging.getLogger("fgmae_bench")


def confirmations(served: list[Served], folder: Path) -> dict[str, str]:
    """Run id -> `repository@commit` of the author's file that confirms its model, weights and input.

    Each repository is asked once; one that has no such file, or cannot be reached, confirms nothing, which is logged.
    """
    asked: dict[str, tuple[str, list[Any]]] = {}
    found = {}
    for each in served:
        repo = _repository(each.record)
        if repo is None:
            continue
        if repo not in asked:
            asked[repo] = _ask(repo, folder / str(len(asked)))
        commit, statements = asked[repo]
        if any(_confirms(statement, each.record) for statement in statements):
            found[each.record["run_id"]] = f"{repo}@{commit}"
    return found


def _repository(record: Record) -> str | None:
    """The repository of a record's weights, as the suite's own manifest names it."""
    entry = WEIGHTS.get(str(record["config"]["model"]["weights"]), {}).get(record["model"]["name"])
    return entry.hub.repo or None if entry is not None else None


def _ask(repo: str, folder: Path) -> tuple[str, list[Any]]:
    """(commit, statements) of a repository's file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = fetch(HubFile(repo=repo, file=FILE, revision=BRANCH), folder / FILE)
        if file.path.stat().st_size > MAX_BYTES:
            raise BenchError(f"{repo}: {FILE} has more than {MAX_BYTES} bytes", "tell its authors")
        held = json.loads(file.path.read_bytes())
        statements = held["confirms"] if isinstance(held, dict) else None
        if not isinstance(statements, list):
            raise BenchError(f"{repo}: {FILE} holds no list 'confirms'", "tell its authors")
        return file.commit or BRANCH, statements
    except BenchError as error:
        log.info("no confirmation: %s", error.what)
    except (ValueError, KeyError, RecursionError) as error:
        log.info("no confirmation: %s: %s holds no statement that can be read (%s)", repo, FILE, error)
    return BRANCH, []


def _confirms(statement: Any, record: Record) -> bool:
    """Whether a statement names this model, these weights and the input that the record was fed."""
    if not isinstance(statement, dict) or not isinstance(statement.get("contract"), dict):
        return False
    digest, fed = record["model"]["weights"]["sha256"], record["model"]["contract"]
    same = digest is not None and statement.get("weights_sha256") == digest
    same = same and statement.get("model") == record["model"]["name"]
    return same and all(statement["contract"].get(name) == fed.get(name) for name in CONTRACT)
