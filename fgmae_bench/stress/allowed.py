"""Which stresses a model and its data allow, and what they take for granted."""

from __future__ import annotations

import dataclasses

from fgmae_bench.config.cards import Card
from fgmae_bench.config.contract import POLARISATIONS
from fgmae_bench.config.run import Run
from fgmae_bench.errors import BenchError, note
from fgmae_bench.models.sar2sar import Despeckler
from fgmae_bench.stress.flags import Options
from fgmae_bench.stress.probed import FITTED
from fgmae_bench.views.stress import LOOKS
from fgmae_bench.views.stress_table import STRESSES, Stress, find_stress

Note = dict[str, str]
UNSTATED = "unstated"  # calibration of a card that knows none
ACQUISITIONS = ("acquisition", "scene", "product")  # groups that are one


def require_possible(run: Run, card: Card, options: Options, entry: str) -> None:
    """Raise BenchError on what no data could repair, before any is opened."""
    if card.per_pixel and card.task == "regression":
        raise BenchError("stress of a regression of pixels", "take a dataset of classes, or of a number an image")
    if card.signal.units == "grey":
        raise BenchError(f"stress of {card.title}: image values, not backscatter", "take a dataset of backscatter")
    named = dataclasses.replace(options, names=(*options.names, *(name for name, _ in options.train)))
    if named.names:
        allowed(named, card, ())  # what the card alone decides; groups are seen with the data
    probe = getattr(run.recipe, "probe", None)
    if options.train and probe not in FITTED:
        what = f"--probe {probe}" if probe else f"--entry {entry}"
        raise BenchError(f"--train_stress with {what}", f"choose --probe {', '.join(FITTED)}")


def allowed(options: Options, card: Card, groups: tuple[str, ...] | None) -> tuple[tuple[str, ...], list[Note]]:
    """(the stresses to make, a note for each that the data does not allow). A stress that was named is refused."""
    asked = options.names or tuple(STRESSES)
    kept, notes = [], []
    for name in asked:
        stress = find_stress(name)
        if "despeckler" in stress.needs and options.despeckler is None:  # an extra: without a word where nobody asked
            if options.names:
                raise BenchError(f"{name} needs its weights", "name them: --despeckler FILE")
            continue
        reason = _obstacle(stress, card, groups)
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
    if "sigma0" in stress.needs and card.signal.calibration.startswith("gamma"):  # terrain-flattened or not
        return f"{card.title} is in gamma nought already"
    if "sigma0" in stress.needs and card.signal.calibration not in ("sigma0", UNSTATED):
        return f"{card.title} is in {card.signal.calibration}, not in sigma nought"
    if "speckle" in stress.needs and card.signal.filtered:
        return f"{card.title} is filtered or averaged: its speckle is not that of one acquisition"
    return None


def assumptions(
    options: Options,
    names: tuple[str, ...],
    card: Card,
    despeckler: Despeckler | None = None,
    group_kind: str = "acquisition",
) -> list[Note]:
    """What the stresses take for granted. `group_kind` says what a group of the data is, empty where none is known."""
    notes = [note("unvalidated", "stresses are simulated; none was held against a real pair of products of one place")]
    if any("angle" in STRESSES[name].needs for name in names):
        each = group_kind or "image"
        how = f"drawn from 30.5 to 45.5 degrees for each {each}" if options.theta is None else f"{options.theta:g}"
        notes.append(note("theta_assumed", f"the incidence angle is not in the data: {how}"))
    if any("groups" in STRESSES[name].needs for name in names) and group_kind not in ACQUISITIONS:
        notes.append(note("acquisitions_assumed", f"each {group_kind} is taken for an acquisition of its own"))
    if any("sigma0" in STRESSES[name].needs for name in names) and card.signal.calibration == UNSTATED:
        notes.append(note("calibration_assumed", "the card states no calibration: sigma nought is taken for granted"))
    if any("speckle" in STRESSES[name].needs for name in names):
        looks = card.signal.looks
        said = f"{LOOKS:g} looks, as of a GRDH product: the card states none" if looks is None else f"{looks:g} looks"
        notes.append(note("looks", f"speckle and noise begin with {said}{'' if looks is None else ', by the card'}"))
    if despeckler is not None and "sar2sar" in names:
        which = "its published weights" if despeckler.published else f"weights of its shape, {despeckler.sha256[:16]}"
        scale = "backscatter is taken for sigma nought of an SLC at 38 degrees"
        notes.append(note("despeckler", f"SAR2SAR by {which}, trained on images of one look; {scale}"))
    return notes
