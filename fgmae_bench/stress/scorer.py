"""A fitted model scored on stressed views of the test split; views that an interrupted run scored are read again."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from fgmae_bench.config.contract import parse_bands
from fgmae_bench.config.run import Run
from fgmae_bench.data.sample_cache import BROKEN_ARRAY
from fgmae_bench.data.samples import sample_facts
from fgmae_bench.data.statistics import mean_and_deviation
from fgmae_bench.errors import BenchError
from fgmae_bench.records import Record
from fgmae_bench.stress.flags import Options, ladder
from fgmae_bench.stress.reading import Outputs, Subject
from fgmae_bench.stress.summary import Curve
from fgmae_bench.system.files import replacing
from fgmae_bench.system.progress import Progress
from fgmae_bench.views.classification import View
from fgmae_bench.views.stress import LOOKS
from fgmae_bench.views.stress_table import STRESSES
from fgmae_bench.views.stressed import StressedView


class Views:
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


class Scorer:
    """Outputs of one fitted model on the test split under stresses; each view's are kept until the record stands."""

    def __init__(self, subject: Subject, options: Options, id: str):
        self.subject, self.options = subject, options
        self.folder = subject.folder / "stress" / id[-10:]
        self.views = Views(subject.dataset, subject.view, subject.run, options)
        _require_same_scores(subject.reading.evaluate(subject.reading.clean), subject.record)

    def curve(self, name: str, progress: Progress) -> Curve:
        """The test split under every severity of a stress and every draw."""
        stress, severities = STRESSES[name], ladder(self.options, name)
        draws = self.options.draws if stress.draws else 1
        outputs = [[self._outputs(name, severity, draw, progress) for draw in range(draws)] for severity in severities]
        return Curve(name=name, stress=stress, severities=severities, outputs=outputs)

    def _outputs(self, name: str, severity: float, draw: int, progress: Progress) -> Outputs:
        """Outputs (N, W) of one stressed view, from the folder where an interrupted run left them."""
        path, world = self.folder / f"{name}@{severity!r}@{draw}.npy", self.subject.world
        clean = self.subject.reading.clean
        kept = world.broadcast(read_outputs(path, clean.shape, clean.dtype) if world.rank == 0 else None)
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


def read_outputs(path: Path, shape: tuple[int, ...], dtype: Any = np.float32) -> Outputs | None:
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
