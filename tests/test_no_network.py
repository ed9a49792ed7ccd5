"""No command asks the network because of what a stranger's file says: images with sidecars that name servers, cards,
records, predictions and checkpoints full of addresses.
"""

import json
import shutil
import socket
import subprocess
import sys
import threading

import pytest
import torch
from commands import EUROSAT_CARD, FOLDERS, STATISTICS, call, small_world
from make_records import make_record
from preloaded import HANG, REPOSITORY
from segment_world import FROZEN

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.gather import Found, read_image
from fgmae_bench.data.raster import read_chip
from fgmae_bench.data.spatial import _place
from fgmae_bench.records import body_sha256, record_path
from fgmae_bench.worlds.bigearthnet import write_bigearthnet
from fgmae_bench.worlds.dfc import write_dfc

BAND = """<VRTRasterBand dataType="Float32" band="{0}"><SimpleSource><SourceFilename>{1}</SourceFilename>
<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"""


@pytest.fixture
def beacon(monkeypatch):
    """(address on this machine, list of what was asked there and of the connections that Python made)."""
    asked, server, connect = [], socket.create_server(("127.0.0.1", 0)), socket.socket.connect

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(1000))
                connection.sendall(b"HTTP/1.1 404 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def counted(self, address):
        if self.family != socket.AF_UNIX:
            asked.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", counted)
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "1")  # rasterio holds the lock that the thread below needs to answer
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/beacon", asked
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def hostile_world(tmp_path, address, *endings):
    """A small EuroSAT whose images are whole, each with an overview, a mask or statistics that are somewhere else."""
    root = small_world(tmp_path)
    bands = "".join(BAND.format(band, f"/vsicurl/{address}.tif") for band in (1, 2))
    vrt = f'<VRTDataset rasterXSize="64" rasterYSize="64">{bands}</VRTDataset>'
    aux = f"<PAMDataset><Metadata><MDI key='OVERVIEW_FILE'>/vsicurl/{address}.ovr</MDI></Metadata></PAMDataset>"
    wanted = {".ovr": vrt, ".msk": vrt, ".aux.xml": aux.replace("<Metadata>", "<Metadata domain='OVERVIEWS'>")}
    for path in root.rglob("*.tif"):
        for ending in endings:
            path.with_name(path.name + ending).write_text(wanted[ending])
    (root / "a.vrt").write_text(vrt)
    return root


def test_sidecars_that_gdal_follows_are_followed_by_no_reader(beacon, tmp_path):
    address, asked = beacon
    path = next(hostile_world(tmp_path, address, ".ovr", ".msk", ".aux.xml").rglob("*.tif"))
    # in a process of its own: what GDAL remembers of this one's earlier files shall not decide
    follow = "import rasterio, sys\nwith rasterio.open(sys.argv[1]) as s:\n    s.overviews(1), s.dataset_mask()"
    subprocess.run([sys.executable, "-c", follow, path], check=True, capture_output=True, timeout=HANG)
    assert asked, "GDAL no longer follows them, so that these tests show nothing"
    asked.clear()
    read_chip(path, load_card("eurosat"))
    read_image(Found("a", "b", (path,)))
    _place(path)
    assert not asked


def test_no_command_on_images_with_such_sidecars_asks(beacon, tmp_path):
    address, asked = beacon
    hostile_world(tmp_path, address, ".ovr", ".aux.xml")
    data = ("eurosat", "--data_path", "world")
    run = ("--dataset", *data, *STATISTICS, "--trust_data", *FOLDERS)
    codes = {
        "inspect folder": call("prepare", "inspect", "world", "--limit", 9, cwd=tmp_path).code,
        "inspect": call("prepare", "inspect", *data, cwd=tmp_path).code,
        "pack": call("prepare", "pack", *data, "--out", "p.lmdb", "--workers", 1, cwd=tmp_path).code,
        "verify": call("prepare", "verify", "p.lmdb", cwd=tmp_path).code,
        "linear": call("linear", *run, cwd=tmp_path).code,
        "finetune": call("finetune", *run, "--max_steps", 1, cwd=tmp_path).code,
    }
    assert codes == {name: 2 if name == "finetune" else 0 for name in codes}
    assert not asked


def with_addresses(value, address):
    """The value with the address in every text of it that is free."""
    if isinstance(value, dict):
        return {key: with_addresses(part, address) for key, part in value.items()}
    if isinstance(value, list):
        return [with_addresses(part, address) for part in value]
    return address if isinstance(value, str) and not value.isidentifier() and " " in value else value


def test_no_command_on_a_record_or_a_checkpoint_asks(beacon, tmp_path):
    address, asked = beacon
    results = tmp_path / "results"
    paths = []
    for seed in (0, 1):
        record = with_addresses(make_record(seed=seed, notes=(("a_note", f"see {address}"),)), address)
        record["predictions"] = {"sha256": "0" * 64, "file": f"{address}.safetensors"}
        record["model"]["weights"]["source"] = address
        record["config"]["execution"] |= {"data_path": f"/vsicurl/{address}", "cache_dir": address}
        record["sha256"] = body_sha256(record)
        paths.append(record_path(results, record))
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_text(json.dumps(record))
    experiments = tmp_path / "experiments"
    experiments.mkdir()
    text = (REPOSITORY / "experiments" / "eurosat_linear_fast.toml").read_text()
    (experiments / "a.toml").write_text(text.replace("expect = ", f'expect = "{address}" # '))
    torch.save({"model": {"norm.bias": torch.zeros(2)}, "from": address}, tmp_path / "a.pth")
    call("report", "--results_dir", results, "--experiments", experiments, "--intervals", "--out", "out", cwd=tmp_path)
    call("report", "--results_dir", results, "--validate", cwd=tmp_path)
    call("report", "compare", *[path.stem for path in paths], "--results_dir", results, cwd=tmp_path)
    for words in (("plan",), ("plan", "--commands"), ("status",)):
        call("suite.__main__", *words, experiments / "a.toml", "--results_dir", results, cwd=tmp_path)
    for words in (("inspect", "a.pth"), ("convert", "a.pth", "b.safetensors"), ("inspect", address), ("list",)):
        call("weights.__main__", *words, cwd=tmp_path)
    assert not asked


def test_no_command_on_a_card_asks(beacon, tmp_path):
    address, asked = beacon
    shutil.copytree(EUROSAT_CARD.parent, tmp_path / "card")
    card = tmp_path / "card" / "card.toml"
    text = card.read_text().replace('name = "eurosat"', 'name = "mine"', 1)
    lines = [
        line if not line.startswith(("title", "get ", "source", "paper")) else f'{line.split("=")[0]}= "{address}"'
        for line in text.splitlines()
    ]
    card.write_text("\n".join(lines))
    assert address in card.read_text()
    small_world(tmp_path)
    for path in ("world", f"/vsicurl/{address}"):
        call("prepare", "inspect", card, "--data_path", path, cwd=tmp_path)
        call("linear", "--dataset", card, "--data_path", path, "--trust_data", *STATISTICS, *FOLDERS, cwd=tmp_path)
    call("segment", "--dataset", card, "--data_path", "world", *STATISTICS, *FOLDERS, cwd=tmp_path)
    assert not asked


def test_no_other_command_on_images_with_such_sidecars_asks(beacon, tmp_path):
    address, asked = beacon
    hostile_world(tmp_path, address, ".ovr", ".aux.xml")
    data = ("--dataset", "eurosat", "--data_path", "world")
    run = (*data, *STATISTICS[:4], "--probe", "lbfgs", "--penalties", "0.001", "--trust_data", *FOLDERS)
    export = (*data, *STATISTICS[:4], "--trust_data", "--device", "cpu", "--cache_dir", "cache")
    # reads the place of every image, and finds too few blocks
    lists = ("eurosat", "--data_path", "world", "--kind", "spatial", "--block_km", 1, "--seed", 1, "--out", "lists")
    codes = {
        "card": call("prepare", "card", "world", "--out", "c.toml", cwd=tmp_path).code,
        "split": call("prepare", "split", *lists, cwd=tmp_path).code - 2,
        "features": call("features.__main__", "export", *export, "--out", "v.parquet", cwd=tmp_path).code,
        "stress": call("stress.__main__", *run, "--stress", "offset", cwd=tmp_path).code,
        "weights on": call(
            "weights.__main__", "inspect", "--model", "vit_tiny_patch16_224", "--on", "world", cwd=tmp_path
        ).code,
    }
    assert codes == dict.fromkeys(codes, 0)
    assert not asked


@pytest.mark.slow
def test_no_command_on_patches_or_tiles_with_such_sidecars_asks(beacon, tmp_path):
    address, asked = beacon
    write_bigearthnet(tmp_path / "patches", patches=4)
    write_dfc(tmp_path / "tiles", tiles=24, size=32)
    vrt = BAND.format(1, f"/vsicurl/{address}.tif")
    for path in [*(tmp_path / "patches").rglob("*.tif"), *(tmp_path / "tiles").rglob("*.tif")]:
        path.with_name(path.name + ".ovr").write_text(
            f'<VRTDataset rasterXSize="64" rasterYSize="64">{vrt}</VRTDataset>'
        )
    indexed = call("prepare", "index", "bigearthnet", "--data_path", "patches", "--workers", 1, cwd=tmp_path)
    assert indexed.code == 0, indexed.err
    short = ("--max_steps", 1, "--eval_every", 1, "--panels", 0, "--device", "cpu", "--num_workers", 1)
    tiles = ("--dataset", "dfc2020", "--data_path", "tiles", *FROZEN, *FOLDERS, "--head", "linear", *short)
    command = ("labels", "--train_labels", "dfc", "--eval_labels", "dfc")
    trained = call("ablate.__main__", *command, *tiles, cwd=tmp_path)
    assert trained.code == 0, trained.err
    assert not asked
