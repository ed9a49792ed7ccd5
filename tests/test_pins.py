"""Pins of first use: each costs its own line, none is lost to a kill or another writer, and messages name the command
that replaces one.
"""

import os
import signal
import tomllib

import preloaded
import pytest
from hub_server import REPOSITORY, error_of

from fgmae_bench.hub import checksums
from fgmae_bench.hub.checksums import PINS_HEAD, read_pins, write_pin


def sum_of(i):
    return f"{i:064x}"


def address(i):
    return f"https://example.org/v1.1/data/S1Hand/Event_{i:06d}_S1Hand.tif"


@pytest.fixture
def pins(tmp_path):
    return tmp_path / "sha256.lock.toml"


def test_a_pin_more_is_a_line_more_on_the_disk_and_a_line_more_that_is_parsed(pins, monkeypatch):
    """Written anew for each file, 300 pins were 6 MB to write and twice as much to parse."""
    parsed, written = [], []
    parse, write = checksums.parse_toml, checksums.write_text
    monkeypatch.setattr(checksums, "parse_toml", lambda text, path: parsed.append(len(text)) or parse(text, path))
    monkeypatch.setattr(checksums, "write_text", lambda path, text: written.append(len(text)) or write(path, text))
    for i in range(300):
        assert address(i) not in read_pins(pins)
        write_pin(pins, address(i), sum_of(i))
    assert len(written) == 1
    assert sum(parsed) < 2 * pins.stat().st_size
    held = tomllib.loads(pins.read_text())
    assert held == {"sha256": {address(i): sum_of(i) for i in range(300)}}
    assert read_pins(pins) == held["sha256"]
    assert pins.read_text().startswith(PINS_HEAD)
    assert os.listdir(pins.parent) == [pins.name]


def test_the_same_pin_again_writes_nothing_and_another_replaces_it(pins):
    write_pin(pins, "a", sum_of(1))
    write_pin(pins, "b", sum_of(2))
    before = pins.stat()
    write_pin(pins, "b", sum_of(2))
    assert pins.stat() == before
    write_pin(pins, "b", sum_of(3))
    assert read_pins(pins) == {"a": sum_of(1), "b": sum_of(3)}
    assert tomllib.loads(pins.read_text())["sha256"] == read_pins(pins)


@pytest.mark.parametrize("kept", [1, 20, -66, -2, -1])
def test_a_line_that_was_cut_off_is_left_out_and_pinned_again(pins, kept):
    """As after a kill, or a machine that stopped: the others are kept, by whichever process reads them."""
    write_pin(pins, "https://a", sum_of(1))
    whole = pins.read_bytes()
    write_pin(pins, "https://b", sum_of(2))
    line = pins.read_bytes()[len(whole) :]
    pins.write_bytes(whole + line[:kept])
    complete = {"https://b": sum_of(2)} if kept == -1 else {}  # the end of the line alone is missing
    for forget in (False, True):
        if forget:
            checksums._seen.clear()
        assert read_pins(pins) == {"https://a": sum_of(1), **complete}
    write_pin(pins, "https://b", sum_of(2))
    write_pin(pins, "https://c", sum_of(3))
    wanted = {"https://a": sum_of(1), "https://b": sum_of(2), "https://c": sum_of(3)}
    assert tomllib.loads(pins.read_text())["sha256"] == read_pins(pins) == wanted


@pytest.mark.parametrize(
    "text",
    [
        f'[sha256]\n"a" = "{sum_of(1)}"\n"a" = "{sum_of(2)}"\n',
        f'[sha256]\n"a" = "{sum_of(1)}"\n"b" = "x"\n',
        f'[sha256]\n"a" = "{sum_of(1)}"\n"b" =\n"c" = "{sum_of(2)}"\n',
        f'[sha256]\n"a" = "{sum_of(1)}"\n"b" = 3',
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_damage_is_refused_whether_or_not_the_lines_before_it_are_known(pins, text, known):
    if known:
        pins.write_text(text[: text.index("\n", 12) + 1])
        assert read_pins(pins) == {"a": sum_of(1)}
    pins.write_text(text)
    assert str(pins) in error_of(lambda: read_pins(pins))


def test_a_file_that_was_edited_is_read_anew_and_kept_as_it_is_meant(pins):
    """Another table behind the pins, a line without an end, a comment: the next pin is not put into the wrong place."""
    for text in (
        f'[sha256]\n"a" = "{sum_of(1)}"\n[mine]\nx = 3\n',
        f'[sha256]\n"a" = "{sum_of(1)}"',
        f'# mine\n[sha256]\n"a" = "{sum_of(1)}"  # of the first\n\n',
        f'sha256 = {{ "a" = "{sum_of(1)}" }}\n',
        f'\ufeff[sha256]\r\n"a" = "{sum_of(1)}"\r\n',
    ):
        pins.write_text(text)
        for name in ("b", "c"):
            write_pin(pins, name, sum_of(2))
        assert read_pins(pins) == {"a": sum_of(1), "b": sum_of(2), "c": sum_of(2)}
        assert tomllib.loads(pins.read_text("utf-8-sig"))["sha256"] == read_pins(pins)


@pytest.mark.parametrize("how", ["link", "second name", "read only"])
def test_another_file_is_never_continued(pins, how):
    write_pin(pins, "a", sum_of(1))
    other = pins.with_name("other")
    if how == "link":
        pins.rename(other)
        pins.symlink_to(other)
    elif how == "second name":
        other.hardlink_to(pins)
    else:
        other.write_bytes(pins.read_bytes())
        pins.chmod(0o444)
    before = other.read_bytes()
    assert read_pins(pins) == {"a": sum_of(1)}
    write_pin(pins, "b", sum_of(2))
    assert read_pins(pins) == {"a": sum_of(1), "b": sum_of(2)}
    assert other.read_bytes() == before


def test_a_full_disk_leaves_the_pins_as_they_were(pins, monkeypatch):
    write_pin(pins, "a", sum_of(1))
    before = pins.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checksums.os, "fsync", full)
    read_pins(pins)
    assert "no space left" in error_of(lambda: write_pin(pins, "b", sum_of(2)))
    assert pins.read_bytes() == before


WRITER = (
    "import sys\nfrom pathlib import Path\nfrom fgmae_bench.hub.checksums import read_pins, write_pin\n"
    "pins, name = Path(sys.argv[1]), sys.argv[2]\n"
    "for i in range(int(sys.argv[3])):\n"
    "    write_pin(pins, f'https://{name}/{i}', f'{i:064x}')\n"
    "    assert f'https://{name}/{i}' in read_pins(pins)\n"
)


def writer(pins, name, count):
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return preloaded.Process(["-c", WRITER, str(pins), name, str(count)], env=env)


def test_two_writers_lose_none_of_each_others_pins(pins):
    both = [writer(pins, name, 15) for name in "ab"]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    wanted = {f"https://{name}/{i}": sum_of(i) for name in "ab" for i in range(15)}
    assert tomllib.loads(pins.read_text())["sha256"] == wanted


def test_a_killed_writer_leaves_pins_that_can_be_read_and_continued(pins):
    process = writer(pins, "a", 100_000)
    while len(read_pins(pins)) < 10:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    held = read_pins(pins)
    assert held == {f"https://a/{i}": sum_of(i) for i in range(len(held))}
    write_pin(pins, "b", sum_of(1))
    assert read_pins(pins) == {**held, "b": sum_of(1)}
