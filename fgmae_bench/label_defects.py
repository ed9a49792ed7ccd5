"""A mistake that was published, for the ablation alone: the IGBP table applied to labels that are DFC classes already."""

from __future__ import annotations

import numpy as np

from fgmae_bench.errors import BenchError
from fgmae_bench.label_schemes import DFC, IGBP, IGNORE, SCHEMES, Codes, LabelMap, Scheme, TrainIds


def double_mapped(codes: Codes, scheme: Scheme = SCHEMES["dfc10"]) -> TrainIds:
    """Training ids of DFC codes that were taken for IGBP codes, as a loader does whose flag says "this is MODIS".

    Forest to Wetlands become Forest, Croplands and Urban Shrubland, Snow and Barren Savanna (IGNORE where the scheme has none),
    Water Grassland; nothing fails. Raises TypeError for anything but codes, BenchError unless they are DFC's.
    """
    if not isinstance(codes, Codes):
        raise TypeError(f"double_mapped takes Codes, not {type(codes).__name__}")
    if codes.source.name != DFC.name:
        raise BenchError(f"double mapping is the mistake of {DFC.name} labels, not of {codes.source.name}", "leave the cell out")
    return TrainIds(values=np.take(double_table(scheme), codes.values), scheme=scheme)


def double_table(scheme: Scheme = SCHEMES["dfc10"]) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """(256,) the training id that each DFC code ends up with."""
    wrong = LabelMap(IGBP, scheme).table
    table = np.full(256, IGNORE, np.uint8)
    for code in DFC.codes:
        table[code] = wrong[code]
    return table
