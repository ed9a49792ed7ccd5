"""Features as a file of their own: id, label, group and vector of every sample, with a record of how they were made.

python -m fgmae_bench.features export --dataset eurosat --model galileo-nano --out galileo.parquet

The flags are those of fgmae_bench.linear, of which data, model, seed, device and places count. `pandas.read_parquet`
reads the file; `--model embeddings --weights FILE` probes it.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.config.flags import Parser, module_parser
from fgmae_bench.config.run import Run
from fgmae_bench.errors import BenchError, run_entry

if TYPE_CHECKING:
    from fgmae_bench.data.dataset import Dataset
    from fgmae_bench.runs.setup import Setup

COMMAND = "export"


def parser() -> Parser:
    """The flags of fgmae_bench.linear, and the file."""
    made = module_parser("linear", __doc__ or "")
    made.add_argument("--out", metavar="FILE", help="the parquet file to write (required)")
    return made


def main() -> None:
    """Export, or say how."""
    argv = sys.argv[1:]
    if argv[:1] in ([], ["-h"], ["--help"]):
        print(f"{__doc__}\ncommands (each has its own --help):\n  {COMMAND}    write features as a parquet file")
        return
    if argv[0] != COMMAND:
        raise BenchError(f"unknown command '{argv[0]}'", f"choose {COMMAND}")
    given = parser().parse(argv[1:])
    out = Path(given.pop("out", ""))
    if out.suffix != ".parquet":
        raise BenchError(f"--out is '{out if out.name else ''}'", "give a file that ends in .parquet")
    if out.exists():
        raise BenchError(f"{out} exists", "remove it or choose another name")
    if "dataset" not in given:
        raise BenchError("--dataset is missing", "name a dataset, for example --dataset eurosat")
    card = load_card(given["dataset"])
    fixed = {"probe": "knn", "knn_k": 1, "features": "cached", "batch_size": 1}  # nothing of a recipe is fitted
    (run,) = compose("linear", {**given, **fixed}, card)
    print(f"{out}: {export(run, out)} samples")


def export(run: Run, out: Path) -> int:
    """Write the features of all samples of a run's split; returns how many there are."""
    import numpy as np

    from fgmae_bench.data.dataset import only_usable
    from fgmae_bench.data.splits import PARTS
    from fgmae_bench.features.extract import Extractor, Spent, extract
    from fgmae_bench.models.embeddings import write_embeddings
    from fgmae_bench.runs.setup import set_up
    from fgmae_bench.system.device import resolve_device
    from fgmae_bench.system.distributed import World
    from fgmae_bench.system.files import replacing

    world, device = World(), resolve_device(run.execution.device)
    setup = set_up(run, load_card(run.data.dataset), world, device, trains=False)
    dataset = only_usable(setup.dataset, run, setup.cache)
    extractor = Extractor(
        dataset=dataset,
        backbone=setup.backbone,
        view=setup.view,
        device=device,
        amp=setup.amp,
        workers=run.execution.num_workers,
        world=world,
        extra=setup.extra,
    )
    setup.backbone.module.to(device)
    rows = np.sort(np.concatenate([getattr(dataset.parts, part) for part in PARTS]))
    vectors = np.concatenate([features for _, features, _ in extract(extractor, rows, None, Spent())])
    index = dataset.index
    labels = [value.tolist() for value in index.labels[rows]]
    groups = None if index.groups is None else [index.groups[row] for row in rows]
    ids = [index.ids[row] for row in rows]
    with replacing(out) as temporary:
        write_embeddings(temporary, ids, labels, groups, vectors, _how(setup, dataset, rows))
    return len(rows)


def _how(setup: Setup, dataset: Dataset, rows: Any) -> dict[str, Any]:
    """The record of how vectors were made: of which pixels, by which weights, fed how."""
    from fgmae_bench.models.embeddings import pixels_sha256
    from fgmae_bench.system.environment import now

    assert dataset.content is not None
    backbone = setup.backbone
    return {
        "dataset": dataset.card.name,
        "classes": list(dataset.card.classes),
        "pixels_sha256": pixels_sha256([(dataset.index.ids[row], int(dataset.content[row])) for row in rows]),
        "synthetic": dataset.synthetic,
        "model": dataclasses.asdict(setup.model),
        "weights": dataclasses.asdict(backbone.weights),
        "contract": dataclasses.asdict(backbone.contract),
        "contract_inputs": backbone.inputs,
        "amp": setup.amp,
        "created": now(),
        "notes": [*dataset.notes, *setup.notes],
    }


if __name__ == "__main__":
    run_entry(main)
