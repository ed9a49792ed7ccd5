"""What a Zarr store of samples is: which variables are the images, labels or their maps, groups, parts, places."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fgmae_bench.data.gather import find_images, store_in
from fgmae_bench.data.zarr_layout import band_variables, likely_images, texts
from fgmae_bench.data.zarr_store import Store, open_store
from fgmae_bench.errors import BenchError
from fgmae_bench.prepare.card_maps import MOST_MAPS, count_codes
from fgmae_bench.prepare.card_plan import Plan
from fgmae_bench.prepare.card_table import Columns, columns, store_options

MAPS = ("mask", "label", "class", "target", "lc", "gt")  # what variables of label maps are called


def plan_of_store(root: Path) -> Plan:
    """What a folder that is a Zarr store, or holds one, is. Raises BenchError where nothing in it labels the images."""
    path = store_in(root)
    if path is None:
        raise BenchError(f"{root} holds no Zarr store", "give the store, or the folder that it is in")
    store = open_store(path)
    pattern, bands = likely_images(store)
    used = {held.name for held in band_variables(store, pattern, bands)}
    plan = Plan(root=root, task="single_label", kind="zarr", images=find_images(root)[0])
    plan.options = dict(store_options(root, path))
    count = len(plan.images)
    maps = _maps(store, used, count)
    if maps:
        _of_maps(plan, store, maps)
    held = _columns(store, count, {dim for name in used for dim in store.variables[name].dims[:1]})
    columns(plan, held, path)
    return plan


def _maps(store: Store, images: set[str], count: int) -> list[str]:
    """Variables (sample, y, x) besides the images, those named as maps first."""
    found = [
        name
        for name, held in store.variables.items()
        if name not in images and len(held.shape) == 3 and held.shape[0] == count and held.dtype.kind in "fiub"
    ]
    return sorted(found, key=lambda name: (not name.lower().startswith(MAPS), name))


def _of_maps(plan: Plan, store: Store, maps: list[str]) -> None:
    """Segmentation, or a regression of pixels, by the first of some variables of maps."""
    name, count = maps[0], len(plan.images)
    plan.task, plan.label_folder = "segmentation", name
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_MAPS)).astype(int)).tolist()
    if len(chosen) < count:
        plan.remark("label_sources", f"codes of {len(chosen)} of {count} label maps were counted")
    count_codes(plan, (store.sample(name, number) for number in chosen), name, store.variable(name).codes)
    if len(maps) > 1:
        plan.remark("label_sources", f"GUESSED: '{name}' are the label maps; they could also be {', '.join(maps[1:6])}")


def _columns(store: Store, count: int, dims: set[str]) -> Columns:
    """Values of the variables of one value a sample, or of some (sample, class) of 0 and 1, as text."""
    found: Columns = {}
    for name, held in store.variables.items():
        flags = len(held.shape) == 2 and held.dtype.kind in "iub"
        if held.shape[0] == count and name not in dims and (len(held.shape) == 1 or flags):
            found[name] = texts(store, name)
    return found
