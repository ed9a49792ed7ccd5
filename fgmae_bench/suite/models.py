"""Model and weights names checked before anything runs; timm is asked in a process of its own, and only about names that need it."""

from __future__ import annotations

import subprocess
import sys

from fgmae_bench.checkpoints.registry import WEIGHTS
from fgmae_bench.errors import BenchError, unknown
from fgmae_bench.suite.command import Command

ASK = """
import sys
from fgmae_bench.backbones import architecture
from fgmae_bench.errors import BenchError
for name in sys.argv[1:]:
    try:
        architecture(name)
    except BenchError as error:
        print(name, error.what, error.todo, sep="\\t")
"""


def require_known(commands: list[Command], recorded: set[str]) -> None:
    """Raise BenchError naming file and key path for a model or weights that nobody knows.

    `recorded` are models that stand in records: they are known.
    """
    models = {model for named in WEIGHTS.values() for model in named} | {"backscatter_stats"} | recorded
    strange: dict[str, Command] = {}
    for command in commands:
        model = command.points[0].run.model
        if ":" not in model.model and model.model not in models:
            strange.setdefault(model.model, command)
        path_like = "/" in model.weights or "." in model.weights
        if model.model != "backscatter_stats" and ":" not in model.model and model.weights not in (*WEIGHTS, "random") and not path_like:
            error = unknown("weights", model.weights, ["random", *WEIGHTS])
            raise BenchError(f"{command.where}.flags.weights: {error.what}", error.todo)
    if not strange:
        return
    asked = subprocess.run([sys.executable, "-c", ASK, *strange], capture_output=True, text=True)
    for line in asked.stdout.splitlines():
        name, what, todo = line.split("\t")
        raise BenchError(f"{strange[name].where}.flags.model: {what}", todo)
