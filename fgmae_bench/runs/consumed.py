"""What the machine's counters say of the energy of a run, as its record holds it."""

from __future__ import annotations

from typing import Any

from fgmae_bench.errors import note
from fgmae_bench.system.distributed import World
from fgmae_bench.system.environment import MemoryPeak


def with_energy(cost: dict[str, Any] | None, memory: MemoryPeak, world: World) -> dict[str, Any] | None:
    """The record's `cost` with the joules of the run, where the machine counted them and one process did it all."""
    joules = _joules(memory, world)
    if joules is None:
        return cost
    return {**(cost or {"params": None, "gflops": None}), "energy_joules": joules}


def energy_notes(memory: MemoryPeak, world: World) -> list[dict[str, str]]:
    """What a recorded energy is of."""
    if _joules(memory, world) is None:
        return []
    text = f"energy is of the {memory.energy.what}, with everything else that ran there"
    return [note("energy", text)]


def _joules(memory: MemoryPeak, world: World) -> float | None:
    """None of several processes too: they share packages, and each sees its own GPU alone."""
    return memory.energy.joules if world.size == 1 else None
