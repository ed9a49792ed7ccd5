"""Experiment trackers behind one hook: what TensorBoard is given goes to Weights & Biases, MLflow or trackio as well.

Their packages are imported only where a run asks for one. A tracker can neither change nor lose a record: without its
package or key a run is refused before it begins, any later fault is a warning, after which the run goes on without.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from fgmae_bench.config.names import TRACKERS
from fgmae_bench.config.plugins import foreign
from fgmae_bench.config.run import Run
from fgmae_bench.config.run_ids import to_plain
from fgmae_bench.errors import BenchError, unknown

PROJECT = "fgmae_bench"
log = logging.getLogger("fgmae_bench")


class Sink(Protocol):
    """One run in one tracker. Every method may raise anything: it is code of others."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Add one value for each tag at `step`."""

    def close(self, scores: dict[str, float], failed: bool) -> None:
        """End the run, with its final scores."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`start` begins a run (id, configuration, folder), `ready` says why none could begin."""

    start: Callable[[str, dict[str, Any], Path], Sink]
    ready: Callable[[], str | None] = lambda: None


class _Wandb:
    """Weights & Biases; `WANDB_MODE=offline` writes to `<output_dir>/wandb`, WANDB_PROJECT names another project."""

    def __init__(self, run_id: str, config: dict[str, Any], folder: Path):
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id,
            name=run_id,
            config=config,
            dir=str(folder),
            reinit="create_new",  # a grid has several runs at once
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, save_code=False),
        )

    def log(self, values: dict[str, float], step: int) -> None:
        self.run.log(values, step=step)

    def close(self, scores: dict[str, float], failed: bool) -> None:
        self.run.summary.update(scores)
        self.run.finish(exit_code=int(failed))


def _wandb_ready() -> str | None:
    """Why no run could begin: no key, unless runs stay on this machine."""
    if os.environ.get("WANDB_MODE", "online").lower() in ("offline", "dryrun", "disabled"):
        return None
    import wandb

    try:
        known = wandb.login(prompt=False)
    except wandb.Error as error:
        return f"no login ({_line(error)}): wandb login, or WANDB_MODE=offline"
    return None if known else "no key: wandb login, or WANDB_MODE=offline"


class _Mlflow:
    """MLflow where MLFLOW_TRACKING_URI says, else where MLflow itself keeps runs.

    A server that is away is asked twice, where the user's own variables say nothing else: by default MLflow asks for
    minutes, in which the run would stand still.
    """

    def __init__(self, run_id: str, config: dict[str, Any], folder: Path):
        for name, value in (("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"), ("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")):
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        held = self.client.get_experiment_by_name(name)
        experiment = held.experiment_id if held else self.client.create_experiment(name)
        self.run = self.client.create_run(experiment, run_name=run_id).info.run_id
        for part, values in config.items():
            for key, value in values.items():
                self.client.log_param(self.run, f"{part}.{key}", value)

    def log(self, values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            self.client.log_metric(self.run, tag, value, step=step)

    def close(self, scores: dict[str, float], failed: bool) -> None:
        for tag, value in scores.items():
            self.client.log_metric(self.run, tag, value)
        self.client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


class _Trackio:
    """trackio, in a folder of this machine unless its own variables name a space or a server."""

    def __init__(self, run_id: str, config: dict[str, Any], folder: Path):
        import trackio

        self.run = trackio.init(project=PROJECT, name=run_id, config=config, embed=False, auto_log_cpu=False)

    def log(self, values: dict[str, float], step: int) -> None:
        self.run.log(values, step=step)

    def close(self, scores: dict[str, float], failed: bool) -> None:
        if scores:
            self.run.log(scores)
        self.run.finish()


KINDS: dict[str, Kind] = {
    "wandb": Kind(start=_Wandb, ready=_wandb_ready),
    "mlflow": Kind(start=_Mlflow),
    "trackio": Kind(start=_Trackio),
}


def require_tracker(name: str | None) -> None:
    """Raise BenchError where a tracker's package is not installed, or it has no key."""
    if name is None:
        return
    if name not in KINDS:
        raise unknown("tracker", name, KINDS)
    todo = TRACKERS[name].install
    if find_spec(name) is None:
        raise BenchError(f"--tracker {name}: its package is not installed", todo)
    with foreign(f"--tracker {name}: its package cannot be imported", todo):
        import_module(name)
    with foreign(f"--tracker {name}: its package failed", todo):
        reason = KINDS[name].ready()
    if reason:
        raise BenchError(f"--tracker {name}: {reason}", "or leave --tracker out: TensorBoard events are always written")


class Tracking:
    """A run in a tracker, begun with its first values. A fault ends the tracking, not the run."""

    def __init__(self, name: str, run_id: str, config: dict[str, Any], folder: Path):
        self.name, self.run_id, self.folder = name, run_id, folder
        self.config = {part: values for part, values in config.items() if part != "execution"}
        self.sink: Sink | None = None
        self.over = False

    def log(self, values: dict[str, float], step: int) -> None:
        """Add one value for each tag at `step`."""
        self._attempt(lambda sink: sink.log(values, step))

    def close(self, scores: dict[str, Any] | None = None, failed: bool = False) -> None:
        """End the run, with the scores of the test split under `test/<metric>`; one that never began does not begin."""
        kept = {f"test/{name}": float(v) for name, v in (scores or {}).items() if isinstance(v, int | float)}
        self.over = self.over or self.sink is None
        self._attempt(lambda sink: sink.close(kept, failed))
        self.over = True

    def _attempt(self, what: Callable[[Sink], None]) -> None:
        if self.over:
            return
        try:
            with foreign(f"{self.name} does not answer", "leave --tracker out"):
                if self.sink is None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    self.sink = KINDS[self.name].start(self.run_id, self.config, self.folder)
                what(self.sink)
        except BenchError as error:
            log.warning("%s: the run goes on without it", error.what)
            self.over = True


def tracking_of(run: Run, run_id: str, folder: Path) -> Tracking | None:
    """The tracking that a run asks for; None where it asks for none."""
    name = run.execution.tracker
    return None if name is None else Tracking(name, run_id, to_plain(run), folder)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
