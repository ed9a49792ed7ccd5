"""What several ranks gather, in one process: rows in their order, and batch norm of the whole batch."""

import numpy as np
import pytest
import torch
from rank_threads import Ranks
from torch import nn

from fgmae_bench.models import norms
from fgmae_bench.system import distributed


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("total", [1, 6, 7, 8])
def test_rows_of_all_ranks_come_in_their_order_without_padding(size, total, monkeypatch):
    ranks, rows = Ranks(size), np.arange(2 * total, dtype=np.float32).reshape(total, 2) + 1
    for name, function in vars(ranks.dist).items():
        monkeypatch.setattr(torch.distributed, name, function)
    found = ranks.run(lambda r: distributed.World(rank=r, size=size).interleaved(rows[r::size], total))
    for gathered in found:
        np.testing.assert_array_equal(gathered, rows)


@pytest.mark.parametrize("cut", [6, 1, 9])
@pytest.mark.parametrize("shape", [(9, 4), (9, 4, 3, 2)])
def test_batch_norm_over_ranks_is_torchs_on_the_whole_batch(shape, cut, monkeypatch):
    """Outputs, gradients and running statistics after two steps, in float64; a cut at 9 leaves a rank without samples."""
    ranks = Ranks(2)
    monkeypatch.setattr(norms, "dist", ranks.dist)
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(2, *shape, generator=generator, dtype=torch.float64) * 3 + 50 for _ in range(2)]
    whole = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(shape[1], momentum=0.3, eps=1e-2).double()

    def steps(module, part):
        with torch.no_grad():
            module.weight.copy_(torch.linspace(-1, 2, shape[1]))
            module.bias.copy_(torch.linspace(3, 4, shape[1]))
        found = []
        for images, back in data:
            x = images[part].clone().requires_grad_(True)
            out = module(x)
            out.backward(back[part])
            found += [out.detach(), x.grad]
        return found, module.running_mean, module.running_var

    wanted, mean, variance = steps(whole, slice(None))
    mine = [norms.SyncBatchNorm(shape[1], momentum=0.3, eps=1e-2).double() for _ in range(2)]
    parts = (slice(0, cut), slice(cut, 9))
    got = ranks.run(lambda rank: steps(mine[rank], parts[rank]))
    for i, expected in enumerate(wanted):
        torch.testing.assert_close(torch.cat([found[i] for found, _, _ in got]), expected, rtol=1e-9, atol=1e-9)
    for _, own_mean, own_variance in got:
        torch.testing.assert_close(own_mean, mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(own_variance, variance, rtol=1e-12, atol=0)
