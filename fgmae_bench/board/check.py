"""The CI of a store: schema, hashes, run ids, card facts, explanations, and scores computed again from predictions.

python -m fgmae_bench.board check CLONE
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fgmae_bench.board.files import Folder, require_store
from fgmae_bench.board.judge import judged
from fgmae_bench.errors import EXIT_FAILED, one_line


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `board check`."""
    parser.add_argument("store", type=Path, metavar="CLONE", help="folder of the store")


def main(given: dict[str, Any]) -> None:
    """Name every fault and remark; ends the process with exit code 1 where there is one."""
    folder = Folder(require_store(given["store"]))
    verdict = judged(folder.entries(), folder)
    for line in verdict.left_out:
        print(one_line(f"left out: {line}"), file=sys.stderr)
    for line in verdict.remarks:
        print(one_line(f"remark: {line}"), file=sys.stderr)
    print(
        f"{len(verdict.served)} records are good, the scores of {verdict.rescored} computed again from predictions; "
        f"{len(verdict.left_out)} left out, {len(verdict.remarks)} remarks"
    )
    if verdict.left_out or verdict.remarks:
        sys.exit(EXIT_FAILED)
