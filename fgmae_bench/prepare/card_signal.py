"""[signal] of a card that is drafted: what some of the images say of bands, units, size and fill."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fgmae_bench.config.contract import BANDS
from fgmae_bench.errors import BenchError

if TYPE_CHECKING:
    from fgmae_bench.data.gather import Found, Seen
    from fgmae_bench.data.recognise import Finding
    from fgmae_bench.prepare.card_plan import Plan

LOOKED_AT = 96  # images that units and bands are judged by


@dataclass(kw_only=True)
class SignalDraft:
    """Lines of [signal], each a key with its value as it is written, and a remark or none."""

    lines: dict[str, tuple[str, str]] = field(default_factory=dict)
    evidence: list[str] = field(default_factory=list)
    georeferenced: bool = False


def look_at(plan: Plan) -> list[Seen]:
    """Some of the images. Raises BenchError where none can be read."""
    from fgmae_bench.data.gather import look
    from fgmae_bench.system.progress import Progress
    from fgmae_bench.system.randomness import keyed_order

    by_name: dict[str, Found] = {image.name: image for image in plan.images}
    chosen, seen, broken = keyed_order(0, "card", sorted(by_name))[:LOOKED_AT], [], []
    place_of = {image.name: place for place, image in enumerate(plan.images)}
    with Progress("looking", len(chosen), "images") as progress:
        for name in chosen:
            try:
                seen.append(look(by_name[name]))
            except BenchError as error:
                broken.append(str(error))
                plan.unusable.append(place_of[name])
            progress.step()
    if not seen:
        raise BenchError(
            f"{plan.root}: no image can be read: {broken[0] if broken else 'there is none'}", "see inspect"
        )
    if broken:
        plan.remark("signal", f"{len(broken)} of {len(chosen)} images looked at cannot be used: {broken[0][:160]}")
    return seen


def signal_of(seen: list[Seen]) -> SignalDraft:
    """[signal] as the images speak for it, with the evidence in words."""
    from fgmae_bench.data.audit import measure
    from fgmae_bench.data.recognise import recognise_units

    draft = SignalDraft(georeferenced=all(each.metres for each in seen))
    count = Counter(len(each.chip.db) for each in seen).most_common(1)[0][0]
    alike = [each for each in seen if len(each.chip.db) == count]
    bands = Counter(each.bands for each in alike).most_common(1)[0][0]
    named = len(bands) == count
    orders = {each.descriptions for each in alike}
    swapped = any(each.bands not in ((), bands) for each in alike)
    alike = [each for each in alike if each.bands == bands]
    statistics = measure([each.chip for each in alike], bands if named else BANDS[:count])
    finding = recognise_units(statistics)
    if not named:
        bands = BANDS[:count]
        if count == 2 and statistics.first_minus_second < 0:
            bands = bands[::-1]
    first = alike[0]
    written, how = _bands_line(bands, named, first, statistics.first_minus_second)
    odd = sum(len(each.chip.db) != count for each in seen)
    if odd:
        how = f"EDIT: {odd} of {len(seen)} images looked at have another number of bands, which a run refuses"
    draft.lines["bands"] = (written, how)
    if named and any(first.descriptions) and swapped:
        draft.lines["described"] = _described_line(first, orders)
    elif len(first.descriptions) > count:
        others = [
            text or f"band {place + 1}" for place, text in enumerate(first.descriptions) if place not in first.places
        ]
        draft.lines["index"] = (
            f"{[place + 1 for place in first.places]}",
            f"of {len(first.descriptions)} bands; not read: {', '.join(others)[:80]}",
        )
    draft.lines |= _unit_lines(finding)
    draft.lines["calibration"] = ('"unstated"', "pixels cannot show it: sigma0, gamma0, gamma0_rtc")
    sizes = Counter(each.chip.db.shape[1:] for each in seen)
    size, most = sizes.most_common(1)[0]
    draft.lines["size"] = (
        f"{list(map(int, size))}",
        ""
        if len(sizes) == 1
        else f"EDIT: {len(seen) - most} of {len(seen)} images looked at have another size, which a run refuses",
    )
    draft.lines["dtype"] = (f'"{first.dtype}"', "")
    if statistics.fills:
        values = [float(value) for value, _ in statistics.fills]
        share = sum(share for _, share in statistics.fills)
        draft.lines["nodata"] = (
            f"{values}",
            f"repeated in {share:.2%} of the pixels, far from all others: guessed to be no-data",
        )
    draft.evidence = [f"{len(seen)} images looked at; units: {finding.words} ({', '.join(finding.cues)})"]
    declared = ", ".join(dict.fromkeys(f"{value:g}" for each in seen for value in each.nodata))
    if declared:
        draft.evidence.append(f"files declare {declared} as no data themselves, which is applied")
    metres = [each.metres for each in seen if each.metres]
    if metres:
        across, down = np.median(metres, axis=0)
        draft.evidence.append(f"a pixel is {across:.1f} m across and {down:.1f} m down on the ground")
    return draft


def _bands_line(bands: tuple[str, ...], named: bool, first: Seen, gap: float) -> tuple[str, str]:
    written = json.dumps(list(bands))
    if named:
        how = "the names of the files" if not any(first.descriptions) else "the files' descriptions"
        return written, f"by {how}"
    if len(bands) == 1:
        return written, "GUESSED: nothing names the band"
    return written, f"GUESSED: the first is the {'darker' if gap < 0 else 'brighter'} one, and VV is brighter than VH"


def _described_line(first: Seen, orders: set[tuple[str, ...]]) -> tuple[str, str]:
    """`described`, for files that do not all describe their bands alike: by position some would be swapped."""
    texts = [first.descriptions[place] for place in first.places]
    if all(set(texts) <= set(order) for order in orders):
        return json.dumps(texts), "the order of bands differs between files"
    return json.dumps(texts), f"EDIT: files describe their bands in {len(orders)} ways; a run refuses the others"


def _unit_lines(finding: Finding) -> dict[str, tuple[str, str]]:
    """`units` and, where it is known, `scale`."""
    if finding.units in ("dB", "linear_power", "amplitude"):
        return {"units": (f'"{finding.units}"', "" if finding.units == "dB" else "converted to dB on reading")}
    if finding.units == "ask" and "linear_power" in finding.possible:
        return {"units": ('"linear_power"', "GUESSED: it may be amplitude, the pixels cannot tell; find out")}
    if finding.scale is not None:
        return {"units": ('"dB"', ""), "scale": (f"{finding.scale}", f"they look like {finding.words}")}
    return {"units": ('"dB"', f"EDIT: they look like {finding.words}; {finding.todo}")}
