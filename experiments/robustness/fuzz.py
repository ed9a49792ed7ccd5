"""The fuzz scripts of this folder as one table: damaged files of every kind against the readers of this project.

  python experiments/robustness/fuzz.py [tiff lmdb …] [--readers chip …] [--mutations 500] [--jobs 2] [--keep DIR]
Without names all of them. A script is a file `fuzz_NAME.py` beside this one with

  READERS   name -> reader, a function (generator, empty folder) that writes a damaged file and returns the work which
            reads it (see `fuzzing`); its docstring says what is damaged and who reads it
  prepare() imports what the readers import and makes the seed files, once, before anything is forked

and nothing else names it: a new reader is one function and its line in READERS, a new kind of file one new script. The
tests take 20 seeds of each from here as well. Expected: 0 faults: every child ends by itself within 30 CPU-s and 1 GiB
above what its parent has, with exit code 0 (accepted) or 2 (refused in one line), no traceback, no payload; else exit
code 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from fuzzing import Count, _cpu, fuzz_all

HERE = Path(__file__).resolve().parent
SCRIPTS = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py"))
ROW = "{:<12} {:<14} {:>9} {:>8} {:>8} {:>6} {:>8} {:>8} {:>8}"


def main() -> None:
    """The command line: exit code 1 on any fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"of {', '.join(SCRIPTS)} (default: all)")
    parser.add_argument("--readers", nargs="+", metavar="NAME", help="of the scripts (default: all)")
    parser.add_argument("--mutations", type=int, default=500, help="seeds a reader (default: 500)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default: 2)")
    parser.add_argument("--batch", type=int, default=1, help="mutations that share a child (default: 1)")
    parser.add_argument("--keep", type=Path, help="folder for the files of each fault")
    given = parser.parse_args()
    given.keep = given.keep and given.keep.resolve()
    if unknown := set(given.scripts) - set(SCRIPTS):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(SCRIPTS)}")
    start, total, rows = time.monotonic(), Count(), 0
    print(ROW.format("script", "reader", "mutations", "accepted", "refused", "faults", "CPU s", "worst s", "MiB more"))
    for script in given.scripts or SCRIPTS:
        counts = _run(script, given)
        rows += len(counts)
        for name, count in counts.items():
            print(_row(script, name, count), flush=True)
            total.add(count)
    print(_row("all", f"{rows} readers", total))
    print(f"CPU in all, imports and seed files included: {_cpu():.0f} s; wall clock {time.monotonic() - start:.0f} s")
    sys.exit(total.faults > 0 or not rows)


def _row(script: str, reader: str, count: Count) -> str:
    mutations = count.accepted + count.refused + count.faults
    cells = (mutations, count.accepted, count.refused, count.faults, f"{count.cpu:.1f}", f"{count.slowest:.1f}")
    return ROW.format(script, reader, *cells, count.grown >> 20)


def _run(script: str, given: argparse.Namespace) -> dict[str, Count]:
    """Counts of a script's readers, from a fork of this process: what it imports weighs on no other script."""
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="fuzz_script_") as place:
        pid = os.fork()
        if pid == 0:
            os.environ["TMPDIR"], tempfile.tempdir = place, None  # seed files go with the folder
            os.chdir(place)
            _in_fork(script, given, Path(place) / "counts.json")
        if os.waitpid(pid, 0)[1] != 0:
            return {"(all)": Count(faults=1)}
        return {name: Count(**count) for name, count in json.loads((Path(place) / "counts.json").read_text()).items()}


def _in_fork(script: str, given: argparse.Namespace, counts: Path) -> None:
    """Never returns."""
    try:
        module = importlib.import_module(f"fuzz_{script}")
        module.prepare()
        readers = {name: read for name, read in module.READERS.items() if name in (given.readers or module.READERS)}
        seeds = list(range(given.first, given.first + given.mutations))
        found = fuzz_all(readers, seeds, jobs=given.jobs, batch=given.batch, keep=given.keep)
        counts.write_text(json.dumps({name: vars(count) for name, count in found.items()}))
    except BaseException:  # noqa: BLE001 (printed; nothing of the parent may run on in a fork)
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
