"""The probe engine: resolves a grid of runs, computes the frozen features once, fits all heads on them, records each."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from fgmae_bench.backbones import build_backbone, wrap_module
from fgmae_bench.cards import Card
from fgmae_bench.config import ProbeRecipe, Run, run_id
from fgmae_bench.data.dataset import Dataset, open_dataset
from fgmae_bench.device import Precision, resolve_amp, resolve_device
from fgmae_bench.distributed import World, join_world, leave_world
from fgmae_bench.environment import MemoryPeak, describe, now
from fgmae_bench.errors import BenchError
from fgmae_bench.features import Bank, Extractor, Rows, Spent, fill_bank
from fgmae_bench.files import require_writable
from fgmae_bench.optim import base_lr, scaled_lr
from fgmae_bench.probe.assemble import PROTOCOLS, assemble
from fgmae_bench.probe.closed import fit_knn, fit_logistic
from fgmae_bench.probe.folder import RunFolder, write_predictions
from fgmae_bench.probe.outcome import Outcome, evaluate_logits
from fgmae_bench.probe.train import Materials, fit_sgd
from fgmae_bench.progress import Progress
from fgmae_bench.records import Record, note, read_record, record_path, store
from fgmae_bench.views import Augmentation, make_view

log = logging.getLogger("fgmae_bench")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A resolved grid: runs that differ in lr and weight decay only, on one dataset, backbone and device."""

    runs: dict[str, Run]  # by run id
    dataset: Dataset
    extractor: Extractor
    cache: Path
    effective_batch: int
    notes: list[dict[str, str]]


def run_probe(runs: list[Run], card: Card, notes: list[dict[str, str]], module: nn.Module | None = None) -> list[Record]:
    """Run a grid and return its records in order; runs whose record exists are read, not repeated.

    `module` stands in for the backbone that the runs name (see `fgmae_bench.evaluate`). Under torchrun every rank calls
    this; rank 0 writes.
    """
    start = time.perf_counter()
    device = resolve_device(runs[0].execution.device)
    world, device = join_world(device)
    try:
        probe = resolve(runs, card, notes, world, device, module)
        results = Path(runs[0].execution.results_dir)
        paths = {id: record_path(results, (card.name, PROTOCOLS[run.recipe.probe], id)) for id, run in probe.runs.items()}
        done = {id: read_record(path) for id, path in paths.items() if path.exists()}
        done = world.broadcast(done)
        for id in done:
            log.info("%s is recorded already: nothing to do (%s)", id, paths[id])
        pending = {id: run for id, run in probe.runs.items() if id not in done}
        if pending:
            done |= _run_pending(dataclasses.replace(probe, runs=pending), results, start)
        return [done[id] for id in probe.runs]
    finally:
        leave_world()


def resolve(
    runs: list[Run], card: Card, notes: list[dict[str, str]], world: World, device: Any, module: nn.Module | None
) -> Probe:  # fmt: skip
    """Fill in everything that card, contract and hardware decide, and give each run its id."""
    first = runs[0]
    name = first.data.split or (card.recommended_split if first.recipe.recipe == "corrected" else card.default_split)
    data = dataclasses.replace(first.data, split=name)
    cache = Path(first.execution.cache_dir).expanduser()
    dataset = world.together(lambda: open_dataset(card, dataclasses.replace(first, data=data), cache))
    backbone = wrap_module(module, first.model) if module is not None else build_backbone(first.model, first.recipe.seed)
    view = make_view(card, backbone.contract, first.data.band_order)
    held = (
        ",".join(part.strip().upper() for part in first.data.band_order.split(","))
        if first.data.band_order
        else ",".join(card.signal.bands)
    )
    data = dataclasses.replace(data, band_order=held, nb_classes=len(card.classes))
    model = dataclasses.replace(
        first.model, pool=backbone.pool,
        input_size=backbone.contract.size or None, normalizer=backbone.contract.normalizer,
    )  # fmt: skip
    amp: Precision = resolve_amp(first.recipe.amp, device) if backbone.lowers_precision else "off"
    batch = first.recipe.batch_size * first.recipe.accum_iter * world.size
    facts = dataset.facts | {"weights": [backbone.weights.source, backbone.weights.sha256]}
    resolved: dict[str, Run] = {}
    for run in runs:
        recipe = _resolved_recipe(run, amp, batch, device.type)
        whole = Run(data=data, model=model, recipe=recipe, execution=run.execution)
        resolved[run_id(whole, facts, world.size)] = whole
    if first.recipe.probe == "sgd" and batch > len(dataset.parts.train):
        what = f"effective batch {batch} is larger than the training split ({len(dataset.parts.train)} images)"
        raise BenchError(what, f"use --batch_size {max(1, len(dataset.parts.train) // world.size)} or less")
    backbone.module.to(device)
    if first.execution.compile:
        backbone.module.compile()
    extractor = Extractor(
        dataset=dataset, backbone=backbone, view=view, device=device, amp=amp, workers=first.execution.num_workers, world=world
    )
    dataset = dataclasses.replace(dataset, facts=facts)
    return Probe(runs=resolved, dataset=dataset, extractor=extractor, cache=cache, effective_batch=batch, notes=notes)


def _resolved_recipe(run: Run, amp: Precision, batch: int, device_type: str) -> ProbeRecipe:
    recipe = run.recipe
    if recipe.probe != "sgd":
        if recipe.features == "stream":
            raise BenchError(f"--features stream with --probe {recipe.probe}", "use --features cached")
        return dataclasses.replace(recipe, amp=amp, features="cached")
    stream = recipe.features is None and recipe.views == 1 and (device_type == "cuda" or recipe.recipe == "published")
    features: Literal["stream", "cached"] = recipe.features or ("stream" if stream else "cached")
    if features == "stream" and recipe.views != 1:
        raise BenchError("--views with --features stream", "leave out --views: stream draws a fresh view each epoch")
    lr = recipe.lr if recipe.lr is not None else scaled_lr(recipe.blr or 0.1, batch)
    return dataclasses.replace(recipe, amp=amp, features=features, lr=lr, blr=base_lr(lr, batch))


def _run_pending(probe: Probe, results: Path, start: float) -> dict[str, Record]:
    """Fit and record the runs that have no record yet."""
    world, memory, spent = probe.extractor.world, MemoryPeak(), Spent()
    first = next(iter(probe.runs.values()))
    folders = {id: RunFolder(*_places(probe, id)) for id in probe.runs} if world.rank == 0 else {}
    for place in (results, probe.cache, *(folder.folder for folder in folders.values()), *(folder.log_dir for folder in folders.values())):
        world.together(lambda place=place: require_writable(place))  # type: ignore[misc]
    with _taking_back(folders):
        evaluating = time.perf_counter()
        materials = _materials(probe, first, spent, memory)
        featured = time.perf_counter()
        outcomes = _fit(probe, first, materials, list(folders.values()), memory)
        fitted = time.perf_counter()
        if world.rank:
            return world.broadcast(None)
        environment = describe(probe.extractor.device, world.size)
        timing = _timing(spent, memory, total=fitted - start, features=featured - evaluating, fitting=fitted - featured)
        counts = {part: len(materials.evaluation[part][1]) if part in materials.evaluation else 0 for part in ("val", "test")}
        counts["train"] = len(materials.train)
        notes = probe.notes + _pass_notes(probe, materials)
        records: dict[str, Record] = {}
        for (id, run), outcome in zip(probe.runs.items(), outcomes, strict=True):
            records[id] = _record(probe, id, run, outcome, folders[id], results, counts, environment, timing, notes, materials)
    return world.broadcast(records)


@contextlib.contextmanager
def _taking_back(folders: dict[str, RunFolder]) -> Iterator[None]:
    """Leave nothing of a run that fails."""
    try:
        yield
    except BaseException:
        for folder in folders.values():
            if not (folder.folder / "record.json").exists():
                folder.abandon()
        raise


def _places(probe: Probe, id: str) -> tuple[Path, Path]:
    """(output folder, TensorBoard folder) of a run; a grid has one sub-folder a run."""
    execution = probe.runs[id].execution
    if execution.output_dir is None:
        folder = Path("runs") / probe.dataset.card.name / id
    else:
        folder = Path(execution.output_dir) / id if len(probe.runs) > 1 else Path(execution.output_dir)
    if execution.log_dir is None:
        return folder, folder / "tensorboard"
    return folder, Path(execution.log_dir) / id if len(probe.runs) > 1 else Path(execution.log_dir)


def _materials(probe: Probe, first: Run, spent: Spent, memory: MemoryPeak) -> Materials:
    """Features of every part that is kept: the evaluation parts always, the training part unless it is streamed."""
    extractor, parts, recipe = probe.extractor, probe.dataset.parts, first.recipe
    cached = recipe.features == "cached"
    evaluated = {part: rows for part, rows in (("val", parts.val), ("test", parts.test)) if len(rows)}
    if cached and recipe.views == 1:
        wanted = np.concatenate([*evaluated.values(), parts.train])
        bank = _filled(probe, wanted, None, spent, memory, "features")
        train_banks: tuple[Bank, ...] = (bank,)
    else:
        bank = _filled(probe, np.concatenate(list(evaluated.values())), None, spent, memory, "evaluation features")
        views = range(recipe.views if cached else 0)
        train_banks = tuple(
            _filled(probe, parts.train, Augmentation(seed=recipe.seed, epoch=v, crop_scale=recipe.crop_scale), spent, memory, f"view {v}")
            for v in views
        )  # fmt: skip
    train = train_banks[0].usable(parts.train) if train_banks else parts.train
    evaluation = {part: (bank, bank.usable(rows)) for part, rows in evaluated.items()}
    return Materials(
        labels=probe.dataset.index.labels, train=train, evaluation=evaluation, train_banks=train_banks, extractor=extractor, spent=spent
    )


def _filled(probe: Probe, rows: Rows, augmentation: Augmentation | None, spent: Spent, memory: MemoryPeak, label: str) -> Bank:
    with Progress(label, len(rows), "images", show=probe.extractor.world.rank == 0) as progress:

        def step(count: int) -> None:
            progress.step(count)
            memory.look()

        return fill_bank(probe.extractor, rows, probe.cache, augmentation, spent, step)


def _fit(probe: Probe, first: Run, materials: Materials, folders: list[RunFolder], memory: MemoryPeak) -> list[Outcome]:
    recipe, classes = first.recipe, len(probe.dataset.card.classes)
    if recipe.probe == "sgd":
        with Progress("epochs", recipe.epochs * len(probe.runs), "epochs", show=probe.extractor.world.rank == 0) as progress:

            def on_epoch(g: int, entry: dict[str, Any]) -> None:
                progress.step()
                memory.look()
                if folders:
                    folders[g].epoch(entry)

            recipes = [run.recipe for run in probe.runs.values()]
            return fit_sgd(materials, recipes, probe.effective_batch, classes, probe.extractor.backbone.feature_dim, on_epoch)
    start = time.perf_counter()
    bank = materials.train_banks[0]
    train = (np.asarray(bank.features[materials.train]), materials.labels[materials.train])
    parts = {part: (np.asarray(bank.features[rows]), materials.labels[rows]) for part, (bank, rows) in materials.evaluation.items()}
    if recipe.probe == "lbfgs":
        fitted = fit_logistic(train, parts, classes, recipe.penalties, recipe.seed)
    else:
        fitted = fit_knn(train, parts, classes, recipe.knn_k)
    outcome = Outcome(logits=fitted.logits["test"], parameters={"last": fitted.parameters}, notes=list(fitted.notes))
    outcome.test, outcome.confusion = evaluate_logits(fitted.logits["test"], parts["test"][1])
    watched = "val" if "val" in parts else "test"
    outcome.final, _ = evaluate_logits(fitted.logits[watched], parts[watched][1])
    seconds = time.perf_counter() - start
    entry = {
        "epoch": 0, "lr": None, "train_loss": None, "val": dict(outcome.final), "seconds": seconds,
        "images_per_second": len(train[1]) / seconds,
    }  # fmt: skip
    outcome.history.append(entry)
    if folders:
        folders[0].epoch(entry)
    return [outcome]


def _record(
    probe: Probe, id: str, run: Run, outcome: Outcome, folder: RunFolder, results: Path, counts: dict[str, int],
    environment: dict[str, Any], timing: dict[str, Any], notes: list[dict[str, str]], materials: Materials,
) -> Record:  # fmt: skip
    """Write everything of one run; its record comes last."""
    dataset = probe.dataset
    rows = materials.evaluation["test"][1]
    assert outcome.logits is not None
    predictions = results / "predictions" / f"{id}.safetensors"
    try:
        write_predictions(predictions, outcome.logits, materials.labels[rows], [dataset.index.ids[r] for r in rows], dataset.card.classes)
        described = {"sha256": hashlib.sha256(predictions.read_bytes()).hexdigest(), "file": f"predictions/{id}.safetensors"}
        record = assemble(
            run, id, dataset, probe.extractor.backbone, outcome, counts=counts, predictions=described, environment=environment,
            timing=timing, created=now(), notes=notes,
        )  # fmt: skip
        folder.finish(record["config"], {"heads": outcome.parameters, "run_id": id, "classes": list(dataset.card.classes)})
        folder.copy_in(predictions, "predictions-test.safetensors")
        stored = store(record, results)
    except BaseException:
        predictions.unlink(missing_ok=True)
        raise
    folder.copy_in(stored, "record.json")
    return record


def _timing(spent: Spent, memory: MemoryPeak, *, total: float, features: float, fitting: float) -> dict[str, Any]:
    import torch

    waited = spent.forward_seconds + spent.wait_seconds
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    return {
        "total_seconds": total, "train_seconds": fitting, "eval_seconds": features,
        "data_wait_fraction": spent.wait_seconds / waited if waited else None,
        "images_per_second": spent.images / waited if waited else None,
        "peak_anonymous_memory_bytes": memory.bytes, "peak_device_memory_bytes": device,
    }  # fmt: skip


def _pass_notes(probe: Probe, materials: Materials) -> list[dict[str, str]]:
    """Notes on what was shared or left out."""
    notes = []
    if len(probe.runs) > 1:
        notes.append(note("shared_pass", f"{len(probe.runs)} runs were fitted in one pass; its time stands in each record"))
    parts = probe.dataset.parts
    kept = len(materials.train) + sum(len(rows) for _, rows in materials.evaluation.values())
    dropped = len(parts.train) + len(parts.val) + len(parts.test) - kept
    if dropped:
        share = probe.dataset.card.signal.max_invalid_fraction
        notes.append(note("invalid_left_out", f"{dropped} images with more than {share:.0%} invalid pixels were left out"))
    return notes
