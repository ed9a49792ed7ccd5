"""A report enters few rooms of the package, so that a reader can follow it."""

import os
import sys
import threading
from pathlib import Path

from make_records import make_record, store_all

from fgmae_bench.report import __main__ as report

PACKAGE = Path(report.__file__).parents[1]


def test_a_report_enters_at_most_seven_places(tmp_path, monkeypatch):
    """Counted by the calls of all threads."""
    store_all([make_record(seed=seed) for seed in (1, 2)], tmp_path)
    experiments = PACKAGE.parent / "experiments"
    flags = ["--results_dir", tmp_path, "--experiments", experiments, "--formats", "md", "csv"]
    monkeypatch.setattr(sys, "argv", ["report", *map(str, flags)])
    entered = set()

    def look(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_name != "<module>" and code.co_filename.startswith(f"{PACKAGE}{os.sep}"):
            entered.add(Path(code.co_filename).relative_to(PACKAGE).parts[0])

    before = sys.getprofile(), threading.getprofile()
    threading.setprofile(look)
    sys.setprofile(look)
    try:
        assert report.main() == 0
    finally:
        sys.setprofile(before[0])
        threading.setprofile(before[1])
    assert {"report", "records.py"} <= entered
    assert len(entered) <= 7, sorted(entered)
