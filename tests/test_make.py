"""`make env` says what it does: a line a step, and pip's progress where somebody watches."""

import contextlib
import os
import pty
import shutil
import subprocess

import pytest
from commands import REPOSITORY

# Stands in for Python: makes a .venv of itself, notes what pip is called with.
STUB = """#!/bin/sh
case "$*" in
    "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
    "-m pip "*) echo "$*" >> pip.txt; if test -t 1; then echo "progress bar"; fi;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "python").write_text(STUB)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def make(checkout, stdout):
    # `make test` runs this test too: an inner make must not take itself for its child.
    outer = ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    environment["FGMAE_BENCH_PYTHON"] = str(checkout / "python")
    return subprocess.run(
        ["make", "env"], cwd=checkout, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True
    )


def steps(out):
    return [line[:3] for line in out.splitlines() if line[1:3] == "/3"]


def test_without_a_terminal_a_line_a_step_and_no_progress_bar(checkout):
    done = make(checkout, subprocess.PIPE)
    assert (done.returncode, done.stderr, steps(done.stdout)) == (0, "", ["1/3", "2/3", "3/3"])
    assert "--quiet" in (checkout / "pip.txt").read_text()
    assert "progress bar" not in done.stdout
    assert make(checkout, subprocess.PIPE).stdout == "make: Nothing to be done for 'env'.\n"


def everything(terminal):
    """All that was written to a terminal whose other end is closed: one read need not give it."""
    out = b""
    with contextlib.suppress(OSError):  # what Linux says at the end
        while part := os.read(terminal, 1 << 16):
            out += part
    os.close(terminal)
    return out.decode()


def test_on_a_terminal_pip_shows_its_progress(checkout):
    ours, theirs = pty.openpty()
    assert make(checkout, theirs).returncode == 0
    os.close(theirs)
    out = everything(ours)
    assert steps(out) == ["1/3", "2/3", "3/3"]
    assert "progress bar" in out
    assert "--quiet" not in (checkout / "pip.txt").read_text()
