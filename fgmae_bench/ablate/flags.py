"""The command line of an ablation: the flags of `segment`, one run of them, and where its table and figure go."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any

from fgmae_bench.config.cards import Card, load_card
from fgmae_bench.config.compose import compose, read_config
from fgmae_bench.config.flags import add_fields
from fgmae_bench.config.run import Run, sections
from fgmae_bench.errors import BenchError

log = logging.getLogger("fgmae_bench")
MODULE = "segment"
FOLDER = "ablate"  # below tables and figures, where the report looks for none of its own


def add_run_flags(parser: argparse.ArgumentParser, data: type) -> None:
    """The flags of `segment`, with the fields of `data` as those of its data section."""
    for part, kind in {**sections(MODULE), "data": data}.items():
        add_fields(parser.add_argument_group(part), kind)
    parser.add_argument(
        "--config", metavar="FILE", help="read flags from a config.toml; the command line stands above it"
    )


def read_run(given: dict[str, Any]) -> tuple[Card, Run]:
    """(card, the run that is varied) of flags. Raises BenchError on what an ablation cannot vary or has no use for."""
    config = read_config(Path(given["config"]), MODULE) if "config" in given else {}
    given = {name: value for name, value in given.items() if name != "config"}
    if "dataset" not in {**config, **given}:
        raise BenchError("--dataset is missing", "name a dataset, for example --dataset dfc2020")
    card = load_card(str({**config, **given}["dataset"]))
    if card.task != "segmentation":
        raise BenchError(
            f"{card.title} is a {card.task} dataset", "name a segmentation dataset, for example --dataset dfc2020"
        )
    runs = compose(MODULE, given, card, config)
    if len(runs) > 1:
        raise BenchError(f"{len(runs)} learning rates", "give one --lr: an ablation varies nothing else")
    execution = runs[0].execution
    if execution.eval:
        raise BenchError("--eval means nothing for an ablation", "leave it out: what is recorded is read, not repeated")
    if execution.resume not in (None, "auto"):
        raise BenchError(
            f"--resume {execution.resume} is the checkpoint of one run", "leave it out: each run goes on from its own"
        )
    return card, runs[0]


def outputs(run: Run, name: str) -> tuple[Path, Path]:
    """(table without its ending, figure) of an ablation called `name`."""
    results = Path(run.execution.results_dir)
    return results / "tables" / FOLDER / name, results / "figures" / FOLDER / f"{name}.png"


def first_process() -> bool:
    """Whether this process prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print on the first process."""
    if first_process():
        print(text)  # noqa: T201 (entries print their result)
