"""`weights fetch`, `weights list` and `prepare download` on a hub on 127.0.0.1: what they bring, say, refuse and leave."""

import logging
import os
import re
import shutil
import signal
import zipfile

import pytest
from commands import edited_card, listing
from hub_server import CONTENT, FILE, SHA256, child, error_of, names
from preloaded import HANG, wait_until

from fgmae_bench.checkpoints import registry
from fgmae_bench.checkpoints.registry import WEIGHTS, find_weights, locate, weights_folder
from fgmae_bench.config.cards import load_card
from fgmae_bench.data.layouts import build_index
from fgmae_bench.hub.checksums import read_pins
from fgmae_bench.hub.fetch import adopt
from fgmae_bench.prepare import download
from fgmae_bench.weights import fetch as fetch_command
from fgmae_bench.weights import list as list_command
from fgmae_bench.worlds.eurosat import write_eurosat

pytest_plugins = ("hub_server",)


ENTRIES = sum(map(len, WEIGHTS.values()))


# --- weights


@pytest.fixture
def published(hub):
    entry = WEIGHTS["fgmae"]["vit_small_patch16"]
    hub.files[f"{entry.hub.repo}/{entry.hub.file}"] = CONTENT
    return entry


def test_registry_is_complete_and_pinned():
    for name in ("fgmae", "fgmae-full", "ssl4eo-mae", "ssl4eo-mae-full"):
        assert set(WEIGHTS[name]) == {"vit_small_patch16", "vit_base_patch16", "vit_large_patch16", "vit_huge_patch14"}
    for models in WEIGHTS.values():
        assert all(re.fullmatch(r"[0-9a-f]{40}|main", entry.hub.revision) for entry in models.values())
    # no page states a revision of these, or a person fetches them by hand: their content is pinned on first use
    floating = {name for name, models in WEIGHTS.items() for entry in models.values() if entry.hub.revision == "main"}
    by_page = {"reben", "olmoearth", "terramind", "clay", "open-clip", "dofa-v2", "anysat", "sarmae"}
    assert floating == by_page | {"sar-hub", "sar-hub-ben", "sar-hub-osu", "sar-jepa", "saratr-x"}
    # one file under two names is one encoder under two contracts, or fed by other wavelengths
    held = [(entry.hub, entry.contract, model) for models in WEIGHTS.values() for model, entry in models.items()]
    assert len(set(held)) == ENTRIES


def test_absent_weights_name_the_command_that_gets_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FGMAE_BENCH_CACHE", str(tmp_path))
    line = error_of(lambda: locate("fgmae", "vit_small_patch16", tmp_path))
    assert line.endswith(
        "are not here; get them with: python -m fgmae_bench.weights fetch fgmae --model vit_small_patch16"
    )
    assert error_of(lambda: locate("fgmae", "vit_small_patch16", tmp_path / "x")).endswith(
        f"--cache_dir {tmp_path / 'x'}"
    )


def test_unknown_weights_offer_the_closest():
    assert "did you mean 'fgmae'?" in error_of(lambda: registry.published("fgmea", "vit_small_patch16"))
    assert "did you mean 'vit_small_patch16'?" in error_of(lambda: registry.published("fgmae", "vit_smal_patch16"))


def test_weights_fetch_then_locate(hub, published, tmp_path, capsys):
    fetch_command.main({"name": "fgmae", "model": "vit_small_patch16", "cache_dir": str(tmp_path)})
    path = locate("fgmae", "vit_small_patch16", tmp_path)
    assert capsys.readouterr().out == f"{path}\nsha256 {SHA256}\n"
    assert path.read_bytes() == CONTENT
    path.write_bytes(b"other")
    assert "has changed" in error_of(lambda: locate("fgmae", "vit_small_patch16", tmp_path))


def test_weights_fetch_without_a_model_offers_them():
    assert "--model is missing; choose from vit_base_patch16" in error_of(lambda: fetch_command.main({"name": "fgmae"}))


def test_weights_from_a_folder_are_verified_against_the_hub(hub, published, tmp_path):
    (tmp_path / published.hub.file).write_bytes(CONTENT)
    given = {
        "name": "fgmae",
        "model": "vit_small_patch16",
        "cache_dir": str(tmp_path / "cache"),
        "source": str(tmp_path),
    }
    fetch_command.main(given)
    assert find_weights("fgmae", "vit_small_patch16", weights_folder(tmp_path / "cache")).read_bytes() == CONTENT
    assert hub.sent == 0
    (tmp_path / published.hub.file).write_bytes(CONTENT[1:])
    line = error_of(lambda: fetch_command.main({**given, "cache_dir": str(tmp_path / "other")}))
    assert f"instead of {SHA256}" in line
    assert not [path for path in (tmp_path / "other").rglob("*") if path.is_file()]


def test_weights_from_a_folder_without_a_network_are_pinned_and_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    file = tmp_path / FILE.file
    file.write_bytes(CONTENT)
    pins = tmp_path / "cache" / "pins.toml"
    with caplog.at_level(logging.WARNING):
        adopt(FILE, file, tmp_path / "cache" / "w.pth", pins=pins)
    assert "the hub was not asked" in caplog.text
    assert read_pins(pins) == {str(FILE): SHA256}


def test_weights_from_a_folder_without_the_file(hub, tmp_path):
    given = {
        "name": "fgmae",
        "model": "vit_small_patch16",
        "cache_dir": str(tmp_path / "cache"),
        "source": str(tmp_path),
    }
    assert "B2_vits16_fgmae_ep99_enc.pth does not exist; give the folder" in error_of(lambda: fetch_command.main(given))


def test_weights_list_shows_every_file_and_which_are_local(hub, published, tmp_path, capsys):
    fetch_command.main({"name": "fgmae", "model": "vit_small_patch16", "cache_dir": str(tmp_path)})
    capsys.readouterr()
    list_command.main({"cache_dir": str(tmp_path)})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + ENTRIES
    assert [str(tmp_path) in line for line in lines[1:]] == [True] + [False] * (ENTRIES - 1)
    assert all(
        entry.hub.file in line
        for line, entry in zip(lines[1:], [e for m in WEIGHTS.values() for e in m.values()], strict=True)
    )


# --- prepare download


DOWNLOAD = "from fgmae_bench.prepare import download; download.main({'dataset': 'eurosat', 'data_path': argv[0]})"
# The same, killed while it unpacks.
KILLED = (
    "from fgmae_bench.hub import archive; from fgmae_bench.prepare import download; before = archive._write; files = []; "
    "archive._write = lambda *given: (before(*given), files.append(1), len(files) == 7 and os.kill(os.getpid(), 9)); "
    "download.main({'dataset': 'eurosat', 'data_path': argv[0]})"
)


@pytest.fixture(scope="module")
def zipped(tmp_path_factory):
    """A world of 3 images a class, in a zip with a top folder, as the genuine one may be."""
    folder = tmp_path_factory.mktemp("zipped")
    write_eurosat(folder / "EuroSAT-SAR", per_class=3)
    return (folder / "world.zip", shutil.make_archive(str(folder / "world"), "zip", folder, "EuroSAT-SAR"))[
        0
    ].read_bytes()


@pytest.fixture
def eurosat(hub, zipped):
    hub.files["wangyi111/EuroSAT-SAR/EuroSAT-SAR.zip"] = zipped
    return hub


def test_download_brings_a_dataset_that_can_be_indexed(eurosat, tmp_path, capsys):
    data = tmp_path / "eurosat" / "data"
    download.main({"dataset": "eurosat", "data_path": str(data)})
    out = capsys.readouterr().out
    assert f"30 images in 10 classes at {data}/EuroSAT-SAR, as the card says" in out
    assert f"prepare inspect eurosat --data_path {data}" in out
    assert len(build_index(load_card("eurosat"), data).files) == 30
    assert os.listdir(data.parent) == ["data"]


def test_download_keeps_the_archive_when_asked(eurosat, zipped, tmp_path):
    download.main({"dataset": "eurosat", "data_path": str(tmp_path / "data"), "keep_archive": True})
    assert sorted(os.listdir(tmp_path)) == ["EuroSAT-SAR.zip", "EuroSAT-SAR.zip.sha256", "data"]
    assert (tmp_path / "EuroSAT-SAR.zip").read_bytes() == zipped


def test_download_refuses_a_folder_that_holds_anything(eurosat, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").write_text("mine")
    before = listing(tmp_path)
    assert "is not empty, nothing was downloaded; " in error_of(
        lambda: download.main({"dataset": "eurosat", "data_path": str(tmp_path / "data")})
    )
    assert listing(tmp_path) == before
    assert eurosat.asked == []


@pytest.mark.slow
def test_download_killed_while_fetching_and_while_unpacking_goes_on(eurosat, zipped, tmp_path):
    data = tmp_path / "data"
    eurosat.hold_after = len(zipped) // 2
    process = child(eurosat, DOWNLOAD, data)
    part = tmp_path / "EuroSAT-SAR.zip.partial"
    wait_until(lambda: part.exists() and part.stat().st_size > len(zipped) // 4)
    process.kill()
    process.communicate()
    have = part.stat().st_size
    eurosat.hold_after = None
    process = child(eurosat, KILLED, data)
    process.communicate(timeout=HANG)
    assert process.returncode == -signal.SIGKILL
    assert eurosat.gets()[-1]["range"] == f"bytes={have}-"
    stale = list(tmp_path.glob(".data.*.partial.d"))
    assert len(stale) == 1
    assert sum(path.is_file() for path in stale[0].rglob("*")) == 7
    assert not data.exists()
    eurosat.asked.clear()
    process = child(eurosat, DOWNLOAD, data)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 0, err
    assert "0 bytes transferred" in out
    assert eurosat.asked == []
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.slow
def test_two_downloads_at_once_make_one_dataset(eurosat, zipped, tmp_path):
    eurosat.bytes_per_second = len(zipped)
    processes = [child(eurosat, DOWNLOAD, tmp_path / "data") for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=HANG)
        assert process.returncode == 0, err
    assert eurosat.sent == len(zipped)
    assert os.listdir(tmp_path) == ["data"]


def test_download_of_something_else_keeps_the_archive_and_says_what_is_missing(hub, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("photos/a.jpg", b"a")
    hub.files["wangyi111/EuroSAT-SAR/EuroSAT-SAR.zip"] = (tmp_path / "x.zip").read_bytes()
    line = error_of(lambda: download.main({"dataset": "eurosat", "data_path": str(tmp_path / "data")}))
    assert "none of the class folders of EuroSAT-SAR is there" in line
    assert (tmp_path / "EuroSAT-SAR.zip").exists()


def test_archive_that_leads_outside_leaves_no_data(hub, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("../evil.tif", b"a")
    hub.files["wangyi111/EuroSAT-SAR/EuroSAT-SAR.zip"] = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "in").mkdir()
    assert "leads outside" in error_of(
        lambda: download.main({"dataset": "eurosat", "data_path": str(tmp_path / "in" / "data")})
    )
    assert names(tmp_path / "in" / "data") == ["EuroSAT-SAR.zip", "EuroSAT-SAR.zip.sha256"]
    assert not (tmp_path / "evil.tif").exists()


def test_download_without_a_network_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    line = error_of(
        lambda: download.main({"dataset": "eurosat", "data_path": str(tmp_path / "new" / "folder" / "data")})
    )
    assert "cannot be reached" in line
    assert listing(tmp_path) == {}


def test_card_without_a_download_says_how_to_get_the_data(tmp_path):
    card = edited_card(
        tmp_path / "card.toml",
        ("[download]", "[signal_]"),
        ('repo = "wangyi111', '# "'),
        ('file = "EuroSAT', '# "'),
        ("[signal_]", "#"),
    )
    line = error_of(lambda: download.main({"dataset": str(card)}))
    assert "cannot be downloaded by this command; to get it:" in line
