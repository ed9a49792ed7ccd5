"""Lay out the files of a pull request in a clone of a store: nothing is committed or sent.

python -m fgmae_bench.board submit RUN --store CLONE
python -m fgmae_bench.board submit RUN --store CLONE --explain contract_assumed="taken from the authors' code"
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from fgmae_bench.board.clean import ABSOLUTE, own_names, stripped
from fgmae_bench.board.files import CARDS, EXPLANATIONS, RECORDS, Folder, predictions_path, require_store
from fgmae_bench.board.git import Entry
from fgmae_bench.board.judge import NO_CARD, judged
from fgmae_bench.board.remarks import as_file, explained_in, parsed, unexplained
from fgmae_bench.config.cards import card_names, facts_sha256, load_card
from fgmae_bench.config.flags import spellings
from fgmae_bench.errors import BenchError
from fgmae_bench.records import Record, as_text, read_record, record_files, record_of
from fgmae_bench.report.predictions import find_predictions
from fgmae_bench.system.environment import shell_word
from fgmae_bench.system.files import write_bytes

Layout = dict[str, bytes]  # path in the store -> content


class Laid:
    """Files that are not on the disk yet, read as a store's."""

    def __init__(self, files: Layout):
        self.files = files

    def entries(self) -> list[Entry]:
        """All of them."""
        return [Entry(path=path, kind="file", size=len(content)) for path, content in self.files.items()]

    def read(self, entry: Entry) -> bytes:
        """The bytes of one."""
        return self.files[entry.path]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `board submit`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run ids, or beginnings of one, or record files")
    parser.add_argument("--store", required=True, type=Path, metavar="CLONE", help="clone of the store (required)")
    parser.add_argument(
        *spellings("results_dir"),
        dest="results_dir",
        type=Path,
        metavar="FOLDER",
        help="the records (default: results)",
    )
    parser.add_argument(
        "--explain", action="append", metavar="CODE=TEXT", help="why a note is harmless; once for each code that asks"
    )
    parser.add_argument(
        *spellings("no_predictions"),
        dest="no_predictions",
        action="store_true",
        help="leave the predictions out; nobody can compute the scores again (default: off)",
    )


def main(given: dict[str, Any]) -> None:
    """Check everything, then write; raises BenchError before a file is written."""
    store, results = require_store(given["store"]), given.get("results_dir", Path("results"))
    explained, names = parsed(given.get("explain", [])), own_names()
    files: Layout = {}
    records: list[Record] = []
    for name in given["runs"]:
        path = _found(name, results)
        own = read_record(path)
        folder = path.parents[3] if len(path.parents) > 3 else results
        records.append(stripped(own, names))
        files |= _files(own, records[-1], folder, explained, store, bool(given.get("no_predictions")))
    _require_good(files, explained, records)
    new = _require_new(files, store)
    for name in sorted(new, key=lambda name: name.startswith(f"{RECORDS}/")):  # a record appears after what it needs
        write_bytes(_inside(store, name), new[name])
    _print_summary(new, files, records, store)


def _found(name: str, results: Path) -> Path:
    """The file of a run; raises BenchError where none, or several, begin so."""
    if name.endswith(".json"):
        return Path(name)
    found = [path for path in record_files(results) if path.stem.startswith(name)]
    exact = [path for path in found if path.stem == name]
    if len(exact or found) != 1:
        what = "several runs begin so" if found else "no such run"
        raise BenchError(f"{name}: {what} in {results}", "give a run id, or --results_dir")
    return (exact or found)[0]


def _files(own: Record, clean: Record, results: Path, explained: dict[str, str], store: Path, without: bool) -> Layout:
    """Everything that travels with one record, the record last."""
    run_id, dataset = clean["run_id"], clean["dataset"]["name"]
    files: Layout = {}
    if clean["predictions"] is not None and not without:
        content = find_predictions(own, results).read_bytes()
        _require_no_paths(content, run_id)
        files[predictions_path(run_id)] = content
    codes = unexplained(clean)
    if codes:
        files[f"{EXPLANATIONS}/{run_id}.toml"] = as_file({c: explained[c] for c in codes if c in explained}).encode()
    if dataset not in card_names():
        files |= _card(own, store)
    files[f"{RECORDS}/{dataset}/{clean['protocol']}/{run_id}.json"] = as_text(clean).encode()
    return files


def _card(own: Record, store: Path) -> Layout:
    """The card of a data set of one's own, from where the run was given it; raises BenchError where it is another."""
    place, dataset = f"{CARDS}/{own['dataset']['name']}/card.toml", own["dataset"]
    card = load_card(own["config"]["data"]["dataset"])
    if card.name != dataset["name"] or facts_sha256(card) != dataset.get("card_sha256"):
        raise BenchError(f"{card.path}: not the card that {own['run_id']} was made with", "run it again")
    content = card.path.read_bytes()
    if found := ABSOLUTE.search(content.decode("utf-8", "replace")):
        raise BenchError(f"{card.path}: names the folder {found[0][:100]}", "take it out: the card travels")
    return {place: content}


def _require_no_paths(content: bytes, run_id: str) -> None:
    """Raise BenchError where ids or groups of predictions are paths of a machine."""
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    lists = json.loads(header).get("__metadata__", {}).values()
    for name in (name for text in lists for name in json.loads(text) if isinstance(name, str)):
        if re.match(r"[/~\\]|[A-Za-z]:[\\/]", name):
            raise BenchError(
                f"{run_id}: its predictions name samples by paths, such as {name[:100]}", "name them by ids"
            )


def _require_good(files: Layout, explained: dict[str, str], records: list[Record]) -> None:
    """Raise BenchError on the first fault, or naming the notes that are not explained."""
    laid = Laid(files)
    verdict = judged(laid.entries(), laid)
    if verdict.left_out:
        raise BenchError(verdict.left_out[0], "run it again, or leave it out")
    for record in records:
        codes = [code for code in unexplained(record) if code not in explained]
        if codes:
            todo = "say why with " + " ".join(f'--explain {code}="…"' for code in codes)
            raise BenchError(f"{record['run_id']}: {', '.join(codes)} must be explained", todo)
    if hopeless := [line for line in verdict.remarks if NO_CARD in line]:
        raise BenchError(hopeless[0], "run it with the path of its card")


def _require_new(files: Layout, store: Path) -> Layout:
    """The files that the store does not have yet; raises BenchError where it holds other content under a name."""
    held = {entry.path.casefold(): entry for entry in Folder(store).entries()}
    new = {}
    for path, content in files.items():
        entry = held.get(path.casefold())
        if entry is None:
            new[path] = content
        elif entry.path != path or entry.kind != "file" or not _alike(path, content, Folder(store).read(entry)):
            raise BenchError(f"{store}: {entry.path} holds other content already", "a run id stands for one record")
    return new


def _alike(path: str, content: bytes, held: bytes) -> bool:
    """Whether two files say the same; explanations may grow."""
    if path.startswith(f"{EXPLANATIONS}/"):
        said = explained_in(held, path)
        return all(said.get(code) == text for code, text in explained_in(content, path).items())
    if path.startswith(f"{RECORDS}/"):
        return bool(record_of(held, path)["sha256"] == record_of(content, path)["sha256"])
    return content == held


def _inside(store: Path, path: str) -> Path:
    """The place of a file in the store; raises BenchError where a link leads out of it."""
    place = store
    for part in Path(path).parts:
        place = place / part
        if place.is_symlink():
            raise BenchError(f"{place} is a symbolic link", "remove it: a store holds files")
    return place


def _print_summary(new: Layout, files: Layout, records: list[Record], store: Path) -> None:
    """Print what was written, how it is sent, and a text for the pull request."""
    for path in files:
        print(f"{'wrote' if path in new else 'is there'}  {path}")
    if not new:
        print("the store holds all of it already")
        return
    git = f"git -C {shell_word(str(store))}"
    print(f"\n{git} switch --create {shell_word('results-' + records[0]['run_id'])}")
    print(f"{git} add -- {' '.join(map(shell_word, sorted(new)))}")
    print(f"{git} commit --message {shell_word('Results: ' + ', '.join(record['run_id'] for record in records))}")
    print(f"{git} push --set-upstream origin HEAD\n")
    print("| run | data | protocol | scores | notes |\n|---|---|---|---|---|")
    for record in records:
        scores = ", ".join(
            f"{name} {value:.4f}"
            for name, value in record["metrics"]["test"].items()
            if isinstance(value, float) and name != "loss"
        )
        codes = " ".join(note["code"] for note in record["notes"])
        print(f"| {record['run_id']} | {record['dataset']['name']} | {record['protocol']} | {scores} | {codes} |")
    print("\nSay where the weights come from and under which licence, and what hardware it ran on.")
