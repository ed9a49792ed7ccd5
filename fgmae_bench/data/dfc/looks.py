"""Whether labels look like what the file says: IGBP and DFC codes overlap in 1-10, but not in what scenes are made of.

In MODIS labels savannas (8, 9) are among the most frequent codes, and croplands, towns, mosaics, barren land and water have codes
from 11 to 17. The DFC labels that were published hold neither 3 (Savanna) nor 8 (Snow/Ice), and croplands, towns, barren land and
water have codes from 6 to 10. So over many tiles:

- IGBP labels without any code above 10, and with neither 3 nor 8, are DFC labels;
- DFC labels of which more than a tenth is 3 or 8 are IGBP labels; any code above 10 is refused where the file is read.

One tile can be all forest, so fewer than 30 tiles are not judged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.data.dfc.histograms import Histograms
from fgmae_bench.errors import BenchError
from fgmae_bench.label_schemes import DFC, IGBP, Source, histogram_text

MIN_TILES = 30
MOST_SAVANNA_AND_SNOW = 0.1
ABSENT_IN_DFC = (3, 8)


def labels_look(source: Source, histograms: Histograms, where: str) -> BenchError | None:
    """The refusal, with the histogram, of labels (N, 256 codes) that look like another kind; None where nothing speaks against them.

    Tiles without labels of the source do not count.
    """
    held = histograms[histograms[:, list(source.codes)].sum(axis=1) > 0]
    if len(held) < MIN_TILES:
        return None
    total = held.sum(axis=0, dtype=np.int64)
    if source.name == IGBP.name and not total[11:18].any() and not total[list(ABSENT_IN_DFC)].any():
        return _refusal(source, DFC, total, where, "no code above 10, and neither 3 nor 8")
    if source.name == DFC.name:
        share = total[list(ABSENT_IN_DFC)].sum() / total[list(source.codes)].sum()
        if share > MOST_SAVANNA_AND_SNOW:
            return _refusal(source, IGBP, total, where, f"{share:.0%} of the pixels are 3 or 8")
    return None


def _refusal(stated: Source, seen: Source, total: NDArray[np.int64], where: str, cue: str) -> BenchError:
    found = histogram_text({code: int(count) for code, count in enumerate(total)}, stated)
    what = f"{where}: labels said to be {stated.title} look like {seen.title} ({cue}), found {found}"
    return BenchError(what, f"name them as what they are (label source {seen.name}), or pass --trust_data if you know better")
