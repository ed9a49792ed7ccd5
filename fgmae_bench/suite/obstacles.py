"""What would stop a run after it has begun and is known before: sizes, packages that are missing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec

from fgmae_bench.config.encoders import adapter_of
from fgmae_bench.config.names import TRACKERS
from fgmae_bench.config.run import Run
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
    whose input its patches do not divide.
    """
    for command in commands:
        for point in command.points:
            for look in (_extra, _patches, _tracker):
                if found := look(point.run):
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


def _patches(run: Run) -> tuple[str, str, str] | None:
    """An input that the model's patches do not divide, as far as its entry or its name says their side."""
    size, model = run.model.input_size, run.model.model
    entry, named = adapter_of(model), re.search(r"_patch(\d+)", model)
    if run.model.patch_size is not None and entry is not None and run.model.patch_size not in entry.patches:
        takes = ", ".join(map(str, sorted(entry.patches)))
        return "patch_size", f"{model} does not take patches of {run.model.patch_size} px", f"choose from {takes}"
    patch = (run.model.patch_size or entry.patch) if entry else int(named[1]) if named and ":" not in model else 1
    if not isinstance(size, int) or size % patch == 0:
        return None
    good = size // patch * patch or patch
    return "input_size", f"{size} is not divisible by the patch of {patch} px of {model}", f"use {good}"


def _tracker(run: Run) -> tuple[str, str, str] | None:
    name = run.execution.tracker
    if name is None or find_spec(name) is not None:
        return None
    return "tracker", f"the package of {name} is not installed", TRACKERS[name].install
