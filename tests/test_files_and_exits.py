"""Files are whole or absent, and every entry ends with one line and the exit code of the interface."""

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest
from commands import listing

from fgmae_bench.errors import BenchError, RunFailed, closest, os_error, run_entry
from fgmae_bench.system.files import (
    lock_and_clean_up,
    replacing,
    require_writable,
    wait_for_lock,
    write_json,
    write_text,
)

# --- files that are whole or absent


def test_a_file_appears_by_rename_with_the_users_mode(tmp_path):
    path = tmp_path / "new" / "folder" / "f.txt"
    before = os.umask(0o027)
    try:
        with replacing(path) as temporary:
            temporary.write_text("whole")
            assert temporary.parent == path.parent
            assert not path.exists()
    finally:
        os.umask(before)
    assert path.read_text() == "whole"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["f.txt"]


def half_written(path, failure):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise failure


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), ValueError("of ours"), KeyboardInterrupt()]
)
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, failure):
    (tmp_path / "mine").mkdir()
    write_text(tmp_path / "f.txt", "before")
    before = listing(tmp_path)
    for path in (tmp_path / "f.txt", tmp_path / "mine" / "a" / "b" / "f.txt"):
        with pytest.raises(BenchError if isinstance(failure, OSError) else type(failure)):
            half_written(path, failure)
    assert listing(tmp_path) == before


def test_json_that_no_reader_could_read_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "f.json", {"loss": float("nan")})
    assert listing(tmp_path) == {}


def test_asking_whether_a_folder_can_be_written_leaves_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    require_writable(tmp_path / "mine")
    require_writable(tmp_path / "mine" / "new" / "folder")
    assert listing(tmp_path) == {"mine": None}
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        with pytest.raises(BenchError, match=f"{place}.*; choose another folder"):
            require_writable(tmp_path / place)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(BenchError, match="nowhere"):
        require_writable(tmp_path / "nowhere" / "below")


def test_asking_makes_no_folder_that_another_process_could_lose(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: pytest.fail("a folder was made"))
    require_writable(tmp_path / "new" / "folder")


def test_a_folder_that_is_taken_away_while_a_file_is_made_in_it_is_made_again(tmp_path, monkeypatch):
    """Another process that fails removes the empty folder it had made."""
    genuine, left = tempfile.mkstemp, [3]

    def mkstemp(**places):
        if left[0]:
            left[0] -= 1
            places["dir"].rmdir()
        return genuine(**places)

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    write_text(tmp_path / "new" / "f.txt", "whole")
    assert (tmp_path / "new" / "f.txt").read_text() == "whole"
    mkdir, failures = Path.mkdir, [2]

    def there_and_gone(path, **how):
        """As where the folder is taken away between the attempt to make it and the look at what is in the way."""
        if failures[0]:
            failures[0] -= 1
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        mkdir(path, **how)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", there_and_gone)
        write_text(tmp_path / "third" / "f.txt", "whole")
    assert (tmp_path / "third" / "f.txt").read_text() == "whole"
    left[0] = 1_000
    with pytest.raises(BenchError, match=r"other.*cannot be made"):
        write_text(tmp_path / "other" / "f.txt", "never")


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.ENOSPC, "no space left while writing place; free space there"),
        (errno.EDQUOT, "no space left while writing place; free space there"),
        (errno.EACCES, "place cannot be written (Permission denied); choose a folder you may write to"),
        (errno.EROFS, "place cannot be written (Read-only file system); choose"),
        (errno.ENOTDIR, "place: a file is where a folder is needed (Not a directory); choose another folder"),
        (errno.EIO, "place: Input/output error; check the path and the disk"),
    ],
)
def test_errors_of_the_operating_system_are_told_with_what_to_do(number, line):
    assert str(os_error(OSError(number, os.strerror(number)), "place")).startswith(line)


# --- how an entry ends


def interrupted():
    raise KeyboardInterrupt


def refused():
    raise BenchError("a is\n  wrong", "mend a")


def failed():
    raise RunFailed("the loss became non-finite")


@pytest.mark.parametrize(
    ("main", "code", "err"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (refused, 2, "error: a is wrong; mend a\n"),
        (failed, 1, "error: the loss became non-finite\n"),
        (interrupted, 130, "interrupted\n"),
    ],
)
def test_exit_codes_of_the_interface(capsys, main, code, err):
    with pytest.raises(SystemExit) as end:
        run_entry(main)
    assert end.value.code == code
    assert capsys.readouterr().err == err


def test_only_rank_0_says_the_line(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as end:
        run_entry(refused)
    assert end.value.code == 2
    assert capsys.readouterr().err == ""


def test_closest_match_ignores_case_and_stays_silent_where_nothing_is_near():
    assert closest("EUROSAT", ["dfc2020", "eurosat"]) == "did you mean 'eurosat'? choose from dfc2020, eurosat"
    assert closest("xyz", ["dfc2020", "eurosat"]) == "choose from dfc2020, eurosat"


@pytest.mark.parametrize("lock", [lock_and_clean_up, wait_for_lock])
def test_a_lock_that_cannot_be_made_is_told_in_one_line(tmp_path, lock):
    (tmp_path / "file").write_text("")
    for folder in ("x" * 300, "file"):
        with (
            pytest.raises(BenchError, match=r"; choose another folder|; check the path"),
            lock(tmp_path / folder / "name"),
        ):
            pass
    assert set(listing(tmp_path)) == {"file"}
