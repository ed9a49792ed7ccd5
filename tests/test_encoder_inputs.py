"""What encoders take besides pixels, embeddings in place of a backbone, and how far features move with their input."""

import dataclasses
import json
import shlex
import shutil

import numpy as np
import pandas
import pytest
import rasterio
import timm
import torch
from commands import FOLDERS, call, only_record, said, shared_world

from fgmae_bench.checkpoints.registry import stated_contracts
from fgmae_bench.config.cards import load_card
from fgmae_bench.config.encoders import ENCODERS
from fgmae_bench.config.run import Model
from fgmae_bench.data.extra_inputs import extra_inputs
from fgmae_bench.data.layouts import build_index
from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.embeddings import read_embeddings
from fgmae_bench.models.place import PlaceAndMonth
from fgmae_bench.models.sensitivity import blind_to_polarisation, sensitivity
from fgmae_bench.views.normalizers import normalize

# --- contracts: three pixels (VV, VH) in dB, normalised by hand from the publishers' numbers

PIXELS = np.array([[-10.0, -17.0], [-23.5, -30.0], [0.0, -12.59]], np.float32)
BY_HAND = {
    "galileo": lambda x, m, s: (x - (m - 2 * s)) / (4 * s),
    "olmoearth": lambda x, m, s: (x - (m - 2 * s)) / (4 * s),
    "presto": lambda x, m, s: (x + 25) / 25,
    "reben": lambda x, m, s: (x - m) / s,
    "croma_fixed": lambda x, m, s: (x - m) / s,
    "dofa": lambda x, m, s: (x - m) / s,
    "copernicus_fm": lambda x, m, s: (x - m) / s,
    "terrafm": lambda x, m, s: (x - m) / s,
    "panopticon": lambda x, m, s: (x - m) / s,
    "anysat": lambda x, m, s: (x - m) / s,
    "sar_hub": lambda x, m, s: (x - m) / s,
    "sar_targets": lambda x, m, s: np.clip((x - (m - 2 * s)) / (4 * s), 0, 1),
    "terramind": lambda x, m, s: (x - m) / s,
    "clay": lambda x, m, s: (x - m) / s,
    "satlas": lambda x, m, s: np.clip(x / 255, 0, 1),
    "closp": lambda x, m, s: x,
    "clip": lambda x, m, s: np.clip((x - (m - 2 * s)) / (4 * s), 0, 1),
    "clip-320": lambda x, m, s: np.clip((x - (m - 2 * s)) / (4 * s), 0, 1),
    "ssl4eo_8bit": lambda x, m, s: np.floor(np.clip((x - (m - 2 * s)) / (4 * s) * 255, 0, 255)),
    "sarmae": lambda x, m, s: ((x - WIDE[0]) / WIDE[1] - [0.485, 0.456]) / [0.229, 0.224],
}
SSL4EO = np.array([-12.54847273, -20.19237134]), np.array([5.25697717, 5.91150917])
WIDE = SSL4EO[0] - 2 * SSL4EO[1], 4 * SSL4EO[1]
PUBLISHED = {
    "galileo": ((-11.728724389184965, -18.85558188024017), (4.887145774840316, 5.730270320384293)),
    "olmoearth": ((-11.648990747328444, -17.745436133270044), (10.840350299936597, 10.216274681392647)),
    "reben": ((-12.643863677978516, -19.352558135986328), (5.133493900299072, 5.590505599975586)),
    "croma_fixed": ((-12.548, -20.192), (5.257, 5.912)),
    "dofa": ((-12.548, -20.192), (5.257, 5.912)),
    "copernicus_fm": SSL4EO,
    "ssl4eo_8bit": SSL4EO,
    "clip": ((-12.59, -20.26), (5.26, 5.91)),  # FGMAE's window
    "clip-320": ((-12.59, -20.26), (5.26, 5.91)),
    "terrafm": ((-11.6568, -18.4975), (6.0908, 6.1924)),  # of EuroSAT-SAR, in the place of unpublished ones
    "panopticon": ((-11.6568, -18.4975), (6.0908, 6.1924)),
    "anysat": ((-11.6568, -18.4975), (6.0908, 6.1924)),
    "sar_hub": SSL4EO,
    "sar_targets": SSL4EO,
    "terramind": ((-12.599, -20.293), (5.195, 5.890)),
    "clay": ((-12.113, -18.673), (8.314, 8.017)),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_three_pixels_are_normalised_as_by_hand(name):
    contract = stated_contracts()[name].contract()
    pixels = PIXELS[:, ::-1] if contract.bands == ("VH", "VV") else PIXELS
    mean, std = (np.array(values) for values in PUBLISHED.get(name, ((0, 0), (1, 1))))
    got = normalize(pixels[:, :, None, None].copy(), None, contract)[:, :, 0, 0]
    np.testing.assert_allclose(got, BY_HAND[name](pixels.astype(np.float64), mean, std), atol=2e-6, rtol=2e-6)


def test_every_encoder_has_a_contract_that_is_computed_by_hand():
    older = {"fgmae", "ssl4eo", "croma", "croma_batch"}  # in the tests of the normalisers
    from fgmae_bench.checkpoints.registry import WEIGHTS

    named = [entry for entry in ENCODERS.values() if entry.weights in WEIGHTS]  # the others are timm's own
    used = {WEIGHTS[entry.weights][entry.model].entry.contract for entry in named}
    assert used <= {*BY_HAND, *older}


# --- extra inputs


@pytest.fixture(scope="module")
def patches(realdata):
    """Genuine BigEarthNet patches: dates in their names, georeferenced."""
    return realdata / "bigearthnet_s1_v1"


@pytest.fixture(scope="module")
def named(patches, tmp_path_factory):
    """Two classes of genuine chips under the names of their products, two bands a file."""
    root = tmp_path_factory.mktemp("named")
    for number, folder in enumerate(sorted(patches.iterdir())):
        files = [next(folder.glob(f"*_{band}.tif")) for band in ("VV", "VH")]
        with rasterio.open(files[0]) as source:
            profile = {**source.profile, "count": 2}
        target = root / ("One" if number < 2 else "Two") / f"{folder.name}.tif"
        target.parent.mkdir(exist_ok=True)
        with rasterio.open(target, "w", **profile) as out:
            for band, file in enumerate(files, 1):
                with rasterio.open(file) as source:
                    out.write(source.read(1), band)
    return root


CARD = """
name = "named"
title = "Named chips"
version = 1
task = "single_label"
layout = "class_folders"
label_scheme = "named_two"
classes = ["One", "Two"]
default_split = "reference"
recommended_split = "reference"
[signal]
bands = ["VV", "VH"]
units = "dB"
calibration = "sigma0"
size = [120, 120]
dtype = "float32"
[splits.reference]
kind = "stratified"
train = 0.5
[origin]
url = "none"
licence = "CC-BY-4.0"
"""


@pytest.fixture(scope="module")
def named_card(named):
    (named.parent / "card.toml").write_text(CARD)
    return named.parent / "card.toml"


def test_dates_and_places_come_from_names_and_georeference(named, named_card, tmp_path):
    index = build_index(load_card(str(named_card)), named)
    found = extra_inputs(index, ("month", "day_of_year", "location"), tmp_path)
    dates = [id.split("_")[4][:8] for id in index.ids]  # S1A_IW_GRDH_1SDV_20170613T165043_...
    assert dates == ["20170613", "20170617", "20170617", "20170925"]
    assert found["month"].tolist() == [5, 5, 5, 8]
    assert found["day_of_year"].tolist() == [163, 167, 167, 267]
    zones = {"33U": (12, 18), "29U": (-12, -6), "35V": (24, 30)}  # degrees east of each UTM zone
    for id, (lon, lat) in zip(index.ids, found["location"], strict=True):
        west, east = next(zones[zone] for zone in zones if f"_{zone}" in id)
        assert west - 1 < lon < east + 1  # tiles reach over
        assert 45 < lat < 65


def test_galileos_month_and_location_are_what_its_class_is_given(realdata):
    """A month changes the features; a location adds one token, which the publishers' average counts."""
    pytest.importorskip("rslearn")
    weights = str(realdata / "weights" / "galileo_nano_encoder.pt")
    backbone = build_backbone(Model(model="galileo-nano", weights=weights), 0, data_size=(16, 16))
    images = torch.rand(2, 2, 16, 16)
    with torch.inference_mode():
        plain = backbone.module(images)
        same = backbone.module(images, {"month": torch.tensor([5, 5])})
        other = backbone.module(images, {"month": torch.tensor([0, 11])})
        placed = backbone.module(images, {"location": torch.tensor([[11.0, 48.0], [-7.0, 53.0]])})
    torch.testing.assert_close(plain, same)
    assert (plain - other).abs().max() > 1e-3
    assert (plain - placed).abs().max() > 1e-3


def test_copernicus_fm_takes_place_and_the_area_of_a_patch_token(monkeypatch):
    from fgmae_bench.models.torchgeo_models import _copernicus_input

    images = torch.zeros(2, 2, 4, 4)
    assert torch.isnan(_copernicus_input(images, {})["metadata"]).all()
    known = _copernicus_input(images, {"location": torch.tensor([[11.0, 48.0], [-7.0, 53.0]])})["metadata"]
    assert known[:, :2].tolist() == [[11, 48], [-7, 53]]
    np.testing.assert_allclose(known[:, 3], 0.0256, rtol=1e-6)  # (16 x 10 m)^2 in km2
    assert torch.isnan(known[:, 2]).all()


def test_place_and_month_is_a_sphere_and_a_circle():
    module = PlaceAndMonth(("location", "month"))
    given = {"location": torch.tensor([[90.0, 0.0], [0.0, 90.0]]), "month": torch.tensor([0, 3])}
    got = module(torch.zeros(2, 2, 1, 1), given)
    np.testing.assert_allclose(got, [[0, 1, 0, 1, 0], [0, 0, 1, 0, 1]], atol=1e-7)
    with pytest.raises(BenchError, match="place_and_month knows nothing; give --inputs location month"):
        PlaceAndMonth(())


def probe(cwd, *words):
    flags = ("--probe", "knn", "--knn_k", "1", "--device", "cpu", *FOLDERS)
    return call("linear", *words, *flags, cwd=cwd)


def test_a_run_with_place_and_month_records_what_it_was_given(named, named_card, tmp_path):
    flags = ("--model", "place_and_month", "--inputs", "location", "month")
    result = probe(tmp_path, "--dataset", str(named_card), "--data_path", str(named), *flags)
    assert result.code == 0, result.err
    record = only_record(tmp_path / "results")
    assert record["dataset"]["contract_inputs"] == {
        "given": {"location": "georeference", "month": "product name or file"},
        "absent": {"day_of_year": "not known"},
    }
    assert (record["model"]["feature_dim"], record["model"]["weights"]["source"]) == (5, "none")


def test_another_place_of_the_same_pixels_is_another_run(named, named_card, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(named, moved)
    flags = ("--dataset", str(named_card), "--data_path", "moved", "--model", "place_and_month", "--inputs", "location")
    assert probe(tmp_path, *flags).code == 0
    for path in moved.rglob("*.tif"):
        with rasterio.open(path, "r+") as target:
            target.transform = target.transform @ rasterio.Affine.translation(3000, -2000)
    result = probe(tmp_path, *flags)
    assert "recorded already" not in result.err
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "records").rglob("*.json")]
    given = [record["config"]["facts"]["inputs_sha256"]["location"] for record in records]
    assert len(set(given)) == len({record["run_id"] for record in records}) == 2
    assert len({record["config"]["facts"]["content_sha256"]["test"] for record in records}) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "galileo-nano", "--weights", "random", "--inputs", "month"),
         "--inputs: neither the name of .* nor its file says when it was taken; leave the month out"),
        (("--model", "resnet50", "--weights", "random", "--inputs", "location"), "--inputs location: resnet50 does not take it"),
        (("--model", "presto", "--weights", "random", "--inputs", "season"), "--inputs is season; choose from month, day_of_year"),
        (("--model", "presto", "--weights", "random", "--inputs", "day_of_year"),
         "--inputs day_of_year: presto does not take it; choose from month, location"),
    ],
)  # fmt: skip
def test_inputs_that_cannot_be_given_are_refused(flags, message, tmp_path):
    pytest.importorskip("rslearn")
    result = probe(tmp_path, "--dataset", "eurosat", "--data_path", shared_world(5), *flags)
    assert result.code == 2
    import re

    assert re.search(message, said(result)), said(result)


def test_trainers_do_not_take_extra_inputs(tmp_path):
    words = ("--dataset", "eurosat", "--data_path", shared_world(5), "--model", "presto", "--weights", "random")
    result = call("finetune", *words, "--inputs", "location", "--device", "cpu", *FOLDERS, cwd=tmp_path)
    assert (result.code, "--inputs is for probes of frozen features" in said(result)) == (2, True)


# --- embeddings


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    flags = shlex.split("--model test_vit --weights random --device cpu --cache_dir cache --out vectors.parquet")
    words = ("export", "--dataset", "eurosat", "--data_path", shared_world(5), *flags)
    result = call("features.__main__", *words, cwd=folder)
    assert result.code == 0, said(result)
    return folder / "vectors.parquet"


def test_an_export_is_read_by_pandas_in_one_line(exported):
    frame = pandas.read_parquet(exported)
    assert list(frame.columns) == ["id", "label", "group", "vector"]
    assert len(frame) == 50
    assert frame.label.value_counts().tolist() == [5] * 10
    assert len(frame.vector[0]) == 64
    how = read_embeddings(exported).how
    assert (how["model"]["model"], how["weights"]["source"], how["synthetic"]) == ("test_vit", "random", True)


def test_a_probe_of_exported_vectors_scores_as_the_backbone_itself(exported, tmp_path):
    data = ("--dataset", "eurosat", "--data_path", shared_world(5))
    scores = []
    for number, model in enumerate((("test_vit", "random"), ("embeddings", str(exported)))):
        place = tmp_path / str(number)
        place.mkdir()
        result = probe(place, *data, "--model", model[0], "--weights", model[1])
        assert result.code == 0, said(result)
        record = only_record(place / "results")
        scores.append((record["metrics"]["test"]["oa"], record["metrics"]["confusion"], record["model"]["feature_dim"]))
    assert scores[0] == scores[1]


def broken(exported, tmp_path, change):
    frame = pandas.read_parquet(exported)
    ids, vectors = frame["id"].to_numpy(str), np.stack(frame["vector"])
    how = json.dumps(read_embeddings(exported).how)
    ids, vectors, how = change(ids, vectors, how)
    np.savez(tmp_path / "mine.npz", id=ids, vector=vectors, fgmae_bench=how)
    return tmp_path / "mine.npz"


def with_nan(ids, vectors, how):
    vectors = vectors.copy()
    vectors[3, 5] = np.nan
    return ids, vectors, how


BROKEN = {
    "empty": (lambda ids, v, how: (ids[:0], v[:0], how), "holds 0 ids and vectors of shape (0, 64)"),
    "lacks": (lambda ids, v, how: (ids[4:], v[4:], "{}"), "the embeddings lack 4 of 50 samples: AnnualCrop/"),
    "nan": (with_nan, "holds NaN or infinity in 1 vectors, that of AnnualCrop/"),
    "other": (lambda ids, v, how: (ids, v, how.replace('"pixels_sha256": "', '"pixels_sha256": "0')),
              "the embeddings are of other pixels than this data holds: they were made from 'eurosat'"),
    "twice": (lambda ids, v, how: (np.r_[ids[:-1], ids[:1]], v, how), "holds AnnualCrop/AnnualCrop_1 twice"),
    "shape": (lambda ids, v, how: (ids[:-1], v, how), "holds 49 ids and vectors of shape (50, 64)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_embeddings_that_do_not_belong_to_the_data_are_refused(exported, tmp_path, kind):
    change, message = BROKEN[kind]
    file = broken(exported, tmp_path, change)
    flags = ("--model", "embeddings", "--weights", str(file))
    result = probe(tmp_path, "--dataset", "eurosat", "--data_path", shared_world(5), *flags)
    assert (result.code, message in said(result)) == (2, True), said(result)


def test_files_that_hold_no_embeddings_are_refused(tmp_path):
    (tmp_path / "text.parquet").write_text("no")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name in ("text.parquet", "other.npz", "absent.parquet"):
        with pytest.raises(BenchError, match=r"embeddings.*give a \.parquet with the columns id and vector"):
            read_embeddings(tmp_path / name)


def test_an_export_says_what_is_wrong(tmp_path):
    for words, message in (
        (("export", "--dataset", "eurosat", "--out", "x.csv"), "give a file that ends in .parquet"),
        (("import",), "unknown command 'import'; choose export"),
        (("export", "--out", "x.parquet"), "--dataset is missing"),
    ):
        result = call("features.__main__", *words, cwd=tmp_path)
        assert (result.code, message in said(result)) == (2, True), said(result)


# --- sensitivity


def test_a_blind_encoder_is_seen_and_a_seeing_one_is_not(chips):
    """Control by hand: a sum of both bands cannot tell them apart, their difference can."""

    def backbone(weights):
        layer = torch.nn.Conv2d(2, 3, 1, bias=False)
        layer.weight.data = torch.tensor(weights).repeat(3, 1)[:, :, None, None]
        from fgmae_bench.models.build import wrap_module

        model = Model(
            model="mine", weights="module", normalizer="zscore", mean=(-12.0, -19.0), std=(5.0, 5.0), input_size=64
        )
        return wrap_module(layer, model)

    blind, seeing = (sensitivity(backbone(weights), chips[:2]) for weights in ([1.0, 1.0], [1.0, -0.5]))
    assert blind_to_polarisation(blind)
    assert not blind_to_polarisation(seeing)
    x = (chips[:2] - np.array([-12, -19])[:, None, None]) / 5
    feature = x.sum(1).mean((1, 2))  # one dB more in both bands: 2 / 5 of a deviation
    np.testing.assert_allclose(blind["gain"], np.mean(0.4 / np.abs(feature)), rtol=1e-4)


def test_weights_inspect_on_a_folder_prints_it(chips_root, tmp_path):
    pytest.importorskip("rslearn")
    folder = tmp_path / "few"
    shutil.copytree(chips_root / "Lulc1", folder)
    result = call("weights.__main__", "inspect", "--model", "presto", "--on", "few", cwd=tmp_path)
    assert result.code == 0, said(result)
    for change in ("bands swapped", "gain", "contrast", "pixels lost"):
        assert any(line.startswith(change) for line in result.out.splitlines())
    (tmp_path / "empty").mkdir()
    for words, message in (
        (("--model", "presto", "--on", "empty"), "empty holds no GeoTIFFs of two bands"),
        (("--on", "few"), "no file is named; give FILE, or --model NAME --on DIR"),
    ):
        result = call("weights.__main__", "inspect", *words, cwd=tmp_path)
        assert (result.code, message in said(result)) == (2, True), said(result)


def test_cromas_batch_is_64_images_in_the_datas_own_order():
    """Against numpy over all pixels of a run at once; the split plays no part."""
    from fgmae_bench.data.statistics import by_runs, moments
    from fgmae_bench.views.chip import Chip
    from fgmae_bench.views.classification import View

    rng = np.random.default_rng(0)
    images = rng.normal(-15, 4, (70, 2, 8, 8)).astype(np.float32)
    ids = [f"a{number}" for number in range(70)]
    chips = [Chip(db=image, valid=None, synthetic=True) for image in images]
    found = by_runs(ids, np.stack([moments(chip) for chip in chips]), (0, 1), 64)
    contract = dataclasses.replace(stated_contracts()["croma_batch"].contract(), size=7)
    view = View(contract=contract, order=(0, 1), statistics=found)
    for row, run in ((3, images[:64]), (66, images[64:])):
        mean, std = run.mean((0, 2, 3), dtype=np.float64), run.std((0, 2, 3), dtype=np.float64)
        np.testing.assert_allclose(found[ids[row]], (mean, std), atol=6e-4)
        expected = np.clip((images[row] - (mean - 2 * std)[:, None, None]) / (4 * std)[:, None, None], 0, 1)
        got = view.batch([chips[row]], [ids[row]])[0]
        np.testing.assert_allclose(got, expected[:, :7, :7], atol=2e-4)


# --- the checkpoint's own head


def head_run(tmp_path, classes, *more):
    whole = timm.create_model("test_vit", in_chans=2, num_classes=classes).eval()
    with torch.no_grad():
        whole.head.bias.uniform_(-1, 1)
    torch.save({"model": whole.state_dict()}, tmp_path / "w.pth")
    flags = shlex.split(
        "--model test_vit --weights w.pth --normalizer zscore --mean -12 -19 --std 5 5 --input_size 160 "
        "--probe inference --device cpu"
    )
    data = ("--dataset", "eurosat", "--data_path", shared_world(5))
    result = call("linear", *data, *flags, *FOLDERS, *more, cwd=tmp_path)
    return whole, result


def test_the_own_head_of_a_checkpoint_scores_as_the_whole_model(tmp_path):
    from pathlib import Path

    from safetensors import safe_open

    from fgmae_bench.views.classification import make_view

    whole, result = head_run(tmp_path, 10, "--amp", "off")
    assert result.code == 0, said(result)
    record = only_record(tmp_path / "results")
    assert (record["protocol"], record["model"]["params_trainable"]) == ("inference", 0)
    assert any(note["text"].startswith("head.weight of the checkpoint classified") for note in record["notes"])
    card = load_card("eurosat")
    index = build_index(card, Path(shared_world(5)))
    contract = stated_contracts()["reben"].contract()
    contract = dataclasses.replace(contract, mean=(-12.0, -19.0), std=(5.0, 5.0), size=160)
    view = make_view(card, contract, None)
    (predictions,) = (tmp_path / "results" / "predictions").glob("*.safetensors")
    with safe_open(predictions, "np") as held:
        ids, logits = json.loads(held.metadata()["ids"]), held.get_tensor("logits")
    rows = [index.ids.index(id) for id in ids[:4]]
    images = view.batch([index.read(row, card) for row in rows], ids[:4])
    with torch.inference_mode():
        expected = whole(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits[:4], expected, atol=1e-4)


def test_a_head_of_other_classes_is_refused(tmp_path):
    _, result = head_run(tmp_path, 7)
    message = "head.weight maps 64 features to 7 classes, here are 64 and 10"
    assert (result.code, message in said(result)) == (2, True), said(result)


def test_outputs_in_alphabetical_order_are_put_into_the_cards():
    """By hand: a head whose bias says the rank of each name among the sorted ones."""
    from types import SimpleNamespace

    from fgmae_bench.checkpoints.names import Head
    from fgmae_bench.probe.closed import own_head

    names = load_card("bigearthnet_v2").classes
    head = Head(name="fc.weight", weight=torch.zeros(19, 2), bias=torch.arange(19.0))
    backbone = SimpleNamespace(head=head, head_order="alphabetical", feature_dim=2, weights=SimpleNamespace(source="x"))
    materials = SimpleNamespace(
        extractor=SimpleNamespace(backbone=backbone, dataset=SimpleNamespace(card=SimpleNamespace(classes=names)))
    )
    got = own_head(materials, {"test": np.zeros((1, 2), np.float32)}).logits["test"][0]
    assert got.tolist() == [sorted(names).index(name) for name in names]
    assert got.tolist() != list(range(19))
