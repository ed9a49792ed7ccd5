"""Texts of classes as vectors: the words, the file, and the two text encoders against their libraries' own calls."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
import torch
from commands import EUROSAT_CARD, call, said
from text_models import write_clip, write_closp

from fgmae_bench.config.cards import load_card
from fgmae_bench.errors import BenchError
from fgmae_bench.models.class_texts import (
    TextEncoder,
    Wording,
    read_class_texts,
    stacked,
    words_of,
    write_class_texts,
)
from fgmae_bench.probe.zero_shot import retrieval
from fgmae_bench.text.classes import class_texts

# Names of ADE20K's list, some with the synonyms that it gives them, as a lab writes them.
ADE = """wall|building,edifice|sky|floor,flooring|tree|ceiling|road,route|bed|windowpane,window|grass|cabinet|sidewalk,pavement
person,individual,someone,somebody,mortal,soul|earth,ground|door,double_door|table|mountain,mount|plant,flora,plant_life
curtain,drape,drapery,mantle,pall|chair|car,auto,automobile,machine,motorcar|water|painting,picture|sofa,couch,lounge
shelf|house|sea|mirror|rug,carpet,carpeting|field|armchair|seat|fence,fencing|desk|rock,stone|wardrobe,closet,press|lamp
bathtub,bathing_tub,bath,tub|railing,rail|cushion|base,pedestal,stand|box|column,pillar|signboard,sign|counter|sand|sink
skyscraper|fireplace,hearth,open_fireplace|refrigerator,icebox|grandstand,covered_stand|path|stairs,steps|runway
case,display_case,showcase,vitrine|pool_table,billiard_table,snooker_table|pillow|screen_door,screen|stairway,staircase
river|bridge,span|bookcase|blind,screen|coffee_table,cocktail_table|toilet,can,commode,crapper,pot,potty,stool,throne
flower|book|hill|bench|countertop|stove,kitchen_stove,range|palm,palm_tree|kitchen_island|swivel_chair|boat|bar
arcade_machine|hovel,hut,hutch,shack,shanty|bus,autobus,coach|towel|light,light_source|truck,motortruck|tower
chandelier,pendant,pendent|awning,sunshade,sunblind|streetlight,street_lamp|booth,cubicle,stall,kiosk|airplane,plane
television_receiver,television,television_set,tv,tv_set|dirt_track|apparel,wearing_apparel,dress,clothes|pole|land,soil
bannister,banister,balustrade|escalator,moving_staircase|ottoman,pouf,puff,hassock|bottle|buffet,counter,sideboard|poster
stage|van|ship|fountain|conveyer_belt,conveyor,transporter|canopy|washer,automatic_washer|plaything,toy|swimming_pool
barrel,cask|basket,handbasket|waterfall,falls|tent,collapsible_shelter|bag|minibike,motorbike|cradle|oven|ball|food|step
tank,storage_tank|trade_name,brand|microwave|pot,flowerpot|animal,fauna|bicycle,bike,wheel,cycle|lake|dishwasher|blanket
sculpture|hood,exhaust_hood|sconce|vase|traffic_light,stoplight|tray|ashcan,garbage_can,wastebin,bin|fan|pier,wharf,dock
crt_screen|plate|monitor,monitoring_device|bulletin_board,notice_board|shower|radiator|glass,drinking_glass|clock|flag
projection_screen,silver_screen|stool_or_seat/perch|computer,data_processor|chest_of_drawers,chest,bureau,dresser""".replace(
    "\n", "|"
).split("|")
ENCODER = TextEncoder(name="a", weights="w", weights_sha256="0" * 64, tokenizer_sha256="1" * 64, context=64, scale=10.0)


def hashed(sentences):
    """A vector for each sentence that no other has."""
    return np.stack([np.random.default_rng(list(text.encode())).normal(size=8) for text in sentences]).astype(
        np.float32
    )


def made(classes=("Water", "SeaLake"), templates=("{}", "a {}."), rule="max", **more):
    wording = Wording(classes=classes, candidates=tuple(map(words_of, classes)), templates=templates, rule=rule)
    return class_texts(wording, dataclasses.replace(ENCODER, **more), hashed)


def test_names_become_words():
    """The lab's rule: commas, slashes and `_or_` part synonyms, underscores are spaces; capitals inside part words."""
    assert words_of("SeaLake") == ("sea lake",)
    assert words_of("double_door, door/gate_or_Gateway") == ("double door", "door", "gate", "gateway")
    assert words_of("Land principally occupied by agriculture") == ("land principally occupied by agriculture",)
    assert words_of("_,/") == ()


@pytest.mark.parametrize("rule", ["max", "mean"])
def test_150_classes_with_synonyms_keep_their_place_and_their_own_candidates(tmp_path, rule):
    assert len(ADE) == len(set(ADE)) == 150
    texts = made(tuple(ADE), rule=rule)
    write_class_texts(tmp_path / "t.safetensors", texts)
    held = read_class_texts(tmp_path / "t.safetensors")
    assert (held.wording, held.encoder, held.key) == (texts.wording, texts.encoder, texts.key)
    most = max(len(words_of(name)) for name in ADE)
    assert held.vectors.shape == (len(ADE), 1 if rule == "mean" else most, 8)
    # by hand: each template normalised, averaged, normalised; then the largest cosine, or that of the mean
    image = np.random.default_rng(1).normal(size=8)
    for k, name in enumerate(ADE):
        each = []
        for word in words_of(name):
            both = [v / np.linalg.norm(v) for v in hashed([word, f"a {word}."]).astype(float)]
            each.append(sum(both) / 2 / np.linalg.norm(sum(both) / 2))
        each = each if rule == "max" else [sum(each) / np.linalg.norm(sum(each))]
        expected = max(float(v @ image) / np.linalg.norm(image) for v in each)
        got = held.cosines(image[None].astype(np.float32))[0, k]
        assert got == pytest.approx(expected, abs=1e-6), name


def test_a_class_of_fewer_candidates_is_not_lifted_by_empty_ones():
    """All cosines below 0: a row of zeros behind the candidates would be the largest."""
    vectors, counts = stacked(
        [np.array([[1.0, 0.0]], np.float32), np.eye(2, dtype=np.float32)],
        Wording(classes=("a", "b"), candidates=(("a",), ("b", "c")), templates=("{}",)),
    )
    texts = dataclasses.replace(made(("a", "b")), vectors=vectors, counts=counts)
    np.testing.assert_allclose(texts.cosines(np.array([[-1.0, -1.0]], np.float32)), [[-(2**-0.5)] * 2], atol=1e-7)


def test_the_key_follows_words_encoder_and_vectors_alone():
    one = made()
    assert one.key == dataclasses.replace(one, made={"created": "later"}).key
    others = [
        made(("SeaLake", "Water")),
        made(templates=("{}",)),
        made(rule="mean"),
        made(weights_sha256="f" * 64),
        made(tokenizer_sha256="f" * 64),
        dataclasses.replace(one, vectors=one.vectors[:, :, ::-1]),
    ]
    assert len({texts.key for texts in (one, *others)}) == 1 + len(others)


def damaged(tmp_path, change):
    path = tmp_path / "t.safetensors"
    write_class_texts(path, made())
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    said = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["class_texts"])
    tensors = safetensors.numpy.load(content)
    change(said, tensors)
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"class_texts": json.dumps(said)}))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, t: t.update(text=t["text"] * 2), "has length 2, not 1"),
        (lambda s, t: t.update(text=t["text"][::-1].copy()), "were changed after it was made"),
        (lambda s, t: t.update(text=t["text"] * np.float32("nan")), "has length nan, not 1"),
        (lambda s, t: t.update(text=t["text"].astype(np.float16)), "are not those of its candidates"),
        (lambda s, t: t.update(counts=t["counts"] * 2), "are not those of its candidates"),
        (lambda s, t: s["wording"].update(classes=["Water"]), "not equally many"),
        (lambda s, t: s["wording"].update(classes=["Water", "River"]), "were changed after it was made"),
        (lambda s, t: s["wording"].update(more=1), "unknown key"),
        (lambda s, t: s.update(format=2), "it has the form 2"),
        (lambda s, t: s.pop("encoder"), "not a whole file of class texts"),
        (lambda s, t: t.pop("text"), "not a whole file of class texts"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, change, message):
    with pytest.raises(BenchError, match=message):
        read_class_texts(damaged(tmp_path, change))


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"{}", (2**40).to_bytes(8, "little") + b"{}"])
def test_what_is_no_such_file_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(BenchError, match="not a whole file of class texts"):
        read_class_texts(tmp_path / "t")


# --- the encoders


def test_closp_embeds_by_the_first_token_without_projection(tmp_path):
    """Against transformers' own model and a tokenisation by hand."""
    from text_models import WORDS

    _, _, text = write_closp(tmp_path / "closp.pth", tmp_path / "minilm")
    data = ("--dataset", "eurosat", "--encoder", "closp", "--weights", "closp.pth")
    command = ("text.__main__", "classes", *data, "--tokenizer", "minilm", "--out", "t.safetensors")
    result = call(*command, cwd=tmp_path)
    assert (result.code, "10 classes, 10 sentences, vectors of 32" in result.out) == (0, True), result.err
    assert "not among the texts that closp learnt: annual crop, forest" in result.out
    held = read_class_texts(tmp_path / "t.safetensors")
    assert held.wording.classes == load_card("eurosat").classes
    assert held.outside()[:2] == ["annual crop", "forest"]
    for k, words in ((0, "annual crop"), (9, "sea lake")):
        tokens = [WORDS.index(word) for word in ("[CLS]", *words.split(), "[SEP]")]
        ids = torch.tensor([tokens + [0] * (64 - len(tokens))])
        with torch.inference_mode():
            first = text(input_ids=ids, attention_mask=(torch.arange(64) < len(tokens))[None].long()).last_hidden_state[
                0, 0
            ]
        np.testing.assert_allclose(held.vectors[k, 0], (first / first.norm()).numpy(), atol=1e-6)
    again = call(*command, cwd=tmp_path)
    assert (again.code, "nothing to do" in again.out) == (0, True), again.err


def test_open_clip_embeds_as_its_own_zero_shot_classifier(tmp_path):
    import open_clip

    whole = write_clip(tmp_path / "clip")
    result = call(
        "text.__main__",
        "classes",
        "--dataset",
        "eurosat",
        "--encoder",
        "open_clip:clip",
        "--out",
        "t.safetensors",
        cwd=tmp_path,
    )
    assert result.code == 0, result.err
    held = read_class_texts(tmp_path / "t.safetensors")
    templates = [lambda text, t=t: t.format(text) for t in held.wording.templates]
    assert len(templates) > 1
    names = [" ".join(words_of(name)) for name in load_card("eurosat").classes]
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'clip'}")
    expected = open_clip.build_zero_shot_classifier(whole, tokenizer, names, templates).T
    np.testing.assert_allclose(held.vectors[:, 0], expected.detach().numpy(), atol=1e-6)
    assert held.encoder.scale == pytest.approx(float(whole.logit_scale.detach().exp()))


def test_closp_without_texts_or_projection_is_refused(tmp_path):
    write_closp(tmp_path / "closp.pth", tmp_path / "minilm")
    state = torch.load(tmp_path / "closp.pth", weights_only=True)
    for part, lacks in (("text_model", "text_model"), ("s1_projection", "s1_projection")):
        torch.save({name: value for name, value in state.items() if not name.startswith(part)}, tmp_path / "less.pth")
        result = closp_call(tmp_path, "--weights", "less.pth", "--tokenizer", "minilm")
        assert f"holds no {lacks}" in said(result)
    torch.save({n: v for n, v in state.items() if "layer.1.output.dense.bias" not in n}, tmp_path / "less.pth")
    result = closp_call(tmp_path, "--weights", "less.pth", "--tokenizer", "minilm")
    assert "does not fit the configuration" in said(result)


def closp_call(tmp_path, *more):
    return call("text.__main__", "classes", "--dataset", "eurosat", "--encoder", "closp", *more, cwd=tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--encoder", "closp"], "--dataset is missing"),
        (["--dataset", "eurosat"], "--encoder is missing"),
        (["--dataset", "eurosat", "--encoder", "bert"], "unknown text encoder 'bert'"),
        (["--dataset", "eurosat", "--encoder", "closp"], "--encoder closp without --weights"),
        (["--dataset", "eurosat", "--encoder", "closp", "--weights", "w"], "--encoder closp without --tokenizer"),
        (["--dataset", "eurosat", "--encoder", "closp", "--templates", "no place"], "--templates 'no place'"),
        (["--dataset", "eurosat", "--encoder", "open_clip:nothing"], "open_clip knows no model nothing"),
        (
            ["--dataset", "eurosat", "--encoder", "open_clip:ViT-B-16"],
            "no weights are registered for open_clip's ViT-B-16",
        ),
    ],
)
def test_bad_words_end_in_one_line(tmp_path, words, message):
    result = call("text.__main__", "classes", *words, "--cache_dir", "cache", cwd=tmp_path)
    assert message in said(result)


def test_a_folder_without_a_tokenizer_and_another_files_texts_are_refused(tmp_path):
    write_closp(tmp_path / "closp.pth", tmp_path / "minilm")
    (tmp_path / "empty").mkdir()
    result = closp_call(tmp_path, "--weights", "closp.pth", "--tokenizer", "empty")
    assert "has no config.json with a vocabulary" in said(result)
    assert closp_call(tmp_path, "--weights", "closp.pth", "--tokenizer", "minilm", "--out", "t").code == 0
    result = closp_call(
        tmp_path, "--weights", "closp.pth", "--tokenizer", "minilm", "--out", "t", "--templates", "a {}"
    )
    assert "of other words or another encoder" in said(result)


def test_words_of_a_card_stand_above_the_names(tmp_path):
    text = EUROSAT_CARD.read_text().replace('name = "eurosat"', 'name = "mine"')
    (tmp_path / "card.toml").write_text(
        text + '\n[texts]\ntemplates = ["{} seen by radar"]\n[texts.candidates]\nForest = ["trees", "wood"]\n'
    )
    from fgmae_bench.models.class_texts import wording_of

    wording = wording_of(load_card(str(tmp_path / "card.toml")), ("{}",))
    assert wording.templates == ("{} seen by radar",)
    assert wording.candidates[:2] == (("annual crop",), ("trees", "wood"))
    for bad, message in (
        ("Wood = ['w']", "texts.candidates of 'Wood'"),
        ("Forest = []", "texts.candidates of 'Forest'"),
    ):
        (tmp_path / "card.toml").write_text(text + f"\n[texts.candidates]\n{bad}\n")
        with pytest.raises(BenchError, match=message):
            load_card(str(tmp_path / "card.toml"))
    (tmp_path / "card.toml").write_text(text + '\n[texts]\ntemplates = ["no place"]\n')
    with pytest.raises(BenchError, match=r"texts.templates: 'no place'"):
        load_card(str(tmp_path / "card.toml"))


# --- recall


def naive_recall(similarities, belongs, k):
    """Of rows with something that belongs, the share for which it is among the k most similar; ties against it."""
    hits = []
    for row, own in zip(similarities, belongs, strict=True):
        if own.any():
            order = sorted(range(len(row)), key=lambda j: (-row[j], own[j]))
            hits.append(any(own[j] for j in order[:k]))
    return sum(hits) / len(hits)


@pytest.mark.parametrize("multi", [False, True])
def test_recall_counts_what_belongs_among_the_nearest(multi):
    rng = np.random.default_rng(3)
    for _ in range(20):
        similarities = rng.integers(0, 6, (40, 12)) / 6  # with ties
        targets = rng.random((40, 12)) < 0.1 if multi else rng.integers(0, 11, 40)
        belongs = targets if multi else np.eye(12, dtype=bool)[targets]
        found = retrieval(similarities, targets.astype(np.uint8) if multi else targets)
        for k in (1, 5, 10):
            assert found[f"image_to_text_r{k}"] == pytest.approx(naive_recall(similarities, belongs, k))
            assert found[f"text_to_image_r{k}"] == pytest.approx(naive_recall(similarities.T, belongs.T, k))
    assert retrieval(similarities[:, :5], np.zeros(40, int))["image_to_text_r5"] is None
