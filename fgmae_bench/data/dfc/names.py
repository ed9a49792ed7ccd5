"""Names of SEN12MS and DFC2020: read by their parts, since a folder above may hold any text."""

from __future__ import annotations

import re
from dataclasses import dataclass

TILE = re.compile(r"(?P<collection>ROIs\d{4}_[a-z]+)_(?P<kind>[a-z]+\d?)_(?P<scene>\d+)_p(?P<patch>\d+)", re.ASCII)
SCENE = re.compile(r"(?P<kind>[a-z]+\d?)_(?P<scene>\d+|[a-z]+)", re.ASCII)
COLLECTION = re.compile(r"ROIs\d{4}_[a-z]+", re.ASCII)


@dataclass(frozen=True, kw_only=True, order=True)
class TileName:
    """`ROIs1158_spring_s1_63_p475`: collection `ROIs1158_spring`, kind `s1` (or `s2`, `lc`, `dfc`), scene 63, patch 475."""

    collection: str
    kind: str
    scene: int
    patch: int

    def of(self, kind: str) -> str:
        """The same tile's name as another kind."""
        return f"{self.collection}_{kind}_{self.scene}_p{self.patch}"


def parse_tile(stem: str) -> TileName | None:
    """The parts of a file name without ending, None where it is none of a tile."""
    match = TILE.fullmatch(stem)
    if match is None:
        return None
    return TileName(collection=match["collection"], kind=match["kind"], scene=int(match["scene"]), patch=int(match["patch"]))


def parse_scene(folder: str) -> tuple[str, str] | None:
    """(kind, scene) of a folder such as `s1_63` or `dfc_validation`."""
    match = SCENE.fullmatch(folder)
    return (match["kind"], match["scene"]) if match else None
