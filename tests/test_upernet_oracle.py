"""The decode heads written down once more from their papers, in torch's own functions and float64."""

import pytest
import timm
import torch
from torch.nn import functional as F

from fgmae_bench.models.heads import make_head
from fgmae_bench.models.norms import group_norm
from fgmae_bench.models.taps import BlockMaps

DIMS, CLASSES, FPN = (48, 40, 32, 24), 5, 32


def head_of(name, strides, dims=DIMS, norm="group"):
    """A head in float64 with no parameter at its initial 0 or 1, and its state by name."""
    torch.manual_seed(0)
    head = make_head(name, dims, strides, CLASSES, fpn_dim=FPN, norm=norm).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return head, dict(head.state_dict())


def block(x, state, name, kernel):
    """Convolution without bias, group norm with groups of 8 channels, ReLU."""
    x = F.conv2d(x, state[f"{name}.0.weight"], padding=kernel // 2)
    return F.relu(F.group_norm(x, x.shape[1] // 8, state[f"{name}.1.weight"], state[f"{name}.1.bias"]))


def up(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def four_scales(maps, state):
    """BEiT's neck: two transposed convolutions, one, nothing, a maximum over 2x2 (arXiv 2106.08254)."""
    finest = F.conv_transpose2d(maps[0], state["neck.scales.0.0.weight"], state["neck.scales.0.0.bias"], stride=2)
    finest = F.group_norm(finest, finest.shape[1] // 8, state["neck.scales.0.1.weight"], state["neck.scales.0.1.bias"])
    finest = F.conv_transpose2d(
        F.gelu(finest), state["neck.scales.0.3.weight"], state["neck.scales.0.3.bias"], stride=2
    )
    fine = F.conv_transpose2d(maps[1], state["neck.scales.1.weight"], state["neck.scales.1.bias"], stride=2)
    return [finest, fine, maps[2], F.max_pool2d(maps[3], 2, ceil_mode=True)]


def decoded(levels, state, size):
    """UPerNet (arXiv 1807.10221): pyramid pooling on the coarsest level, lateral and top-down paths, fusion."""
    context = [
        up(block(F.adaptive_avg_pool2d(levels[3], bins), state, f"pooling.branches.{i}", 1), levels[3].shape[-2:])
        for i, bins in enumerate((1, 2, 3, 6))
    ]
    top = block(torch.cat([levels[3], *context], 1), state, "pooling.fuse", 3)
    third = block(levels[2], state, "laterals.2", 1) + up(top, levels[2].shape[-2:])
    second = block(levels[1], state, "laterals.1", 1) + up(third, levels[1].shape[-2:])
    first = block(levels[0], state, "laterals.0", 1) + up(second, levels[0].shape[-2:])
    smooth = [block(path, state, f"smooth.{i}", 3) for i, path in enumerate((first, second, third))]
    together = torch.cat([smooth[0], *(up(path, first.shape[-2:]) for path in (smooth[1], smooth[2], top))], 1)
    fused = block(together, state, "fuse", 3)
    return up(F.conv2d(fused, state["classify.weight"], state["classify.bias"]), size)


@pytest.mark.parametrize("grid", [(4, 4), (7, 5)])
def test_upernet_on_maps_of_one_stride_is_the_papers(grid):
    head, state = head_of("upernet", (16,) * 4)
    maps = [torch.randn(2, dim, *grid, dtype=torch.float64) for dim in DIMS]
    torch.testing.assert_close(head(maps, (50, 70)), decoded(four_scales(maps, state), state, (50, 70)))


def test_upernet_on_a_pyramid_is_the_papers():
    head, state = head_of("upernet", (4, 8, 16, 32), DIMS[::-1])
    maps = [torch.randn(2, d, 16 // 2**i, 24 // 2**i, dtype=torch.float64) for i, d in enumerate(DIMS[::-1])]
    torch.testing.assert_close(head(maps, (64, 96)), decoded(maps, state, (64, 96)))


@pytest.mark.parametrize("training", [True, False])
def test_the_linear_head_is_a_batch_norm_and_a_matrix_on_the_last_map_then_resized(training):
    head, state = head_of("linear", (16,) * 4)
    maps = [torch.randn(3, dim, 4, 6, dtype=torch.float64) * 0.01 + 2 for dim in DIMS]
    mean, variance = (torch.randn(DIMS[-1]).double(), torch.rand(DIMS[-1]).double())
    head.standardise.running_mean.copy_(mean)
    head.standardise.running_var.copy_(variance)
    out = head.train(training)(maps, (30, 20))
    x = F.batch_norm(maps[-1], mean, variance, training=training, eps=1e-6)
    torch.testing.assert_close(out, up(F.conv2d(x, state["classify.weight"], state["classify.bias"]), (30, 20)))


def test_groups_hold_8_channels_or_more_and_are_32_at_most():
    assert [group_norm(channels).num_groups for channels in (8, 24, 48, 256, 512, 7, 60)] == [1, 3, 6, 32, 32, 1, 6]


def test_maps_of_inner_blocks_are_not_normalised_and_that_of_the_last_is():
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", in_chans=2, num_classes=0, img_size=32, depth=4, embed_dim=24, num_heads=3
    ).eval()
    torch.nn.init.normal_(vit.norm.weight)
    images, caught = torch.randn(2, 2, 32, 32), []
    for block_of_vit in vit.blocks:
        block_of_vit.register_forward_hook(lambda module, inputs, out: caught.append(out))
    with torch.no_grad():
        for blocks in ((0, 2), (1, 3)):
            caught.clear()
            for found, number in zip(BlockMaps(vit, blocks)(images), blocks, strict=True):
                tokens = vit.norm(caught[number]) if number == 3 else caught[number]
                torch.testing.assert_close(found, tokens[:, 1:].transpose(1, 2).unflatten(2, (2, 2)))
