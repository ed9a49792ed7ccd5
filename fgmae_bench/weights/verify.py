"""Verify checkpoints before a long job: a table, and exit code 1 where one is not fit.

python -m fgmae_bench.weights verify fgmae --model vit_small_patch16
python -m fgmae_bench.weights verify --required FILE

Without a name: every published checkpoint that is here. A list holds one checkpoint a line: a registered name or a
path, then model=NAME and sha256=HEX where they are known; # begins a comment. Checked: exists, size, SHA-256, opens
without executing anything, layout, keys with shapes and finite numbers, and that it is not untrained (not every
normalisation layer is as initialised, no matrix holds one number). `unknown` is not a failure: nothing is known to hold
the file against. With --features FILE also: it gives the features of chips that its publishers' own code gave, to 1e-5.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgmae_bench.checkpoints.registry import place_of, registered, weights_folder
from fgmae_bench.config.flags import spellings
from fgmae_bench.errors import BenchError, RunFailed
from fgmae_bench.weights.check import Required, read_required, required

if TYPE_CHECKING:
    from fgmae_bench.weights.check import Finding


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="registered weights, or a path")
    parser.add_argument("--model", metavar="MODEL", help="the model that shall load it")
    parser.add_argument("--required", metavar="FILE", help="a list of checkpoints, one a line")
    parser.add_argument(
        "--features",
        metavar="FILE",
        help="npz of chips x_db (N, 2, H, W), dB, and features such as galileo_p8_map (default: not compared)",
    )
    parser.add_argument(
        *spellings("cache_dir"),
        metavar="DIR",
        help="cache folder (default: $FGMAE_BENCH_CACHE or ~/.cache/fgmae_bench)",
    )


def main(given: dict[str, Any]) -> None:
    """Check, print the table, fail where a checkpoint does."""
    folder = weights_folder(Path(given["cache_dir"]) if "cache_dir" in given else None)
    items = _items(given, folder)
    from fgmae_bench.weights.check import examine  # here, so that --help does not wait for torch

    features = Path(given["features"]) if "features" in given else None
    findings = [examine(item, folder, features) for item in items]
    for line in _table(findings):
        print(line)
    failed = [finding for finding in findings if finding.problems]
    if failed:
        raise RunFailed(f"{len(failed)} of {len(findings)} checkpoints are not fit; see the table")


def _items(given: dict[str, Any], folder: Path) -> list[Required]:
    if given.get("name") is not None:
        if "required" in given:
            raise BenchError("a name and --required are given", "give one of them")
        return [required(given["name"], given.get("model"))]
    if "required" in given:
        return read_required(Path(given["required"]))
    here = [
        required(name, model)
        for name, models in registered().items()
        for model, entry in models.items()
        if place_of(name, entry, folder).is_file()
    ]
    if not here:
        raise BenchError(
            f"no published weights are in {folder}",
            "name a checkpoint, give a list with --required, or fetch some first",
        )
    return here


def _table(findings: list[Finding]) -> list[str]:
    from fgmae_bench.weights.check import CHECKS

    rows: list[tuple[str, ...]] = [("checkpoint", *CHECKS, "sha256", "verdict")]
    for finding in findings:
        verdict = "; ".join(finding.problems) or "fit"
        rows.append(
            (finding.item.text, *(finding.outcome[check] for check in CHECKS), finding.sha256[:12] or "-", verdict)
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
