"""Twenty seeds of every reader of the fuzz scripts: each damaged file is accepted, or refused in words, within limits."""

import sys

import preloaded
import pytest
from preloaded import REPOSITORY

FUZZ = REPOSITORY / "experiments" / "robustness" / "fuzz.py"
SCRIPTS = sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.parent.glob("fuzz_*.py"))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
@pytest.mark.parametrize("script", SCRIPTS)
def test_twenty_seeds_of_each_reader_end_in_order(script):
    done = preloaded.run([FUZZ, script, "--mutations", 20, "--first", 10_000, "--batch", 20, "--jobs", 1])
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(f"{script} ")]
    assert rows
    assert {row[2] for row in rows} == {"20"}
