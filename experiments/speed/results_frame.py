"""`fgmae_bench.results()` over 10,000 made-up records of 50 epochs, beside reading the same JSON files by hand.

  python experiments/speed/results_frame.py [--sizes 1000 10000]
Expected on 2 cores: 10,000 records under 10 s and 1 GB. Each way runs in a process of its own and gives the same
overall accuracies. By hand nothing is checked: neither schema nor hash.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from report import write_records

READ = """
import fgmae_bench
frame = fgmae_bench.results(sys.argv[1])
accuracies = frame["test_oa"].tolist()
"""
BY_HAND = """
import json
import pandas as pd
rows = []
for path in sorted(Path(sys.argv[1], "records").rglob("*.json")):
    record = json.loads(path.read_text())
    rows.append({"run_id": record["run_id"], **record["config"]["recipe"], **record["metrics"]["test"]})
frame = pd.DataFrame(rows)
accuracies = frame["oa"].tolist()
"""
MEASURE = """
import resource, sys, time
from pathlib import Path
start = time.perf_counter()
{body}
seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
print(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, len(frame), len(frame.columns), sum(accuracies))
"""


def measured(body: str, folder: Path) -> list[float]:
    """[seconds, processor seconds, MiB at the peak, rows, columns, sum of accuracies] of one way, imports included."""
    command = [sys.executable, "-c", MEASURE.format(body=body), str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    """Print both ways for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="default: 1000 10000")
    for count in parser.parse_args().sizes:
        with tempfile.TemporaryDirectory() as place:
            write_records(count, Path(place))
            found = {name: measured(body, Path(place)) for name, body in (("results()", READ), ("by hand", BY_HAND))}
        assert found["results()"][5] == found["by hand"][5]
        for name, (seconds, processor, mebibytes, rows, columns, _) in found.items():
            print(
                f"{count:>7,} records, {name:<9}: {seconds:5.1f} s, of them {processor:5.1f} s computed, "
                f"{mebibytes:5.0f} MiB at the peak, {rows:.0f} rows x {columns:.0f} columns",
                flush=True,
            )


if __name__ == "__main__":
    main()
