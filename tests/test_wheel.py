"""The wheel carries the cards, so that an installation without the repository knows its datasets."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fgmae_bench.config import card, cards

REPOSITORY = Path(__file__).resolve().parents[1]


def test_wheel_carries_every_card_and_the_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as pip asks setuptools for it; pip itself would take longer than the build
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert "fgmae_bench/record.schema.json" in names
    assert "fgmae_bench/_cards/bigearthnet/labels.csv" in names
    assert not [name for name in names if name.startswith(("datasets/", "tests/"))]
    expected = cards.card_names()
    monkeypatch.setattr(cards, "REPOSITORY_CARDS", tmp_path / "nowhere")
    for module in (card, cards):
        monkeypatch.setattr(module, "WHEEL_CARDS", tmp_path / "installed" / "fgmae_bench" / "_cards")
    assert cards.card_names() == expected
    for name in expected:
        assert cards.load_card(name).data_path == Path("datasets") / name / "data"
