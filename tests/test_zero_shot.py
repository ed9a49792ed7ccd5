"""Protocol `zero_shot`: images and texts of classes in one space, from a whole model's file to a record."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from commands import EUROSAT_CARD, FOLDERS, call, only_record, said, shared_world
from safetensors import safe_open
from sklearn.metrics.pairwise import cosine_similarity
from text_models import write_clip, write_closp

from fgmae_bench.checkpoints.registry import stated_contracts
from fgmae_bench.config.cards import load_card
from fgmae_bench.config.encoders import ENCODERS, Encoder
from fgmae_bench.config.run import Model
from fgmae_bench.data.layouts import build_index
from fgmae_bench.models.build import build_backbone
from fgmae_bench.models.class_texts import read_class_texts, write_class_texts
from fgmae_bench.models.encoders.open_clip_images import make
from fgmae_bench.views.classification import make_view

INPUT = ("--normalizer", "zscore", "--mean", "-12", "-19", "--std", "5", "5", "--input_size", "160", "--amp", "off")


@pytest.fixture(scope="module")
def closp(tmp_path_factory):
    """(folder with closp.pth and texts.safetensors of EuroSAT, radar encoder, projection)."""
    folder = tmp_path_factory.mktemp("closp")
    encoder, projection, _ = write_closp(folder / "closp.pth", folder / "minilm")
    words = ("classes", "--dataset", "eurosat", "--encoder", "closp", "--weights", "closp.pth", "--tokenizer", "minilm")
    result = call("text.__main__", *words, "--out", "texts.safetensors", cwd=folder)
    assert result.code == 0, result.err
    return folder, encoder, projection


def zero_shot(folder, tmp_path, *more, texts="texts.safetensors", weights="closp.pth", dataset="eurosat"):
    return call(
        "linear",
        "--dataset",
        dataset,
        "--data_path",
        shared_world(5),
        "--model",
        "test_vit",
        "--weights",
        str(folder / weights),
        *INPUT,
        "--probe",
        "zero_shot",
        "--class_text",
        str(folder / texts),
        "--device",
        "cpu",
        *FOLDERS,
        *more,
        cwd=tmp_path,
    )


def test_images_are_scored_by_the_cosine_of_their_projection(closp, tmp_path):
    folder, encoder, projection = closp
    result = zero_shot(folder, tmp_path)
    assert result.code == 0, result.err
    record = only_record(tmp_path / "results")
    assert (record["protocol"], record["model"]["params_trainable"]) == ("zero_shot", 0)
    card = load_card("eurosat")
    index = build_index(card, Path(shared_world(5)))
    contract = stated_contracts()["reben"].contract()
    contract = dataclasses.replace(contract, mean=(-12.0, -19.0), std=(5.0, 5.0), size=160)
    (predictions,) = (tmp_path / "results" / "predictions").glob("*.safetensors")
    with safe_open(predictions, "np") as held:
        ids, logits, targets = json.loads(held.metadata()["ids"]), held.get_tensor("logits"), held.get_tensor("targets")
    view = make_view(card, contract, None)
    images = view.batch([index.read(index.ids.index(id), card) for id in ids], ids)
    with torch.inference_mode():
        vectors = projection(encoder(torch.from_numpy(images))).numpy()
    texts = read_class_texts(folder / "texts.safetensors")
    expected = cosine_similarity(vectors, texts.vectors[:, 0])
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert record["metrics"]["test"]["oa"] == pytest.approx((expected.argmax(1) == targets).mean())
    order = (-expected).argsort(1)[:, :5]
    recall = np.mean([target in row for target, row in zip(targets, order, strict=True)])
    assert record["metrics"]["retrieval"]["image_to_text_r5"] == pytest.approx(recall)
    codes = {note["code"]: note["text"] for note in record["notes"]}
    assert "10 candidates by their max" in codes["class_texts"]
    assert codes["outside_vocabulary"].startswith("not among the texts it learnt: annual crop, forest")
    assert "not_zero_shot" not in codes


def test_texts_that_fit_the_classes_score_what_the_nearest_mean_scores(closp, tmp_path):
    """Vectors put at the mean of each class's images: nothing else than nearest means by cosine, by scikit-learn."""
    folder, encoder, projection = closp
    texts = read_class_texts(folder / "texts.safetensors")
    card = load_card("eurosat")
    index = build_index(card, Path(shared_world(5)))
    contract = dataclasses.replace(
        stated_contracts()["reben"].contract(), mean=(-12.0, -19.0), std=(5.0, 5.0), size=160
    )
    view = make_view(card, contract, None)
    images = view.batch([index.read(row, card) for row in range(len(index.ids))], index.ids)
    with torch.inference_mode():
        vectors = projection(encoder(torch.from_numpy(images))).numpy()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    means = np.stack([unit[index.labels == k].mean(0) for k in range(10)])
    means = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
    write_class_texts(tmp_path / "means.safetensors", dataclasses.replace(texts, vectors=means[:, None]))
    result = zero_shot(folder, tmp_path, texts=tmp_path / "means.safetensors")
    assert result.code == 0, result.err
    record = only_record(tmp_path / "results")
    (predictions,) = (tmp_path / "results" / "predictions").glob("*.safetensors")
    with safe_open(predictions, "np") as held:
        ids = json.loads(held.metadata()["ids"])
    rows = [index.ids.index(id) for id in ids]
    guessed = cosine_similarity(vectors[rows], means).argmax(1)
    assert record["metrics"]["test"]["oa"] == pytest.approx((guessed == index.labels[rows]).mean())
    assert record["metrics"]["test"]["oa"] > 0.2


def test_the_content_of_the_texts_is_part_of_the_run_their_place_is_not(closp, tmp_path):
    folder, *_ = closp
    (tmp_path / "moved.safetensors").write_bytes((folder / "texts.safetensors").read_bytes())
    assert zero_shot(folder, tmp_path).code == 0
    again = zero_shot(folder, tmp_path, texts=tmp_path / "moved.safetensors")
    assert (again.code, "is recorded already" in again.err) == (0, True), again.err
    texts = read_class_texts(folder / "texts.safetensors")
    write_class_texts(tmp_path / "other.safetensors", dataclasses.replace(texts, vectors=-texts.vectors))
    assert zero_shot(folder, tmp_path, texts=tmp_path / "other.safetensors").code == 0
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "records").rglob("*.json")]
    assert len({record["run_id"] for record in records}) == len(records) == 2
    repeated = call("linear", "--config", "out/config.toml", "--results_dir", "elsewhere", cwd=tmp_path)
    assert repeated.code == 0, repeated.err
    assert only_record(tmp_path / "elsewhere")["run_id"] in {record["run_id"] for record in records}


def test_classes_of_one_text_and_data_of_the_training_are_noted(closp, tmp_path):
    folder, *_ = closp
    texts = read_class_texts(folder / "texts.safetensors")
    candidates = (("crops",), *texts.wording.candidates[1:6], ("crops",), *texts.wording.candidates[7:])
    wording = dataclasses.replace(texts.wording, candidates=candidates)
    encoder = dataclasses.replace(texts.encoder, seen={"eurosat": "its images with their labels"})
    write_class_texts(tmp_path / "t", dataclasses.replace(texts, wording=wording, encoder=encoder))
    assert zero_shot(folder, tmp_path, texts=tmp_path / "t").code == 0
    codes = {note["code"]: note["text"] for note in only_record(tmp_path / "results")["notes"]}
    assert codes["same_text"].startswith("AnnualCrop and PermanentCrop have the same text")
    assert "was trained on this dataset" in codes["not_zero_shot"]


def test_every_mismatch_is_refused_before_any_work(closp, tmp_path):
    folder, *_ = closp
    texts = read_class_texts(folder / "texts.safetensors")
    classes = texts.wording.classes
    turned = dataclasses.replace(texts.wording, classes=(classes[1], classes[0], *classes[2:]))
    write_class_texts(tmp_path / "turned", dataclasses.replace(texts, wording=turned))
    write_class_texts(tmp_path / "narrow", dataclasses.replace(texts, vectors=unit(texts.vectors[:, :, :8])))
    write_closp(folder / "other.pth", folder / "minilm", seed=1)
    encoder = timm.create_model("test_vit", in_chans=2, num_classes=0)
    torch.save(encoder.state_dict(), tmp_path / "encoder.pth")
    card = EUROSAT_CARD.read_text().replace('name = "eurosat"', 'name = "mine"').replace("27000", "50")
    card = card[: card.index("[counts]")] + card[card.index("[splits.reference]") :]
    (tmp_path / "templates.toml").write_text(card + '\n[texts]\ntemplates = ["a {}"]\n')
    (tmp_path / "words.toml").write_text(card + '\n[texts.candidates]\nForest = ["trees"]\n')
    cases = [
        (zero_shot(folder, tmp_path, texts=tmp_path / "none"), "no such file"),
        (zero_shot(folder, tmp_path, texts=tmp_path / "turned"), "'Forest' where it has 'AnnualCrop'"),
        (zero_shot(folder, tmp_path, texts=tmp_path / "narrow"), "has vectors of 8 numbers, the images 32"),
        (zero_shot(folder, tmp_path, weights="other.pth"), "the images are encoded by other.pth, another file"),
        (zero_shot(folder, tmp_path, weights=tmp_path / "encoder.pth"), "hold no map from images to texts"),
        (zero_shot(folder, tmp_path, dataset="templates.toml"), "is of other templates than the card's [texts]"),
        (zero_shot(folder, tmp_path, dataset="words.toml"), "is of other words for 'Forest'"),
        (
            call(
                "linear",
                "--dataset",
                "eurosat",
                "--data_path",
                shared_world(5),
                "--model",
                "test_vit",
                "--weights",
                str(folder / "closp.pth"),
                *INPUT,
                "--probe",
                "zero_shot",
                *FOLDERS,
                cwd=tmp_path,
            ),
            "without --class_text",
        ),
    ]
    for result, message in cases:
        assert message in said(result)
    assert not list((tmp_path / "results").rglob("*.json"))


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_a_whole_closp_loads_with_every_key_accounted_for(closp, tmp_path):
    folder, encoder, _ = closp
    state = torch.load(folder / "closp.pth", weights_only=True)
    backbone = build_backbone(
        Model(model="test_vit", weights=str(folder / "closp.pth"), normalizer="decibels", input_size=160), 0
    )
    assert backbone.weights.used == len(encoder.state_dict())
    assert backbone.weights.used + backbone.weights.dropped == len(state)
    inspected = call("weights.__main__", "inspect", str(folder / "closp.pth"), "--model", "test_vit", cwd=tmp_path)
    assert inspected.code == 0, inspected.err


def test_the_tower_of_a_clip_sees_radar_as_colours(tmp_path, monkeypatch):
    """Against the whole model's own encode_image on colours made by hand, and by its weights' file as a backbone."""
    whole = write_clip(tmp_path / "clip")
    entry = dataclasses.replace(
        ENCODERS["clip-vit-b32"],
        model="clip-tiny",
        weights="tiny",
        dim=24,
        variant=f"local-dir:{tmp_path / 'clip'}",
        patches=(16,),
        only_size=32,
    )
    assert isinstance(entry, Encoder)
    monkeypatch.setitem(ENCODERS, "clip-tiny", entry)
    from fgmae_bench.config.encoders import encoders

    encoders.cache_clear()
    file = tmp_path / "clip" / "open_clip_model.safetensors"
    (tmp_path / "weights.toml").write_text(f"""
[[weights]]
name = "tiny"
model = "clip-tiny"
file = "{file}"
layout = "any"
contract = "clip"
prefix = "visual."
licence = "none"
data = "none"
""")
    monkeypatch.setenv("FGMAE_BENCH_WEIGHTS", str(tmp_path / "weights.toml"))
    try:
        backbone = build_backbone(Model(model="clip-tiny", weights="tiny", input_size=32), 0, tmp_path / "cache")
    finally:
        encoders.cache_clear()
    images = torch.rand(3, 2, 32, 32)
    vv, vh = images[:, 0], images[:, 1]
    colours = torch.stack([vv, vh, 0.5 + 0.5 * vv - 0.5 * vh], dim=1)
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    with torch.inference_mode():
        expected = whole.encode_image((colours - mean[:, None, None]) / std[:, None, None])
        torch.testing.assert_close(backbone.module(images), expected, atol=1e-6, rtol=1e-5)
    assert backbone.weights.used == len(whole.visual.state_dict())
    assert backbone.feature_dim == 24
    with pytest.raises(Exception, match="takes 32 px"):
        make(entry, 64, 16)
