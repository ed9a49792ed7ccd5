"""Linear power converted on reading, beside data converted before: the same bits, and what it costs.

  python experiments/speed/linear_power.py [--chips 400] [--rounds 7]
Chips of 2x64x64 and scenes of 2x512x512 pixels are written as linear power and as dB made of it, uncompressed and
deflated. Each is read as a run reads it, in one thread, the best of some rounds. Expected: content hashes are equal; a
chip costs less than twice, where it is uncompressed. Measured on a busy machine of two cores: chips 1.46 and 1.01 times
(uncompressed, deflated), scenes 2.52 and 1.13: what is left is a logarithm in double precision for each pixel.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio

from fgmae_bench.config.cards import Card, load_card
from fgmae_bench.data.content import content_of
from fgmae_bench.data.raster import read_chip


def stated(units: str, side: int) -> Card:
    """A card of chips of `side` pixels in some units."""
    card = load_card("eurosat")
    signal = dataclasses.replace(card.signal, units=units, size=(side, side), nodata=())
    return dataclasses.replace(card, signal=signal)


def write(folder: Path, count: int, side: int, compress: str | None) -> None:
    """The same chips as `power` and as `dB`."""
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "count": 2, "height": side, "width": side, "dtype": "float32", "compress": compress}
    for kind in ("power", "dB"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        power = (rng.gamma(4.4, 1 / 4.4, (2, side, side)) * [[[0.08]], [[0.015]]]).astype(np.float32)
        for kind, values in (("power", power), ("dB", (10 * np.log10(power.astype(np.float64))).astype(np.float32))):
            with rasterio.open(folder / kind / f"{number}.tif", "w", **profile) as target:
                target.write(values)


def seconds(files: list[Path], card: Card, rounds: int) -> float:
    """Seconds of processor time to read all files, the best of some rounds."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        for path in files:
            read_chip(path, card)
        taken.append(time.process_time() - start)
    return min(taken)


def main() -> None:
    """Print a line for each kind of file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", type=int, default=400, help="chips of 64 pixels; a sixteenth as many scenes")
    parser.add_argument("--rounds", type=int, default=7, help="each is read so often, the best counts")
    given = parser.parse_args()
    for side, count in ((64, given.chips), (512, max(2, given.chips // 16))):
        for compress in (None, "deflate"):
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                write(folder, count, side, compress)
                power, db = (sorted((folder / kind).glob("*.tif")) for kind in ("power", "dB"))
                power_card, db_card = stated("linear_power", side), stated("dB", side)
                same = all(
                    content_of(read_chip(one, power_card)) == content_of(read_chip(other, db_card))
                    for one, other in zip(power, db, strict=True)
                )
                before, now = seconds(db, db_card, given.rounds), seconds(power, power_card, given.rounds)
            print(
                f"{side}x{side} {compress or 'uncompressed':<13} dB {before / count * 1e6:8.0f} us, power converted "
                f"{now / count * 1e6:8.0f} us an image, {now / before:.2f} x; contents {'equal' if same else 'DIFFER'}"
            )


if __name__ == "__main__":
    main()
