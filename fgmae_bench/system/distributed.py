"""Several processes as one: rank-strided work without padding, gathered in order, errors printed by rank 0."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fgmae_bench.errors import BenchError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among `size` processes. Methods are collective: every rank calls them in the same order."""

    rank: int = 0
    size: int = 1
    device: torch.device | str = "cpu"

    def interleaved(self, local: NDArray[Any], total: int) -> NDArray[Any]:
        """Rows (total, D) in their order, of which each rank gives every `size`-th, its own rank first."""
        if self.size == 1:
            return local
        import torch
        import torch.distributed as dist

        longest = -(-total // self.size)
        padded = np.zeros((longest, *local.shape[1:]), local.dtype)
        padded[: len(local)] = local
        mine = torch.from_numpy(padded).to(self.device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        stacked = torch.stack(parts, dim=1).cpu().numpy()  # (longest, size, D)
        return stacked.reshape(longest * self.size, *local.shape[1:])[:total]

    def raise_together(self, work: Callable[[], T]) -> T:
        """Do `work`; when it fails with a BenchError on any rank, every rank raises the first rank's error."""
        if self.size == 1:
            return work()
        import torch
        import torch.distributed as dist

        problem: BenchError | None = None
        result: T | None = None
        try:
            result = work()
        except BenchError as error:
            problem = error
        failed = torch.tensor([problem is not None], dtype=torch.int32, device=self.device)
        dist.all_reduce(failed, op=dist.ReduceOp.MAX)
        if failed.item():
            problems: list[Any] = [None] * self.size
            dist.all_gather_object(problems, problem and (problem.what, problem.todo))
            what, todo = next(item for item in problems if item)
            raise BenchError(what, todo)
        return result  # type: ignore[return-value]

    def rank0_first(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0 first, then on the others, which find what it left in the cache folder."""
        first = self.raise_together(lambda: work() if self.rank == 0 else None)
        return self.raise_together(lambda: work() if self.rank else first)  # type: ignore[return-value]

    def broadcast(self, value: T | None) -> T:
        """Rank 0's value on every rank."""
        if self.size == 1:
            return value  # type: ignore[return-value]
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]

    def same_buffers(self, module: torch.nn.Module) -> None:
        """Give every rank rank 0's buffers, such as running statistics of an unsynchronised batch norm."""
        if self.size > 1:
            import torch.distributed as dist

            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def same_tensors(self, module: torch.nn.Module) -> None:
        """Give every rank rank 0's parameters and buffers."""
        if self.size > 1:
            import torch
            import torch.distributed as dist

            with torch.no_grad():
                for tensor in module.state_dict().values():
                    dist.broadcast(tensor, src=0)

    def all_gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()


def world_size() -> int:
    """Processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_world(device: torch.device) -> tuple[World, torch.device]:
    """Join the processes that torchrun started (gloo on CPU, nccl on CUDA); (world, this rank's device)."""
    size = world_size()
    if size == 1:
        return World(), device
    import torch
    import torch.distributed as dist

    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise BenchError(
                f"{local + 1} processes on this machine for {torch.cuda.device_count()} CUDA devices",
                "lower --nproc_per_node",
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(rank=rank, size=size, device=device), device


def leave_world() -> None:
    """End the process group, where there is one."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
