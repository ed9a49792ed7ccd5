"""Batch norm over processes is batch norm of the whole batch: forward, gradients, running statistics, however samples
lie.
"""

from __future__ import annotations

from pathlib import Path

import preloaded
import pytest
import torch
from torch import nn

from fgmae_bench.errors import BenchError
from fgmae_bench.models.norms import SyncBatchNorm

STEPS = 3
CASES = [
    ((9, 5), True),
    ((9, 5, 4, 3), True),
    ((9, 5, 4, 3), False),
    ((9, 5, 6), True),
]  # (shape of the whole batch, affine)


def data(shape: tuple[int, ...], step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole batch, far from zero in one channel, and the gradient that comes back to its output."""
    generator = torch.Generator().manual_seed(step)
    x, back = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    x[:, 1] = x[:, 1] * 0.1 + 100
    return x, back


def norm(kind: type, shape: tuple[int, ...], affine: bool) -> nn.Module:
    made = kind(shape[1], affine=affine)
    if affine:
        with torch.no_grad():
            made.weight.copy_(torch.linspace(-1, 2, shape[1]))
            made.bias.copy_(torch.linspace(3, 4, shape[1]))
    return made


def steps(module: nn.Module, shape: tuple[int, ...], part: slice) -> dict[str, torch.Tensor]:
    """Outputs, input gradients and the module's tensors after some training steps and one evaluation of `part` of the
    batch.
    """
    found: dict[str, torch.Tensor] = {}
    for step in range(STEPS):
        x, back = (tensor[part] for tensor in data(shape, step))
        x = x.to(module.running_mean.dtype, copy=True).requires_grad_(True)
        out = module(x)
        out.backward(back.to(x))
        found |= {f"out{step}": out.detach(), f"grad{step}": x.grad}
    found["evaluated"] = module.eval()(data(shape, STEPS)[0][part].to(module.running_mean)).detach()
    found |= {f"state.{name}": tensor for name, tensor in module.state_dict().items()}
    return found | {f"parameter.{name}": parameter.grad for name, parameter in module.named_parameters()}


WORKER = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[2])
from test_sync_bn import CASES, SyncBatchNorm, norm, steps
dist.init_process_group("gloo")
rank = dist.get_rank()
results = {}
for cut in (5, 1, 9):  # samples of rank 0; the last leaves rank 1 without any
    part = slice(0, cut) if rank == 0 else slice(cut, 9)
    for i, (shape, affine) in enumerate(CASES):
        results[f"{cut}-{i}"] = steps(norm(SyncBatchNorm, shape, affine), shape, part)
half = norm(SyncBatchNorm, (9, 5, 4, 3), True)
x = (torch.randn(4, 5, 4, 3, generator=torch.Generator().manual_seed(rank)) + 30).bfloat16()
results["half"] = {"x": x, "out": half(x).detach(), "mean": half.running_mean, "var": half.running_var}
torch.save(results, f"{sys.argv[1]}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What two processes found."""
    place = tmp_path_factory.mktemp("ranks")
    (place / "worker.py").write_text(WORKER)
    done = preloaded.run_ranks(2, [place / "worker.py", place, Path(__file__).parent])
    assert [rank.returncode for rank in done] == [0, 0], done
    return [torch.load(place / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("cut", [5, 1, 9])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_two_processes_equal_torch_on_the_whole_batch(ranks: list[dict], cut: int, case: int) -> None:
    shape, affine = CASES[case]
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    whole = steps(norm(kind, shape, affine).double(), shape, slice(None))
    first, second = ranks[0][f"{cut}-{case}"], ranks[1][f"{cut}-{case}"]
    for name, expected in whole.items():
        if name.startswith("state."):
            assert torch.equal(first[name], second[name]), f"{name} differs between processes"
            got = first[name]
        elif name.startswith("parameter."):
            got = first[name] + second[name]
        else:
            got = torch.cat([first[name], second[name]])
        # the channel around 100 with deviation .1 has 4 digits left in float32; sums of squares would leave it none
        torch.testing.assert_close(
            got.double(), expected.double(), rtol=2e-3, atol=5e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
        others = [channel for channel in range(shape[1]) if channel != 1]
        axis = 1 if got.dim() > 1 else 0
        if got.dim():
            index = torch.tensor(others)
            torch.testing.assert_close(
                got.index_select(axis, index).double(),
                expected.index_select(axis, index).double(),
                rtol=1e-5,
                atol=1e-5,
            )


def test_statistics_of_half_precision_are_those_of_float32(ranks: list[dict]) -> None:
    first, second = (rank["half"] for rank in ranks)
    x = torch.cat([first["x"], second["x"]]).float()
    assert first["out"].dtype == torch.bfloat16
    assert first["mean"].dtype == torch.float32
    torch.testing.assert_close(first["mean"], 0.1 * x.mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(first["var"], 0.9 + 0.1 * x.var((0, 2, 3)), rtol=1e-5, atol=1e-5)
    expected = norm(nn.BatchNorm2d, (9, 5, 4, 3), True)(x)
    torch.testing.assert_close(torch.cat([first["out"], second["out"]]).float(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("shape", "affine"), CASES)
def test_one_process_is_torchs_batch_norm_to_the_bit(shape: tuple[int, ...], affine: bool) -> None:
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    ours, theirs = (steps(norm(each, shape, affine), shape, slice(None)) for each in (SyncBatchNorm, kind))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name


def test_a_single_value_a_channel_is_told_in_one_line() -> None:
    with pytest.raises(BenchError, match="use group norm"):
        SyncBatchNorm(4)(torch.zeros(1, 4, 1, 1))
    assert SyncBatchNorm(4).eval()(torch.zeros(1, 4, 1, 1)).shape == (1, 4, 1, 1)
