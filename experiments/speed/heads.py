"""An epoch of each frozen head from the bank against the head alone on tensors in memory, by `segment_bank.py`.

  python experiments/speed/heads.py [--heads linear fcn segformer] [--tiles 24] [--batch 8] [--fpn_dim 64] [--rounds 3]
One bank serves all heads. On a machine that others use, the CPU seconds say more than the wall's.
Expected: at most 1.1x of each head.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from segment_bank import alone, from_bank, prepared_run

from fgmae_bench.config.names import HEADS
from fgmae_bench.worlds.dfc import write_dfc


def main() -> None:
    """Run both of every head in turns; print CPU and wall ratios, and the load of the machine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--heads", nargs="+", default=list(HEADS))
    parser.add_argument("--tiles", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--fpn_dim", type=int, default=64)
    parser.add_argument("--model", default="vit_small_patch16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        world = Path(scratch) / "dfc2020"
        write_dfc(world, tiles=given.tiles)
        for head in given.heads:
            given.head = head
            prepared = prepared_run(world, Path(scratch), given)
            alone(prepared)  # warm
            pairs = [(from_bank(prepared), alone(prepared)) for _ in range(given.rounds)]
            wall, cpu = (statistics.median(bank[i] / bare[i] for bank, bare in pairs) for i in (0, 1))
            seconds = statistics.median(bare[1] for _, bare in pairs)
            print(
                f"{head:<18} wall {wall:.3f}, CPU {cpu:.3f} (wanted at most 1.1), alone {seconds:.2f} CPU s, "
                f"load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
