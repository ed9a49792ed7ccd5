"""Loss, counts and stored maps of segmentation, each against plain torch or numpy in float64."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from fgmae_bench.models.segmenter import FrozenTaps, Unflattened
from fgmae_bench.system.distributed import World
from fgmae_bench.train.segmentation import SegmentationJob


def labelled(classes=3, size=(6, 5)):
    """Logits (2, K, H, W) in float64 and masks with a third of their pixels unlabelled."""
    random = np.random.default_rng(0)
    masks = random.integers(0, classes, (2, *size))
    masks[random.random(masks.shape) < 0.33] = 255
    return torch.from_numpy(random.normal(size=(2, classes, *size))), torch.from_numpy(masks.astype(np.uint8))


def pixel_losses(logits, masks):
    """-log softmax of each labelled pixel, in numpy."""
    z, y = logits.numpy().transpose(0, 2, 3, 1), masks.numpy()
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    return -np.log([p[b, i, j, y[b, i, j]] for b, i, j in np.argwhere(y != 255)])


def test_the_loss_is_the_mean_over_labelled_pixels():
    logits, masks = labelled()
    loss = SegmentationJob.loss(SimpleNamespace(world=World()), logits, masks)
    np.testing.assert_allclose(float(loss), pixel_losses(logits, masks).mean(), rtol=1e-12)
    nothing = SegmentationJob.loss(SimpleNamespace(world=World()), logits, torch.full_like(masks, 255))
    assert float(nothing) == 0


def test_an_images_row_holds_its_confusion_its_loss_and_its_pixels():
    logits, masks = labelled()
    job = SimpleNamespace(
        eval_labels=SimpleNamespace(classes=("a", "b", "c")), columns=None, _logits=lambda inputs, masks: list(logits)
    )
    for row, one, mask in zip(
        SegmentationJob._count(job, [], list(masks.numpy()), np.arange(len(masks))), logits, masks, strict=True
    ):
        confusion = np.zeros((3, 3))
        for i, j in np.argwhere(mask.numpy() != 255):
            confusion[mask[i, j], one[:, i, j].argmax()] += 1
        np.testing.assert_array_equal(row[:9], confusion.ravel())
        np.testing.assert_allclose(row[-2], pixel_losses(one[None], mask[None]).sum(), rtol=1e-12)
        assert row[-1] == confusion.sum()


def test_stored_rows_become_the_maps_that_they_were_made_of():
    shapes = [(2, 4, 3), (5, 2, 2), (1, 1, 3)]
    maps = [torch.randn(2, *shape) for shape in shapes]
    rows = torch.cat([level.flatten(1) for level in maps], dim=1)
    for got, level in zip(Unflattened(shapes, FrozenTaps(nn.Identity()))(rows), maps, strict=True):
        assert torch.equal(got, level)


def test_frozen_taps_stay_in_evaluation_mode_and_give_no_gradient():
    frozen = nn.Sequential(FrozenTaps(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))), nn.Conv2d(3, 1, 1)).train()
    assert not any(module.training for module in frozen[0].modules())
    before = frozen[0].taps[1].running_mean.clone()
    frozen(torch.randn(2, 2, 4, 4)).sum().backward()
    assert torch.equal(frozen[0].taps[1].running_mean, before)
    assert all(parameter.grad is None for parameter in frozen[0].parameters())
