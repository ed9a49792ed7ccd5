"""Decode heads side by side on one frozen backbone, whose maps are computed once; with several encoders, how far heads
agree on their ranking.

  python -m fgmae_bench.ablate heads --dataset dfc2020 --data_path DIR --model vit_small_patch16 --weights fgmae
  python -m fgmae_bench.ablate heads --dataset card.toml --data_path DIR --heads fcn segformer upernet \\
      --encoders galileo-nano fgmae-vit-s16 reben-resnet50

Each head on each encoder is one recorded run of the protocol frozen_<head>, and what is recorded is not repeated: after
a kill the same command goes on. Scenes larger than the input are cut with --input_size and --stride, and stitched.
tau-b of two heads is a point below eight encoders, and has an interval over scenes from there on.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fgmae_bench.ablate.flags import add_run_flags, first_process, outputs, read_run, say
from fgmae_bench.config.cards import Card
from fgmae_bench.config.encoders import encoders
from fgmae_bench.config.flags import spellings
from fgmae_bench.config.names import HEADS
from fgmae_bench.config.run import Model, Run, SegmentData
from fgmae_bench.errors import BenchError, Diverged, closest, unknown

if TYPE_CHECKING:
    from fgmae_bench.records import Record

log = logging.getLogger("fgmae_bench")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `segment`, with the heads and the encoders that are compared."""
    group = parser.add_argument_group("grid")
    group.add_argument(
        *spellings("heads"), nargs="+", metavar="HEAD", help="decode heads (default: all of --head that are installed)"
    )
    group.add_argument(
        *spellings("encoders"),
        nargs="+",
        metavar="NAME",
        help="encoders of the registry, or model=weights (default: that of --model and --weights)",
    )
    add_run_flags(parser, SegmentData)


def main(given: dict[str, Any]) -> None:
    """Run every head on every encoder, say what each scored, write table and figure."""
    heads, named = given.pop("heads", None), given.pop("encoders", None)
    for flag in ("head", "freeze_backbone"):
        if given.get(flag) not in (None, True):
            raise BenchError(f"--{flag} with ablate heads", "name heads with --heads; the backbone stays frozen")
    given = {"features": "cached", **given, "freeze_backbone": True}
    card, run = read_run(given)
    heads = _heads(heads)
    models = [run.model] if named is None else _models(run.model, named)
    records = measure(card, run, heads, models)
    if first_process():
        from fgmae_bench.ablate.head_tables import agreement_of, draw_heads, rows_of, write_heads

        rows, agreed = rows_of(records), agreement_of(records)
        for each in agreed:
            say(f"  {' and '.join(each['heads']):<36}tau-b {each['text']}")
        stem, figure = outputs(run, _name(card, models))
        draw_heads(rows, card, figure)
        for path in (*write_heads(rows, agreed, card, records, stem, figure), figure):
            say(str(path))


def _name(card: Card, models: list[Model]) -> str:
    """Of the table: the data set and the encoder, or the number of them."""
    which = models[0].model if len(models) == 1 else f"{len(models)}-encoders"
    return f"heads-{card.name}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', which)}"


def _heads(names: list[str] | None) -> list[str]:
    """The heads by name; raises BenchError on one that is unknown or named twice. By default all that can be built."""
    if names is None:
        return [name for name in HEADS if _installed(name)]
    for name in names:
        if name not in HEADS:
            raise unknown("head", name, HEADS)
    if len(set(names)) != len(names):
        raise BenchError(f"--heads {' '.join(names)} holds a name twice", "name each head once")
    return names


def _installed(name: str) -> bool:
    """Whether the library of a head is there."""
    carriers = {"smp_": "segmentation_models_pytorch", "maskformer": "transformers", "mask2former": "transformers"}
    package = next((package for start, package in carriers.items() if name.startswith(start)), None)
    if package is not None and find_spec(package) is None:
        log.warning("the head %s is left out: %s is not installed", name, package)
        return False
    return True


def _models(model: Model, names: list[str]) -> list[Model]:
    """The encoders by name, or as model=weights, with the other flags of the model as they are given."""
    found = []
    for name in names:
        entry = encoders().get(name)
        if entry is None and "=" not in name:
            raise BenchError(f"--encoders {name}", f"{closest(name, encoders())}, or give model=weights")
        made, weights = (entry.model, entry.weights) if entry else name.split("=", 1)
        found.append(dataclasses.replace(model, model=made, weights=weights))
    if len(set(found)) != len(found):
        raise BenchError(f"--encoders {' '.join(names)} holds an encoder twice", "name each once")
    return found


def measure(card: Card, run: Run, heads: list[str], models: list[Model]) -> dict[tuple[str, str], Record]:
    """The records by (encoder, head), said one by one. Raises Diverged, once all are there, where a run diverged."""
    from fgmae_bench.ablate.engine import A_GRID
    from fgmae_bench.ablate.head_tables import line_of
    from fgmae_bench.runs.grid import complete, joined
    from fgmae_bench.train.run import share_of
    from fgmae_bench.train.segment import prepare

    records: dict[tuple[str, str], Record] = {}
    failures: list[str] = []
    with joined(run) as (world, device):
        for model in models:
            for head in heads:
                recipe = dataclasses.replace(run.recipe, head=head)
                prepared = prepare(
                    dataclasses.replace(run, model=model, recipe=recipe), card, [], world, device, A_GRID
                )
                (record,), failure = complete(share_of(prepared), world)
                records[f"{model.model} {model.weights}", head] = record
                failures += [] if failure is None else [failure]
                say(line_of(model.model, head, record))
                del prepared  # its model goes before the next one is built
    if failures:
        raise Diverged(failures[0], list(records.values()))
    return records
