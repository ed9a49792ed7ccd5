"""Zarr stores of samples as a dataset: drafts, runs, packs, splits; what libraries say of them; stores out of order."""

import dataclasses
import gzip
import json
import shutil
import struct
import sys
import warnings

import numcodecs
import numpy as np
import pytest
from commands import STATISTICS, call, listing, only_record, said

from fgmae_bench.config.cards import load_card
from fgmae_bench.data.layouts import build_index
from fgmae_bench.data.zarr_metadata import Variable
from fgmae_bench.data.zarr_store import MEMORY_BYTES, check_chunk, open_store
from fgmae_bench.errors import BenchError

xarray = pytest.importorskip("xarray")
zarr = pytest.importorskip("zarr")
SIDE, COUNT = 32, 24
SMALL = (*STATISTICS, "--batch_size", "4", "--cache_dir", "c")
BOTH = pytest.mark.parametrize("form", [2, 3])


@pytest.fixture(scope="module")
def images():
    """Speckle of 4.4 looks (24, 2, 32, 32), VV first, dB."""
    rng = np.random.default_rng(0)
    level = np.array([-11.0, -18.0])[None, :, None, None] + rng.normal(0, 2, (COUNT, 1, 1, 1))
    return (level + 10 * np.log10(rng.gamma(4.4, 1 / 4.4, (COUNT, 2, SIDE, SIDE)))).astype(np.float32)


def samples(images, **more):
    """One variable of images with labels, scenes and places."""
    held = {
        "s1": (("sample", "band", "y", "x"), images),
        "label": (("sample",), ["Ice", "Water"] * (COUNT // 2)),
        "scene": (("sample",), [f"S{n // 4}" for n in range(COUNT)]),
    }
    names = {"sample": [f"p{n:02}" for n in range(COUNT)], "band": ["VV", "VH"]}
    return xarray.Dataset(held | more, coords=names)


def stored(data, path, form=2, **encoding):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chunks = {name: {"chunks": (5, *held.shape[1:])} for name, held in data.items() if held.ndim > 2}
        data.to_zarr(path, zarr_format=form, encoding={k: v | encoding.get(k, {}) for k, v in chunks.items()})


def drafted(what, *flags, cwd):
    done = call("prepare", "card", what, *flags, cwd=cwd)
    assert done.code == 0, done.err
    return load_card(str(cwd / "card.toml"))


@BOTH
def test_a_store_is_two_commands_to_a_record_and_reads_as_xarray_does(tmp_path, images, form):
    stored(samples(images), tmp_path / "d.zarr", form)
    card = drafted("d.zarr", cwd=tmp_path)
    assert (card.name, card.task, card.layout, card.classes) == ("d", "single_label", "zarr", ("Ice", "Water"))
    held = card.arrangement
    assert (held.store, held.variable, held.label, held.group) == ("", "s1", "label", "scene")
    assert card.splits[card.recommended_split].kind == "groups"
    index = build_index(card, tmp_path / "d.zarr")
    assert index.ids == tuple(f"p{n:02}" for n in range(COUNT))
    with xarray.open_zarr(tmp_path / "d.zarr", consolidated=False) as whole:
        for row in (0, 7, COUNT - 1):
            assert np.array_equal(index.read(row, card).db, whole["s1"].sel(sample=index.ids[row]).values)
    done = call("linear", "--dataset", "card.toml", "--data_path", "d.zarr", *SMALL, cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert record["dataset"]["groups"]["kind"] == "scene"


def test_a_pack_of_a_store_is_verified_divided_and_the_same_run(tmp_path, images):
    (tmp_path / "d").mkdir()
    stored(samples(images), tmp_path / "d" / "cube.zarr")
    card = drafted("d", cwd=tmp_path)
    assert card.arrangement.store == "cube.zarr"
    for command in (
        ("pack", "card.toml", "--data_path", "d", "--out", "p.lmdb", "--workers", "0"),
        ("verify", "p.lmdb", "--dataset", "card.toml", "--data_path", "d", "--workers", "0"),
        (
            "split",
            "card.toml",
            "--data_path",
            "d",
            "--kind",
            "groups",
            "--seed",
            "0",
            "--fractions",
            ".6",
            ".2",
            ".2",
            "--out",
            "split",
        ),
        ("inspect", "card.toml", "--data_path", "d", "--out", "x.png"),
        ("inspect", "d/cube.zarr", "--out", "y.png"),
    ):
        done = call("prepare", *command, cwd=tmp_path)
        assert done.code == 0, done.err
    assert "backscatter in dB" in done.out
    for data in ("d", "p.lmdb"):
        done = call("linear", "--dataset", "card.toml", "--data_path", data, "--split", "split", *SMALL, cwd=tmp_path)
        assert done.code == 0, done.err
    only_record(tmp_path / "results")


@BOTH
def test_scaled_bands_of_their_own_with_maps_flags_and_places(tmp_path, images, form):
    numbers = np.round(images * 100).astype(np.int16)
    numbers[3, :, :4, :4] = -32768
    water = (images[:, 1] < -19).astype(np.uint8)
    held = {"sigma0_vv": numbers[:, 0], "sigma0_vh": numbers[:, 1], "water": water}
    data = xarray.Dataset({name: (("n", "y", "x"), values) for name, values in held.items()})
    for name in ("sigma0_vv", "sigma0_vh"):
        data[name].attrs = {"scale_factor": 0.01, "add_offset": 0.5, "_FillValue": np.int16(-32768)}
    data["water"].attrs = {"flag_values": [0, 1], "flag_meanings": "land water"}
    data = data.assign(lon=(("n",), np.linspace(5, 9, COUNT)), lat=(("n",), np.linspace(45, 46, COUNT)))
    stored(data, tmp_path / "d.zarr", form)
    card = drafted("d.zarr", cwd=tmp_path)
    assert (card.task, card.classes, card.arrangement.variable) == ("segmentation", ("land", "water"), "sigma0_{band}")
    assert card.splits[card.recommended_split].kind == "spatial"
    index = build_index(card, tmp_path / "d.zarr")
    assert index.ids[:2] == ("00", "01")
    chip = index.read(3, card)
    with xarray.open_zarr(tmp_path / "d.zarr", consolidated=False) as whole:  # decodes scale, offset and fill itself
        for band, name in enumerate(("sigma0_vv", "sigma0_vh")):
            assert np.allclose(chip.db[band], whole[name][3].values, rtol=0, atol=2e-5, equal_nan=True)
    assert not chip.valid[:, :4, :4].any()
    assert chip.valid[:, 4:].all()
    assert np.array_equal(index.codes(5, card.label_source).values, water[5])
    flags = ("--head", "otsu_vh", "--model", "backscatter_stats", "--weights", "random", "--cache_dir", "c")
    done = call("segment", "--dataset", "card.toml", "--data_path", "d.zarr", *flags, cwd=tmp_path)
    assert done.code == 0, done.err
    record = only_record(tmp_path / "results")
    assert record["metrics"]["per_class"]["water"] is not None
    assert record["dataset"]["groups"]["kind"] == "20 km block"


def test_a_table_beside_a_store_says_several_labels(tmp_path, images):
    (tmp_path / "d").mkdir()
    stored(samples(images).drop_vars(["label", "scene"]), tmp_path / "d" / "x.zarr", 3)
    lines = [f"p{n:02},{'crop' if n % 3 else 'crop;water'},S{n // 4}" for n in reversed(range(COUNT))]
    (tmp_path / "d" / "t.csv").write_text("\n".join(["name,labels,site", *lines]))
    card = drafted("d", "--labels", "d/t.csv", cwd=tmp_path)
    assert (card.task, card.layout, card.classes) == ("multi_label", "zarr", ("crop", "water"))
    index = build_index(card, tmp_path / "d")
    assert index.labels.tolist() == [[1, int(n % 3 == 0)] for n in range(COUNT)]
    assert index.groups == tuple(f"S{n // 4}" for n in range(COUNT))
    assert np.array_equal(index.read(4, card).db, images[4])
    (tmp_path / "d" / "t.csv").write_text("\n".join(["name,labels,site", "p99,crop,S", *lines]))
    with pytest.raises(BenchError, match=r"line 2: 'p99' is not a sample of .*x\.zarr"):
        build_index(card, tmp_path / "d")


def test_columns_of_classes_and_numbers_in_a_store(tmp_path, images):
    flags = np.stack([np.ones(COUNT), np.arange(COUNT) % 2], 1).astype(np.uint8)
    more = {"labels": (("sample", "name"), flags), "height": (("sample",), np.linspace(1, 9, COUNT))}
    data = samples(images, **more).assign_coords(name=["crop", "water"]).drop_vars(["label", "scene"])
    data["s1"] = data["s1"].transpose("sample", "y", "x", "band")
    stored(data.drop_vars("height"), tmp_path / "a.zarr")
    card = drafted("a.zarr", "--out", "card.toml", cwd=tmp_path)
    assert (card.task, card.classes, card.arrangement.label) == ("multi_label", ("crop", "water"), "labels")
    index = build_index(card, tmp_path / "a.zarr")
    assert np.array_equal(index.labels, flags)
    assert np.array_equal(index.read(1, card).db, images[1])
    (tmp_path / "card.toml").unlink()
    data["height"][2] = np.nan
    stored(data.drop_vars("labels"), tmp_path / "b.zarr")
    card = drafted("b.zarr", cwd=tmp_path)
    assert (card.task, card.arrangement.target) == ("regression", "height")
    index = build_index(card, tmp_path / "b.zarr")
    assert (len(index.labels), index.left_out) == (COUNT - 1, 1)


def test_a_change_anywhere_in_a_store_is_noticed(tmp_path, images):
    stored(samples(images), tmp_path / "d.zarr")
    card = drafted("d.zarr", cwd=tmp_path)
    before = build_index(card, tmp_path / "d.zarr")
    path = tmp_path / "d.zarr" / "s1" / ".zattrs"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_offset": 1.0}))
    after = build_index(card, tmp_path / "d.zarr")
    assert before.signature != after.signature
    assert np.allclose(after.read(0, card).db, before.read(0, card).db + 1)


# --- refused


def set_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def no_images(root):
    shutil.rmtree(root / "s1")


def pickled(root):
    set_json(root / "label" / ".zarray", dtype="|O", filters=[{"id": "pickle", "protocol": 2}])


def vast_chunks(root):
    set_json(root / "s1" / ".zarray", chunks=[10**6, 2, SIDE, SIDE])


def cut_short(root):
    chunk = sorted((root / "s1").glob("*.*.*.*"))[0]
    chunk.write_bytes(chunk.read_bytes()[:40])


def not_json(root):
    (root / "s1" / ".zarray").write_text("{")


REFUSED = {
    no_images: "no variable is recognised as the images",
    pickled: "no column holds labels",
    vast_chunks: "would take 7812 MiB of memory; 64 MiB are allowed for its files: write it with fewer samples a chunk",
    cut_short: "variable 's1' cannot be read",
    not_json: "no variable is recognised as the images",
}


@pytest.mark.parametrize(("change", "message"), REFUSED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_stores_of_which_no_card_can_be_drafted(tmp_path, images, change, message):
    stored(samples(images).drop_vars("scene"), tmp_path / "d.zarr")
    change(tmp_path / "d.zarr")
    before = listing(tmp_path)
    line = said(call("prepare", "card", "d.zarr", cwd=tmp_path))
    assert message in line
    assert listing(tmp_path) == before


def test_pickled_objects_are_named_where_a_card_asks_for_them(tmp_path, images):
    stored(samples(images), tmp_path / "d.zarr")
    card = drafted("d.zarr", cwd=tmp_path)
    pickled(tmp_path / "d.zarr")
    with pytest.raises(BenchError, match=r"variable 'label' cannot be read \(its codec pickle is not read\)"):
        build_index(card, tmp_path / "d.zarr")


def test_numbers_that_are_no_letters_are_named(tmp_path, images):
    stored(samples(images), tmp_path / "d.zarr")
    card = drafted("d.zarr", cwd=tmp_path)
    held = zarr.open_group(tmp_path / "d.zarr", mode="r+")["scene"]
    held[:] = np.full(2 * held.shape[0], sys.maxunicode + 1, np.uint32).view("<U2")
    card = dataclasses.replace(card, arrangement=dataclasses.replace(card.arrangement, label="scene"))
    with pytest.raises(
        BenchError, match=r"variable 'scene' cannot be read \(its texts hold numbers that are not letters"
    ):
        build_index(card, tmp_path / "d.zarr")


def test_samples_and_maps_that_contradict_the_card(tmp_path, images):
    stored(samples(images), tmp_path / "d.zarr")
    card = drafted("d.zarr", cwd=tmp_path)

    def of(**changes):
        return dataclasses.replace(card, arrangement=dataclasses.replace(card.arrangement, **changes))

    for changed, message in (
        (of(variable="x"), "has no variable 'x'; it has band, label, s1, sample, scene"),
        (of(variable="scene"), "variable 'scene' holds <U2 values of 24; images are"),
        (of(label="band"), "variable 'band' is 2 for 24 samples"),
        (of(store="no.zarr"), "no.zarr is not a Zarr store"),
    ):
        with pytest.raises(BenchError) as caught:
            build_index(changed, tmp_path / "d.zarr")
        assert message in str(caught.value)
    twice = samples(images)
    twice = twice.assign_coords(sample=["p00", *twice["sample"].values[:-1]])
    stored(twice, tmp_path / "e.zarr")
    with pytest.raises(BenchError, match="two samples are named 'p00'"):
        build_index(card, tmp_path / "e.zarr")
    smaller = dataclasses.replace(card, signal=dataclasses.replace(card.signal, size=(16, 16)))
    with pytest.raises(BenchError, match=r"0 is 32x32 pixels, d\.zarr has 16x16"):
        build_index(smaller, tmp_path / "d.zarr").read(0, smaller)


def test_without_the_library_one_line_names_it(tmp_path, images, monkeypatch):
    stored(samples(images), tmp_path / "d.zarr")
    monkeypatch.setitem(sys.modules, "zarr", None)
    line = said(call("prepare", "card", "d.zarr", cwd=tmp_path))
    assert "d.zarr is a Zarr store, which needs zarr" in line
    assert line.endswith("install it with: pip install 'fgmae-bench[zarr]'")


def variable(codec, count=16, dtype=np.float32, *more):
    return Variable(name="a", shape=(count,), chunks=(count,), dtype=np.dtype(dtype), codecs=(*more, codec))


@pytest.mark.parametrize(
    ("codec", "pack"),
    [
        ("gzip", numcodecs.GZip().encode),
        ("gzip", lambda plain: gzip.compress(plain[:1000]) + gzip.compress(plain[1000:])),
        ("zlib", numcodecs.Zlib().encode),
        ("zstd", numcodecs.Zstd().encode),
        ("lz4", numcodecs.LZ4().encode),
        ("blosc", numcodecs.Blosc().encode),
    ],
    ids=["gzip", "gzip_in_parts", "zlib", "zstd", "lz4", "blosc"],
)
@pytest.mark.parametrize("size", [200, 256, 70_000, 2_000_000])
def test_what_a_chunk_decodes_to_is_known_before_it_is_decoded(codec, pack, size):
    content = bytes(pack(bytes(size)))
    check_chunk(content, variable(codec), max(size, len(content)))
    with pytest.raises(ValueError, match="would take"):
        check_chunk(content, variable(codec), size - 1)


def test_texts_that_a_chunk_cannot_hold(tmp_path):
    vast = struct.pack("<I", 2**31)
    with pytest.raises(ValueError, match="more texts than it may hold"):
        check_chunk(vast, variable("vlen-utf8", 16, object), MEMORY_BYTES)
    with pytest.raises(ValueError, match="more texts than it may hold"):
        check_chunk(bytes(numcodecs.Zstd().encode(vast * 64)), variable("zstd", 16, object, "vlen-utf8"), MEMORY_BYTES)


def test_a_store_is_opened_once_for_as_long_as_it_stays_as_it_is(tmp_path, images):
    stored(samples(images), tmp_path / "d.zarr")
    assert open_store(tmp_path / "d.zarr") is open_store(tmp_path / "d.zarr")
