"""The physics card of a model: fitted once on clean data, scored on every stressed view of the test split."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgmae_bench.config.cards import Card
from fgmae_bench.config.contract import POLARISATIONS, parse_bands
from fgmae_bench.config.encoders import HANDMADE
from fgmae_bench.config.names import FITTED_HEADS
from fgmae_bench.config.run import Run
from fgmae_bench.config.stress import as_plain, protocol_under
from fgmae_bench.data.sample_cache import BROKEN_ARRAY
from fgmae_bench.data.samples import sample_facts
from fgmae_bench.data.statistics import mean_and_deviation
from fgmae_bench.errors import BenchError, note
from fgmae_bench.probe.resolve import Probe, resolve
from fgmae_bench.records import Record, read_record, record_path, seal, store
from fgmae_bench.report.stress_card import card_data, draw_card, markdown_card
from fgmae_bench.runs.grid import joined, run_grid
from fgmae_bench.stress import null
from fgmae_bench.stress.flags import Options, ladder
from fgmae_bench.stress.probed import FITTED, probed
from fgmae_bench.stress.reading import Outputs
from fgmae_bench.stress.subject import Subject
from fgmae_bench.stress.summary import Curve, Summary, beside_null, summarised
from fgmae_bench.stress.trained import ruled, trained
from fgmae_bench.system.distributed import World
from fgmae_bench.system.environment import now
from fgmae_bench.system.files import lock_and_clean_up, replacing, write_json, write_text
from fgmae_bench.system.progress import Progress
from fgmae_bench.train import finetune, segment
from fgmae_bench.train.fitted import fitting_of
from fgmae_bench.views.classification import View
from fgmae_bench.views.stress import LOOKS
from fgmae_bench.views.stress_table import STRESSES, Stress, find_stress
from fgmae_bench.views.stressed import StressedView

log = logging.getLogger("fgmae_bench")
Note = dict[str, str]
TRAINING_DRAW = 1000  # draws of views that a head is fitted on begin here, so that none is one of the test's


def stress_run(run: Run, card: Card, options: Options, notes: list[Note], entry: str = "linear") -> Record:
    """The record of a model under stress; it is fitted first where it is not recorded yet.

    Each stressed view costs one forward pass over the test split, and no refit; views that were scored before an
    interruption are read again. Raises BenchError for a stress that the data does not allow, and for a checkpoint of
    another run.
    """
    _require_possible(run, card, options, entry)
    (clean,) = run_grid(entry, [run], card, notes)
    if clean["status"] != "done":
        raise BenchError(f"{clean['run_id']} diverged", "choose another learning rate")
    beside = _null_record(run, card, options, entry)
    with joined(run) as (world, device):
        subject = _Lazy(run, card, clean, notes, entry, world, device)
        names, left_out = _allowed(options, card, subject.groups)
        if options.train:
            _allowed(dataclasses.replace(options, names=tuple(name for name, _ in options.train)), card, subject.groups)
        id = f"{clean['run_id']}-stress-{_digest(clean, names, options, beside)}"
        parts = (card.name, protocol_under(clean["protocol"], options), id)
        results = Path(run.execution.results_dir)
        path = record_path(results, parts)
        with contextlib.ExitStack() as alone:  # cards of several models want the same null: who comes second reads it
            if world.rank == 0:
                alone.enter_context(lock_and_clean_up(path.with_name(f".{id}.lock")))
            if world.broadcast(path.exists() if world.rank == 0 else None):
                log.info("%s is recorded already: nothing to do (%s)", id, path)
                return read_record(path)
            scorer = _Scorer(subject.opened(options), options, id)
            said = [*left_out, *_assumptions(options, names, card)]
            return _carded(scorer, names, path, said, beside)


def _carded(scorer: _Scorer, names: tuple[str, ...], path: Path, said: list[Note], beside: Record | None) -> Record:
    """Score every view, and store the record at `path`."""
    options, world = scorer.options, scorer.subject.world
    results, id, protocol = Path(scorer.subject.run.execution.results_dir), path.stem, path.parent.name
    views = sum(len(ladder(options, name)) * (options.draws if STRESSES[name].draws else 1) for name in names)
    with Progress("stressed views", views, "views", show=world.rank == 0) as progress:
        found = [summarised(scorer.curve(name, progress), scorer.subject.reading) for name in names]
    record: Record | None = None
    if world.rank == 0:
        null.keep(results, id, found)
        record = _record(id, protocol, scorer, found, said, beside, options)
        _leave(record, scorer.subject.folder)
        store(record, results)
        scorer.forget()
    recorded: Record = world.broadcast(record)
    return recorded


def _require_possible(run: Run, card: Card, options: Options, entry: str) -> None:
    """Raise BenchError on what no data could repair, before any is opened."""
    if card.per_pixel and card.task == "regression":
        raise BenchError("stress of a regression of pixels", "take a dataset of classes, or of a number an image")
    probe = getattr(run.recipe, "probe", None)
    if options.train and probe not in FITTED:
        what = f"--probe {probe}" if probe else f"--entry {entry}"
        raise BenchError(f"--train_stress with {what}", f"choose --probe {', '.join(FITTED)}")


def _null_record(run: Run, card: Card, options: Options, entry: str) -> Record | None:
    """The card of backscatter statistics under the same stresses; None where there is none to stand beside."""
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
            self.groups = self.probe.dataset.index.groups
            return
        self.rule = entry == "segment" and run.recipe.head in FITTED_HEADS
        prepare = fitting_of if self.rule else finetune.prepare if entry == "finetune" else segment.prepare
        self.prepared: Any = prepare(run, card, notes, world, device, 1)
        self.groups = self.prepared.dataset.index.groups

    def opened(self, options: Options) -> Subject:
        """The subject; with stressed views of the training split its head is fitted on them."""
        if self.probe is None:
            return (ruled if self.rule else trained)(self.prepared, self.clean)
        more = []
        if options.train:
            maker = _Views(self.probe.dataset, self.probe.extractor.view, next(iter(self.probe.runs.values())), options)
            more = [maker.view(name, severity, TRAINING_DRAW + i) for i, (name, severity) in enumerate(options.train)]
        return probed(self.probe, self.clean, more)


def _allowed(options: Options, card: Card, groups: tuple[str, ...] | None) -> tuple[tuple[str, ...], list[Note]]:
    """(the stresses to make, a note for each that the data does not allow). A stress that was named is refused."""
    asked = options.names or tuple(STRESSES)
    kept, notes = [], []
    for name in asked:
        reason = _obstacle(find_stress(name), card, groups)
        if reason is None:
            kept.append(name)
        elif options.names:
            raise BenchError(f"{name}: {reason}", "leave it out")
        else:
            notes.append(note("stress_left_out", f"{name}: {reason}"))
    return tuple(kept), notes


def _obstacle(stress: Stress, card: Card, groups: tuple[str, ...] | None) -> str | None:
    """Why a stress would mean nothing on this data, or None."""
    if "groups" in stress.needs and groups is None:
        return f"no acquisitions are known of {card.title}"
    if "two bands" in stress.needs and len(card.signal.bands) != 2:
        return f"{card.title} has {len(card.signal.bands)} bands"
    absent = [band for band in stress.needs if band in POLARISATIONS and band not in card.signal.bands]
    if absent:
        return f"{card.title} has {','.join(card.signal.bands)}, not {absent[0]}"
    if "sigma0" in stress.needs and card.signal.calibration == "gamma0":
        return f"{card.title} is in gamma nought already"
    if "speckle" in stress.needs and card.signal.filtered:
        return f"{card.title} is filtered or averaged: its speckle is not that of one acquisition"
    return None


def _assumptions(options: Options, names: tuple[str, ...], card: Card) -> list[Note]:
    """What the stresses take for granted."""
    notes = [note("unvalidated", "stresses are simulated; none was held against a real pair of products of one place")]
    if any("angle" in STRESSES[name].needs for name in names):
        how = "drawn from 30.5 to 45.5 degrees for each acquisition" if options.theta is None else f"{options.theta:g}"
        notes.append(note("theta_assumed", f"the incidence angle is not in the data: {how}"))
    if any("speckle" in STRESSES[name].needs for name in names):
        looks = card.signal.looks
        said = f"{LOOKS:g} looks, as of a GRDH product: the card states none" if looks is None else f"{looks:g} looks"
        notes.append(note("looks", f"speckle and noise begin with {said}{'' if looks is None else ', by the card'}"))
    return notes


def _digest(clean: Record, names: tuple[str, ...], options: Options, beside: Record | None) -> str:
    """Ten digits that stand for the fitted run, the severities and the draws."""
    made_of = {
        "run": [clean["run_id"], clean["dataset"]["content_sha256"]],
        "ladders": {name: ladder(options, name) for name in sorted(names)},
        "draws": options.draws,
        "seed": options.seed,
        "theta": options.theta,
        **({"train": options.train} if options.train else {}),
        **({"null": beside["run_id"]} if beside else {}),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:10]


class _Views:
    """Stressed views of a dataset in place of its clean one."""

    def __init__(self, dataset: Any, view: View, run: Run, options: Options):
        index, card = dataset.index, dataset.card
        self.clean, self.options = (
            {field.name: getattr(view, field.name) for field in dataclasses.fields(view)},
            options,
        )
        self.groups = dict(zip(index.ids, index.groups, strict=True)) if index.groups is not None else {}
        self.bands = parse_bands(run.data.band_order) if run.data.band_order else card.signal.bands
        self.looks = card.signal.looks or LOOKS
        facts = sample_facts(dataset.samples, ("moments",), Path(run.execution.cache_dir))["moments"]
        mean, _ = mean_and_deviation(facts[dataset.parts.train], tuple(range(len(card.signal.bands))))
        self.means = tuple(float(value) for value in mean)

    def view(self, name: str, severity: float, draw: int) -> StressedView:
        """The view under a stress of a severity."""
        return StressedView(
            **self.clean,
            stress=name,
            severity=severity,
            draw=draw,
            seed=self.options.seed,
            groups=self.groups,
            theta=self.options.theta,
            bands=self.bands,
            means=self.means,
            looks=self.looks,
        )


class _Scorer:
    """Outputs of one fitted model on the test split under stresses; each view's are kept until the record stands."""

    def __init__(self, subject: Subject, options: Options, id: str):
        self.subject, self.options = subject, options
        self.folder = subject.folder / "stress" / id[-10:]
        self.views = _Views(subject.dataset, subject.view, subject.run, options)
        _require_same_scores(subject.reading.evaluate(subject.reading.clean), subject.record)

    def curve(self, name: str, progress: Progress) -> Curve:
        """The test split under every severity of a stress and every draw."""
        stress, severities = STRESSES[name], ladder(self.options, name)
        draws = self.options.draws if stress.draws else 1
        outputs = [[self._outputs(name, severity, draw, progress) for draw in range(draws)] for severity in severities]
        return Curve(name=name, stress=stress, severities=severities, outputs=outputs)

    def _outputs(self, name: str, severity: float, draw: int, progress: Progress) -> Outputs:
        """Outputs (N, W) of one stressed view, from the folder where an interrupted run left them."""
        path, world = self.folder / f"{name}@{severity:g}@{draw}.npy", self.subject.world
        clean = self.subject.reading.clean
        kept = world.broadcast(_read(path, clean.shape, clean.dtype) if world.rank == 0 else None)
        if kept is None:
            kept = self.subject.outputs(self.views.view(name, severity, draw)).astype(clean.dtype)
            if world.rank == 0:
                with replacing(path, durable=False) as temporary:
                    np.save(temporary.open("wb"), kept)
        progress.step()
        return kept

    def forget(self) -> None:
        """Remove what was kept for a restart."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path, shape: tuple[int, ...], dtype: Any = np.float32) -> Outputs | None:
    """Outputs that an interrupted run left, None where there are none of that shape."""
    try:
        kept = np.load(path, allow_pickle=False)
    except (OSError, *BROKEN_ARRAY):
        return None
    whole = isinstance(kept, np.ndarray) and kept.shape == shape and kept.dtype == np.dtype(dtype)
    return kept if whole else None


def _require_same_scores(scores: dict[str, Any], clean: Record) -> None:
    """Raise BenchError where the model on clean data does not give what its record says."""
    recorded = clean["metrics"]["test"]
    other = [name for name, value in scores.items() if not _same(value, recorded.get(name))]
    if other:
        raise BenchError(
            f"on clean data {', '.join(other)} differ from the record of {clean['run_id']}",
            "remove the record and its folder, and run again",
        )


def _same(value: Any, recorded: Any) -> bool:
    return value == recorded or (None not in (value, recorded) and abs(value - recorded) < 1e-4)


def _record(
    id: str,
    protocol: str,
    scorer: _Scorer,
    found: list[Summary],
    said: list[Note],
    beside: Record | None,
    options: Options,
) -> Record:
    """The clean run's record with its stresses and tolerances in place of its history."""
    subject = scorer.subject
    clean = subject.record
    if beside is not None:
        said = [*said, *_beside(found, beside, subject)]
    fitted = [] if options.train else [note("fitted_clean", f"the model is that of {clean['run_id']}")]
    # where nothing can stand beside a model, a card with the null and one without are the same
    asked = options if _has_null(subject.run, subject.dataset.card) else dataclasses.replace(options, null=True)
    facts = {"stress": as_plain(asked)}
    return seal(
        {
            **{key: value for key, value in clean.items() if key != "sha256"},
            "run_id": id,
            "created": now(),
            "protocol": protocol,
            "config": {**clean["config"], "facts": {**clean["config"].get("facts", {}), **facts}},
            "metrics": {**clean["metrics"], "tolerance": {each.name: each.tolerance for each in found}},
            "stress": [item for each in found for item in each.items],
            "notes": [*clean["notes"], *subject.notes, *said, *fitted],
        }
    )


def _leave(record: Record, folder: Path) -> None:
    """Write the card as Markdown, JSON and a picture beside what the run left, under the end of its id."""
    name = f"card-{record['run_id'][-10:]}"
    write_text(folder / f"{name}.md", markdown_card(record) + "\n")
    write_json(folder / f"{name}.json", card_data(record))
    draw_card(record, folder / f"{name}.png")


def _beside(found: list[Summary], beside: Record, subject: Subject) -> Iterator[Note]:
    """Set the null's changes beside those of each stress; notes on it."""
    results, reading = Path(subject.run.execution.results_dir), subject.reading
    units = reading.units(reading.clean).count
    held = null.kept(results, beside, subject.record, units)
    if held is None:
        yield note(
            "no_null", f"{beside['run_id']} is of other samples, or its resamples are gone: nothing is beside it"
        )
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
