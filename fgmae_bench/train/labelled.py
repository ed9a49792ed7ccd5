"""What runs of segmentation share before anything is fitted: label maps by types, images with labels, names."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from typing import Any

import numpy as np

from fgmae_bench.config.cards import Card
from fgmae_bench.config.run import Run
from fgmae_bench.data.content import Hashes, content_of
from fgmae_bench.data.dataset import Dataset, only_usable
from fgmae_bench.data.dfc.ready import label_content, with_labels
from fgmae_bench.data.labels import LabelMap
from fgmae_bench.data.schemes import card_map
from fgmae_bench.data.splits import PARTS
from fgmae_bench.errors import BenchError, note
from fgmae_bench.runs.setup import Setup
from fgmae_bench.system.distributed import World

log = logging.getLogger("fgmae_bench")


def label_maps(run: Run, card: Card) -> tuple[LabelMap, LabelMap]:
    """(map of training, map of evaluation); what is not said of evaluation is as in training. Raises BenchError on a
    source that a scheme does not know.
    """
    data = run.data
    train = card_map(card, data.train_labels, data.train_scheme)
    return train, card_map(card, data.eval_labels or train.source.name, data.eval_scheme or train.scheme.name)


def labelled_dataset(run: Run, setup: Setup, maps: tuple[LabelMap, LabelMap], world: World) -> Dataset:
    """The dataset with the images that are used, all of them labelled; warns of splits that overlap."""
    execution = run.execution

    def read() -> Dataset:
        return with_labels(
            only_usable(setup.dataset, run, setup.cache),
            *maps,
            setup.cache,
            workers=execution.num_workers,
            strict=execution.strict,
            trust=execution.trust_data,
        )

    dataset = _with_permanent(world.rank0_first(read), run, setup)
    for found in dataset.notes:
        if found["code"] == "overlapping_splits":
            log.warning(found["text"])
    return dataset


def _with_permanent(dataset: Dataset, run: Run, setup: Setup) -> Dataset:
    """The dataset with the hash of the test part's maps of permanent water among its facts, where its card has any."""
    stated = dataset.card.permanent_water
    if stated is None:
        return dataset
    if dataset.index.maps is None or stated.source not in dataset.index.maps.sources:
        text = f"no {stated.source} maps are there: nothing is scored apart from permanent water"
        card = dataclasses.replace(dataset.card, permanent_water=None)
        samples = dataclasses.replace(dataset.samples, card=card)
        notes = (*dataset.notes, note("no_permanent_water", text))
        return dataclasses.replace(dataset, card=card, samples=samples, notes=notes)
    hashes = label_content(dataset, stated.source, setup.cache, run.execution.num_workers)[dataset.parts.test]
    if not hashes.all():
        lacking = dataset.index.ids[int(dataset.parts.test[int((hashes == 0).argmax())])]
        raise BenchError(f"{lacking} has no {stated.source} labels, which say what is permanent water", "complete them")
    held = hashlib.sha256(hashes.astype("<u8").tobytes()).hexdigest()
    return dataclasses.replace(dataset, facts=dataset.facts | {"permanent_water_sha256": held})


def with_before(dataset: Dataset, world: World) -> Dataset:
    """The dataset with the hashes of its earlier images, which are read once for it. Raises BenchError naming one that
    is absent or broken, or wholly without measurements.
    """
    return dataclasses.replace(dataset, before_content=world.rank0_first(lambda: _before_content(dataset)))


def _before_content(dataset: Dataset) -> Hashes:
    """Hashes (N,) of the earlier images of the rows that are used, 0 of others."""
    found = np.zeros(len(dataset.index.files), np.uint64)
    for row in sorted({int(row) for part in PARTS for row in getattr(dataset.parts, part)}):
        chip = dataset.index.read_before(row, dataset.card)
        if chip.invalid_fraction == 1:
            what = f"the earlier image of {dataset.index.ids[row]} has a band without a measurement"
            raise BenchError(what, "complete the data, or take the sample out of the split")
        found[row] = content_of(chip)
    return found


def before_facts(dataset: Dataset) -> dict[str, object]:
    """What earlier images add to the run id: SHA-256 of those of training, val and test, in the order of rows."""
    if dataset.before_content is None:
        return {}
    rows = sorted(int(row) for part in PARTS for row in getattr(dataset.parts, part))
    return {"before_sha256": hashlib.sha256(dataset.before_content[rows].astype("<u8").tobytes()).hexdigest()}


def resolved_data(setup: Setup, train: LabelMap, evaluated: LabelMap) -> Any:
    """The data section with the sources and schemes of both sides."""
    return dataclasses.replace(
        setup.data,
        train_labels=train.source.name,
        train_scheme=train.scheme.name,
        eval_labels=evaluated.source.name,
        eval_scheme=evaluated.scheme.name,
    )


def named(label_map: LabelMap) -> str:
    """A scheme with its source, as the record names it."""
    return f"{label_map.scheme.name} of {label_map.source.name}"
