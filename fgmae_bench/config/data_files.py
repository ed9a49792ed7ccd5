"""Which files decide what a run is besides its configuration: a suite looks at them before it says `recorded`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgmae_bench.config.cards import Card
from fgmae_bench.config.run import Run

# Facts of a run that its data decides, besides `content_sha256`; those of a model's other files than its weights.
OF_DATA = ("groups_sha256", "before_sha256", "permanent_water_sha256", "inputs_sha256")
OF_MODEL = ("head_weights", "class_text")
Held = dict[str, Any]  # what files hold, as hashes


def data_files(card: Card, run: Run, root: Path) -> Path | tuple[Path, ...]:
    """The data at `root`; with it lists of the split and a table of groups that are there outside of it."""
    name = run.data.split or card.usual_split(run.recipe.recipe)
    split = card.splits.get(name.partition("@")[0])
    beside: list[Path] = []
    if split is None and os.path.isdir(name):
        beside.append(Path(name))
    elif split is not None and split.kind == "lists":
        files = [each for file in split.files.values() for each in (file, file.removesuffix(".bz2"))]
        places = (root.parent, root.parent / "splits", card.path.parent)
        beside += [place / file for place in places for file in files]
    for groups in (card.groups, split and split.by):
        if groups and groups.file:
            beside += [root.parent / groups.file, card.path.parent / groups.file]
    there = dict.fromkeys(path for path in beside if path.exists())
    return (root, *there) if there else root


def model_files(run: Run) -> tuple[Path, ...]:
    """Files of a model besides its weights: those of a head, and texts of classes."""
    named = (vars(run.recipe).get("head_weights"), vars(run.execution).get("class_text"))
    return tuple(Path(name) for name in named if name)


def held_by_data(content: Mapping[str, str], facts: Mapping[str, Any]) -> Held:
    """What the data of a run held: `content` of each part, and facts that follow from more than pixels and labels."""
    return {**content, **{name: facts[name] for name in OF_DATA if name in facts}}


def held_by_model(sha256: str | None, facts: Mapping[str, Any]) -> Held:
    """What the files of its model held."""
    return {"sha256": sha256, **{name: facts[name] for name in OF_MODEL if name in facts}}
