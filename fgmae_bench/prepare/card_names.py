"""What the names of files say: patterns that pair or find them, bands, and places."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from fgmae_bench.data.files import TIFF, stem_of
from fgmae_bench.data.gather import WITHIN, Found
from fgmae_bench.errors import BenchError

MARKS = ("_", "-", ".", " ")  # that divide the words of a name


def match_names(images: list[str], maps: list[str], same_folder: bool = False) -> dict[str, str] | None:
    """`images` and `masks` of [layout] that pair names, empty where names without ending are equal; None without any.

    Of what all names of a kind begin and end with, the most is taken that makes the rest of the names equal.
    """
    stems = {stem_of(name) for name in maps}
    if not same_folder and all(stem_of(name) in stems for name in images):
        return {}
    for begin in _begins(images):
        for end in _ends(images):
            keys = {name[len(begin) : len(name) - len(end)] for name in images}
            if "" in keys:
                continue
            for other_begin in _begins(maps):
                for other_end in _ends(maps):
                    if keys <= {name[len(other_begin) : len(name) - len(other_end)] for name in maps}:
                        return {"images": f"{begin}*{end}", "masks": f"{other_begin}*{other_end}"}
    return None


def mark_of(names: list[str], others: list[str]) -> tuple[str, str] | None:
    """(beginning, end) that all names have and none of the others, the shortest; None where there is none."""
    ends, begins = [("", end) for end in reversed(_ends(names))], [(begin, "") for begin in _begins(names)[1:]]
    return next((m for m in [*ends, *begins] if not any(o.startswith(m[0]) and o.endswith(m[1]) for o in others)), None)


def _ends(names: list[str]) -> list[str]:
    """What all names end with, from a separator on, the longest first, the file's ending last."""
    common = _shared_start([name[::-1] for name in names])[::-1]
    ending = os.path.splitext(names[0])[1]
    ending = ending if common.endswith(ending) else ""
    places = [place for place, letter in enumerate(common[: len(common) - len(ending)]) if letter in "_-. "]
    longest = [common] if common != ending and len(names) == 1 else []
    return [*(common[place:] for place in places), *longest, ending][:6] or [ending]


def _begins(names: list[str]) -> list[str]:
    """What all names begin with, up to a separator: nothing first, then the longest."""
    common = _shared_start(names)
    places = [place for place, letter in enumerate(common) if letter in "_-. "]
    return ["", *(common[: place + 1] for place in reversed(places))][:6]


def _shared_start(names: list[str]) -> str:
    """The letters that all names begin with."""
    first, last = min(names), max(names)
    return first[
        : next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    ]


def named_options(images: list[Found], first: str) -> dict[str, str]:
    """`images` of [layout] for a file a band, or for other files than TIFF; empty where nothing has to be said."""
    pair = next((image for image in images if image.bands), None)
    if pair is not None:
        name, band = pair.files[0].name, pair.bands[0]
        stem, ending = os.path.splitext(name)
        if not stem.upper().endswith(band):
            return {"images": _around_bands([image.files[0].name for image in images if image.bands])}
        mark = stem[: -len(band)][-1:]
        return {"images": f"*{mark if mark in MARKS else ''}{{band}}{ending}"}
    ending = os.path.splitext(first)[1]
    return {} if ending.lower() in TIFF else {"images": f"*{ending}"}


def _around_bands(names: list[str]) -> str:
    """The pattern of names with a band in their middle, such as `Sigma0_{band}_*.tif`. Raises BenchError where what is
    before and what is behind the band both differ.
    """
    parts = [WITHIN.split(name, maxsplit=1) for name in names]  # before, band, behind
    before, behind = ({each[place] for each in parts} for place in (0, 2))
    if len(behind) == 1:
        mark = next(iter(before))[-1:]
        return f"*{mark if mark in MARKS else ''}{{band}}{behind.pop()}"
    if len(before) == 1:
        start = _shared_start(sorted(behind))[:1]
        return f"{before.pop()}{{band}}{start}*{os.path.splitext(names[0])[1]}"
    what = f"{names[0]}: names differ before and behind the polarisation"
    raise BenchError(what, "end them with it, such as scene_1_VV.tif and scene_1_VH.tif")


def places_of(names: list[str]) -> Iterator[str]:
    """What names begin with before their numbers, such as `Sri-Lanka_` in `Sri-Lanka_103272`, else their first word."""
    for name in names:
        base = os.path.basename(name)
        letters = re.match(r"\D*[^\W\d_]\D*?[_-]*(?=\d)", base)
        yield letters[0] if letters else f"{base.split('_')[0]}_"
