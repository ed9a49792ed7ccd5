"""What would stop a run after it has begun and is known before: sizes, packages that are missing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec

from fgmae_bench.config.encoders import EMBEDDINGS, HANDMADE, STRIDES, adapter_of
from fgmae_bench.config.names import TRACKERS
from fgmae_bench.config.run import NATIVE, Run
from fgmae_bench.data.dfc.layout import data_size
from fgmae_bench.errors import BenchError
from fgmae_bench.suite.command import Command

# Extra of pip that brings an encoder's library -> the module that is looked for; nothing is imported.
MODULES = {
    "rslearn": "rslearn",
    "terratorch": "terratorch",
    "torchgeo": "torchgeo",
    "text": "open_clip",
    "olmoearth": "olmoearth_pretrain_minimal",
}


def require_runnable(commands: Iterable[Command]) -> None:
    """Raise BenchError naming file and key path for the first command that cannot run on this machine's packages, or
    whose model does not take its input's size.
    """
    for command in commands:
        for point in command.points:
            for found in (_extra(point.run), _size(point.run, command), _tracker(point.run)):
                if found:
                    name, what, todo = found
                    raise BenchError(f"{command.where}.flags.{name}: {what}", todo)


def _extra(run: Run) -> tuple[str, str, str] | None:
    """An encoder whose library is not installed."""
    entry = adapter_of(run.model.model)
    module = MODULES.get(entry.extra) if entry else None
    if entry is None or module is None or find_spec(module) is not None:
        return None
    what = f"{run.model.model} needs {entry.carrier}, which is not installed"
    return "model", what, f"install it with: pip install 'fgmae-bench[{entry.extra}]'"


def _size(run: Run, command: Command) -> tuple[str, str, str] | None:
    """An input that the model does not take, as far as its entry or its name says which it takes."""
    model, stated = run.model.model, run.model.input_size
    if model in (*HANDMADE, EMBEDDINGS):
        what = f"{model} takes images as they are"
        return ("input_size", what, "leave it out") if isinstance(stated, int) else None
    entry, named = adapter_of(model), re.search(r"_patch(\d+)", model)
    if run.model.patch_size is not None and entry is not None and run.model.patch_size not in entry.patches:
        takes = ", ".join(map(str, sorted(entry.patches)))
        return "patch_size", f"{model} does not take patches of {run.model.patch_size} px", f"choose from {takes}"
    named_patch = int(named[1]) if named and ":" not in model else STRIDES.get(model, 1)
    patch = (run.model.patch_size or entry.patch) if entry else named_patch
    side = stated if isinstance(stated, int) else _of_data(run, command, patch)
    if entry is not None and side and entry.only_size not in (0, side):
        return "input_size", f"{model} takes {entry.only_size} px, not {side}", f"give input_size = {entry.only_size}"
    if isinstance(stated, int) and stated % patch:
        good = stated // patch * patch or patch
        return "input_size", f"{stated} is not divisible by the patch of {patch} px of {model}", f"use {good}"
    if entry is not None and entry.most_patches and (side // patch) ** 2 > entry.most_patches:
        what = f"{side} px in patches of {patch} px are more than {entry.most_patches} patches, the most of {model}"
        return "patch_size", what, "choose a larger one, or a smaller input_size"
    return None


def _of_data(run: Run, command: Command, patch: int) -> int:
    """The side in pixels of an input whose size is the data's, 0 where the weights say it."""
    if not command.card.per_pixel and run.model.input_size != NATIVE:
        return 0
    side = min(data_size(command.card, command.place)[0])
    return side // patch * patch if command.card.per_pixel else side


def _tracker(run: Run) -> tuple[str, str, str] | None:
    name = run.execution.tracker
    if name is None or find_spec(name) is not None:
        return None
    return "tracker", f"the package of {name} is not installed", TRACKERS[name].install
