"""Peak anonymous memory of `weights convert` on a synthesised ViT-H file, in a process of its own, against the
encoder's size.

  python experiments/robustness/convert_memory.py [vit_huge_patch14]
Expected: under 1.5 times the encoder's bytes for each output; needs 8 GB of disk for ViT-H. The file is random and says
    so.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from pathlib import Path

from fgmae_bench.checkpoints.shapes import ARCHITECTURES, encoder_shapes

LIMIT = 1.5
SYNTH = "from fgmae_bench.errors import run_entry; from fgmae_bench.weights.__main__ import main; run_entry(main)"
# Reads RssAnon every millisecond from a thread while the command runs; prints the peak after what it says.
MEASURED = """
import sys, threading, time
peak, done = 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.001):
        with open("/proc/self/status") as status:
            peak = max(peak, next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon")))
threading.Thread(target=watch, daemon=True).start()
from fgmae_bench.weights.__main__ import main
main()
done.set()
print("peak", peak)
"""


def run(code: str, *arguments: object) -> str:
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True, text=True
    )
    return done.stdout


def main() -> None:
    """Synthesise, convert, print; exit code 1 where a peak is above the limit."""
    name = sys.argv[1] if len(sys.argv) > 1 else "vit_huge_patch14"
    encoder = 4 * sum(math.prod(shape) for shape in encoder_shapes(ARCHITECTURES[name]).values())
    above = False
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.pth"
        for half in ((), ("--half",)):
            source.unlink(missing_ok=True)
            run(SYNTH, "synth", "--model", name, "--out", source, *half)
            for ending, more in (
                (".safetensors", ("--repair",) if half else ()),
                (".pth", ("--repair",) if half else ()),
            ):
                out = Path(folder) / f"out{ending}"
                peak = int(run(MEASURED, "convert", source, out, *more).split()[-1])
                out.unlink()
                above = above or peak > LIMIT * encoder
                print(
                    f"{name} {'float16' if half else 'float32'} to {ending:<12}: peak anonymous memory "
                    f"{peak / 2**20:8.0f} MiB, "
                    f"{peak / encoder:.2f} of the encoder's {encoder / 2**20:.0f} MiB"
                )
    sys.exit(above)


if __name__ == "__main__":
    main()
