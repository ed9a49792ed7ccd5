"""What care for strangers' files costs on whole ones: reading every sample of a pack, `prepare verify` of it, `prepare
pack`, `prepare inspect`, and a report of 1,000 records, side by side with another checkout.

  python experiments/speed/happy.py --against FOLDER [--pairs 5] [--records 1000] [--per_class 200]
FOLDER holds the repository at another commit. The two take turns, each in a process of its own; what counts is the
processor time of the work, without imports and without the first pass, so that other processes weigh less. Expected:
a median ratio of at most 1.05 for each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
RECORDS = """
import json
from pathlib import Path
from make_records import make_record
from fgmae_bench.records import record_path
for seed in range({records}):
    record = make_record(seed=seed)
    path = record_path(Path("results"), record)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
"""
HEAD = """
import contextlib, io, sys, time
def timed(work, passes):
    spent = []
    for _ in range(passes + 1):
        start = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            work()
        spent.append(time.process_time() - start)
    print(min(spent[1:] or spent))
"""
ENTRY = """
import {module}.__main__ as entry
sys.argv = {words}
def work():
    with contextlib.suppress(SystemExit):
        entry.main()
timed(work, {passes})
"""
READ = """
import shutil
from pathlib import Path
try:
    from fgmae_bench.config.cards import load_card
except ImportError:
    from fgmae_bench.cards import load_card  # where older commits keep it
from fgmae_bench.data.packs.read import open_pack
card, copies = load_card("eurosat"), [Path(f"copy{number}.lmdb") for number in range(4)]
for copy in copies:
    shutil.copytree("pack.lmdb", copy)
left = list(copies)
def work():  # a copy each time, so that each pass opens a file for the first time
    index = open_pack(card, left.pop())
    for row in range(len(index.files)):
        index.read(row, card)
timed(work, 3)
for copy in copies:
    shutil.rmtree(copy)
"""
WRITE = """
import shutil
import fgmae_bench.prepare.__main__ as entry
outs = []
def work():
    outs.append("written%d.lmdb" % len(outs))
    sys.argv = ["prepare", "pack", "eurosat", "--data_path", "world", "--out", outs[-1], "--workers", "0"]
    with contextlib.suppress(SystemExit):
        entry.main()
timed(work, 2)
for out in outs:
    shutil.rmtree(out)
"""


def run(code: str, tree: Path, folder: Path) -> str:
    """What a Python process prints that imports from `tree`."""
    places = f"{tree}:{tree / 'tests'}"
    environment = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def entry(name: str, words: list[str], passes: int) -> str:
    """The code of an entry's work."""
    return HEAD + ENTRY.format(module=name, words=words, passes=passes)


PREPARE = "fgmae_bench.prepare"
TABLES = ["report", "--results_dir", "results", "--experiments", "tables", "--out", "out", "--formats", "md"]
WORKS = {
    "read": HEAD + READ,
    "verify": entry(PREPARE, ["prepare", "verify", "pack.lmdb"], 3),
    "write": HEAD + WRITE,
    "inspect": entry(PREPARE, ["prepare", "inspect", "eurosat", "--data_path", "world"], 3),
    "report": entry("fgmae_bench.report", TABLES, 1),
}


def make(tree: Path, folder: Path, per_class: int, records: int) -> None:
    """A synthetic world, a pack of it, records and an experiment, all by the tree that will read them."""
    folder.mkdir()
    for words in (
        ["prepare", "synth", "eurosat", "--out", "world", "--per_class", str(per_class)],
        ["prepare", "pack", "eurosat", "--data_path", "world", "--out", "pack.lmdb"],
    ):
        run(entry(PREPARE, words, 0), tree, folder)
    run(RECORDS.format(records=records), tree, folder)
    (folder / "tables").mkdir()
    (folder / "tables" / "a.toml").write_text((tree / "experiments" / "eurosat_linear_fast.toml").read_text())


def main() -> None:
    """Print seconds and ratios; exit code 1 where a median ratio is above 1.05."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="the repository at another commit")
    for name, default in (("pairs", 5), ("records", 1000), ("per_class", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    trees, slow = {"before": given.against.resolve(), "now": HERE}, False
    with tempfile.TemporaryDirectory(prefix="happy_") as place:
        folders = {name: Path(place) / name for name in trees}
        for name, tree in trees.items():
            make(tree, folders[name], given.per_class, given.records)
        for work, code in WORKS.items():
            pairs = []
            for number in range(given.pairs):
                order = list(trees.items())[:: -1 if number % 2 else 1]
                pairs.append({name: float(run(code, tree, folders[name])) for name, tree in order})
            ratio = statistics.median(pair["now"] / pair["before"] for pair in pairs)
            slow |= ratio > 1.05
            shown = "  ".join(f"{pair['now']:.2f}/{pair['before']:.2f}" for pair in pairs)
            print(f"{work:<8} median {ratio:.3f}  (now/before, CPU s: {shown})", flush=True)
    sys.exit(slow)


if __name__ == "__main__":
    main()
