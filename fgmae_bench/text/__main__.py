"""Texts of classes as vectors, for zero-shot classification.

python -m fgmae_bench.text classes --dataset eurosat --encoder closp --weights FILE --tokenizer FOLDER
python -m fgmae_bench.text classes --dataset eurosat --encoder open_clip:ViT-B-32
python -m fgmae_bench.linear --dataset eurosat --model closp-vit-s16 --weights FILE --probe zero_shot --class_text OUT
"""

from __future__ import annotations

from fgmae_bench.config.flags import dispatch
from fgmae_bench.errors import run_entry

# Command -> what it does; each is a module of this package with `add_flags(parser)` and `main(given)`.
COMMANDS = {"classes": "embed the classes of a dataset by a text encoder, into a file that says of what it is"}


def main() -> None:
    """Hand the command line to one command."""
    dispatch("fgmae_bench.text", COMMANDS, __doc__ or "", print)


if __name__ == "__main__":
    run_entry(main)
