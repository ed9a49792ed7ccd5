"""The physics card of a model: fitted once on clean data, scored on every stressed view of the test split."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgmae_bench.config.cards import Card
from fgmae_bench.config.encoders import HANDMADE
from fgmae_bench.config.names import FITTED_HEADS
from fgmae_bench.config.run import Run
from fgmae_bench.config.stress import as_plain, protocol_under
from fgmae_bench.data.strata import Strata, strata_of
from fgmae_bench.errors import BenchError, note
from fgmae_bench.models.sar2sar import Despeckler, read_despeckler
from fgmae_bench.probe.resolve import Probe, resolve
from fgmae_bench.records import Record, read_record, record_path, seal, store
from fgmae_bench.report.stress_card import card_data, draw_card, markdown_card
from fgmae_bench.runs.grid import joined, run_grid
from fgmae_bench.stress import null
from fgmae_bench.stress.allowed import allowed, assumptions, require_possible
from fgmae_bench.stress.flags import Options, ladder
from fgmae_bench.stress.probed import probed
from fgmae_bench.stress.reading import Subject
from fgmae_bench.stress.scorer import Scorer, Views
from fgmae_bench.stress.strata import by_stratum
from fgmae_bench.stress.summary import Summary, beside_null, summarised
from fgmae_bench.stress.trained import ruled, trained
from fgmae_bench.system.distributed import World
from fgmae_bench.system.environment import now
from fgmae_bench.system.files import lock_and_clean_up, write_json, write_text
from fgmae_bench.system.progress import Progress
from fgmae_bench.train import finetune, segment
from fgmae_bench.train.fitted import fitting_of
from fgmae_bench.views.stress_table import STRESSES

log = logging.getLogger("fgmae_bench")
Note = dict[str, str]
TRAINING_DRAW = 1000  # draws of views that a head is fitted on begin here, so that none is one of the test's


def stress_run(run: Run, card: Card, options: Options, notes: list[Note], entry: str = "linear") -> Record:
    """The record of a model under stress; it is fitted first where it is not recorded yet.

    Each stressed view costs one forward pass over the test split, and no refit; views that were scored before an
    interruption are read again. Raises BenchError for a stress that the data does not allow, and for a checkpoint of
    another run.
    """
    require_possible(run, card, options, entry)
    despeckler = None if options.despeckler is None else read_despeckler(Path(options.despeckler))
    (clean,) = run_grid(entry, [run], card, notes)
    if clean["status"] != "done":
        raise BenchError(f"{clean['run_id']} diverged", "choose another learning rate")
    beside = _null_record(run, card, options, entry)
    with joined(run) as (world, device):
        subject = _Lazy(run, card, clean, notes, entry, world, device)
        names, left_out = allowed(options, card, subject.groups)
        if options.train:
            allowed(dataclasses.replace(options, names=tuple(name for name, _ in options.train)), card, subject.groups)
        strata = strata_of(card, subject.dataset.index, subject.dataset.parts.test, Path(run.execution.cache_dir))
        id = f"{clean['run_id']}-stress-{_digest(clean, names, options, beside, strata, despeckler)}"
        parts = (card.name, protocol_under(clean["protocol"], options), id)
        results = Path(run.execution.results_dir)
        path = record_path(results, parts)
        with contextlib.ExitStack() as alone:  # cards of several models want the same null: who comes second reads it
            if world.rank == 0:
                alone.enter_context(lock_and_clean_up(path.with_name(f".{id}.lock")))
            if world.broadcast(path.exists() if world.rank == 0 else None):
                log.info("%s is recorded already: nothing to do (%s)", id, path)
                return read_record(path)
            scorer = Scorer(subject.opened(options, despeckler), options, id, despeckler)
            said = [*left_out, *assumptions(options, names, card, despeckler, subject.dataset.index.group_kind)]
            kept = np.flatnonzero(np.isin(subject.dataset.parts.test, scorer.subject.rows))
            return _carded(scorer, names, path, said, beside, strata.of(kept))


def _carded(
    scorer: Scorer, names: tuple[str, ...], path: Path, said: list[Note], beside: Record | None, strata: Strata
) -> Record:
    """Score every view, and store the record at `path`."""
    options, world = scorer.options, scorer.subject.world
    results, id, protocol = Path(scorer.subject.run.execution.results_dir), path.stem, path.parent.name
    views = sum(len(ladder(options, name)) * (options.draws if STRESSES[name].draws else 1) for name in names)
    with Progress("stressed views", views, "views", show=world.rank == 0) as progress:
        found = [summarised(scorer.curve(name, progress), scorer.subject.reading) for name in names]
    record: Record | None = None
    if world.rank == 0:
        null.keep(results, id, found)
        scores, more = by_stratum(scorer.subject.reading, strata)
        record = _record(id, protocol, scorer, found, [*said, *more], beside, options, scores)
        _leave(record, scorer.subject.folder)
        store(record, results)
        scorer.forget()
    recorded: Record = world.broadcast(record)
    return recorded


def _null_record(run: Run, card: Card, options: Options, entry: str) -> Record | None:
    """The card of backscatter statistics under the same stresses; None where there is none to compare with."""
    if not options.null or not _has_null(run, card):
        return None
    return stress_run(null.run_of(run, entry, card), card, dataclasses.replace(options, train=(), null=False), [])


def _has_null(run: Run, card: Card) -> bool:
    return not (card.per_pixel or run.model.model in HANDMADE or run.model.inputs)


class _Lazy:
    """A subject whose model is opened once it is known that there is something to do."""

    def __init__(
        self, run: Run, card: Card, clean: Record, notes: list[Note], entry: str, world: World, device: torch.device
    ):
        self.clean = clean
        self.probe: Probe | None = None
        if entry == "linear":
            self.probe = resolve([run], card, notes, world, device, None)
            self.dataset = self.probe.dataset
            self.groups = self.dataset.index.groups
            return
        self.rule = entry == "segment" and run.recipe.head in FITTED_HEADS
        prepare = fitting_of if self.rule else finetune.prepare if entry == "finetune" else segment.prepare
        self.prepared: Any = prepare(run, card, notes, world, device, 1)
        self.dataset = self.prepared.dataset
        self.groups = self.dataset.index.groups

    def opened(self, options: Options, despeckler: Despeckler | None = None) -> Subject:
        """The subject; with stressed views of the training split its head is fitted on them."""
        if self.probe is None:
            return (ruled if self.rule else trained)(self.prepared, self.clean)
        more = []
        if options.train:
            (run,) = self.probe.runs.values()
            maker = Views(self.probe.dataset, self.probe.extractor.view, run, options, despeckler)
            more = [maker.view(name, severity, TRAINING_DRAW + i) for i, (name, severity) in enumerate(options.train)]
        return probed(self.probe, self.clean, more)


def _digest(
    clean: Record,
    names: tuple[str, ...],
    options: Options,
    beside: Record | None,
    strata: Strata,
    despeckler: Despeckler | None,
) -> str:
    """Ten digits that stand for the fitted run, the severities and the draws."""
    made_of = {
        "run": [clean["run_id"], clean["dataset"]["content_sha256"]],
        "ladders": {name: ladder(options, name) for name in sorted(names)},
        "draws": options.draws,
        "seed": options.seed,
        "theta": options.theta,
        **({"train": options.train} if options.train else {}),
        **({"null": beside["run_id"]} if beside else {}),
        **({"strata": strata.sha256()} if strata.known else {}),
        **({"despeckler": despeckler.sha256} if despeckler else {}),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:10]


def _record(
    id: str,
    protocol: str,
    scorer: Scorer,
    found: list[Summary],
    said: list[Note],
    beside: Record | None,
    options: Options,
    strata: dict[str, Any],
) -> Record:
    """The clean run's record with its stresses, tolerances and scores by stratum in place of its history."""
    subject = scorer.subject
    clean = subject.record
    if beside is not None:
        said = [*said, *_beside(found, beside, subject)]
    fitted = [] if options.train else [note("fitted_clean", f"the model is that of {clean['run_id']}")]
    # where nothing can be compared with a model, a card with the null and one without are the same
    asked = options if _has_null(subject.run, subject.dataset.card) else dataclasses.replace(options, null=True)
    weights = {} if scorer.despeckler is None else {"despeckler": scorer.despeckler.sha256}
    facts = {"stress": as_plain(asked) | weights}
    return seal(
        {
            **{key: value for key, value in clean.items() if key != "sha256"},
            "run_id": id,
            "created": now(),
            "protocol": protocol,
            "config": {**clean["config"], "facts": {**clean["config"].get("facts", {}), **facts}},
            "metrics": {**clean["metrics"], "tolerance": {each.name: each.tolerance for each in found}}
            | ({"strata": strata} if strata else {}),
            "stress": [item for each in found for item in each.items],
            "notes": [*clean["notes"], *subject.notes, *said, *fitted],
        }
    )


def _leave(record: Record, folder: Path) -> None:
    """Write the card as Markdown, JSON and a picture next to what the run left, under the end of its id."""
    name = f"card-{record['run_id'][-10:]}"
    write_text(folder / f"{name}.md", markdown_card(record) + "\n")
    write_json(folder / f"{name}.json", card_data(record))
    draw_card(record, folder / f"{name}.png")


def _beside(found: list[Summary], beside: Record, subject: Subject) -> Iterator[Note]:
    """Compare the changes of each stress with the null's; notes on it."""
    results, reading = Path(subject.run.execution.results_dir), subject.reading
    units = reading.units(reading.clean).count
    held = null.kept(results, beside, subject.record, units)
    if held is None:
        yield note("no_null", f"{beside['run_id']} is of other samples, or its resamples are gone: nothing is compared")
        return
    for each in found:
        beside_null(each, held[each.name], beside["metrics"]["tolerance"][each.name], units)
    score, own = beside["metrics"]["test"][reading.metric], reading.evaluate(reading.clean)[reading.metric]
    yield note(
        "null", f"backscatter statistics under the same stresses: {beside['run_id']}, {reading.metric} {score:.3f}"
    )
    if own is not None and score is not None and own <= score:
        text = f"clean {reading.metric} {own:.3f} is not above that of backscatter statistics ({score:.3f})"
        yield note("below_null", f"{text}: what little is known can be tolerant to much")
