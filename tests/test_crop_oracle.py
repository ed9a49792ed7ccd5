"""Boxes of random crops from given draws, by hand."""

import math

import numpy as np
import pytest

from fgmae_bench.views.classification import random_box


class Fixed:
    """A generator whose ten tries are all the same: area, aspect, place down and to the right, each in [0, 1)."""

    def __init__(self, area, ratio, down, right):
        self.numbers = np.array([area] * 10 + [ratio] * 10 + [down, right] * 10)

    def random(self, count):
        assert count == len(self.numbers)
        return self.numbers


@pytest.mark.parametrize("smallest", [0.08, 0.5, 1.0])
@pytest.mark.parametrize("area", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8])
def test_a_box_has_the_drawn_share_of_the_area_and_the_drawn_aspect(smallest, area, ratio):
    height, width = 200, 300
    share, aspect = smallest + area * (1 - smallest), (3 / 4) ** (1 - ratio) * (4 / 3) ** ratio
    h, w = math.sqrt(share * height * width / aspect), math.sqrt(share * height * width * aspect)
    _, _, found_h, found_w = random_box(Fixed(area, ratio, 0.0, 0.0), height, width, smallest)
    if round(h) <= height and round(w) <= width:
        assert (found_h, found_w) == (round(h), round(w))
    else:
        assert (found_h, found_w) == (200, 267)  # the largest centre crop of aspect 4/3


def test_boxes_reach_both_borders():
    corners = [random_box(Fixed(0.0, 0.5, down, right), 64, 64, 0.25) for down in (0, 0.999) for right in (0, 0.999)]
    assert corners == [(0, 0, 32, 32), (0, 32, 32, 32), (32, 0, 32, 32), (32, 32, 32, 32)]


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(30, 100, (0, 30, 30, 40)), (100, 30, (30, 0, 40, 30)), (90, 100, (0, 0, 90, 100))],
)
def test_a_box_that_cannot_be_had_is_the_largest_in_the_centre(height, width, box):
    assert random_box(Fixed(0.999, 0.999 if height < width else 0.0, 0.5, 0.5), height, width, 1.0) == box
