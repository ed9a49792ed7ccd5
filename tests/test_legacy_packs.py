"""Packs of others: rico-hdl's and the two pickled formats, read without an unpickler, with the band order never in
doubt.
"""

import dataclasses
import io
import os
import pickle
import struct

import lmdb
import numpy as np
import pytest
import rasterio
from safetensors.numpy import save

from fgmae_bench.config.cards import Groups, load_card
from fgmae_bench.config.contract import FGMAE_CONTRACT
from fgmae_bench.data.audit import audit
from fgmae_bench.data.groups import with_groups
from fgmae_bench.data.packs.legacy import open_rico, rico_items
from fgmae_bench.data.packs.pickled import read_tuple
from fgmae_bench.data.packs.read import open_index, open_pack
from fgmae_bench.data.packs.write import write_pack
from fgmae_bench.errors import BenchError
from fgmae_bench.views.classification import make_view

ATTACKS = [
    b"cos\nsystem\n(S'touch {}'\ntR.",
    b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00a\x85R.",
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01a\x85R.",
    b"\x80\x04C\x01aC\x01bC\x01c\x87\x8c\x02os\x8c\x06system\x93\x8c\x01a\x85R0.",
    b"\x80\x02c__builtin__\neval\n.",
    b"\x80\x02(ios\nsystem\n.",
    b"\x80\x02\x82\x01.",
    b"\x80\x02Pid\n.",
    b"\x80\x02X\x01\x00\x00\x00aQ.",
    b"\x80\x05C\x01a\x97.",
    b"\x80\x04]C\x01aa.",
    b"\x80\x04}.",
]


class Command:
    """What a malicious value looks like when it is made the usual way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture(scope="module")
def ben():
    return load_card("bigearthnet")


def images(count, seed=0):
    """(N, 128, 128, 2) float32 dB in the order VV,VH, and targets (N, 19)."""
    dice = np.random.default_rng(seed)
    speckle = 10 * np.log10(dice.gamma(4.4, 1 / 4.4, (count, 128, 128, 2)))
    return (speckle + np.array([-12, -19])).astype(np.float32), (dice.random((count, 19)) < 0.2).astype(np.float32)


def fill(path, values):
    with lmdb.open(str(path), map_size=1 << 28) as environment, environment.begin(write=True) as writing:
        for key, value in values.items():
            writing.put(key.encode(), value)
    return path


def three(path, db, targets, protocol=4):
    """As `make_lmdb` of the published code writes it."""
    return fill(
        path,
        {
            str(i): pickle.dumps((x.tobytes(), x.shape, t.tobytes()), protocol=protocol)
            for i, (x, t) in enumerate(zip(db, targets, strict=True))
        },
    )


def five(path, db, targets):
    s2 = np.zeros((128, 128, 12), np.uint8)
    return fill(
        path,
        {
            str(i): pickle.dumps((s2.tobytes(), s2.shape, x.tobytes(), x.shape, t.tobytes()))
            for i, (x, t) in enumerate(zip(db, targets, strict=True))
        },
    )


# --- rico-hdl


def test_the_genuine_rico_pack_is_equal_to_its_tiffs(realdata, ben):
    root = realdata / "bigearthnet_v2_rico_hdl"
    found = dict(rico_items(root / "lmdb"))
    tiffs = {path.name[:-7]: path for path in root.rglob("*_VV.tif")}
    assert set(found) == set(tiffs)
    for name, path in tiffs.items():
        with rasterio.open(path) as vv, rasterio.open(path.with_name(f"{name}_VH.tif")) as vh:
            expected = np.concatenate([vv.read(), vh.read()])
        assert found[name].tobytes() == expected.tobytes()
        index = open_rico(ben, root / "lmdb", (name,), np.zeros((1, 19), np.uint8), ("33UUP",))
        assert index.read(0, ben).db.tobytes() == expected.tobytes()
        turned = dataclasses.replace(ben, signal=dataclasses.replace(ben.signal, bands=("VH", "VV")))
        assert index.read(0, turned).db.tobytes() == expected[::-1].tobytes()


def test_a_rico_pack_gives_no_run_without_labels(realdata, ben):
    with pytest.raises(BenchError, match=r"rico-hdl pack, which holds no labels; give the folder of the patches"):
        open_index(ben, realdata / "bigearthnet_v2_rico_hdl" / "lmdb")


def test_labels_for_patches_that_a_rico_pack_lacks_are_refused(ben, tmp_path):
    bands = {name: np.zeros((120, 120), np.float32) for name in ("VH", "VV")}
    fill(tmp_path / "r.lmdb", {"S1A_a": save(bands), "S2A_a": save({"B02": np.zeros((120, 120), np.uint16)})})
    assert [name for name, _ in rico_items(tmp_path / "r.lmdb")] == ["S1A_a"]
    with pytest.raises(BenchError, match="lacks 1 of 2 patches, first S1A_b"):
        open_rico(ben, tmp_path / "r.lmdb", ("S1A_a", "S1A_b"), np.zeros((2, 19), np.uint8))


def test_a_pack_of_other_things_is_refused(ben, tmp_path):
    with pytest.raises(BenchError, match="holds no Sentinel-1 bands"):
        open_index(ben, fill(tmp_path / "a.lmdb", {"S2A_a": save({"B02": np.zeros((2, 2), np.uint16)})}))
    with pytest.raises(BenchError, match="is damaged"):
        open_index(ben, fill(tmp_path / "b.lmdb", {"a": b"some bytes"}))
    with pytest.raises(BenchError, match="is an empty pack"):
        open_index(ben, fill(tmp_path / "c.lmdb", {}))


# --- the pickled formats


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_three_tuples_are_taken_as_vh_vv(ben, tmp_path, protocol):
    db, targets = images(33)
    index = open_index(ben, three(tmp_path / "t.lmdb", db[..., ::-1], targets, protocol))
    assert index.ids == tuple(map(str, range(33)))
    np.testing.assert_array_equal(index.labels, targets)
    assert index.labels.dtype == np.uint8
    for row in (0, 2, 10, 32):
        assert index.read(row, ben).db.tobytes() == db[row].transpose(2, 0, 1).tobytes()
    assert audit(ben, index)[0].refusal is None


def test_numbers_tell_no_groups_unless_a_table_on_the_card_does(ben, tmp_path):
    db, targets = images(33)
    index = open_index(ben, three(tmp_path / "t.lmdb", db[..., ::-1], targets))
    assert with_groups(ben, index, tmp_path).groups is None
    (tmp_path / "scenes.csv").write_text("\n".join(["sample,scene", *(f"{n},S{n // 11}" for n in range(33))]))
    stated = dataclasses.replace(ben, groups=Groups(file="scenes.csv", column="scene"))
    found = with_groups(stated, index, tmp_path)
    assert (found.group_kind, len(set(found.groups))) == ("scene", 3)
    named = dataclasses.replace(index, names=tuple(f"S1A_IW_GRDH_1SDV_20170613T165043_33UUP_{n}_1" for n in range(33)))
    assert set(with_groups(ben, named, tmp_path).groups) == {"S1A_IW_GRDH_1SDV_20170613T165043"}


def test_five_tuples_are_taken_as_vv_vh(ben, tmp_path):
    db, targets = images(12)
    index = open_index(ben, five(tmp_path / "t.lmdb", db, targets))
    np.testing.assert_array_equal(index.labels, targets)
    for row in range(12):
        assert index.read(row, ben).db.tobytes() == db[row].transpose(2, 0, 1).tobytes()


def test_an_order_that_physics_contradicts_is_refused_with_the_way_out(ben, tmp_path):
    db, targets = images(33)
    three(tmp_path / "t.lmdb", db, targets)  # VV,VH, against the known writers
    with pytest.raises(
        BenchError,
        match=r"would be VH,VV by its format, but then the median of VV-VH is -7\.\d dB; .*--band_order VV,VH",
    ):
        open_index(ben, tmp_path / "t.lmdb")
    five(tmp_path / "f.lmdb", db[..., ::-1], targets)
    with pytest.raises(BenchError, match="would be VV,VH by its format"):
        open_index(ben, tmp_path / "f.lmdb")
    expected = make_view(ben, FGMAE_CONTRACT, None).batch([chip_of(db[4])], ["4"])
    for name, order in (("t", ("VV", "VH")), ("f", ("VH", "VV"))):
        index = open_pack(ben, tmp_path / f"{name}.lmdb", order)
        assert audit(ben, index, order)[0].refusal is None
        np.testing.assert_array_equal(
            make_view(ben, FGMAE_CONTRACT, ",".join(order)).batch([index.read(4, ben)], ["4"]), expected
        )


def chip_of(image):
    from fgmae_bench.views.chip import Chip

    return Chip(db=image.transpose(2, 0, 1), valid=None, synthetic=False)


def test_too_few_three_tuples_leave_the_order_in_doubt(ben, tmp_path):
    db, targets = images(29)
    three(tmp_path / "t.lmdb", db[..., ::-1], targets)
    with pytest.raises(BenchError, match=r"29 images are too few to recognise the order of its bands .*--band_order"):
        open_index(ben, tmp_path / "t.lmdb")
    assert len(open_pack(ben, tmp_path / "t.lmdb", ("VH", "VV")).ids) == 29


def test_a_legacy_pack_can_be_packed_anew(ben, tmp_path):
    db, targets = images(33)
    wide = dataclasses.replace(ben, signal=dataclasses.replace(ben.signal, size=(128, 128), input_resize=None))
    index = open_index(wide, three(tmp_path / "t.lmdb", db[..., ::-1], targets))
    write_pack(wide, index, tmp_path / "new.lmdb")
    packed = open_pack(wide, tmp_path / "new.lmdb")
    row = packed.ids.index("7")
    assert packed.read(row, wide).db.tobytes() == db[7].transpose(2, 0, 1).tobytes()
    np.testing.assert_array_equal(packed.labels, targets)


def test_targets_of_another_dataset_are_refused(ben, card, tmp_path):
    db, targets = images(2)
    three(tmp_path / "t.lmdb", db, targets)
    with pytest.raises(BenchError, match="has 19 target values, EuroSAT-SAR has 10 classes"):
        open_index(card, tmp_path / "t.lmdb")
    three(tmp_path / "u.lmdb", db, targets + 0.5)
    with pytest.raises(BenchError, match="has 19 target values"):
        open_index(ben, tmp_path / "u.lmdb")


@pytest.mark.parametrize(
    "value",
    [
        (b"abcd", (1, 1, 2), b""),
        (b"a" * 8, (1, 1, 3), b""),
        (b"a" * 8, (1, 2), b""),
        (b"a" * 8, (1, 1, 2)),
        (b"a" * 8, 8, b""),
        ((1, 1, 2), b"a" * 8, b""),
        (b"a" * 8, (-1, -1, 2), b""),
        (b"a" * 8, (1, 1, 2), b"abc"),
        (b"a" * 8, (1, 1, 2), (1,)),
    ],
    ids=str,
)
def test_tuples_of_another_form_are_refused(ben, tmp_path, value):
    with pytest.raises(BenchError, match="is not a sample of the known legacy formats"):
        open_index(ben, fill(tmp_path / "t.lmdb", {"0": pickle.dumps(value)}))


# --- malicious values


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_malicious_value_is_an_error_and_nothing_runs(ben, tmp_path, protocol):
    db, targets = images(2)
    mark = tmp_path / "mark"
    x, t = db[0], targets[0]
    good = pickle.dumps((x.tobytes(), x.shape, t.tobytes()))
    for number, bad in enumerate(
        (Command(mark), (Command(mark), x.shape, t.tobytes()), (x.tobytes(), x.shape, Command(mark)))
    ):
        fill(tmp_path / f"{number}.lmdb", {"0": good, "1": pickle.dumps(bad, protocol=protocol)})
        with pytest.raises(
            BenchError,
            match=r"lmdb: 1: the value is a pickle that is not read: it uses the operation .*nothing was run",
        ):
            open_index(ben, tmp_path / f"{number}.lmdb")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Command(mark)))  # control: the value does run when it is unpickled
    assert mark.exists()


@pytest.mark.parametrize("value", ATTACKS, ids=str)
def test_operations_beyond_tuples_of_bytes_are_refused(value):
    with pytest.raises(BenchError, match="a: the value is a pickle that is not read"):
        read_tuple(value, "a")


def test_every_cut_of_a_value_is_refused():
    whole = pickle.dumps((b"a" * 300, (5, 5, 2), b"b" * 70000))
    assert read_tuple(whole, "a") == (b"a" * 300, (5, 5, 2), b"b" * 70000)
    for length in [*range(40), 300, len(whole) - 2, len(whole) - 1]:
        with pytest.raises(BenchError):
            read_tuple(whole[:length], "a")


def test_a_length_beyond_the_value_takes_no_memory():
    for value in (
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a",
        b"\x80\x04B\xff\xff\xff\xffa",
        b"\x80\x04\x95" + b"\xff" * 8 + b".",
    ):
        with pytest.raises(BenchError):
            read_tuple(value, "a")


def test_any_bytes_are_a_tuple_or_an_error():
    dice = np.random.default_rng(0)
    whole = pickle.dumps((b"abc", (5, 5, 2), b"def"))
    for _ in range(3000):
        changed = bytearray(whole)
        for place in dice.integers(0, len(whole), dice.integers(1, 4)):
            changed[place] = dice.integers(256)
        try:
            assert isinstance(read_tuple(bytes(changed), "a"), tuple)
        except BenchError:
            continue


def test_the_decoder_agrees_with_pickle():
    values = [
        (b"", ()),
        (b"x" * 255, (1,)),
        (b"x" * 256, (1, 2)),
        ((1, 2, 3, 4), b"a"),
        ((2**31, -1, 255, 65536), b"a", ((), ())),
        (b"a", b"a"),
    ]
    for value in values:
        for protocol in (3, 4, 5):
            out = io.BytesIO()
            pickle.Pickler(out, protocol).dump(value)
            assert read_tuple(out.getvalue(), "a") == value


def test_a_sample_with_an_empty_band_is_an_error_that_names_it(ben, tmp_path):
    db, targets = images(40)
    db[7, ..., 1] = np.nan
    path = three(tmp_path / "p.lmdb", db[..., ::-1], targets)
    with pytest.raises(
        BenchError, match=r"p\.lmdb/7: a band has no valid pixel; write the pack again without this sample"
    ):
        open_index(ben, path)  # which looks at the order of the bands in some of them
