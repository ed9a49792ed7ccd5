"""What is wrong with the files of a store: each fault in a line, and the records that are served all the same."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from fgmae_bench.board.files import CARDS, EXPLANATIONS, PART, PREDICTIONS, RECORDS, predictions_path
from fgmae_bench.board.git import Entry
from fgmae_bench.board.remarks import explained_in, unexplained
from fgmae_bench.board.scores import differences
from fgmae_bench.config.cards import Card, card_names, facts_sha256, load_card
from fgmae_bench.config.recipes import protocol_of
from fgmae_bench.config.run_ids import recorded_id
from fgmae_bench.config.stress import protocol_within
from fgmae_bench.errors import BenchError
from fgmae_bench.records import MAX_BYTES, Record, clean_id, record_of
from fgmae_bench.report.predictions import predictions_of

MAX_PREDICTIONS = 1 << 30  # bytes of one file
MAX_TEXT = 1 << 20  # of an explanation or a card
POINTER = b"version https://git-lfs"
NO_CARD = "the facts of its card cannot be checked: the store holds no cards/<name>/card.toml of it"


class Files(Protocol):
    """What a store is read through: a folder, or a commit."""

    def read(self, entry: Entry) -> bytes:
        """The bytes of a file."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A record that holds to everything, its file and that of its predictions, where the store has them."""

    entry: Entry
    record: Record
    predictions: Entry | None


@dataclass(kw_only=True)
class Verdict:
    """`served` records; `left_out` and `remarks` are lines: of what is not served, and of what is found besides."""

    served: list[Served] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    rescored: int = 0


def judged(entries: list[Entry], files: Files, large: Callable[[Record, bytes], bytes] | None = None) -> Verdict:
    """The verdict on a store. `large` gives the content of predictions whose file is a pointer of git LFS."""
    found, known = Verdict(), {entry.path: entry for entry in entries}
    cards = _cards(entries, files, found)
    read: list[Served] = []
    for entry in entries:
        if entry.path.split("/", 1)[0] != RECORDS:
            continue
        try:
            record = _record(entry, files)
            stored = known.get(predictions_path(record["run_id"])) if record["predictions"] else None
            read.append(Served(entry=entry, record=record, predictions=stored))
        except BenchError as error:
            found.left_out.append(error.what)
    for each in _of_one_content(read, found):
        try:
            _require_facts(each.record, cards, found)
            found.rescored += _require_scores(each, files, large, found)
            found.served.append(each)
        except BenchError as error:
            found.left_out.append(error.what)
    _remarks(found, entries, files)
    return found


def _record(entry: Entry, files: Files) -> Record:
    """The record of a file; raises BenchError on a link, a hostile name, a fault, or another place than its run's."""
    parts = entry.path.split("/")
    if entry.kind != "file":
        raise BenchError(f"{entry.path}: a {entry.kind}, not a record", "remove it")
    if len(parts) != 4 or not all(PART.fullmatch(part) for part in parts) or not parts[3].endswith(".json"):
        raise BenchError(
            f"{entry.path}: not a name of a record (records/<dataset>/<protocol>/<run id>.json)", "remove it"
        )
    if entry.size > MAX_BYTES:
        raise BenchError(f"{entry.path}: more than {MAX_BYTES} bytes", "remove it")
    record = record_of(files.read(entry), entry.path)
    named = (RECORDS, record["dataset"]["name"], record["protocol"], f"{record['run_id']}.json")
    if tuple(parts) != named:
        raise BenchError(f"{entry.path}: name or folder does not match the run inside", "restore it")
    try:
        ids = recorded_id(record)
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{entry.path}: its configuration is not whole ({error})", "run it again") from error
    if clean_id(record["run_id"]) not in ids:
        raise BenchError(f"{entry.path}: its configuration gives the run id {min(ids)}", "restore the record")
    return record


def _of_one_content(read: list[Served], found: Verdict) -> list[Served]:
    """The records but those whose run id stands for several contents."""
    same: dict[str, list[Served]] = defaultdict(list)
    for each in read:
        same[each.record["run_id"]].append(each)
    for several in same.values():
        if len(several) > 1:
            paths = " and ".join(each.entry.path for each in several)
            found.left_out.append(f"{several[0].record['run_id']}: two contents under one id: {paths}")
    return [several[0] for several in same.values() if len(several) == 1]


def _cards(entries: list[Entry], files: Files, found: Verdict) -> dict[str, Card]:
    """The cards of a store by name; those of the suite are the suite's."""
    cards = {}
    for entry in entries:
        parts = entry.path.split("/")
        if parts[0] != CARDS:
            continue
        try:
            if entry.kind != "file" or len(parts) != 3 or parts[2] != "card.toml" or entry.size > MAX_TEXT:
                raise BenchError(f"{entry.path}: not a card (cards/<name>/card.toml)", "remove it")
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "card.toml"
                path.write_bytes(files.read(entry))
                card = load_card(str(path))
            if card.name != parts[1]:
                raise BenchError(f"{entry.path}: the card of {card.name}", "name its folder so")
            cards[card.name] = card
        except BenchError as error:
            found.remarks.append(error.what.replace(tempfile.gettempdir(), "")[:300])
    return cards


def _require_facts(record: Record, cards: dict[str, Card], found: Verdict) -> None:
    """Raise BenchError where a record contradicts its card; a remark where the card is not known."""
    dataset = record["dataset"]
    card = load_card(dataset["name"]) if dataset["name"] in card_names() else cards.get(dataset["name"])
    if card is None:
        found.remarks.append(f"{record['run_id']}: {NO_CARD}")
        return
    if "content_sha256" not in dataset:
        raise BenchError(f"{record['run_id']}: holds no content hash: its schema is {record['schema']}", "run it again")
    if dataset["card_version"] > card.version:
        what = f"made with version {dataset['card_version']} of the card of {card.name}, here it is {card.version}"
        raise BenchError(f"{record['run_id']}: {what}", "update the suite")
    if dataset["card_version"] < card.version:
        what = f"made with version {dataset['card_version']} of the card of {card.name}, now it is {card.version}"
        found.remarks.append(f"{record['run_id']}: {what}")
        return
    if dataset.get("card_sha256") != facts_sha256(card):
        raise BenchError(f"{record['run_id']}: other facts than the card of {card.name} states", "run it again")
    stated = {"units": card.signal.units, "calibration": card.signal.calibration}
    if other := [name for name, value in stated.items() if dataset[name] != value]:
        raise BenchError(
            f"{record['run_id']}: other {' and '.join(other)} than the card of {card.name}", "run it again"
        )
    _require_one_content(record)


def _require_one_content(record: Record) -> None:
    """Raise BenchError where the record says otherwise than what its run id was made of."""
    dataset, facts = record["dataset"], record["config"]["facts"]
    for name, hashed in (("content_sha256", "content_sha256"), ("sample_ids_sha256", "samples_sha256")):
        if hashed in facts and facts[hashed] != dataset.get(name):
            raise BenchError(f"{record['run_id']}: {name} is not what its run id was made of", "run it again")
    for name, said, made_of in _said_twice(record):
        if said != made_of:
            raise BenchError(f"{record['run_id']}: {name} is not what its run id was made of", "run it again")


def _said_twice(record: Record) -> Iterator[tuple[str, object, object]]:
    """(name, what a record says, what its run id was made of), for what tables read besides the configuration."""
    config, dataset, model = record["config"], record["dataset"], record["model"]
    facts, weights, contract = config["facts"], model["weights"], model["contract"]
    yield "recipe", record["recipe"], config["recipe"]["recipe"]
    yield "model", model["name"], config["model"]["model"]
    if meant := _protocol(config["recipe"]):
        yield "protocol", protocol_within(record["protocol"]), meant
    if "synthetic" in facts:
        yield "synthetic", dataset["synthetic"], bool(facts["synthetic"])
    if facts.get("split", "lists") != "lists":  # of a folder of lists the samples say which it is
        yield "split", dataset["split"], facts["split"]
    if "weights" in facts:
        yield "weights", weights["sha256"] or weights["source"], facts["weights"]
    if isinstance(fed := facts.get("input"), dict):
        names, assumed = ("bands", "mean", "std"), contract.get("assumed")
        yield "contract", [contract.get(name) for name in names], [fed.get(name) for name in names]
        yield "assumed contract", contract.get("normalizer") if assumed else None, fed.get("assumed")
        if not assumed:
            yield "normalizer", contract.get("normalizer"), config["model"].get("normalizer")


def _protocol(recipe: dict[str, Any]) -> str | None:
    """The protocol that the values of a recipe stand for; None where it is of a plugin that is not here."""
    module = "linear" if "probe" in recipe else "segment" if "freeze_backbone" in recipe else "finetune"
    try:
        return protocol_of(module, SimpleNamespace(**recipe))
    except (StopIteration, AttributeError):
        return None


def _require_scores(each: Served, files: Files, large: Callable[[Record, bytes], bytes] | None, found: Verdict) -> bool:
    """Whether the scores were computed again; raises BenchError where they differ, or the file is another."""
    record, entry = each.record, each.predictions
    if entry is None:
        return False
    if entry.kind != "file" or entry.size > MAX_PREDICTIONS:
        raise BenchError(f"{entry.path}: a {entry.kind} of {entry.size} bytes, not predictions", "remove it")
    content = files.read(entry)
    if content.startswith(POINTER) and large is None:
        found.remarks.append(f"{entry.path}: a pointer of git LFS; the predictions were not fetched")
        return False
    if content.startswith(POINTER) and large is not None:
        content = large(record, content)
    held = predictions_of(record, content, entry.path)
    if lines := differences(record, held):
        raise BenchError(f"{record['run_id']}: {'; '.join(lines)}", "run it again")
    return True


def _explained(entry: Entry, files: Files, found: Verdict) -> dict[str, str]:
    """The explanations of a file; a remark, and none, where it holds none that can be read."""
    try:
        if entry.kind != "file" or entry.size > MAX_TEXT:
            raise BenchError(f"{entry.path}: a {entry.kind} of {entry.size} bytes, not explanations", "remove it")
        return explained_in(files.read(entry), entry.path)
    except BenchError as error:
        found.remarks.append(error.what)
        return {}


def _remarks(found: Verdict, entries: list[Entry], files: Files) -> None:
    """What a check finds besides: notes without an explanation, files that belong to nothing."""
    wanted = {predictions_path(each.record["run_id"]) for each in found.served}
    known = {entry.path: entry for entry in entries}
    for each in found.served:
        run_id = each.record["run_id"]
        entry = known.get(f"{EXPLANATIONS}/{run_id}.toml")
        said = _explained(entry, files, found) if entry else {}
        found.remarks += [f"{run_id}: {code} is not explained" for code in unexplained(each.record) if code not in said]
        if each.record["predictions"] is not None and each.predictions is None:
            found.remarks.append(
                f"{run_id}: its predictions are not in the store, so its scores were not computed again"
            )
    for entry in entries:
        if entry.path.split("/")[0] == PREDICTIONS and entry.path not in wanted:
            found.remarks.append(f"{entry.path}: belongs to no record that is served")
