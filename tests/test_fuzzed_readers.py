"""Seeds of every reader of the fuzz scripts, four quickly and sixteen more: each damaged file is accepted, or refused in
words, within limits.
"""

import sys

import preloaded
import pytest
from preloaded import REPOSITORY

FUZZ = REPOSITORY / "experiments" / "robustness" / "fuzz.py"
SCRIPTS = sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.parent.glob("fuzz_*.py"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
@pytest.mark.parametrize(("first", "count"), [(10_000, 4), pytest.param(10_004, 16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("script", SCRIPTS)
def test_twenty_seeds_of_each_reader_end_in_order(script, first, count):
    done = preloaded.run([FUZZ, script, "--mutations", count, "--first", first, "--batch", 20, "--jobs", 1])
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(f"{script} ")]
    assert rows
    assert {row[2] for row in rows} == {str(count)}
