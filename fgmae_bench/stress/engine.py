"""The physics card of a probe: its head, fitted once on clean data, scored on every stressed view of the test split."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from fgmae_bench.config.cards import Card
from fgmae_bench.config.contract import POLARISATIONS, parse_bands
from fgmae_bench.config.run import Run
from fgmae_bench.data.sample_cache import BROKEN_ARRAY
from fgmae_bench.data.samples import sample_facts
from fgmae_bench.data.statistics import mean_and_deviation
from fgmae_bench.errors import BenchError, note
from fgmae_bench.features.extract import Spent, extract
from fgmae_bench.probe.resolve import Probe, gather_materials, resolve
from fgmae_bench.records import Record, read_record, record_path, seal, store
from fgmae_bench.runs.grid import joined, run_grid
from fgmae_bench.runs.tasks import TASKS
from fgmae_bench.stress.flags import Options
from fgmae_bench.stress.heads import Logits, fitted_head
from fgmae_bench.stress.summary import Curve, summarised
from fgmae_bench.system.environment import MemoryPeak, now
from fgmae_bench.system.files import replacing
from fgmae_bench.system.progress import Progress
from fgmae_bench.views.stress_table import STRESSES, Stress, find_stress
from fgmae_bench.views.stressed import StressedView

log = logging.getLogger("fgmae_bench")
Note = dict[str, str]


def stress_run(run: Run, card: Card, options: Options, notes: list[dict[str, str]]) -> Record:
    """The record of a probe under stress; it is fitted first where it is not recorded yet.

    Each stressed view costs one forward pass over the test split, and no refit; views that were scored before an
    interruption are read again. Raises BenchError for a stress that the data does not allow.
    """
    (clean,) = run_grid("linear", [run], card, notes)
    if clean["status"] != "done":
        raise BenchError(f"{clean['run_id']} diverged", "choose another learning rate")
    with joined(run) as (world, device):
        probe = resolve([run], card, notes, world, device, None)
        names, left_out = _allowed(options, card, probe.dataset.index.groups)
        id = f"{clean['run_id']}-stress-{_digest(clean, names, options)}"
        parts = (card.name, f"stress_{clean['protocol']}", id)
        path = record_path(Path(run.execution.results_dir), parts)
        found = world.broadcast(path.exists() if world.rank == 0 else None)
        if found:
            log.info("%s is recorded already: nothing to do (%s)", id, path)
            return read_record(path)
        folder = next(iter(probe.places.values()))[0] / "stress" / id[-10:]
        scorer = _Scorer(probe, clean, options, folder)
        views = sum(len(options.ladder(name)) * (options.draws if STRESSES[name].draws else 1) for name in names)
        with Progress("stressed views", views, "views", show=world.rank == 0) as progress:
            curves = [scorer.curve(name, progress) for name in names]
        record: Record | None = None
        if world.rank == 0:
            record = _record(clean, id, parts[1], scorer, curves, [*left_out, *_assumptions(options, names)])
            store(record, Path(run.execution.results_dir))
            scorer.forget()
        recorded: Record = world.broadcast(record)
        return recorded


def _allowed(
    options: Options, card: Card, groups: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[dict[str, str]]]:
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


def _assumptions(options: Options, names: tuple[str, ...]) -> list[dict[str, str]]:
    """What the stresses take for granted."""
    notes = [note("stress_simulated", "stresses are simulated; none was held against a real pair of products")]
    if any("angle" in STRESSES[name].needs for name in names):
        how = "drawn from 30.5 to 45.5 degrees for each acquisition" if options.theta is None else f"{options.theta:g}"
        notes.append(note("theta_assumed", f"the incidence angle is not in the data: {how}"))
    return notes


def _digest(clean: Record, names: tuple[str, ...], options: Options) -> str:
    """Ten digits that stand for the fitted run, the severities and the draws."""
    made_of = {
        "run": [clean["run_id"], clean["dataset"]["content_sha256"]],
        "ladders": {name: options.ladder(name) for name in sorted(names)},
        "draws": options.draws,
        "seed": options.seed,
        "theta": options.theta,
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:10]


class _Scorer:
    """Logits of one fitted head on the test split under stresses; each view's are kept in `folder` until the record
    stands.
    """

    def __init__(self, probe: Probe, clean: Record, options: Options, folder: Path):
        self.probe, self.options, self.folder = probe, options, folder
        (self.run,) = probe.runs.values()
        (place,) = probe.places.values()
        index, classes = probe.dataset.index, len(probe.dataset.card.classes)
        parts = ("train", "test") if self.run.recipe.probe == "knn" else ("test",)
        self.materials = gather_materials(probe, self.run, Spent(), MemoryPeak(), parts=parts)
        self.head = fitted_head(self.run, clean["run_id"], place[0], self.materials, classes)
        bank, self.rows = self.materials.evaluation["test"]
        self.clean = self.head(np.asarray(bank.features[self.rows]))
        self.targets = self.materials.labels[self.rows]
        self.groups = None if index.groups is None else [index.groups[row] for row in self.rows]
        self.task = TASKS[probe.dataset.card.task]
        _require_same_scores(self.task.evaluate(self.clean, self.targets), clean)
        facts = sample_facts(probe.dataset.samples, ("moments",), probe.cache)["moments"]
        mean, _ = mean_and_deviation(
            facts[probe.dataset.parts.train], tuple(range(len(probe.dataset.card.signal.bands)))
        )
        self.means = tuple(float(value) for value in mean)

    def curve(self, name: str, progress: Progress) -> Curve:
        """The test split under every severity of a stress and every draw."""
        stress, ladder = STRESSES[name], self.options.ladder(name)
        draws = self.options.draws if stress.draws else 1
        logits = [[self._logits(name, severity, draw, progress) for draw in range(draws)] for severity in ladder]
        return Curve(name=name, stress=stress, severities=ladder, clean=self.clean, logits=np.asarray(logits))

    def _logits(self, name: str, severity: float, draw: int, progress: Progress) -> Logits:
        """Logits (N, C) of one stressed view, from the folder where an interrupted run left them."""
        path, world = self.folder / f"{name}@{severity:g}@{draw}.npy", self.probe.extractor.world
        kept = world.broadcast(_read(path, self.clean.shape) if world.rank == 0 else None)
        if kept is None:
            view = self._view(name, severity, draw)
            stressed = dataclasses.replace(self.probe.extractor, view=view)
            batches = [self.head(features) for _, features, _ in extract(stressed, self.rows, None, Spent())]
            kept = np.concatenate(batches).astype(np.float32)
            if world.rank == 0:
                with replacing(path, durable=False) as temporary:
                    np.save(temporary.open("wb"), kept)
        progress.step()
        return kept

    def _view(self, name: str, severity: float, draw: int) -> StressedView:
        index, card, view = self.probe.dataset.index, self.probe.dataset.card, self.probe.extractor.view
        known = index.groups is not None
        return StressedView(
            **{field.name: getattr(view, field.name) for field in dataclasses.fields(view)},
            stress=name,
            severity=severity,
            draw=draw,
            seed=self.options.seed,
            groups=dict(zip(index.ids, index.groups, strict=True)) if known and index.groups else {},
            theta=self.options.theta,
            bands=parse_bands(self.run.data.band_order or "") if self.run.data.band_order else card.signal.bands,
            means=self.means,
        )

    def forget(self) -> None:
        """Remove what was kept for a restart."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path, shape: tuple[int, ...]) -> Logits | None:
    """Logits that an interrupted run left, None where there are none of that shape."""
    try:
        kept = np.load(path, allow_pickle=False)
    except (OSError, *BROKEN_ARRAY):
        return None
    whole = isinstance(kept, np.ndarray) and kept.shape == shape and kept.dtype == np.float32
    return kept if whole else None


def _require_same_scores(scores: dict[str, Any], clean: Record) -> None:
    """Raise BenchError where the head on clean data does not give what its record says."""
    recorded = clean["metrics"]["test"]
    other = [name for name, value in scores.items() if not _same(value, recorded.get(name))]
    if other:
        raise BenchError(
            f"on clean data {', '.join(other)} differ from the record of {clean['run_id']}",
            "remove the record and its folder, and run again",
        )


def _same(value: Any, recorded: Any) -> bool:
    return value == recorded or (None not in (value, recorded) and abs(value - recorded) < 1e-4)


def _record(clean: Record, id: str, protocol: str, scorer: _Scorer, curves: list[Curve], said: list[Note]) -> Record:
    """The clean run's record with its stresses and tolerances in place of its history."""
    found = [
        summarised(curve, scorer.targets, scorer.groups, scorer.task, scorer.probe.dataset.card.task)
        for curve in curves
    ]
    return seal(
        {
            **{key: value for key, value in clean.items() if key != "sha256"},
            "run_id": id,
            "created": now(),
            "protocol": protocol,
            "metrics": {**clean["metrics"], "tolerance": {each.name: each.tolerance for each in found}},
            "stress": [item for each in found for item in each.items],
            "notes": [*clean["notes"], *said, note("fitted_clean", f"the head is that of {clean['run_id']}")],
        }
    )
