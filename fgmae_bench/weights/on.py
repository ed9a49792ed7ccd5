"""`weights inspect --model M --on DIR`: how far the features of a model move when its input does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fgmae_bench.errors import BenchError

CHIPS = 8


def lines(model: str, weights: str | None, folder: Path) -> Iterator[str]:
    """The account, a line a change; raises BenchError where the folder holds no chips of two bands."""
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
