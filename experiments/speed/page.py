"""The page over 1,000 made-up records with its board: how large its file is, and how soon Chromium shows it.

  python experiments/speed/page.py [--records 1000] [--times 5]
Expected: at most 5 MB, and at most 1 s from the start of loading to the end of the page's own start code. The browser
needs no network; each opening is of the same file in a new tab of a browser that runs already.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from report import write_experiments, write_records
from test_page_browser import Browser, chromium

SHOWN = "document.querySelectorAll('main > section').length"
BOARD = "!!document.querySelector('[id^=board-pivot]')"


def main() -> None:
    """Make the page and open it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1000, help="number of records (default: 1000)")
    parser.add_argument("--times", type=int, default=5, help="how often it is opened (default: 5)")
    options = parser.parse_args()
    program = chromium()
    if program is None:
        raise SystemExit("error: no Chromium; install one, or name it in FGMAE_BENCH_CHROMIUM")
    with tempfile.TemporaryDirectory() as folder:
        results, experiments = Path(folder) / "results", Path(folder) / "experiments"
        write_records(options.records, results)
        write_experiments(options.records, experiments)
        flags = ["--results_dir", str(results), "--experiments", str(experiments)]
        subprocess.run([sys.executable, "-m", "fgmae_bench.report", *flags], check=True, capture_output=True)
        path = results / "index.html"
        browser = Browser(program, Path(folder) / "profile")
        try:
            seconds = sorted(browser.open(path) / 1000 for _ in range(options.times))
            sections, board, errors = browser.run(SHOWN), browser.run(BOARD), browser.errors
        finally:
            browser.close()
        print(
            f"{options.records:,} records: {path.stat().st_size / 1e6:.2f} MB, shown after {seconds[0]:.2f} to "
            f"{seconds[-1]:.2f} s (middle {seconds[len(seconds) // 2]:.2f}), {sections} sections, "
            f"{'with' if board else 'without'} a board, {len(errors)} errors"
        )


if __name__ == "__main__":
    main()
