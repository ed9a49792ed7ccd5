"""Panels show the scheme's colours, what is wrong and what is ignored; the picture appears whole or not at all."""

import numpy as np
import pytest

from fgmae_bench.errors import BenchError
from fgmae_bench.train.panels import (
    IGNORED,
    INVALID,
    OTHER,
    RIGHT,
    WRONG,
    Panel,
    band_window,
    coloured,
    composite,
    draw_panels,
    error_picture,
    grey,
    legend,
)

CLASSES, COLOURS = ("Forest", "Water", "$odd_name"), ("#009900", "#1c0dff", "#f9ffa4")


def panel(name="p1", side=32):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, (side, side)).astype(np.uint8)
    prediction = label.copy()
    prediction[:4], label[-4:] = 3, 255
    db = rng.normal(-12, 3, (2, side, side))
    db[0, 0, 0] = np.nan
    return Panel(name=name, db=db, label=label, prediction=prediction)


def test_colours_are_those_of_the_scheme():
    picture = coloured(np.array([[0, 1, 2, 3, 255]]), COLOURS)[0]
    np.testing.assert_allclose(
        picture * 255, [[0, 0x99, 0], [0x1C, 0x0D, 0xFF], [0xF9, 0xFF, 0xA4], np.multiply(OTHER, 255), [255] * 3]
    )
    assert IGNORED == (1.0, 1.0, 1.0)
    for bad in ([4], [-1], [300]):
        with pytest.raises(BenchError, match=r"outside 0\.\.2"):
            coloured(np.array([bad]), COLOURS)
    with pytest.raises(BenchError, match="'green' is not a colour"):
        coloured(np.array([[0]]), ["green"])


def test_errors_are_marked_and_ignored_pixels_are_not():
    picture = error_picture(np.array([[0, 1, 255]]), np.array([[0, 2, 1]]))
    assert picture.tolist() == [[list(RIGHT), list(WRONG), list(IGNORED)]]


def test_backscatter_is_shown_between_the_contracts_limits():
    low, high = band_window(0)
    assert (low, high) == pytest.approx((-23.11, -2.07))
    picture = grey(np.array([[low, high, low - 5, np.nan, -np.inf]]), (low, high))[0]
    np.testing.assert_allclose(picture, [[0] * 3, [1] * 3, [0] * 3, INVALID, INVALID])
    both = composite(np.stack([np.array([[-2.0, np.nan]]), np.array([[-8.0, -8.0]])]))[0]
    np.testing.assert_allclose(both[0], [1, 1, (6 - 2) / 12])
    np.testing.assert_allclose(both[1], INVALID)


def test_the_legend_names_what_is_seen_and_no_more():
    names = [name for name, _ in legend([panel()], CLASSES, COLOURS)]
    assert names == ["Forest", "Water", "class outside the scheme", "ignored", "no backscatter", "right", "wrong"]


def test_a_picture_is_written_whole(tmp_path):
    path = tmp_path / "new" / "panels.png"
    draw_panels([panel("p1"), panel("_p$2")], CLASSES, COLOURS, path, title="frozen_upernet, 5$", synthetic=True)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [item.name for item in path.parent.iterdir()] == ["panels.png"]
    from matplotlib.image import imread

    pixels = imread(path)[..., :3]
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 1500
    for colour in ([0, 0x99 / 255, 0], WRONG, RIGHT):
        assert (np.abs(pixels - np.array(colour)).max(-1) < 0.01).any()


def test_bad_panels_are_refused_and_leave_nothing(tmp_path):
    path = tmp_path / "new" / "panels.png"
    odd = Panel(
        name="odd", db=np.zeros((2, 4, 4)), label=np.zeros((4, 4), np.uint8), prediction=np.zeros((2, 2), np.uint8)
    )
    for panels, colours, expected in (
        ([], COLOURS, "0 samples"),
        ([panel()], COLOURS[:2], "2 colours for 3"),
        ([odd], COLOURS, "odd: image"),
    ):
        with pytest.raises(BenchError, match=expected):
            draw_panels(panels, CLASSES, colours, path, title="t")
    assert not path.parent.exists()
