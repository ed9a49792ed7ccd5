"""Get, verify, look at, convert and make checkpoints.

python -m fgmae_bench.weights list
python -m fgmae_bench.weights encoders
python -m fgmae_bench.weights fetch fgmae --model vit_small_patch16
python -m fgmae_bench.weights verify --required FILE
python -m fgmae_bench.weights convert IN OUT.safetensors
python -m fgmae_bench.weights inspect FILE --model vit_small_patch16
python -m fgmae_bench.weights synth --model vit_small_patch16 --out FILE
"""

from __future__ import annotations

from fgmae_bench.config.flags import dispatch
from fgmae_bench.errors import run_entry

# Command -> what it does; each is a module of this package with `add_flags(parser)` and `main(given)`.
COMMANDS = {
    "list": "published weights that can be fetched, what they were trained on, and which are here",
    "encoders": "encoders that have a name here: what each is fed, how it pools, what it needs",
    "fetch": "get published weights from the hub, a mirror or a folder, and verify them",
    "verify": "whether checkpoints are there, whole, what they seem, fit for their models and trained",
    "convert": "the backbone's tensors alone, repaired and compared, in safetensors or a plain .pth",
    "inspect": "what a checkpoint file holds, and what a model would use of it",
    "synth": "write a random checkpoint with the published keys and shapes",
}


def main() -> None:
    """Hand the command line to one command."""
    dispatch("fgmae_bench.weights", COMMANDS, __doc__ or "", print)


if __name__ == "__main__":
    run_entry(main)
