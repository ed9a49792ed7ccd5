"""Label sources and schemes: every table pinned row by row, wrong pairings refused, and the published mistake
reproduced apart from them.
"""

import csv

import numpy as np
import pytest

from fgmae_bench.ablate.sides import double_mapped, double_table
from fgmae_bench.config.cards import card_names, load_card
from fgmae_bench.data.labels import IGNORE, Codes, LabelMap, Source, TrainIds, class_matching, mismatch, own_scheme
from fgmae_bench.data.schemes import DFC, IGBP, SCHEMES, SOURCES, card_map, card_scheme, card_source, label_map
from fgmae_bench.errors import BenchError

I = IGNORE  # noqa: E741
# The ten classes of DFC2020, as its authors list them.
DFC10 = [
    "Forest",
    "Shrubland",
    "Savanna",
    "Grassland",
    "Wetlands",
    "Croplands",
    "Urban/Built-up",
    "Snow/Ice",
    "Barren",
    "Water",
]
# Training ids of codes 0, 1, 2, …; every pair that is defined is here.
TABLES = {
    ("igbp", "igbp17"): [I, *range(17)],
    ("igbp", "dfc10"): [I, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 5, 7, 8, 9],
    ("igbp", "dfc10_no_savanna"): [I, 0, 0, 0, 0, 0, 1, 1, I, I, 2, 3, 4, 5, 4, 6, 7, 8],
    ("igbp", "dfc8"): [I, 0, 0, 0, 0, 0, 1, 1, I, I, 2, 3, 4, 5, 4, I, 6, 7],
    ("dfc", "dfc10"): [I, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    ("dfc", "dfc10_no_savanna"): [I, 0, 1, I, 2, 3, 4, 5, 6, 7, 8],
    ("dfc", "dfc8"): [I, 0, 1, I, 2, 3, 4, 5, I, 6, 7],
}
# Pixels of each DFC code 0 ... 10 in the 986 validation tiles.
PUBLISHED = [0, 5_904_112, 3_353_501, 0, 7_655_859, 11_272_496, 8_405_224, 3_517_590, 0, 1_887_823, 22_621_891]
# What the IGBP table makes of DFC codes 0 ... 10.
WRONG = {"dfc10": [I, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3], "dfc10_no_savanna": [I, 0, 0, 0, 0, 0, 1, 1, I, I, 2]}


def codes(values, source):
    return Codes.of(np.array(values), SOURCES[source])


def confusion(reference, predicted, classes):
    """Independent of the suite: rows are reference, columns prediction, pixels without a reference left out."""
    matrix = np.zeros((classes, classes))
    for row, column, pixels in zip(reference, predicted, PUBLISHED, strict=True):
        if row != IGNORE:
            matrix[row, column] += pixels
    return matrix


def ious(matrix):
    hit = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hit
    return np.divide(hit, union, out=np.zeros_like(hit), where=union > 0)


def test_every_defined_pair_is_pinned():
    assert {(source, scheme.name) for scheme in SCHEMES.values() for source in scheme.ids} == set(TABLES)


@pytest.mark.parametrize("pair", TABLES, ids="-".join)
def test_table_row_by_row(pair):
    source, scheme = pair
    expected = np.full(256, IGNORE)
    expected[: len(TABLES[pair])] = TABLES[pair]
    assert label_map(source, scheme).table.tolist() == expected.tolist()
    known = [*range(len(TABLES[pair])), 255]
    mapped = label_map(source, scheme)(codes([known], source))
    assert isinstance(mapped, TrainIds)
    assert mapped.values.dtype == np.uint8
    assert mapped.values.tolist() == [[*TABLES[pair], IGNORE]]
    assert mapped.scheme is SCHEMES[scheme]


def test_igbp_to_dfc_is_the_shared_table(shared_data):
    with open(shared_data / "igbp_to_dfc.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 17
    scheme = SCHEMES["dfc10"]
    for row in rows:
        code = int(row["igbp_code"])
        assert IGBP.codes[code] == row["igbp_name"]
        assert DFC.codes[int(row["dfc_code"])] == row["dfc_name"]
        assert scheme.classes[label_map("igbp", "dfc10").table[code]] == row["dfc_name"]
        assert label_map("dfc", "dfc10").table[int(row["dfc_code"])] == label_map("igbp", "dfc10").table[code]


def test_classes_and_colours_of_each_scheme():
    assert list(SCHEMES["dfc10"].classes) == DFC10
    assert list(SCHEMES["dfc10_no_savanna"].classes) == [name for name in DFC10 if name != "Savanna"]
    assert list(SCHEMES["dfc8"].classes) == [name for name in DFC10 if name not in ("Savanna", "Snow/Ice")]
    assert list(SCHEMES["igbp17"].classes) == list(IGBP.codes.values())
    assert SCHEMES["dfc10"].colours[0] == "#009900"
    assert SCHEMES["dfc8"].colours[-2:] == ("#f9ffa4", "#1c0dff")
    for scheme in SCHEMES.values():
        assert len(set(scheme.classes)) == len(scheme.classes) == len(scheme.colours) == len(set(scheme.colours))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_scheme_on_a_source_it_is_not_defined_for_is_refused_at_construction(source, scheme):
    if (source, scheme) in TABLES:
        label_map(source, scheme)
        return
    with pytest.raises(BenchError, match=f"label scheme {scheme} is not defined for {source} labels"):
        label_map(source, scheme)


def test_table_cannot_be_applied_twice_nor_to_bare_arrays():
    to_dfc10 = label_map("igbp", "dfc10")
    once = to_dfc10(codes([[1, 17]], "igbp"))
    for wrong in (once, once.values, [[1, 2]]):
        with pytest.raises(TypeError, match="takes Codes"):
            to_dfc10(wrong)
        with pytest.raises(TypeError, match="takes Codes"):
            double_mapped(wrong)
    with pytest.raises(TypeError, match="uint8"):
        Codes(values=np.array([[1, 2]]), source=IGBP)


def test_labels_of_another_source_are_refused():
    with pytest.raises(BenchError, match="the map of igbp labels was given dfc labels"):
        label_map("igbp", "dfc10")(codes([[1, 10]], "dfc"))
    with pytest.raises(BenchError, match="the map of dfc labels was given igbp labels"):
        label_map("dfc", "dfc10")(codes([[1, 10]], "igbp"))
    with pytest.raises(BenchError, match="mistake of dfc labels, not of igbp"):
        double_mapped(codes([[1, 10]], "igbp"))


@pytest.mark.parametrize(
    ("source", "values", "strange"),
    [
        ("dfc", [11], "11"),
        ("dfc", [-1], "-1"),
        ("dfc", [17, 1], "17"),
        ("igbp", [18], "18"),
        ("igbp", [1, 70_000], "70000"),
        ("igbp", [-(2**31)], "-2147483648"),
        ("lccs_cover", [5], "5"),
        ("lccs_use", [50], "50"),
        ("lccs_hydrology", [254], "254"),
    ],
)
def test_codes_outside_the_source_are_refused_with_the_histogram(source, values, strange):
    with pytest.raises(BenchError, match=rf"a\.tif: {strange} is not a code of .*found .*{strange} \? .*%"):
        Codes.of(np.array([values]), SOURCES[source], "a.tif")


def test_an_unknown_code_is_refused_by_the_map_too():
    """Codes from a pack are not counted one by one before they are mapped."""
    with pytest.raises(BenchError, match="18 is not a code of IGBP"):
        label_map("igbp", "dfc10")(Codes(values=np.array([[1, 18]], np.uint8), source=IGBP))


def test_labels_that_are_no_whole_numbers_are_refused():
    with pytest.raises(BenchError, match="float32"):
        Codes.of(np.array([[1.0]], np.float32), DFC)


def test_labels_under_invalid_pixels_become_ignore():
    held = codes([[1, 2], [4, 10]], "dfc")
    valid = np.array([[[True, False], [True, True]], [[True, True], [False, True]]])
    assert held.where(valid).values.tolist() == [[1, 255], [255, 10]]
    assert held.where(valid[0]).values.tolist() == [[1, 255], [4, 10]]
    assert held.where(None) is held
    assert label_map("dfc", "dfc10")(held.where(valid)).values.tolist() == [[0, 255], [255, 9]]


def test_counts_of_classes_from_counts_of_codes():
    drawn = np.random.default_rng(0).integers(0, 18, (5, 40, 30)).astype(np.uint8)
    for scheme in SCHEMES:
        to_ids = label_map("igbp", scheme)
        counts = to_ids.counts(np.stack([Codes(values=tile, source=IGBP).histogram() for tile in drawn]))
        for tile, of_tile in zip(drawn, counts, strict=True):
            ids = to_ids(Codes(values=tile, source=IGBP)).values
            assert of_tile.tolist() == [int((ids == number).sum()) for number in range(len(to_ids.scheme.classes))]


@pytest.mark.parametrize("pair", TABLES, ids="-".join)
def test_perfect_predictor_scores_one_under_every_valid_pair_of_identical_schemes(pair):
    """Train and eval labels of one source and scheme, each code once: every class of the scheme has an IoU of exactly
    1.
    """
    to_ids = label_map(*pair)
    ids = to_ids(codes([list(SOURCES[pair[0]].codes)], pair[0])).values.ravel()
    ids = ids[ids != IGNORE]
    matching = class_matching(to_ids.scheme, to_ids.scheme)
    predicted = matching.table[ids]
    matrix = np.zeros((len(to_ids.scheme.classes),) * 2)
    np.add.at(matrix, (ids, predicted), 1)
    assert ious(matrix).tolist() == [1.0] * len(to_ids.scheme.classes)
    assert (matching.only_train, matching.only_eval) == ((), ())


def test_predictions_of_another_scheme_are_matched_by_name():
    matching = class_matching(SCHEMES["dfc10"], SCHEMES["dfc8"])
    assert matching.table.tolist() == [
        0,
        1,
        8,
        2,
        3,
        4,
        5,
        8,
        6,
        7,
    ]  # 8: no class of dfc8, so that it can only be wrong
    assert matching.only_train == ("Savanna", "Snow/Ice")
    assert matching.only_eval == ()
    back = class_matching(SCHEMES["dfc8"], SCHEMES["dfc10"])
    assert back.table.tolist() == [0, 1, 3, 4, 5, 6, 8, 9]
    assert back.only_eval == ("Savanna", "Snow/Ice")
    assert class_matching(SCHEMES["igbp17"], SCHEMES["dfc10"]).table.tolist() == [10] * 11 + [5] + [10] * 3 + [8, 10]


def test_mismatch_is_told_in_words():
    assert mismatch(label_map("dfc", "dfc8"), label_map("dfc", "dfc8")) is None
    text = mismatch(label_map("igbp", "dfc10"), label_map("dfc", "dfc8"))
    assert text.startswith("trained on igbp labels as dfc10, scored by dfc as dfc8")
    assert "predictions of Savanna, Snow/Ice can only be wrong" in text
    assert "never predicted" in mismatch(label_map("dfc", "dfc8"), label_map("dfc", "dfc10"))


@pytest.mark.parametrize("scheme", WRONG)
def test_double_mapping_collapses_the_classes_as_published(scheme):
    assert double_table(SCHEMES[scheme])[:11].tolist() == WRONG[scheme]
    assert (double_table(SCHEMES[scheme])[11:] == IGNORE).all()
    mapped = double_mapped(codes([[*range(11), 255]], "dfc"), SCHEMES[scheme])
    assert mapped.values.tolist() == [[*WRONG[scheme], IGNORE]]
    assert mapped.scheme.name == scheme


def test_double_mapping_of_the_published_histogram_gives_the_published_scores():
    """986 tiles of 256 x 256: labels mapped twice, predictions that are right."""
    assert sum(PUBLISHED) == 986 * 256 * 256
    reference = double_mapped(codes([range(11)], "dfc")).values[0].tolist()
    right = label_map("dfc", "dfc10")(codes([range(11)], "dfc")).values[0].tolist()
    matrix = confusion(reference, right, 10)
    shares = matrix.sum(axis=1) / matrix.sum()
    assert shares[:4] == pytest.approx([0.436, 0.185, 0.029, 0.350], abs=5e-4)
    assert not shares[4:].any()
    iou = ious(matrix)
    assert iou[0] == pytest.approx(0.2095, abs=5e-5)
    assert not iou[1:].any()
    referenced, either = matrix.sum(1) > 0, (matrix.sum(1) + matrix.sum(0)) > 0
    assert (referenced.sum(), either.sum()) == (4, 9)
    assert iou[referenced].mean() == pytest.approx(0.0524, abs=5e-5)
    assert iou[either].mean() == pytest.approx(0.0233, abs=5e-5)
    assert iou.mean() == pytest.approx(0.0209, abs=5e-5)
    constant = confusion(reference, [0] * 11, 10)
    assert ious(constant)[constant.sum(1) > 0].mean() == pytest.approx(0.109, abs=5e-4)


def test_no_valid_scheme_takes_barren_or_water_to_savanna_or_grassland():
    """What the mistake does to DFC codes 9 and 10."""
    for source, scheme in TABLES:
        if source == "dfc":
            classes = SCHEMES[scheme].classes
            assert [classes[number] for number in label_map(source, scheme).table[[9, 10]]] == ["Barren", "Water"]


@pytest.mark.parametrize("name", [name for name in card_names() if load_card(name).task == "segmentation"])
def test_shipped_segmentation_cards_name_sources_and_schemes_that_hold(name):
    card = load_card(name)
    assert card_scheme(card).classes == card.classes
    card_map(card)
    for scheme in card.label_schemes:
        assert any(card_source(card, source).name in card_scheme(card, scheme).ids for source in card.label_sources)
    with pytest.raises(BenchError, match="unknown label source"):
        card_source(card, "corine")
    with pytest.raises(BenchError, match="unknown label scheme"):
        card_scheme(card, "corine44")


def test_codes_of_a_cards_own():
    card = load_card("terramesh_masks")
    source, scheme = card_source(card, "lulc"), card_scheme(card)
    assert list(source.codes) == [1, 2, 3, 4, 5, 6, 9]
    assert LabelMap(source, scheme)(Codes.of(np.array([[0, 1, 6, 9, 255]]), source)).values.tolist() == [
        [255, 0, 5, 6, 255]
    ]
    with pytest.raises(BenchError, match="7 is not a code"):
        Codes.of(np.array([[7]]), source)
    with pytest.raises(BenchError, match="not defined for dfc labels"):
        LabelMap(DFC, scheme)


def test_a_source_with_more_codes_than_ids_is_refused():
    many = Source(name="many", title="many", codes={code: str(code) for code in range(255)}, unlabelled=(255,))
    with pytest.raises(BenchError, match="255 codes"):
        own_scheme(many, {}, "many")
