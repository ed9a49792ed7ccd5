"""Records of one's own and of others, whose folders say where each comes from: a small file a run, by `board pull`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fgmae_bench.errors import BenchError, note
from fgmae_bench.records import Record, each_record
from fgmae_bench.system.files import read_small_json

FOLDER = "provenance"
FIELDS = ("submitted_by", "submitted_commit", "submitted_at", "store", "sha256", "confirmed_by")


def read_provenance(folder: Path) -> dict[str, dict[str, Any]]:
    """Run id -> who submitted it, in which commit, when, from which store; empty for a folder of one's own results."""
    found = {}
    place = folder / FOLDER
    for name in sorted(os.listdir(place)) if place.is_dir() else ():
        held = read_small_json(place / name) if name.endswith(".json") else None
        if isinstance(held, dict):
            found[name[:-5]] = {key: held[key] for key in FIELDS if isinstance(held.get(key), str)}
    return found


class Held(NamedTuple):
    """A record, its results folder and file, and what a pulled folder says of where it comes from."""

    folder: Path
    path: Path
    record: Record
    said: dict[str, Any]


def each_held(own: Path, pulled: Sequence[Path]) -> Iterator[Held | str]:
    """The records of one's own folder, then those of pulled ones that it does not have; or the line that says why one
    is left out.

    Of a run that two pulled folders hold with other content the first is taken, and the other said. Raises BenchError
    on a folder that is not there.
    """
    seen: dict[str, str] = {}
    for folder in (own, *pulled):
        if not folder.is_dir():
            raise BenchError(f"{folder} is not a folder", "give a folder of results")
        provenance = read_provenance(folder) if folder != own else {}
        for path, record in each_record(folder):
            if isinstance(record, str):
                yield record
                continue
            run_id, said = record["run_id"], provenance.get(record["run_id"], {})
            if folder != own and said.get("sha256") != record["sha256"]:
                yield f"{path}: not the record that was pulled"
            elif run_id not in seen:
                seen[run_id] = "" if folder == own else record["sha256"]
                yield Held(folder, path, record, said)
            elif seen[run_id] not in ("", record["sha256"]):
                yield f"{path}: two contents under one id, another pulled folder holds {seen[run_id][:10]}"


def with_origin(held: Held) -> Record:
    """The record with a note of who submitted it, and who confirmed its integration; one's own as it is."""
    said = held.said
    if not said:
        return held.record
    text = f"submitted by {said.get('submitted_by', 'unknown')}, commit {said.get('submitted_commit', '')[:10]}"
    notes = [note("submitted", f"{text}, {said.get('submitted_at', '')[:10]}")]
    if "confirmed_by" in said:
        notes.append(
            note("confirmed", f"model, weights and input are confirmed by their authors: {said['confirmed_by']}")
        )
    return {**held.record, "notes": [*held.record["notes"], *notes]}
