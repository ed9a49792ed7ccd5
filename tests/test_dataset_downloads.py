"""`prepare download` of Copernicus-Bench's archives: what comes is held against the MD5 of the card, and lists are found."""

import hashlib
import shutil

import pytest
from commands import REPOSITORY
from hub_server import error_of

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.run import Data
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.splits import PARTS, make_split
from fgmae_bench.prepare import download

pytest_plugins = ("hub_server", "dataset_worlds")


@pytest.fixture
def published(hub, worlds, tmp_path):
    """A card like Flood-S1's whose archive is that of a world, on the hub; returns (card's path, MD5 of the archive)."""
    made = shutil.make_archive(str(tmp_path / "flood_s1"), "zip", worlds("copernicus_flood"))
    with open(made, "rb") as stream:
        content = stream.read()
    hub.files["wangyi111/Copernicus-Bench/l3_flood_s1/flood_s1.zip"] = content
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    text = (REPOSITORY / "datasets" / "copernicus_flood" / "card.toml").read_text()
    text = text.replace('name = "copernicus_flood"', 'name = "my_flood"')
    (tmp_path / "card.toml").write_text(text.replace(load_card("copernicus_flood").download.md5, md5))
    return tmp_path / "card.toml", md5


def test_an_archive_with_its_md5_becomes_data_with_its_published_lists(published, tmp_path, capsys):
    path, _ = published
    download.main({"dataset": str(path), "data_path": str(tmp_path / "data")})
    assert "16 images in 3 classes" in capsys.readouterr().out
    card = load_card(str(path))
    index = build_index(card, tmp_path / "data")
    parts = make_split(card, index, Data(dataset="my_flood", split="copernicus"), tmp_path)
    assert [len(getattr(parts, part)) for part in PARTS] == [10, 2, 4]


def test_an_archive_with_another_md5_is_refused_and_not_kept(published, tmp_path):
    path, md5 = published
    path.write_text(path.read_text().replace(md5, "0" * 32))
    line = error_of(lambda: download.main({"dataset": str(path), "data_path": str(tmp_path / "data")}))
    assert f"flood_s1.zip has the MD5 {md5}, its card states {'0' * 32}" in line
    assert not (tmp_path / "data").exists()
