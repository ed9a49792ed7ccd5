"""What strangers name things reaches the terminal as plain text, a shell as one line, and a spreadsheet as text."""

import logging
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fgmae_bench.errors import _Plain, printable
from fgmae_bench.report.formats.spreadsheet import _plain
from fgmae_bench.system import environment
from fgmae_bench.system.environment import shell_word

REPOSITORY = Path(__file__).resolve().parents[1]
EVIL = "a\x1b[2J\x07\x9b31m\u202eb\u200bc\udcff\r"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – text, é, 日本, 1\u00a0000", "plain – text, é, 日本, 1\u00a0000"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b31m\x00\r\x7f", "\\x9b31m\\x00\\r\\x7f"),
        ("\u202ea\u200b\u2028", "\\u202ea\\u200b\\u2028"),
        ("\udcff", "\\udcff"),
        ("", ""),
    ],
)
def test_what_a_terminal_acts_on_stands_as_an_escape(text, shown):
    assert printable(text) == shown


def entry(code, **more):
    """An entry in a process of its own."""
    whole = f"import logging, sys\nfrom fgmae_bench.errors import *\nEVIL = {EVIL!r}\ndef main():\n    {code}\nrun_entry(main)\n"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen([sys.executable, "-c", whole], env=environment, **more)


@pytest.mark.parametrize(
    "code",
    [
        "raise BenchError(EVIL, 'correct it')",
        "raise RunFailed(EVIL)",
        "logging.getLogger('fgmae_bench').warning('%s', EVIL)",
        "logging.getLogger('other').warning(EVIL)",
    ],
)
def test_errors_and_log_lines_are_plain(code):
    err = entry(code, stderr=subprocess.PIPE).communicate()[1]
    assert b"\\x1b[2J\\x07\\x9b31m\\u202eb\\u200bc\\udcff" in err
    assert not set(err) & {0x1B, 0x07, 0x9B, 0x0D}


def test_a_pipe_gets_names_as_they_are_and_never_a_traceback():
    process = entry("print(EVIL)", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.startswith(b"a\x1b[2J")
    assert b"\\udcff" in out


def test_a_terminal_gets_plain_text():
    mine, theirs = pty.openpty()
    process = entry("print(EVIL); sys.stdout.write('é' + EVIL)", stdout=theirs)
    process.wait()
    os.close(theirs)
    shown = os.read(mine, 10_000)
    os.close(mine)
    assert b"\x1b" not in shown
    assert shown.count(b"\\x1b[2J") == 2
    assert "é".encode() in shown


@pytest.mark.parametrize(
    "word",
    ["plain", "two words", "a\nb", "it's\ta\\n'", "\x1b[2J", "$(x) `y`\n", "", "é\n日本", "\udcff", "-1", "\u202e"],
)
def test_a_word_is_one_line_that_bash_reads_back(word):
    quoted = shell_word(word)
    assert printable(quoted) == quoted
    assert "\n" not in quoted
    done = subprocess.run(["bash", "-c", f"printf %s {quoted}"], capture_output=True)
    assert done.stdout == word.encode(errors="surrogateescape")


def test_words_without_control_characters_are_quoted_as_ever():
    assert [shell_word(word) for word in ("a", "a b", "it's")] == [shlex.quote(word) for word in ("a", "a b", "it's")]


def test_the_command_of_a_record_is_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--label", "a\nb"])
    assert environment.command().endswith("--label $'a\\x0ab'")


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "＝", "＋", "－", "＠", "﹢"])
@pytest.mark.parametrize("before", ["", " ", "\t", "\0", "\u200b", "\ufeff", "\u00a0", "\x1b\r\n"])
def test_what_a_spreadsheet_takes_for_a_formula_is_text(before, sign):
    assert _plain(f"{before}{sign}1") == f"'{before}{sign}1"


@pytest.mark.parametrize("text", ["a=1", "0", "vit-small", "", "\u200b", "é", "1-2"])
def test_other_cells_stay(text):
    assert _plain(text) == text


def test_log_lines_keep_their_ends():
    record = logging.LogRecord("x", logging.INFO, "f", 1, "two\nlines %s", ("\x1b",), None)
    assert _Plain("%(message)s").format(record) == "two\nlines \\x1b"
