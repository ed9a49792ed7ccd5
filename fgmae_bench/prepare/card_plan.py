"""What a draft of a card says of files and labels, before it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgmae_bench.data.gather import Found


@dataclass(kw_only=True)
class Plan:
    """What a draft says of files and labels. `remarks` are comments by the section that they stand in."""

    root: Path
    task: str
    kind: str
    images: list[Found]
    options: dict[str, Any] = field(default_factory=dict)  # of [layout]
    folder: str = ""  # of the images, where label maps are next to them
    classes: list[str] = field(default_factory=list)
    per_class: dict[str, int] = field(default_factory=dict)
    label_folder: str = ""
    codes: dict[str, str] = field(default_factory=dict)
    ignore: list[float] = field(default_factory=list)
    label_facts: dict[str, Any] = field(default_factory=dict)  # what else is said of the label maps
    before: dict[str, str] = field(default_factory=dict)  # folder and names of the earlier date
    target: str = ""
    groups: list[str] = field(default_factory=list)  # one a sample, where they can be seen and the layout knows them
    unusable: list[int] = field(default_factory=list)  # places of images that cannot be used
    stated: bool = False  # train and test are divided already
    remarks: dict[str, list[str]] = field(default_factory=dict)

    def remark(self, section: str, text: str) -> None:
        """A comment in a section of the draft."""
        self.remarks.setdefault(section, []).append(text)
