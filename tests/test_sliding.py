"""Sliding windows cover every pixel, weigh each window alike and leave a model of single pixels unchanged."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from fgmae_bench.errors import BenchError
from fgmae_bench.models.sliding import sliding_window, window_starts


def pointwise(images):
    """(B, 2, H, W) to (B, 3, H, W), each pixel by itself."""
    vv, vh = images[:, 0], images[:, 1]
    return torch.stack([vv * 2, vh - vv, (vv * vh).sin()], dim=1)


@pytest.mark.parametrize(
    ("length", "window", "stride"), [(10, 4, 3), (10, 4, 4), (10, 10, 5), (3, 8, 8), (97, 32, 17), (8, 4, 4)]
)
def test_windows_cover_the_scene_and_the_last_is_flush(length, window, stride):
    starts = window_starts(length, window, stride)
    assert len(set(starts)) == len(starts)
    assert starts[-1] == max(0, length - window)
    covered = {pixel for start in starts for pixel in range(start, start + window)}
    assert covered >= set(range(length))
    assert all(b - a <= stride for a, b in pairwise(starts))


@pytest.mark.parametrize(
    ("height", "width", "window", "stride"), [(50, 37, 16, 9), (32, 32, 32, 16), (20, 70, 32, 32), (5, 6, 8, 8)]
)
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_model_of_single_pixels_gives_what_it_gives_of_the_whole(height, width, window, stride, batch_size):
    images = torch.randn(2, 2, height, width, generator=torch.Generator().manual_seed(0))
    whole = pointwise(images)
    torch.testing.assert_close(
        sliding_window(pointwise, images, window=window, stride=stride, batch_size=batch_size), whole
    )
    soft = sliding_window(
        pointwise, images, window=window, stride=stride, batch_size=batch_size, average="probabilities"
    )
    torch.testing.assert_close(soft, whole.softmax(1))


def test_overlaps_are_averaged_over_the_windows_that_hold_a_pixel():
    """Each window says its own number; the mean at a pixel is that of its windows, found by a plain loop."""
    calls = []

    def own_number(batch):
        calls.extend(range(len(calls), len(calls) + len(batch)))
        return torch.tensor(calls[-len(batch) :], dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 6, 6)

    got = sliding_window(own_number, torch.zeros(1, 2, 13, 9), window=6, stride=4, batch_size=2)[0, 0].numpy()
    corners = [(top, left) for top in (0, 4, 7) for left in (0, 3)]
    for y in range(13):
        for x in range(9):
            said = [i for i, (top, left) in enumerate(corners) if top <= y < top + 6 and left <= x < left + 6]
            assert got[y, x] == pytest.approx(np.mean(said))


def test_windows_keep_their_place_and_type():
    """uint8 input stays uint8, and a model of one window's neighbourhood sees genuine neighbours."""
    scene = (
        torch.arange(40 * 24, dtype=torch.int64).remainder(251).to(torch.uint8).view(1, 1, 40, 24).expand(1, 2, 40, 24)
    )
    seen = []
    sliding_window(lambda w: seen.append(w) or w[:, :1].float(), scene, window=16, stride=8)
    assert seen[0].dtype == torch.uint8
    assert torch.equal(seen[0][0], scene[0, :, :16, :16])


def test_bad_strides_and_outputs_are_told():
    for stride in (0, 9):
        with pytest.raises(BenchError, match=f"--stride {stride}"):
            window_starts(20, 8, stride)
    with pytest.raises(BenchError, match="predict each pixel"):
        sliding_window(lambda w: w[..., ::2, ::2], torch.zeros(1, 2, 16, 16), window=8, stride=8)
    with pytest.raises(BenchError, match="no image"):
        sliding_window(pointwise, torch.zeros(0, 2, 16, 16), window=8, stride=8)
