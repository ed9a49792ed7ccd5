"""Twenty seeds of the fuzz scripts for LMDB, TIFF and Parquet: every damaged file is read or refused in words."""

import subprocess
import sys

import pytest
from commands import REPOSITORY
from preloaded import HANG


@pytest.mark.slow
@pytest.mark.parametrize("script", ["fuzz_tiff.py", "fuzz_lmdb.py", "fuzz_parquet.py"])
def test_twenty_seeds_of_each_reader_end_in_words(script):
    done = subprocess.run(
        [sys.executable, REPOSITORY / "experiments" / "robustness" / script, "--count", "20"],
        capture_output=True,
        text=True,
        timeout=HANG,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" 0 faults") >= 3
