"""An epoch of each frozen head from the bank against the head alone on tensors in memory, by `segment_bank.py`.

  python experiments/speed/heads.py [--heads linear fcn segformer] [--tiles 12] [--batch 4] [--fpn_dim 32] [--rounds 5]
One bank serves all heads. Kept are medians of CPU seconds: on a machine that others use, they say more than the wall's.
Beside them, the least of each side, which others disturb the least. 12 tiles are an epoch of two steps, much shorter
than any in use: what an epoch costs once shows the most. `--tiles 96 --batch 8 --fpn_dim 256` is closer to real ones.
Expected: at most 1.1x of each head; all 41 in about four minutes of one core.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from measured import keep
from segment_bank import alone, from_bank, prepared_run

from fgmae_bench.config.names import SHIPPED_HEADS
from fgmae_bench.worlds.dfc import write_dfc


def main() -> None:
    """Run both of every head in turns; print CPU and wall ratios, and the load of the machine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--heads", nargs="+", default=list(SHIPPED_HEADS))
    parser.add_argument("--tiles", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--fpn_dim", type=int, default=32)
    parser.add_argument("--model", default="vit_small_patch16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        world = Path(scratch) / "dfc2020"
        write_dfc(world, tiles=given.tiles)
        for head in given.heads:
            given.head = head
            prepared = prepared_run(world, Path(scratch), given)
            alone(prepared)  # warm
            pairs = [(from_bank(prepared), alone(prepared)) for _ in range(given.rounds)]
            wall, found[head] = (statistics.median(bank[i] / bare[i] for bank, bare in pairs) for i in (0, 1))
            seconds = statistics.median(bare[1] for _, bare in pairs)
            least = min(bank[1] for bank, _ in pairs) / min(bare[1] for _, bare in pairs)
            print(
                f"{head:<18} wall {wall:.3f}, CPU {found[head]:.3f} (wanted at most 1.1; of the least {least:.3f}), "
                f"{prepared.plan.total} steps, alone {seconds:.2f} CPU s, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    worst = max(found, key=lambda head: found[head])
    median = statistics.median(found.values())
    print(f"{len(found)} heads: median {median:.3f}, largest {found[worst]:.3f} ({worst})")
    keep(heads_largest=found[worst], heads_median=median, **{f"head_{head}": ratio for head, ratio in found.items()})


if __name__ == "__main__":
    main()
