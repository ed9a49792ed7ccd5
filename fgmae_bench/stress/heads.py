"""Heads that were fitted on clean data, as functions from features to logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fgmae_bench.config.run import Run
from fgmae_bench.errors import BenchError
from fgmae_bench.probe.checkpoint import load_state
from fgmae_bench.probe.closed import fit_knn, logistic_logits
from fgmae_bench.probe.heads import head_logits
from fgmae_bench.probe.resolve import Materials
from fgmae_bench.runs.tensors import LAST, load_tensors

Logits = NDArray[np.float32]  # (N, C)
Predict = Callable[[NDArray[np.float32]], Logits]  # features (N, D) to logits


def fitted_head(run: Run, id: str, folder: Path, materials: Materials, classes: int) -> Predict:
    """The head of a recorded probe: by SGD or L-BFGS from its folder, of kNN the training features themselves.

    Raises BenchError where the folder no longer holds it, or holds another run's.
    """
    if run.recipe.probe == "knn":
        bank = materials.train_banks[0]
        train = (np.asarray(bank.features[materials.train]), materials.labels[materials.train])
        unknown = np.zeros(0, train[1].dtype)
        return lambda x: fit_knn(train, {"test": (x, unknown)}, classes, run.recipe.knn_k).logits["test"]
    path = folder / LAST
    if not path.exists():
        raise BenchError(f"the head of {id} is not in {folder}", "name its --output_dir, or remove its record")
    if run.recipe.probe == "sgd":
        state = load_state(path)
        _require(state.run_id, id, path)
        head = state.best_head or state.head
        return lambda x: head_logits(head, torch.from_numpy(x)).numpy()
    content = load_tensors(path)
    _require(content.get("run_id"), id, path)
    parameters: dict[str, Any] = {name: value.numpy() for name, value in content["head"].items()}
    return lambda x: logistic_logits(parameters, x)


def _require(found: object, id: str, path: Path) -> None:
    if found != id:
        raise BenchError(f"{path} belongs to {found}, not to {id}", "name the --output_dir of that run")
