"""Labels of open water held against the pixels: water is dark, so that codes of another publisher show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.data.audit import sample_rows
from fgmae_bench.data.index import Index
from fgmae_bench.data.samples import Samples
from fgmae_bench.data.schemes import card_source
from fgmae_bench.errors import BenchError

MIN_IMAGES = 10  # with labels; fewer say nothing
LEAST_LAND = 0.01  # share of the labelled pixels that are not water, over many images
LEAST_PIXELS = 100  # of a class, for its median
TODO = "give the labels as published, or pass --trust_data if you know better"


def check_water(card: Card, index: Index, name: str, samples: Samples | None = None) -> BenchError | None:
    """The refusal of label maps of the source `name` whose water is brighter than the rest, or without any rest.

    Medians of the first band in dB over a sample of the images; sources without `water` on the card, and fewer than
    MIN_IMAGES maps, say nothing.
    """
    stated = card.label_sources[name]
    rows = [row for row in sample_rows(index) if index.maps is not None and index.maps.has(int(row), name)]
    if not stated.water or len(rows) < MIN_IMAGES:
        return None
    samples = samples or Samples(card=card, index=index)
    source = card_source(card, name)
    number = source.raw or {code: code for code in source.codes}  # code of each value that the card names
    water = [number[value] for value in stated.water]
    land = [code for code in source.codes if code not in water]
    found: dict[int, list[NDArray[np.float32]]] = {code: [] for code in source.codes}
    for row in rows:
        chip, codes = samples.chip(int(row)), samples.codes(int(row), name)
        if chip.ready is not None:
            return None
        kept = np.isfinite(chip.db[0]) if chip.valid is None else chip.valid.all(axis=0)
        for code in np.unique(codes.values[kept]):
            if int(code) in found:
                found[int(code)].append(chip.db[0][kept & (codes.values == code)])
    values = {code: np.concatenate(held) if held else np.zeros(0, np.float32) for code, held in found.items()}
    known = f": {card.traps['codes']}" if "codes" in card.traps else ""
    dry, every = sum(len(values[code]) for code in land), sum(map(len, values.values()))
    words = ", ".join(source.codes[code] for code in land)
    if every and dry < LEAST_LAND * every:
        what = f"{index.root}: {dry / every:.2%} of the labelled pixels of {len(rows)} images are {words}"
        return BenchError(f"{what}, as if the codes were another publisher's{known}", TODO)
    level = np.median(np.concatenate([values[code] for code in land])) if dry else np.nan
    for code in water:
        if len(values[code]) < LEAST_PIXELS:
            continue
        above = float(np.median(values[code]) - level)
        if above > 0:
            what = f"{index.root}: pixels labelled {source.codes[code]} are {above:.1f} dB brighter than {words}"
            return BenchError(f"{what}, as if the codes were another publisher's{known}", TODO)
    return None
