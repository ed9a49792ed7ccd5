"""What suites leave in `<results_dir>/suite/`: receipts, claims, logs, the last failure and the Slurm job of each
command.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fgmae_bench.checkpoints.registry import files_of
from fgmae_bench.config.data_files import data_files, model_files
from fgmae_bench.errors import BenchError, os_error
from fgmae_bench.suite.command import Command, Point
from fgmae_bench.suite.identity import Shelf
from fgmae_bench.system.files import open_regular, read_small_json, require_writable, write_json, write_text
from fgmae_bench.system.stamps import Parts, remembered, stamp_of


class Receipt(NamedTuple):
    """The record of a run, and the state of the files of data and model when it was found; `written` distinguishes
    receipts.
    """

    record: Path
    tree: str | None
    model: str | None
    written: int


class Ledger:
    """The book of one results folder. Any number of suites and jobs, on any node that sees the folder, keep it
    together.
    """

    def __init__(self, results_dir: Path):
        self.results_dir, self.root = results_dir, results_dir / "suite"
        self.shelf = Shelf(results_dir)
        self.receipts: dict[str, Receipt] = {}
        self.known: dict[tuple[Path | tuple[Path, ...], Path], tuple[str | None, list[Parts]]] = {}

    def refresh(self) -> None:
        """Take in records and receipts that have appeared since; a receipt counts while its record is there."""
        self.shelf.refresh()
        self.known.clear()
        folder = self.root / "receipts"
        for entry in os.scandir(folder) if folder.is_dir() else ():
            if not entry.name.endswith(".json"):
                continue
            key, written = entry.name[:-5], entry.stat(follow_symlinks=False).st_mtime_ns
            if key in self.receipts and self.receipts[key].written == written:
                continue
            if record := _kept(folder / entry.name, "record"):
                tree, model = (_kept(folder / entry.name, name) for name in ("tree", "model"))
                self.receipts[key] = Receipt(self.results_dir / record, tree, model, written)

    def record_of(self, command: Command, point: Point) -> Path | None:
        """The record of a run: by receipt, else by what the records say; None where it is still to do.

        A record counts while data and model are known to be as they were, or are not here. Data and weights that have
        changed, or were never read by this user, are read by the run itself, which then finds its record or makes a new
        one.
        """
        (tree, contents), (model, tensors) = self.known_data(command), self.known_model(command)
        receipt, shelf = self.receipts.get(point.key), self.shelf
        path = receipt.record if receipt else None
        if receipt and path in shelf.content and path.parent.name == command.protocol and path.exists():
            data_as_it_was = tree is None or receipt.tree == tree or shelf.content[path] in contents
            model_as_it_was = model is None or receipt.model == model or shelf.weights[path] in tensors
            return path if data_as_it_was and model_as_it_was else None
        return shelf.find(command, point, None if tree is None else contents, None if model is None else tensors)

    def known_data(self, command: Command) -> tuple[str | None, list[Parts]]:
        """(state of the files of a command's data, what they are known to hold); (None, []) where they are not here."""
        return self._known(command, data_files(command.card, command.points[0].run, command.place))

    def known_model(self, command: Command) -> tuple[str | None, list[Parts]]:
        """The same of the files that its model comes from; (None, []) where it comes from none as well."""
        files = _model_files(command)
        return self._known(command, files) if files else (None, [])

    def model_is_here(self, command: Command) -> bool:
        """Whether all files are here that a command's model comes from."""
        return all(place.exists() for place in _model_files(command))

    def _known(self, command: Command, place: Path | tuple[Path, ...]) -> tuple[str | None, list[Parts]]:
        """Looked at once between two refreshes."""
        cache = Path(command.points[0].run.execution.cache_dir)
        if (place, cache) not in self.known:
            held = remembered(cache, place)
            self.known[place, cache] = (None, []) if held is None else (stamp_of(place), held)
        return self.known[place, cache]

    def pending(self, command: Command) -> list[Point]:
        """The runs of a command that have no record."""
        return [point for point in command.points if self.record_of(command, point) is None]

    def prepare(self) -> None:
        """Make the folder, with a file that makes git ignore it; raises BenchError where it cannot be written."""
        require_writable(self.root)
        if not (self.root / ".gitignore").exists():
            write_text(self.root / ".gitignore", "*\n")
        for name in ("locks", "logs"):
            (self.root / name).mkdir(exist_ok=True)

    def claim(self, points: list[Point]) -> list[int] | None:
        """Claim runs for this process: the locked files, or None where another process holds one of them.

        A lock lives as long as a process that has its file open, a child that inherited it included.
        """
        held: list[int] = []
        try:
            for key in sorted(point.key for point in points):
                held.append(open_regular(self.root / "locks" / f"{key}.lock", os.O_RDWR | os.O_CREAT))
                fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            release(held)
            return None
        except OSError as error:
            release(held)
            raise os_error(error, self.root / "locks") from error
        except BenchError:
            release(held)
            raise
        return held

    def claimed(self, points: list[Point]) -> bool:
        """Whether some process is at work on one of the runs."""
        if not (self.root / "locks").is_dir():
            return False
        present = [point for point in points if (self.root / "locks" / f"{point.key}.lock").exists()]
        held = self.claim(present)
        release(held or [])
        return held is None

    def log_of(self, command: Command) -> Path:
        """The file that a command's output goes to, attempts one after the other."""
        return self.root / "logs" / f"{command.name}.log"

    def receive(self, command: Command, ids: list[str]) -> list[Point]:
        """Write receipts for what a command says it recorded (run ids in the order of its points); the runs that have
        no record.
        """
        self.refresh()
        files = {path.stem: path for path in self.shelf.seen}
        known = [files[id] for id in ids if id in files]
        if len(known) == len(command.points):
            for point, path in zip(command.points, known, strict=True):
                (tree, contents), (model, tensors) = self.known_data(command), self.known_model(command)
                content, weights = self.shelf.content[path], self.shelf.weights[path]
                # what was replaced while the run went on is not what the record is of
                receipt = {
                    "run_id": path.stem,
                    "record": str(path.relative_to(self.results_dir)),
                    "label": command.title,
                    "content_sha256": content,
                    "weights_sha256": weights["sha256"],
                    "tree": tree if content in contents else None,
                    "model": model if weights in tensors else None,
                }
                write_json(self.root / "receipts" / f"{point.key}.json", receipt)
            self.refresh()
        return self.pending(command)

    def note_failure(self, command: Command, reason: str | None) -> None:
        """Keep why a command failed for `suite status`; None takes an earlier reason back."""
        path = self.root / "failures" / f"{command.key}.json"
        with contextlib.suppress(BenchError):  # the disk is full; the suite says the reason itself
            if reason is None:
                path.unlink(missing_ok=True)
            else:
                write_json(path, {"reason": reason, "log": str(self.log_of(command))})

    def failure(self, command: Command) -> str | None:
        """Why the last attempt failed, None where it did not."""
        return _kept(self.root / "failures" / f"{command.key}.json", "reason")

    def note_job(self, command: Command, job: str) -> None:
        """Remember the Slurm job of a command."""
        write_json(self.root / "jobs" / f"{command.key}.json", {"job": job})

    def job(self, command: Command) -> str | None:
        """The Slurm job that was last given a command."""
        return _kept(self.root / "jobs" / f"{command.key}.json", "job")


class Ledgers:
    """The ledgers of all results folders that a suite's commands write to."""

    def __init__(self, commands: list[Command]):
        self.by_folder = {
            folder: Ledger(folder) for folder in dict.fromkeys(command.results_dir for command in commands)
        }
        self.refresh()

    def of(self, command: Command) -> Ledger:
        """The ledger of a command."""
        return self.by_folder[command.results_dir]

    def refresh(self) -> None:
        """Take in what has appeared since."""
        for ledger in self:
            ledger.refresh()

    @property
    def models(self) -> set[str]:
        """Models that stand in records."""
        return {model for ledger in self for model in ledger.shelf.models}

    def __iter__(self) -> Iterator[Ledger]:
        """All ledgers."""
        return iter(self.by_folder.values())


def _model_files(command: Command) -> tuple[Path, ...]:
    """The files that a command's model comes from."""
    run = command.points[0].run
    return files_of(run.model.model, run.model.weights, Path(run.execution.cache_dir)) + model_files(run)


def release(held: list[int]) -> None:
    """Give up claims."""
    for file in held:
        os.close(file)


def _kept(path: Path, name: str) -> str | None:
    """The text of one entry of a small JSON file; None where the file is absent, damaged or not one of ours."""
    loaded = read_small_json(path)
    value = loaded.get(name) if isinstance(loaded, dict) else None
    return value if isinstance(value, str) and "\0" not in value else None
