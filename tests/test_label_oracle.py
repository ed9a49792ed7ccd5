"""Label maps and masks where a code has no class, and random views of masks over many samples."""

from collections import Counter

import numpy as np

from fgmae_bench.data.labels import Codes, LabelMap, Scheme, Source
from fgmae_bench.views.segmentation import JointAugmentation, training_pair

SOURCE = Source(name="s", title="some", codes={1: "Wood", 2: "Water", 7: "Town"}, unlabelled=(0, 9))
SCHEME = Scheme(name="two", classes=("Town", "Wood"), colours=("#000000", "#ffffff"), ids={"s": {1: 1, 7: 0}})


def test_codes_that_a_scheme_does_not_name_have_no_class():
    table = LabelMap(SOURCE, SCHEME).table
    assert {code: int(number) for code, number in enumerate(table) if number != 255} == {1: 1, 7: 0}
    codes = Codes.of(np.array([[0, 1, 2], [7, 9, 1]]), SOURCE)
    np.testing.assert_array_equal(LabelMap(SOURCE, SCHEME)(codes).values, [[255, 1, 255], [0, 255, 1]])


def test_pixels_of_codes_add_up_to_pixels_of_classes():
    merged = Scheme(name="one", classes=("Land", "Water"), colours=("#0", "#1"), ids={"s": {1: 0, 7: 0, 2: 1}})
    histogram = np.bincount([0, 1, 1, 2, 7, 7, 7, 9], minlength=256)
    np.testing.assert_array_equal(
        LabelMap(SOURCE, merged).counts(np.stack([histogram, 2 * histogram])), [[5, 1], [10, 2]]
    )


def views(crop, size, side, **flags):
    """Views of a mask whose pixels are numbered, under 400 sample names."""
    mask = np.arange(side * side, dtype=np.uint8).reshape(side, side)
    augmentation = JointAugmentation(seed=0, epoch=0, crop=crop, **flags)
    return [training_pair(mask[None].astype(np.float32), mask, size, augmentation, str(i)) for i in range(400)]


def test_plain_crops_reach_every_place_alike():
    places = Counter(divmod(int(mask[0, 0]), 5) for _, mask in views("plain", 3, 5, hflip=False))
    assert set(places) == {(row, column) for row in range(3) for column in range(3)}
    assert min(places.values()) > 20  # 44 of 400 each


def test_flips_are_independent_of_one_another():
    corners = Counter(int(mask[0, 0]) for _, mask in views("plain", 4, 4, vflip=True))
    assert set(corners) == {0, 3, 12, 15}
    assert min(corners.values()) > 60  # 100 of 400 each


def test_image_and_mask_show_the_same_pixels():
    for crop, size in (("plain", 3), ("plain", 7), ("resized", 5)):
        for image, mask in views(crop, size, 5, vflip=True, crop_scale=1.0):
            seen = mask != 255
            np.testing.assert_array_equal(image[0][seen], mask[seen])
