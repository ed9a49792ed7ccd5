"""What heads learn from: each kind of loss against numpy or the library whose loss it is, and batches without classes."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fgmae_bench.errors import BenchError
from fgmae_bench.models.heads import masks, outputs
from fgmae_bench.models.heads.outputs import MASKS, PIXELS, POINT_MASKS, POINTS, PRESENCE, Extra, Learnt
from fgmae_bench.system.distributed import World
from fgmae_bench.train import head_losses
from fgmae_bench.train.head_losses import loss_of

CLASSES, QUERIES = 4, 7
GENERATOR = np.random.default_rng(0)


def tensor(*shape):
    return torch.from_numpy(GENERATOR.standard_normal(shape)).float().requires_grad_()


def labels(*shape):
    found = torch.from_numpy(GENERATOR.integers(0, CLASSES, shape)).to(torch.uint8)
    found[:, :2] = 255
    return found


def loss(kind, tensors, targets, weight=1.0, logits=None):
    return loss_of(Learnt(logits, (Extra(kind, weight, tensors),)), targets, World())


def nll(logits, wanted):
    """Mean over labelled rows, by hand."""
    z = logits - logits.max(1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(1, keepdims=True))
    kept = wanted != 255
    return -logp[np.arange(len(wanted))[kept], wanted[kept]].mean()


def test_pixels_are_the_mean_over_labelled_ones_and_extras_add_with_their_weight():
    targets, main, coarse = labels(2, 6, 5), tensor(2, CLASSES, 6, 5), tensor(2, CLASSES, 3, 2)
    flat = main.detach().numpy().transpose(0, 2, 3, 1).reshape(-1, CLASSES)
    first = nll(flat, targets.numpy().ravel())
    assert loss_of(main, targets, World()).item() == pytest.approx(first, rel=1e-5)
    large = F.interpolate(coarse, (6, 5), mode="bilinear").detach().numpy().transpose(0, 2, 3, 1).reshape(-1, CLASSES)
    second = nll(large, targets.numpy().ravel())
    assert loss(PIXELS, (coarse,), targets, 0.4, main).item() == pytest.approx(first + 0.4 * second, rel=1e-5)


def test_points_take_the_label_of_the_pixel_that_they_are_in():
    targets, logits = labels(2, 4, 8), tensor(2, CLASSES, 3)
    points = torch.tensor([[[0.99, 0.99], [0.5, 0.51], [0.0, 0.26]], [[0.13, 0.6], [1.0, 1.0], [0.9, 0.1]]])
    wanted = [
        targets[0, 3, 7],
        targets[0, 2, 4],
        targets[0, 1, 0],
        targets[1, 2, 1],
        targets[1, 3, 7],
        targets[1, 0, 7],
    ]
    expected = nll(logits.detach().numpy().transpose(0, 2, 1).reshape(-1, CLASSES), np.array(wanted))
    assert loss(POINTS, (logits, points), targets).item() == pytest.approx(expected, rel=1e-5)


def test_presence_is_a_binary_cross_entropy_of_the_classes_that_an_image_holds():
    logits = tensor(2, CLASSES)
    targets = torch.full((2, 3, 3), 255, dtype=torch.uint8)
    targets[0, 1], targets[0, 2, 2], targets[1, 0, 0] = 3, 0, 2
    wanted = np.array([[1, 0, 0, 1], [0, 0, 1, 0]])
    p = 1 / (1 + np.exp(-logits.detach().numpy()))
    expected = -(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).mean()
    assert loss(PRESENCE, (logits,), targets).item() == pytest.approx(expected, rel=1e-5)


def theirs(kind, classes, mask_logits, targets):
    """transformers' own loss, weighted as its models weigh it."""
    where = [target[target != 255].unique().long() for target in targets]
    wanted = [(target[None] == held[:, None, None]).float() for target, held in zip(targets, where, strict=True)]
    if kind == MASKS:
        code = pytest.importorskip("transformers.models.maskformer.modeling_maskformer")
        weights = {"loss_cross_entropy": 1.0, "loss_mask": 20.0, "loss_dice": 1.0}
        matcher = code.MaskFormerHungarianMatcher(cost_class=1.0, cost_dice=1.0, cost_mask=20.0)
        criterion = code.MaskFormerLoss(CLASSES, matcher=matcher, weight_dict=weights, eos_coef=0.1)
    else:
        code = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
        from transformers import Mask2FormerConfig

        weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
        criterion = code.Mask2FormerLoss(Mask2FormerConfig(num_labels=CLASSES), weights)
    found = criterion(mask_logits, classes, wanted, where)
    return sum(weights[name] * value for name, value in found.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MASKS, POINT_MASKS])
def test_losses_of_mask_classification_are_transformers_own(kind):
    """Value and gradient on the same inputs, the same points drawn; the second image holds one class alone."""
    results = []
    for ours in (True, False):
        torch.manual_seed(0)
        classes = torch.randn(2, QUERIES * 3, CLASSES + 1, requires_grad=True)
        mask_logits = torch.randn(2, QUERIES * 3, 6, 5, requires_grad=True)
        targets = torch.randint(0, CLASSES, (2, 12, 10), dtype=torch.uint8)
        targets[1], targets[0, :3] = 2, 255
        torch.manual_seed(1)
        value = loss(kind, (classes, mask_logits), targets) if ours else theirs(kind, classes, mask_logits, targets)
        value.backward()
        results.append((value.detach(), classes.grad, mask_logits.grad))
    for mine, their in zip(*results, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [MASKS, POINT_MASKS])
@pytest.mark.parametrize("empty", [(0,), (0, 1)])
def test_mask_classification_without_classes_in_an_image_or_a_batch_is_finite_and_learns_that_there_is_none(
    kind, empty
):
    classes, mask_logits, targets = tensor(2, QUERIES, CLASSES + 1), tensor(2, QUERIES, 4, 4), labels(2, 8, 8)
    targets[list(empty)] = 255
    value = loss(kind, (classes, mask_logits), targets)
    value.backward()
    assert value.isfinite()
    assert classes.grad.isfinite().all()
    assert mask_logits.grad.isfinite().all()
    assert (mask_logits.grad[list(empty)] == 0).all()
    assert (classes.grad[0, :, -1] < 0).all()  # every query of an image without classes learns to be none


def test_the_other_losses_are_zero_without_labels_in_a_batch():
    empty = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    assert loss(PIXELS, (tensor(2, CLASSES, 4, 4),), empty).item() == 0
    assert loss(POINTS, (tensor(2, CLASSES, 3), torch.rand(2, 3, 2)), empty).item() == 0
    assert loss_of(tensor(2, CLASSES, 4, 4), empty, World()).item() == 0


def test_queries_become_scores_of_pixels():
    classes, mask_logits = tensor(1, QUERIES, CLASSES + 1), tensor(1, QUERIES, 2, 3)
    found = masks.semantic(classes, mask_logits).exp().detach().numpy()[0]
    c, m = classes.detach().numpy()[0], mask_logits.detach().numpy()[0]
    p = np.exp(c) / np.exp(c).sum(1, keepdims=True)
    expected = sum(p[q, :-1, None, None] / (1 + np.exp(-m[q]))[None] for q in range(QUERIES))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_head_of_masks_wants_groups_of_32():
    with pytest.raises(BenchError, match="--fpn_dim 40: maskformer takes multiples of 32; give 32 or 256"):
        masks.MaskHead("maskformer", (8,) * 4, (16,) * 4, 40, "batch")


def test_every_kind_has_a_loss():
    assert set(head_losses.KINDS) == {*outputs.KINDS} == {PIXELS, POINTS, PRESENCE, MASKS, POINT_MASKS}


def dice(p, wanted):
    return 1 - (2 * (p * wanted).sum() + 1) / (p.sum() + wanted.sum() + 1)


def focal(p, wanted):
    """Lin et al. 2017, equation 5 with alpha 0.25 and gamma 2, pixel by pixel."""
    right, share = np.where(wanted == 1, p, 1 - p), np.where(wanted == 1, 0.25, 0.75)
    return -(share * (1 - right) ** 2 * np.log(right)).mean()


def test_the_cost_of_a_pair_of_masks_is_the_loss_of_that_pair():
    """What a match is chosen by, of every query with every true mask."""
    logits, wanted = tensor(QUERIES, 12).detach(), (torch.arange(36).reshape(3, 12) % 5 == 0).float()
    p, m = 1 / (1 + np.exp(-logits.double().numpy())), wanted.numpy()
    for found, by_hand in ((head_losses._dice_pairs, dice), (head_losses._focal_pairs, focal)):
        expected = [[by_hand(p[q], m[i]) for i in range(3)] for q in range(QUERIES)]
        np.testing.assert_allclose(found(logits, wanted).numpy(), expected, rtol=1e-5)


def test_mask_classification_is_maskformers_loss_by_hand():
    """In float64, the match by trying every one; the sizes of masks are those of labels, so that nothing is resized."""
    classes, mask_logits = (tensor(2, 4, *rest) for rest in ((CLASSES + 1,), (3, 4)))
    targets = labels(2, 3, 4)
    targets[0, 2], targets[1, 2] = torch.tensor([0, 0, 1, 3]), 2
    p = np.exp(classes.detach().double().numpy())
    p /= p.sum(-1, keepdims=True)
    m = 1 / (1 + np.exp(-mask_logits.detach().double().numpy()))
    of_classes, weight, of_masks, count = 0.0, 0.0, 0.0, 0
    for image in range(2):
        target = targets[image].numpy()
        present = sorted(set(target[target != 255]))
        pairs = [(label, (target == label).astype(float)) for label in present]

        def cost(queries, image=image, pairs=pairs):
            return sum(
                20 * focal(m[image, q], wanted) + dice(m[image, q], wanted) - p[image, q, label]
                for q, (label, wanted) in zip(queries, pairs, strict=True)
            )

        best = min(itertools.permutations(range(4), len(pairs)), key=cost)
        of = dict(zip(best, pairs, strict=True))
        for q in range(4):
            share = 1.0 if q in of else 0.1  # of a query that stands for nothing
            of_classes -= share * np.log(p[image, q, of[q][0] if q in of else CLASSES])
            weight += share
        of_masks += sum(20 * focal(m[image, q], wanted) + dice(m[image, q], wanted) for q, (_, wanted) in of.items())
        count += len(pairs)
    found = loss(MASKS, (classes, mask_logits), targets).item()
    assert count == 4
    assert found == pytest.approx(of_classes / weight + of_masks / count, rel=1e-5)
