"""Reports at once into one folder, over the same records or over halves of them, and while runs store theirs.

  python experiments/robustness/reports_at_once.py [--records 300] [--reports 16] [--rounds 20] [--writers 8]
In each round all reports start at once, half of them over half of the records, all with the same --out; the
other records are stored meanwhile. Expected: every report exits 0, page and scripts are those of one
report, every script holds the record of its run, and no temporary file is left.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from make_records import make_record

import fgmae_bench.report.__main__ as report
from fgmae_bench.errors import run_entry
from fgmae_bench.records import Record, store

EXPERIMENT = Path(__file__).resolve().parents[1] / "eurosat_linear_fast.toml"


def child(work: list[str], log: Path) -> int:
    """Process id of a forked report: the interpreter and its modules are there already."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        with open(log, "wb") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        sys.argv = ["fgmae_bench.report", *work]
        run_entry(report.main)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def writer(records: list[Record], folders: list[Path]) -> int:
    """Process id of a forked process that stores records one by one."""
    process = os.fork()
    if process:
        return process
    for record in records:
        for folder in folders:
            store(record, folder)
    os._exit(0)


def faults(out: Path) -> list[str]:
    """What is wrong with a page and the scripts of its runs."""
    text = (out / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'"runs":\["([^"]+)"', text)) | set(re.findall(r'^"([^"]+)":\{"seed"', text, re.MULTILINE))
    found = [
        f"the page names {name}, which has no script" for name in named if not (out / "runs" / f"{name}.js").exists()
    ]
    for path in (out / "runs").iterdir():
        if path.suffix != ".js":
            found.append(f"{path.name} was left")
            continue
        head, record = path.read_text(encoding="utf-8").removeprefix("fgmaeBenchRun(").split(",\n", 1)
        if json.loads(head) != path.stem or json.loads(record.removesuffix(");\n"))["run_id"] not in path.stem:
            found.append(f"{path.name} holds another run")
        if path.stem not in text:
            found.append(f"{path.name} is of no run on the page")
    return found + [f"{path} was left" for path in out.rglob("*.partial*")]


def one_round(place: Path, records: list[Record], reports: int, writers: int) -> list[str]:
    """Start all reports at once while the last tenth of the records is stored; what was wrong."""
    half, late = len(records) // 2, records[len(records) * 9 // 10 :]
    early = records[: len(records) - len(late)]
    folders = [place / "all", place / "half"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda record: store(record, folders[0]), early))
        list(pool.map(lambda record: store(record, folders[1]), early[:half]))
    shutil.copyfile(EXPERIMENT, place / "a.toml")
    common = ["--experiments", str(place), "--out", str(place / "out"), "--formats", "md"]
    children = [child(["--results_dir", str(folders[i % 2]), *common], place / f"{i}.log") for i in range(reports)] + [
        writer(late[i::writers], folders) for i in range(writers)
    ]
    found = []
    for number, process in enumerate(children):
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code:
            log = place / f"{number}.log"
            found.append(f"exit code {code}: {log.read_text()[-1500:] if log.exists() else 'a writer'}")
    return found + faults(place / "out")


def main() -> None:
    """All rounds; exit code 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("records", 300), ("reports", 16), ("rounds", 20), ("writers", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    records = [make_record(seed=seed) for seed in range(given.records)]
    wrong = 0
    for number in range(given.rounds):
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="reports_") as place:
            found = one_round(Path(place), records, given.reports, given.writers)
        wrong += bool(found)
        print(
            f"round {number + 1}: {len(found)} faults, {time.monotonic() - start:.1f} s",
            *found[:5],
            sep="\n  ",
            flush=True,
        )
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
