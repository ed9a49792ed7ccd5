"""`python -m fgmae_bench.weights inspect FILE [--model NAME]`: what a checkpoint holds; nothing in it is executed.

With --model, also what that model would use, drop and miss, by the same rules as a run. With --model and --on DIR, how
far the model's features of chips in DIR move when bands are swapped, dB are shifted or scaled, and pixels are lost;
with FILE by its weights, without by random ones.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgmae_bench.checkpoints.shapes import geometry
from fgmae_bench.errors import BenchError

if TYPE_CHECKING:
    from fgmae_bench.checkpoints.load import LoadReport
    from fgmae_bench.checkpoints.reader import State

OTHERS_SHOWN = 40


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `weights inspect`."""
    parser.add_argument("file", metavar="FILE", nargs="?", help="a .pth, .pt, .pkl or .safetensors file")
    parser.add_argument(
        "--model", metavar="NAME", help="hold the file against this model: vit_small_patch16, resnet50 or any timm name"
    )
    parser.add_argument("--on", metavar="DIR", help="a folder of chips in dB to try the model on")


def main(given: dict[str, Any]) -> None:
    """Print the account; nothing before the file has been read and, with --model, matched."""
    if given.get("file") is None and ("on" not in given or "model" not in given):
        raise BenchError("no file is named", "give FILE, or --model NAME --on DIR")
    if "on" in given:
        if "model" not in given:
            raise BenchError("--on without --model", "name the model that shall be tried")
        for line in list(moved(given["model"], given.get("file"), Path(given["on"]))):
            print(line)
        return
    from fgmae_bench.checkpoints.reader import read_state  # here, so that --help does not wait for torch

    state = read_state(Path(given["file"]))
    report = _report(given["model"], state) if "model" in given else None
    for line in [
        *_facts(state),
        "",
        *_groups(state),
        *([] if report is None else ["", *_account(given["model"], report)]),
    ]:
        print(line)


def _facts(state: State) -> Iterator[str]:
    guess = geometry({name: tensor.shape for name, tensor in state.tensors.items()})
    yield f"file          {state.path}"
    yield f"format        {state.format}, {state.bytes:,} bytes"
    yield f"sha256        {state.sha256}"
    yield f"wrapper       {state.wrapper or 'none'}"
    yield f"prefix        {_safe(state.prefix) or 'none'}"
    yield f"architecture  {f'{guess.name}, {guess.channels} channels' if guess else 'no Vision Transformer of timm'}"
    yield f"tensors       {len(state.tensors) + len(state.outside)}"
    for note in state.notes:
        yield f"note          {note}"
    texts = [
        *state.others.items(),
        *((f"{_safe(name)} (in the state dict)", text) for name, text in state.plain.items()),
    ]
    for name, text in texts[:OTHERS_SHOWN]:
        yield f"other         {name}: {text}"
    if len(texts) > OTHERS_SHOWN:
        yield f"other         and {len(texts) - OTHERS_SHOWN} more"


def _groups(state: State) -> Iterator[str]:
    """One line a group of keys that differ in their numbers only: rule, count, pattern, shape, dtype."""
    from fgmae_bench.checkpoints.layouts import drop_rule

    groups: dict[tuple[str, str, tuple[int, ...], str], int] = {}
    entries = [(name, tensor, drop_rule(name) or "backbone") for name, tensor in state.tensors.items()]
    outside = state.outside.items()
    entries += [(name, tensor, drop_rule(name, sibling=True) or "unknown") for name, tensor in outside]
    for name, tensor, rule in entries:
        group = (
            rule,
            re.sub(r"\.\d+\.", ".*.", _safe(name)),
            tuple(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
        )
        groups[group] = groups.get(group, 0) + 1
    rows = [("rule", "keys", "pattern", "shape", "dtype")]
    for (rule, pattern, shape, dtype), count in groups.items():
        rows.append((rule, str(count), pattern, _safe(str(shape)), dtype))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _account(model: str, report: LoadReport) -> Iterator[str]:
    dropped = ", ".join(f"{rule} {count}" for rule, count in report.dropped.items()) or "none"
    yield (
        f"{model}: {report.used} keys used, {sum(report.dropped.values())} dropped ({dropped}), "
        f"{report.missing} missing"
    )
    for note in report.notes:
        yield f"note          {note}"


def _report(model: str, state: State) -> LoadReport:
    """The account against a model without memory for its weights."""
    from fgmae_bench.checkpoints.load import account
    from fgmae_bench.checkpoints.names import of_entry
    from fgmae_bench.checkpoints.registry import entry_of
    from fgmae_bench.models.weights import empty_network, usual_size

    known = entry_of("", model, state)
    network, optional = empty_network(model, usual_size(model))
    return account(network, state if known is None else of_entry(state, known.entry), optional)[1]


def _safe(name: str) -> str:
    from fgmae_bench.checkpoints.scan import shown

    return shown(name)


CHIPS = 8


def moved(model: str, weights: str | None, folder: Path) -> Iterator[str]:
    """How far features move, a line a change; raises BenchError where the folder holds no chips of two bands."""
    from fgmae_bench.config.encoders import encoders
    from fgmae_bench.config.run import Model
    from fgmae_bench.models.build import build_backbone
    from fgmae_bench.models.sensitivity import CHANGES, blind_to_polarisation, sensitivity

    chips = read_chips(folder)
    entry = encoders().get(model)
    name = entry.model if entry else model
    side = chips.shape[2]
    wanted = Model(model=name, weights=weights or "random", input_size=None if entry and entry.patches[1:] else side)
    backbone = build_backbone(wanted, 0, data_size=(side, side))
    found = sensitivity(backbone, chips)
    yield f"model         {name}, weights {backbone.weights.source}, {len(chips)} chips of {side} px"
    for change, text in CHANGES.items():
        yield f"{change:<14}{found[change]:.2e}  relative change of the features; {text}"
    if blind_to_polarisation(found):
        yield "note          it cannot tell VV from VH"


def read_chips(folder: Path) -> Any:
    """The first chips of a folder, in the order of their names, (B, 2, S, S) dB, VV first: GeoTIFFs of two bands, or
    pairs `..._VV.tif` and `..._VH.tif`; of the size of the first, without invalid pixels.
    """
    import numpy as np

    from fgmae_bench.data.raster import open_tiff

    chips: list[Any] = []
    for path in sorted(folder.rglob("*.tif")):
        pair = [path, path.with_name(path.name.replace("_VV.tif", "_VH.tif"))]
        if path.name.endswith("_VH.tif") or (path.name.endswith("_VV.tif") and not pair[1].is_file()):
            continue
        parts = []
        for file in pair if path.name.endswith("_VV.tif") else [path]:
            with open_tiff(file) as source:
                parts.append(source.read().astype(np.float32))
        chip = np.concatenate(parts)
        side = min(chip.shape[1:])
        good = chip.shape[0] == 2 and np.isfinite(chip).all() and (not chips or chips[0].shape[1] == side)
        if good:
            chips.append(chip[:, :side, :side])
        if len(chips) == CHIPS:
            break
    if not chips:
        raise BenchError(
            f"{folder} holds no GeoTIFFs of two bands without invalid pixels", "give a folder of chips in dB"
        )
    return np.stack(chips)
