"""A picture of label maps: a few images with every source in the colours of a scheme, and the legend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.config.cards import Card
from fgmae_bench.data.index import Index
from fgmae_bench.data.labels import LabelMap, Scheme
from fgmae_bench.data.schemes import card_scheme, card_source
from fgmae_bench.errors import BenchError
from fgmae_bench.metrics.segmentation import IGNORE
from fgmae_bench.prepare.contact_sheet import composite
from fgmae_bench.system.files import replacing
from fgmae_bench.system.fonts import letters_of_all_scripts
from fgmae_bench.system.randomness import keyed_order

SHOWN = 6


def coloured(ids: NDArray[np.uint8], scheme: Scheme) -> NDArray[np.uint8]:
    """Training ids (H, W) as RGB (H, W, 3) in the colours of their scheme; IGNORE is white."""
    palette = np.full((256, 3), 255, np.uint8)
    for number, colour in enumerate(scheme.colours):
        palette[number] = tuple(bytes.fromhex(colour[1:]))
    assert len(scheme.colours) <= IGNORE
    return palette[ids]


@letters_of_all_scripts()
def write_label_sheet(path: Path, card: Card, index: Index, title: str) -> bool:
    """Write a PNG: a row an image with its composite and each source under the usual scheme; False without any.

    Images that cannot be read are left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    scheme = card_scheme(card)
    sources = [
        name for name in (index.maps.sources if index.maps else ()) if card_source(card, name).name in scheme.ids
    ]
    panels = _panels(card, index, sources, scheme)
    if not panels or not sources:
        return False
    figure, axes = plt.subplots(
        len(panels), 1 + len(sources), figsize=(1.6 * (1 + len(sources)) + 2, 1.6 * len(panels) + 0.7), squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for row, images in enumerate(panels):
        for column, image in enumerate(images):
            axes[row, column].imshow(image, interpolation="nearest")
            if row == 0:
                axes[row, column].set_title(("composite", *sources)[column], fontsize=8)
    legend = [
        Patch(facecolor=colour, edgecolor="grey", label=name)
        for name, colour in zip(scheme.classes, scheme.colours, strict=True)
    ]
    figure.legend(handles=legend, loc="center right", fontsize=7, title=scheme.name, title_fontsize=8)
    figure.suptitle(f"{title}: labels", fontsize=9)
    figure.subplots_adjust(
        left=0.01, right=1 - 1.9 / figure.get_size_inches()[0], bottom=0.01, top=0.9, wspace=0.04, hspace=0.06
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
    return True


def _panels(card: Card, index: Index, sources: list[str], scheme: Scheme) -> list[list[NDArray[np.generic]]]:
    """Composite and coloured labels of a few images, chosen by key."""
    rows = {name: row for row, name in enumerate(index.ids)}
    maps = {source: LabelMap(card_source(card, source), scheme) for source in sources}
    bands = card.signal.bands
    order = [bands.index(band) for band in ("VV", "VH") if band in bands] or list(range(min(2, len(bands))))
    panels: list[list[NDArray[np.generic]]] = []
    for name in keyed_order(0, "inspect", index.ids)[: 2 * SHOWN]:
        try:
            chip = index.read(rows[name], card)
            labels = [index.codes(rows[name], source).where(chip.valid) for source in sources]
        except BenchError:
            continue
        shown = chip.db if chip.valid is None else np.where(chip.valid, chip.db, np.float32(np.nan))
        coloured_maps = [
            coloured(maps[source](codes).values, scheme) for source, codes in zip(sources, labels, strict=True)
        ]
        panels.append([composite(shown[order]), *coloured_maps])
        if len(panels) == SHOWN:
            break
    return panels
