"""What a run is known by: a hash of what can change a number; and the run as plain data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from typing import Any

from fgmae_bench.config.run import NOT_HASHED, PARTS, SECTIONS, YOUNGER, Run, counted, sections


def run_hash(run: Run, facts: dict[str, Any], world_size: int = 1) -> str:
    """SHA-256 of what can change a number: resolved Data, Model, Recipe and the `facts` of card and weights.

    Batch, accumulation and world size count by their product only; paths, workers and device do not count.
    """
    recipe = counted(run.recipe)
    for name in NOT_HASHED["recipe"]:
        recipe.pop(name, None)
    recipe["effective_batch"] = recipe.pop("batch_size") * recipe.pop("accum_iter") * world_size
    data = {key: value for key, value in counted(run.data).items() if key not in NOT_HASHED["data"]}
    model = {key: value for key, value in counted(run.model).items() if key not in NOT_HASHED["model"]}
    body = {"data": data, "model": model, "recipe": recipe, "facts": facts}
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


def recorded_id(record: dict[str, Any]) -> set[str]:
    """The run ids that a record's own configuration, facts and number of processes can stand for; of a record of
    stresses those of the run that was stressed.

    Several only where modules differ in what a younger field is by default. Raises KeyError or TypeError on a
    configuration without what an id is made of.
    """
    config, found = json.loads(json.dumps(record["config"])), set()  # lists, as a file holds them
    recipe = config["recipe"]
    batch = recipe.pop("batch_size") * recipe.pop("accum_iter") * record["environment"]["world_size"]
    parts = {"data": config["data"], "model": config["model"], "recipe": recipe}
    for module in SECTIONS:
        defaults = {
            f.name: list(f.default) if isinstance(f.default, tuple) else f.default
            for kind in sections(module).values()
            for f in dataclasses.fields(kind)
            if f.name in YOUNGER
        }
        body: dict[str, Any] = {
            part: {
                name: value
                for name, value in values.items()
                if name not in NOT_HASHED[part] and (name not in YOUNGER or value != defaults.get(name))
            }
            for part, values in parts.items()
        }
        body["recipe"]["effective_batch"] = batch
        body["facts"] = {name: value for name, value in dict(config["facts"]).items() if name != "stress"}
        digest = hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()
        found.add(_named(str(config["model"]["model"]), str(recipe["recipe"]), digest))
    return found


def run_id(run: Run, facts: dict[str, Any], world_size: int = 1) -> str:
    """`<model>-<recipe>-<10 hex>`, safe as a file name."""
    return _named(run.model.model, run.recipe.recipe, run_hash(run, facts, world_size))


def _named(model: str, recipe: str, digest: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_.]+', '_', model).strip('._') or 'model'}-{recipe}-{digest[:10]}"


def to_plain(run: Run) -> dict[str, dict[str, Any]]:
    """The run as nested dicts, as it stands in a record and, without the nulls, in `config.toml`.

    Places below the home folder begin with `~`: a record that is passed on names nobody's home.
    """
    plain = {part: dataclasses.asdict(getattr(run, part)) for part in PARTS}
    home = os.path.expanduser("~").rstrip("/") + "/"
    plain["execution"] = {
        name: "~/" + value[len(home) :] if isinstance(value, str) and value.startswith(home) and home != "/" else value
        for name, value in plain["execution"].items()
    }
    return plain
