"""A model under stress: speckle, noise, calibration, resolution and what else a radar and its processors do.

python -m fgmae_bench.stress --dataset eurosat --data_path DIR --probe lbfgs
python -m fgmae_bench.stress --dataset eurosat --probe lbfgs --stress speckle offset --draws 3

python -m fgmae_bench.stress --entry finetune --dataset eurosat --lr 0.01
python -m fgmae_bench.stress --dataset dfc2020 --freeze_backbone --head linear

All flags of the entry say what is fitted; a run that is recorded already is not fitted again. Expected: a table of
    tolerances in decibels, looks and pixels, of which statistics of a batch or an image can hide the calibration.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose, read_config
from fgmae_bench.config.flags import Parser, module_parser
from fgmae_bench.errors import BenchError, run_entry
from fgmae_bench.report.stress_card import markdown_card
from fgmae_bench.stress.flags import add_flags, entry_of, first_process, options_of


def parser(entry: str = "linear") -> Parser:
    """The flags of an entry, and those that say which stresses are made."""
    made = module_parser(entry, __doc__ or "")
    made.prog = "fgmae_bench.stress"
    add_flags(made)
    return made


def main() -> None:
    """Fit or find the model, score its stressed views, print its card."""
    entry = entry_of(sys.argv[1:])
    given = parser(entry).parse(sys.argv[1:])
    given.pop("entry", None)
    options = options_of(given)
    config = read_config(Path(given.pop("config")), entry) if "config" in given else {}
    if "dataset" not in {**config, **given}:
        raise BenchError("--dataset is missing", "name a dataset, for example --dataset eurosat")
    card = load_card(str({**config, **given}["dataset"]))
    runs = compose(entry, given, card, config)
    if len(runs) != 1:
        parts = ("data", "model", "recipe")
        held = [{name: value for part in parts for name, value in vars(getattr(run, part)).items()} for run in runs]
        flags = " and ".join(f"one --{name}" for name in held[0] if any(each[name] != held[0][name] for each in held))
        raise BenchError(f"{len(runs)} runs", f"give {flags}: a card is of one head")
    if runs[0].execution.eval:
        raise BenchError("--eval means nothing here", "leave it out: a head that is recorded is not fitted again")
    from fgmae_bench.stress.engine import stress_run  # torch: bad flags are refused before it is imported

    record = stress_run(runs[0], card, options, [], entry)
    if first_process():
        print(markdown_card(record))  # noqa: T201 (entries print their result)


if __name__ == "__main__":
    run_entry(main)
