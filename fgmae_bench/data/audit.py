"""Real data held against what its card states: units, bands and fill, from medians over many images, never from one."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.data.files import TIFF
from fgmae_bench.data.index import Index
from fgmae_bench.data.raster import band_descriptions
from fgmae_bench.data.recognise import (
    RULER_DB,
    UNITS,
    Finding,
    Statistics,
    homogeneous,
    recognise_units,
    repeated_fill,
)
from fgmae_bench.data.sample_cache import cached_arrays, load_arrays
from fgmae_bench.data.samples import Samples, pixels_key
from fgmae_bench.data.signal import polarisation
from fgmae_bench.errors import BenchError, note
from fgmae_bench.system.randomness import generator
from fgmae_bench.views.chip import Chip

MIN_IMAGES = 30  # fewer cannot be judged: calm water alone brings VV - VH of a single image to 0 dB
SAMPLED = 64
MOST_FILLS = 2  # values that are looked for in a band of an image
PAIRS = (("VV", "VH"), ("HH", "HV"))  # the first of each is the brighter one
FAR = 20  # times the spread of speckle: no backscatter, however rare
SMALL_SHARE = 5e-4  # of the pixels: a value repeated less often, nearer to others, is not a fill value
WHOLE = 0.99  # share of whole numbers from which on data in dB was cast
SAME = 0.95  # share of equal pixels that makes two bands one


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was recognised; `refusal` and `warnings` in words."""

    statistics: Statistics
    finding: Finding
    refusal: BenchError | None
    warnings: tuple[dict[str, str], ...]

    @property
    def units(self) -> str:
        """The units recognised, a key of `fgmae_bench.data.recognise.UNITS`."""
        return self.finding.units


def sample_rows(index: Index, count: int = SAMPLED) -> NDArray[np.int64]:
    """Up to `count` row numbers, evenly over the classes, by a fixed key."""
    order = generator(0, "audit", len(index.files)).permutation(len(index.files))
    if index.labels.ndim == 2:
        return np.sort(order[:count])
    rank = np.empty(len(order), np.int64)
    for label in np.unique(index.labels):
        rows = order[index.labels[order] == label]
        rank[rows] = np.arange(len(rows))
    return np.sort(order[np.argsort(rank[order], kind="stable")][:count])


_FILLS = tuple(f"{kind}{number}" for number in range(MOST_FILLS) for kind in ("fill", "count"))
# What is kept of each band of an image, in this order.
FIELDS = (
    "median",
    "spread",
    "spread_db",
    "valid",
    "negative",
    "whole",
    "pixels",
    "minimum",
    "maximum",
    "above",
    "below",
    "from_first",
    "to_first",
    "same",
    "synthetic",
    *_FILLS,
)


def measure(chips: list[Chip], bands: tuple[str, ...]) -> Statistics:
    """Statistics of chips (each (bands, H, W), numbers of any unit)."""
    return reduced(np.array([image_statistics(chip) for chip in chips]), bands)


def image_statistics(chip: Chip) -> NDArray[np.float64]:
    """FIELDS of each band of one image, (bands, F). Counts are summed over images later; medians stay per image."""
    values = chip.db.astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    if chip.valid is not None:
        values[~chip.valid] = np.nan
    rows = []
    for band in values:
        row = {"pixels": band.size, "synthetic": chip.synthetic}
        seen = np.sort(band[np.isfinite(band)])
        for number in range(MOST_FILLS):
            found = repeated_fill(seen)
            if found is None:
                break
            row |= {f"fill{number}": found[0], f"count{number}": found[1]}
            band[band == found[0]], seen = np.nan, seen[seen != found[0]]
        rows.append(row | _band_statistics(band, seen))
        if chip.ready is not None:  # a thumbnail of eight bits: its pixels are too far apart to measure by
            rows[-1]["spread"] = RULER_DB
    for row, band in zip(rows[1:], values[1:], strict=True):
        row |= {"from_first": _nanmedian(values[0] - band), "same": float((values[0] == band).mean())}
        row["to_first"] = rows[0]["median"] / row["median"] if row["median"] else np.nan
    return np.array([[row.get(name, np.nan) for name in FIELDS] for row in rows], np.float64)


def _band_statistics(band: NDArray[np.float64], seen: NDArray[np.float64]) -> dict[str, Any]:
    """Statistics of a band (H, W) and of its finite values in ascending order."""
    positive = np.where(band > 0, band, np.nan)
    low, high = (seen[0], seen[-1]) if len(seen) else (np.inf, -np.inf)
    middle = seen[(len(seen) - 1) // 2 : len(seen) // 2 + 1]
    others = seen[np.searchsorted(seen, low, "right") :], seen[: np.searchsorted(seen, high, "left")]
    return {
        "median": float(middle.mean()) if len(seen) else math.nan,
        "spread": homogeneous(band),
        "spread_db": homogeneous(positive, lambda values: 10 * np.log10(values)),
        "valid": len(seen),
        "negative": np.searchsorted(seen, 0),
        "whole": (seen == np.round(seen)).sum(),
        "minimum": low,
        "maximum": high,
        "above": others[0][0] if len(others[0]) else np.inf,  # the next value
        "below": others[1][-1] if len(others[1]) else -np.inf,
    }


def reduced(table: NDArray[np.float64], bands: tuple[str, ...]) -> Statistics:
    """Statistics of several images from `image_statistics` of each, (images, bands, F)."""
    of = {name: table[:, :, place] for place, name in enumerate(FIELDS)}
    valid, several = max(of["valid"].sum(), 1), table.shape[1] > 1
    return Statistics(
        images=len(table),
        bands=bands,
        median=tuple(_nanmedian(column) for column in of["median"].T),
        spread=tuple(_nanmedian(column) for column in of["spread"].T),
        spread_db=tuple(_nanmedian(column) for column in of["spread_db"].T),
        slope=_slope(of["median"].ravel(), of["spread"].ravel()),
        first_minus_second=_nanmedian(of["from_first"][:, 1]) if several else np.nan,
        ratio=_nanmedian(of["to_first"][:, 1]) if several else np.nan,
        same=max((_nanmedian(column) for column in of["same"].T[1:]), default=0.0),
        negative=float(of["negative"].sum() / valid),
        whole=float(of["whole"].sum() / valid),
        minimum=float(of["minimum"].min()),
        maximum=float(of["maximum"].max()),
        invalid=float(1 - of["valid"].sum() / of["pixels"].sum()),
        fills=_fills_of(of),
    )


def _fills_of(of: dict[str, NDArray[np.float64]]) -> tuple[tuple[float, float], ...]:
    """(value, share of all pixels) of the values that stand for missing data, of those that images repeat.

    The end of a range that data was clipped to is none of them: values of some image come close to it, from one side.
    """
    shares: Counter[float] = Counter()
    for band in range(of["pixels"].shape[1]):
        of_band = {name: column[:, band] for name, column in of.items()}
        spread, pixels = _nanmedian(of_band["spread"]), of["pixels"].sum()
        for number in range(MOST_FILLS):
            for value in np.unique(of_band[f"fill{number}"][np.isfinite(of_band[f"fill{number}"])]):
                share = of_band[f"count{number}"][of_band[f"fill{number}"] == value].sum() / pixels
                gap = _distance(float(value), of_band)
                if gap > FAR * spread or (gap > spread and share > SMALL_SHARE):
                    shares[float(value)] += share
    return tuple(shares.most_common())


def _distance(value: float, of: dict[str, NDArray[np.float64]]) -> float:
    """How far a value is beyond all others of a band, over all images; far where it is between them, unlike a clip."""
    lowest = np.where(of["minimum"] == value, of["above"], of["minimum"]).min()
    highest = np.where(of["maximum"] == value, of["below"], of["maximum"]).max()
    if lowest < value < highest:
        return FAR * _nanmedian(of["spread"])
    return float(lowest - value if value <= lowest else value - highest)


def _slope(level: NDArray[np.float64], spread: NDArray[np.float64]) -> float:
    """Slope of ln(spread) on ln(level) by least squares; NaN where levels are not positive, or differ by less than a
    tenth.
    """
    kept = np.isfinite(level) & np.isfinite(spread) & (level > 0) & (spread > 0)
    if kept.sum() < max(2, 0.9 * np.isfinite(level).sum()):
        return np.nan
    x, y = np.log(level[kept]), np.log(spread[kept])
    return float(np.polyfit(x, y, 1)[0]) if x.std() > 0.1 else np.nan


def judge(
    card: Card,
    statistics: Statistics,
    where: str,
    band_order: tuple[str, ...] | None = None,
    units: str | None = None,
    descriptions: Iterable[tuple[str, ...]] = (),
) -> Verdict:
    """Hold statistics against the card. `band_order` is the user's statement, standing above the card's.

    `units` are those of the numbers that were measured, by default the card's; `descriptions` those of the bands in
    each file that has any.
    """
    finding = recognise_units(statistics)
    bands = band_order or card.signal.bands
    refusal = _described_otherwise(bands, descriptions, where) if band_order is None else None
    if statistics.images < MIN_IMAGES and refusal is None:
        text = f"{statistics.images} images are too few to judge units and band order (at least {MIN_IMAGES})"
        return Verdict(statistics=statistics, finding=finding, refusal=None, warnings=(note("too_few_to_judge", text),))
    warnings: list[dict[str, str]] = []
    units = units or card.signal.units
    grey = units == "grey"  # only backscatter has a ruler
    for check in (
        lambda: _undeclared_fill(statistics, where),
        lambda: None if grey else _other_units(card, finding, units, where),
        lambda: None if grey else _whole_numbers(card, statistics, units, where),
        lambda: _same_bands(statistics, where),
        lambda: _swapped(card, bands, statistics, where),
    ):
        refusal = refusal or check()
    if refusal is None and grey:
        text = (
            "the data holds grey values of a stretch that nobody stated: dB are nominal, and only ranks mean anything"
        )
        warnings.append(note("grey_values", text))
        return Verdict(statistics=statistics, finding=finding, refusal=None, warnings=tuple(warnings))
    if refusal is None and finding.units == "ask":
        text = f"the pixels cannot tell the units ({', '.join(finding.cues)}): {units} is the card's statement"
        warnings.append(note("units_not_told", text))
    difference = gap_db(statistics, units if finding.units == "ask" else finding.units)
    if refusal is None and {*bands[:2]} in map(set, PAIRS) and not 2 <= abs(difference) <= 12:
        text = f"median of {'-'.join(_brighter_first(bands))} is {abs(difference):.1f} dB, outside the usual 2 to 12 dB"
        warnings.append(note("band_difference", text))
    return Verdict(statistics=statistics, finding=finding, refusal=refusal, warnings=tuple(warnings))


def gap_db(statistics: Statistics, units: str) -> float:
    """How far the first band is above the second, dB."""
    factor = {"linear_power": 10, "amplitude": 20}.get(units)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(factor * np.log10(statistics.ratio)) if factor else statistics.first_minus_second


def _brighter_first(bands: tuple[str, ...]) -> tuple[str, ...]:
    return next(pair for pair in PAIRS if set(pair) == {*bands[:2]})


_TRUST = "or pass --trust_data if you know better"


def _undeclared_fill(statistics: Statistics, where: str) -> BenchError | None:
    if not statistics.fills:
        return None
    named = [f"{value:g}" for value, _ in statistics.fills[:3]]
    share = sum(share for _, share in statistics.fills)
    what = f"{where} repeats {', '.join(named)} in {share:.2%} of the pixels, far from all other values"
    wanted = ", ".join(f"{float(value)}" for value, _ in statistics.fills[:3])
    return BenchError(what, f"if nothing was measured there, add nodata = [{wanted}] under [signal], {_TRUST}")


def _other_units(card: Card, finding: Finding, units: str, where: str) -> BenchError | None:
    if units in finding.possible:
        return None
    what = f"{where} looks like {finding.words} ({', '.join(finding.cues)}), {card.title} is stated as {UNITS[units]}"
    what += _known(card, "units")
    return BenchError(what, f"{finding.todo}, {_TRUST}")


def _known(card: Card, trap: str) -> str:
    """What a card knows of copies with a fault, as the end of a sentence; empty where it knows nothing."""
    return f": {card.traps[trap]}" if trap in card.traps else ""


def _whole_numbers(card: Card, statistics: Statistics, units: str, where: str) -> BenchError | None:
    """dB that were cast to whole numbers on the way, which no product holds."""
    if units != "dB" or statistics.whole < WHOLE:
        return None
    what = f"{where} holds whole numbers of dB alone, as a reader that casts to integers leaves them"
    return BenchError(what + _known(card, "whole_numbers"), f"give the files as published, {_TRUST}")


def _same_bands(statistics: Statistics, where: str) -> BenchError | None:
    if statistics.same < SAME:
        return None
    what = f"{where} holds one band twice: {statistics.same:.0%} of the pixels of two bands are equal"
    return BenchError(what, f"give the other polarisation, or state one band with index under [signal], {_TRUST}")


def _swapped(card: Card, bands: tuple[str, ...], statistics: Statistics, where: str) -> BenchError | None:
    """VV is brighter than VH, and HH than HV, whatever the units."""
    if {*bands[:2]} not in map(set, PAIRS):
        return None
    first, second = _brighter_first(bands)
    if statistics.first_minus_second * (1 if bands[0] == first else -1) >= 0:
        return None
    low = -abs(gap_db(statistics, recognise_units(statistics).units))
    what = (
        f"{where}: median of {first}-{second} is {low:.1f} dB over {statistics.images} images, so {','.join(bands)} "
        "cannot be the order"
    )
    turned = (bands[1], bands[0], *bands[2:])
    what += _known(card, "swapped")
    return BenchError(what, f"pass --band_order {','.join(turned)}, {_TRUST}")


def _described_otherwise(
    bands: tuple[str, ...], descriptions: Iterable[tuple[str, ...]], where: str
) -> BenchError | None:
    """What speaks against `bands` in what files call them."""
    for texts in descriptions:
        named = tuple(polarisation(text) for text in texts)
        if all(named) and len(named) == len(bands) and named != bands:
            if set(named) == set(bands):
                todo = f"pass --band_order {','.join(filter(None, named))}, {_TRUST}"
            else:
                todo = f"state bands = {list(named)} under [signal], {_TRUST}".replace("'", '"')
            return BenchError(f"{where}: files describe their bands as {', '.join(texts)}, not {','.join(bands)}", todo)
    return None


def audit(
    card: Card,
    index: Index,
    band_order: tuple[str, ...] | None = None,
    samples: Samples | None = None,
    cache: Path | None = None,
) -> tuple[Verdict, bool]:
    """(verdict over a sample of the data, True where a sampled file carries the synthetic tag).

    `samples` holds what is read for the next pass. What `keep_audit` left in `cache` is not measured again.
    """
    samples = samples or Samples(card=card, index=index)
    table = _table(samples, cache)
    statistics = reduced(table, card.signal.bands)
    verdict = judge(card, statistics, str(index.root), band_order, held_units(samples), descriptions_of(samples))
    return verdict, bool((table[:, :, FIELDS.index("synthetic")] == 1).any())


def held_units(samples: Samples) -> str:
    """Units of the numbers that are measured: those of the files, dB of a pack."""
    return "dB" if samples.index.sums is not None else samples.card.signal.units


def unconverted(card: Card) -> Card:
    """The card with which a reader gives numbers in the units of the files: everything but the logarithm is done."""
    if card.signal.units == "grey":
        return card
    return dataclasses.replace(card, signal=dataclasses.replace(card.signal, units="dB"))


def keep_audit(samples: Samples, cache: Path) -> None:
    """Keep what was measured in the cache folder, once nothing speaks against the data any more."""
    rows, kinds = _rows_and_key(samples)
    cached_arrays(cache, samples.index, kinds, lambda missing: {"audit": _table(samples, None)}, count=len(rows))


def _table(samples: Samples, cache: Path | None) -> NDArray[np.float64]:
    """`image_statistics` (n, bands, F) of sampled images: measured once a process, or read from the cache folder."""
    if "audit" not in samples.measured:
        rows, kinds = _rows_and_key(samples)
        held = load_arrays(cache, samples.index, kinds, count=len(rows)) if cache else {}
        if not held:
            as_stored = held_units(samples) != "dB"
            plain = unconverted(samples.card)
            read = (lambda row: samples.index.read(row, plain)) if as_stored else samples.chip
            held = {"audit": np.array([image_statistics(read(row)) for row in rows])}
        samples.measured.update(held)
    return samples.measured["audit"]


def _rows_and_key(samples: Samples) -> tuple[NDArray[np.int64], dict[str, str]]:
    rows = sample_rows(samples.index)
    return rows, {"audit": f"{FIELDS} {pixels_key(samples)} {rows.tolist()}"}


def descriptions_of(samples: Samples, most: int = 8) -> list[tuple[str, ...]]:
    """What some of the sampled files call the bands of the card; nothing of files that are not read by band numbers."""
    signal = samples.card.signal
    paths = [samples.index.path(row) for row in sample_rows(samples.index)[:most]]
    if signal.described or not all(path.suffix.lower() in TIFF and path.is_file() for path in paths):
        return []
    found = [band_descriptions(path) for path in paths]
    places = [number - 1 for number in signal.index] or range(len(signal.bands))
    return [tuple(texts[place] for place in places) for texts in found if max(places) < len(texts) and any(texts)]


def calibration_note(card: Card) -> str:
    """What can be said of the calibration: only what the card states."""
    return f"calibration is {card.signal.calibration} by the card's statement; pixels cannot show it"


def _nanmedian(values: NDArray[np.float64]) -> float:
    """Median of the finite values, NaN without any."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")
