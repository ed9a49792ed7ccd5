"""From the files to what a segmentation run is given: parts without empty images, notes in words, refusals before
anything trains.
"""

import numpy as np
import pytest
from dfc_files import SIZE, dfc2020, image, write

from fgmae_bench.config.cards import load_card
from fgmae_bench.config.compose import compose
from fgmae_bench.data.dataset import only_usable, open_dataset
from fgmae_bench.data.dfc import ready
from fgmae_bench.data.dfc.ready import with_labels
from fgmae_bench.data.schemes import card_map
from fgmae_bench.errors import BenchError

CARD = load_card("dfc2020")
DFC10 = card_map(CARD, "dfc", "dfc10")


def opened(root, tmp_path, **flags):
    (run,) = compose(
        "linear",
        {
            "dataset": "dfc2020",
            "data_path": str(root),
            "split": "community",
            "trust_data": True,
            "partial": True,
            "num_workers": 0,
            **flags,
        },
        CARD,
    )
    return only_usable(open_dataset(CARD, run, tmp_path), run, tmp_path)


def codes_of(dataset):
    return {noted["code"] for noted in dataset.notes}


@pytest.fixture
def root(tmp_path):
    return dfc2020(tmp_path / "data", validation=3, test=5)


def overwrite(root, kind, patch, pixels):
    write(root / "ROIs0000_test" / f"{kind}_0" / f"ROIs0000_test_{kind}_0_p{patch}.tif", pixels)


def test_a_clean_dataset_is_ready_as_it_is(root, tmp_path):
    dataset = opened(root, tmp_path)
    made = with_labels(dataset, DFC10, DFC10, tmp_path, workers=1, strict=True)
    assert [len(rows) for rows in (made.parts.train, made.parts.val, made.parts.test)] == [5, 0, 3]
    assert made.notes == dataset.notes


def test_images_of_ignore_alone_are_left_out_and_counted(root, tmp_path):
    overwrite(root, "dfc", 101, np.zeros((1, SIZE, SIZE), np.int32))
    made = with_labels(opened(root, tmp_path), DFC10, DFC10, tmp_path, workers=1)
    assert len(made.parts.train) == 4
    assert any("1 images without a pixel of any class were left out" in noted["text"] for noted in made.notes)
    by_modis = with_labels(opened(root, tmp_path), card_map(CARD, "igbp", "dfc10"), DFC10, tmp_path, workers=1)
    assert len(by_modis.parts.train) == 5
    assert "label_scheme_mismatch" in codes_of(by_modis)


def test_a_part_of_ignore_alone_is_refused(root, tmp_path):
    for patch in range(100, 105):
        overwrite(root, "dfc", patch, np.full((1, SIZE, SIZE), 3, np.int32))
    with_labels(opened(root, tmp_path), DFC10, DFC10, tmp_path, workers=1)
    with pytest.raises(BenchError, match="no image of the train split has a dfc label of a class of dfc8"):
        with_labels(opened(root, tmp_path), card_map(CARD, "dfc", "dfc8"), DFC10, tmp_path, workers=1)


def test_a_source_that_a_part_lacks_is_named_before_training(root, tmp_path):
    for path in (root / "ROIs0000_test" / "lc_0").iterdir():
        path.unlink()
    with pytest.raises(BenchError, match="ROIs0000_test_s1_0_p100 has no igbp labels"):
        with_labels(opened(root, tmp_path), card_map(CARD, "igbp", "dfc10"), DFC10, tmp_path, workers=1)
    with_labels(opened(root, tmp_path), DFC10, card_map(CARD, "igbp", "dfc10"), tmp_path, workers=1)


def test_overlapping_parts_warn_with_names_and_stop_under_strict(root, tmp_path):
    pixels = image(5)
    overwrite(root, "s1", 102, pixels)
    moved = np.concatenate([pixels[:, :, SIZE // 2 :], image(6)[:, :, : SIZE // 2]], axis=2)
    write(root / "ROIs0000_validation" / "s1_validation" / "ROIs0000_validation_s1_0_p1.tif", moved)
    dataset = opened(root, tmp_path)
    made = with_labels(dataset, DFC10, DFC10, tmp_path, workers=1)
    (text,) = [noted["text"] for noted in made.notes if noted["code"] == "overlapping_splits"]
    assert "ROIs0000_test_s1_0_p102 and ROIs0000_validation/s1_validation/ROIs0000_validation_s1_0_p1" in text
    with pytest.raises(BenchError, match="choose a split whose parts are apart, or leave --strict out"):
        with_labels(dataset, DFC10, DFC10, tmp_path, workers=1, strict=True)


def test_labels_that_look_like_another_kind_stop_unless_they_are_trusted(root, tmp_path, monkeypatch):
    monkeypatch.setattr(
        ready, "check_label_codes", lambda source, histograms, where: BenchError(f"{source.name} look odd", "name them")
    )
    with pytest.raises(BenchError, match="dfc look odd; name them"):
        with_labels(opened(root, tmp_path), DFC10, DFC10, tmp_path, workers=1)
    made = with_labels(opened(root, tmp_path), DFC10, DFC10, tmp_path, workers=1, trust=True)
    assert "by --trust_data: dfc look odd" in [noted["text"] for noted in made.notes]


def test_genuine_scenes_are_ready_with_the_overlap_of_their_fit(realdata, tmp_path):
    card = load_card("terramesh_masks")
    (run,) = compose(
        "linear", {"dataset": "terramesh_masks", "data_path": str(realdata / "terramesh_s1rtc"), "num_workers": 0}, card
    )
    dataset = only_usable(open_dataset(card, run, tmp_path), run, tmp_path)
    made = with_labels(dataset, card_map(card), card_map(card), tmp_path, workers=1)
    assert (len(made.parts.train), len(made.parts.test), made.synthetic) == (3, 3, False)
    assert {"leaky_split", "test_is_val", "overlapping_splits"} <= codes_of(made)
