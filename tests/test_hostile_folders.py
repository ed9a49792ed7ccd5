"""What others may leave in folders of data and caches: damaged markers, metadata, cached arrays and checkpoints end in
one line, or are made again.
"""

import json
import zipfile

import numpy as np
import pytest
import torch

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.bigearthnet.facts import METADATA, describe
from fgmae_bench.data.bigearthnet.table import from_rows
from fgmae_bench.data.dfc.layout import data_size
from fgmae_bench.data.sample_cache import _load
from fgmae_bench.data.synthetic import MARKER, read_marker
from fgmae_bench.errors import BenchError
from fgmae_bench.features.label_bank import _stored
from fgmae_bench.probe.checkpoint import load_state as load_head
from fgmae_bench.stress.scorer import read_outputs
from fgmae_bench.system.stamps import remember, remembered
from fgmae_bench.train.state import load_state as load_run
from fgmae_bench.worlds.bigearthnet import write_bigearthnet

DEEP = "[" * 100_000


@pytest.mark.parametrize("count", ["3", None, [3], {"a": 1}, -1, True, 1.5])
def test_a_marker_whose_counts_are_no_numbers_is_broken(tmp_path, count):
    (tmp_path / MARKER).write_text(json.dumps({"fingerprint": "x", "counts": {"Forest": count}}))
    with pytest.raises(BenchError, match="broken marker of a synthetic world"):
        read_marker(tmp_path)


@pytest.mark.parametrize("size", [1 << 20, True, "256", 1])
def test_a_marker_does_not_make_any_image_a_declared_one(tmp_path, size):
    (tmp_path / MARKER).write_text(json.dumps({"fingerprint": "x", "counts": {"a": 1}, "size": size}))
    with pytest.raises(BenchError, match="size is"):
        data_size(load_card("dfc2020"), tmp_path)


@pytest.fixture(scope="module")
def patch(tmp_path_factory):
    root = tmp_path_factory.mktemp("patch")
    write_bigearthnet(root / "world", patches=1)
    return next((root / "world").rglob(f"*{METADATA}")).parent


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("coordinates", {"ulx": 10**400, "uly": 0, "lrx": 1, "lly": 1}),
        ("coordinates", {"ulx": float("nan"), "uly": 0, "lrx": 1, "lly": 1}),
        ("scene_source", "\ud800"),
        ("labels", ["\ud800"]),
        ("projection", "\ud800"),
        ("projection", DEEP),
        ("projection", "PROJCS[" * 1000),
    ],
    ids=["huge", "nan", "half a scene", "half a label", "half a projection", "deep projection", "nested projection"],
)
def test_metadata_that_no_table_can_hold_is_a_broken_patch(patch, key, value):
    path = patch / f"{patch.name}{METADATA}"
    whole = path.read_bytes()
    try:
        path.write_text(json.dumps({**json.loads(whole), key: value}))
        row = describe(patch.parent, patch.name, load_card("bigearthnet").signal.size)
    finally:
        path.write_bytes(whole)
    assert path.name in row["problem"]
    assert from_rows([row]).num_rows == 1


HEADERS = [
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (3",
    b"\0" * 8,
    b"{'shape': (10**30,)}",
    b"'''",
    b"(" * 300,
]


@pytest.mark.parametrize("header", HEADERS, ids=["cut", "zeros", "no header", "no text", "deep"])
def test_a_damaged_array_in_a_cache_is_no_array(tmp_path, header):
    npy = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header
    (tmp_path / "a.npy").write_bytes(npy)
    assert _stored(tmp_path / "a.npy", 3) is None
    assert _load(tmp_path / "a.npy", 3) is None
    assert read_outputs(tmp_path / "a.npy", (3,)) is None
    np.savez(tmp_path / "a.npz", values=np.zeros(3))
    assert _load(tmp_path / "a.npz", 3) is not None
    assert _stored(tmp_path / "a.npz", 3) is None
    assert read_outputs(tmp_path / "a.npz", (3,)) is None


@pytest.mark.parametrize("read", [load_run, load_head])
def test_a_checkpoint_with_a_deep_curve_is_refused(tmp_path, read):
    torch.save({"kind": "train", "format": 1, "curve": DEEP}, tmp_path / "c.pth")
    with pytest.raises(BenchError, match="not a readable checkpoint of a run"):
        read(tmp_path / "c.pth")


@pytest.mark.parametrize("kept", [DEEP, '{"tree": 1}', "[]", '"parts"'])
def test_what_a_cache_says_of_data_is_forgotten_where_it_is_damaged(tmp_path, kept):
    root = tmp_path / "data"
    root.mkdir()
    remember(tmp_path, root, {"train": "0"})
    assert remembered(tmp_path, root) == [{"train": "0"}]
    next((tmp_path / "content").iterdir()).write_text(kept)
    assert remembered(tmp_path, root) == []


@pytest.mark.parametrize(("place", "value"), [(10, 99), (8, 1), (8, 32)], ids=["method", "encrypted", "patched"])
def test_an_archive_of_arrays_that_cannot_be_unpacked_is_none(tmp_path, place, value):
    np.savez(tmp_path / "a.npz", values=np.zeros(3))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.index(b"PK\x01\x02") + place] = value
    content[place - 2] = value
    (tmp_path / "a.npz").write_bytes(content)
    assert _load(tmp_path / "a.npz", 3) is None


@pytest.mark.parametrize("body", [b"\x80\x02a.", b"\x80\x02h\x05.", b"\x80\x02tR."])
def test_a_checkpoint_of_operations_that_do_not_add_up_is_refused(tmp_path, body):
    torch.save({}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as source, zipfile.ZipFile(tmp_path / "c.pth", "w") as target:
        for name in source.namelist():
            target.writestr(name, body if name.endswith("data.pkl") else source.read(name))
    with pytest.raises(BenchError, match="not a readable checkpoint of a run"):
        load_head(tmp_path / "c.pth")
