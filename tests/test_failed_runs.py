"""Runs that cannot write, fill the disk, are interrupted or find a damaged record: one line, and what was there before
stays as it was.
"""

import resource
import subprocess
import sys

import preloaded
import pytest
from commands import (
    FOLDERS,
    STATISTICS,
    TINY_VIT,
    linear,
    listing,
    metrics,
    only_record,
    refused,
    said,
    shared_world,
    small_world,
    truncated,
    unsampled,
)

# --- places that cannot be written


@pytest.mark.parametrize("flag", ["--cache_dir", "--results_dir", "--output_dir", "--log_dir"])
@pytest.mark.parametrize("place", ["a_file", "a_file/below/it", "/proc/nothing/here"])
def test_folder_that_cannot_be_written(tmp_path, flag, place):
    (tmp_path / "a_file").write_text("in the way")
    line = refused(shared_world(5), flag, place, cwd=tmp_path)
    assert place in line


@pytest.mark.parametrize("flag", ["--cache_dir", "--results_dir", "--output_dir", "--log_dir"])
def test_folder_that_may_not_be_written(tmp_path, flag):
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(0o555)
    try:
        (tmp_path / "locked" / "probe").mkdir()
    except PermissionError:
        assert "locked" in refused(shared_world(5), flag, "locked", cwd=tmp_path)
    else:
        pytest.skip("this user may write everywhere")


def test_the_spatial_split_says_when_its_cache_cannot_be_written(tmp_path):
    (tmp_path / "a_file").write_text("in the way")
    assert "a_file" in refused(shared_world(5), "--split", "spatial", "--cache_dir", "a_file", cwd=tmp_path)


def test_folders_that_were_there_before_stay(tmp_path):
    """Taking back what a failed run wrote must not reach what the user had: an empty folder, a file of theirs."""
    (tmp_path / "mine" / "empty").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    path = unsampled(small_world(tmp_path, 12))
    truncated(path)
    refused("world", *TINY_VIT[:4], "--features", "stream", "--log_dir", "mine/empty/log", cwd=tmp_path)


# --- a disk that is full while saving


class Limit:
    """No file may grow beyond `size` bytes: what a full disk does to a writer, for one block of code."""

    def __init__(self, size):
        self.size = size

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def warm(cwd):
    """Fill the cache, so that what follows fails later than the features."""
    done = linear(
        shared_world(5), "--results_dir", "earlier", "--output_dir", "earlier/out", "--log_dir", "earlier/log", cwd=cwd
    )
    assert done.code == 0, done.err
    return only_record(cwd / "earlier")


def full(limit, *flags, cwd):
    with Limit(limit):
        return linear(shared_world(5), *flags, cwd=cwd)


# bytes that still fit, and the file that no longer does, in the order in which a run writes
STAGES = [
    pytest.param(0, "log", id="events_at_once"),
    pytest.param(300, "log", id="events_later"),
    pytest.param(1000, "out/checkpoint-last.pth", id="checkpoint"),
]


@pytest.mark.parametrize(("limit", "place"), STAGES)
def test_full_disk_while_a_run_is_saved(tmp_path, limit, place):
    warm(tmp_path)
    before = listing(tmp_path)
    line = said(full(limit, cwd=tmp_path))
    assert line.startswith("error: no space left while writing ")
    assert place in line
    assert listing(tmp_path) == before


def test_full_disk_leaves_an_earlier_run_in_the_same_folders_as_it_was(tmp_path):
    assert linear(shared_world(5), cwd=tmp_path).code == 0
    before = listing(tmp_path)
    assert "checkpoint-last.pth" in said(full(1000, "--lr", 0.3, cwd=tmp_path))
    assert listing(tmp_path) == before


def test_full_disk_when_the_record_is_stored_costs_no_training(tmp_path):
    """Results get nothing; the finished training stays as a checkpoint, from which the same command goes on to the same
    numbers.
    """
    import torch

    earlier = warm(tmp_path)
    before = listing(tmp_path)
    line = said(full(7000, cwd=tmp_path))
    assert line.startswith("error: no space left while writing results/records/eurosat/linear_probe/")
    left = set(listing(tmp_path)) - set(before)
    assert {path.split("/")[0] for path in left} <= {"out", "log"}
    assert not [path for path in left if path.endswith(".partial")]
    assert torch.load(tmp_path / "out" / "checkpoint-last.pth", weights_only=True)["epochs"] == 2
    assert linear(shared_world(5), cwd=tmp_path).code == 0
    assert metrics(only_record(tmp_path / "results")) == metrics(earlier)


KEPT = ("cache/index", "cache/content", "cache/cards")  # what is known of data that has been read once


def but_which_are_usable(paths):
    """Without what the check of the pixels leaves in the cache folder: whole, and of use to the next run."""
    return [path for path in paths if not (path == "cache" or path.startswith(KEPT))]


def test_full_cache_while_features_are_saved(tmp_path):
    before = listing(tmp_path)
    line = said(full(1000, cwd=tmp_path))
    assert line.startswith("error: no space left while writing cache")
    assert not set(but_which_are_usable(listing(tmp_path))) - set(before)


def test_full_disk_while_the_spatial_split_is_saved(tmp_path):
    before = listing(tmp_path)
    line = said(full(100, "--split", "spatial", cwd=tmp_path))
    assert line.startswith("error: no space left while writing cache")
    assert listing(tmp_path) == before


# A run in a name space of mounts of its own, beside a file system of 16 KiB; then what is left there.
WITHOUT_SPACE = """
import ctypes, os, runpy, subprocess, sys
small, filled, *sys.argv = sys.argv[1:]
assert ctypes.CDLL(None).unshare(0x20000) == 0  # CLONE_NEWNS
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small], check=True)
with open(f"{small}/filler", "wb") as stream:
    stream.write(bytes(int(filled)))
try:
    runpy.run_module("fgmae_bench.linear", run_name="__main__", alter_sys=True)
finally:
    print(*sorted(os.path.join(at, name) for at, folders, files in os.walk(small) for name in folders + files), sep="\\n")
"""


@pytest.mark.parametrize(
    ("flag", "filled"),
    [("--cache_dir", 12288), ("--results_dir", 12288), ("--output_dir", 12288), ("--log_dir", 16384)],
)
def test_file_system_without_space(tmp_path, flag, filled):
    """A real one of 16 KiB, where this user may mount it; one name space a command, so that nothing needs to be
    unmounted.
    """
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=16k tmpfs {small}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    flags = [
        "--dataset",
        "eurosat",
        "--data_path",
        str(shared_world(5)),
        *STATISTICS,
        *FOLDERS,
        flag,
        str(small / "new"),
    ]
    done = preloaded.run(["-c", WITHOUT_SPACE, small, filled, "linear", *flags], cwd=tmp_path)
    assert done.returncode == 2, done
    assert done.stderr.startswith(f"error: no space left while writing {small}/new")
    assert done.stderr.count("\n") == 1
    left = [path for path in done.stdout.split() if "/new/index" not in path and not path.endswith("/new")]
    assert left == [f"{small}/filler"], "only the check of the pixels may stay, in the cache folder"
    assert flag == "--cache_dir" or f"{small}/new" not in done.stdout.split()
    kept = (
        ("cache", "out", "log") if flag == "--results_dir" else ("cache",)
    )  # features; and what is trained, to go on from
    assert [path for path in listing(tmp_path) if not path.startswith(kept)] == ["small"]


# --- what was there before


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda text: text[: len(text) // 2], "not a readable record"),
        (lambda text: "", "not a readable record"),
        (lambda text: "[]", "record: "),
        (
            lambda text: text.replace('"status": "done"', '"status": "diverged"'),
            "sha256 does not match the body: the file was edited",
        ),
        (lambda text: text.replace('"schema": 2', '"schema": 3'), "made by a newer version (its schema is 3"),
        (lambda text: text.replace('"n_val": 0', '"n_val": NaN'), "NaN is not a JSON number"),
    ],
    ids=["truncated", "empty", "other_json", "edited", "other_schema", "nan"],
)
def test_unreadable_record_under_the_final_name(tmp_path, spoil, fault):
    assert linear(shared_world(5), cwd=tmp_path).code == 0
    (path,) = (tmp_path / "results" / "records").rglob("*.json")
    text = path.read_text()
    path.unlink()
    path.write_text(spoil(text))
    line = refused(shared_world(5), cwd=tmp_path)
    assert line.startswith(f"error: {path.relative_to(tmp_path)}: ")
    assert fault in line
    assert line.endswith("; remove it and run again")


def test_a_run_that_is_interrupted_before_anything_is_trained_leaves_nothing_and_says_so(tmp_path, monkeypatch):
    from fgmae_bench.runs.folder import RunFolder

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    warm(tmp_path)
    before = listing(tmp_path)
    monkeypatch.setattr(RunFolder, "save", interrupt)
    done = linear(shared_world(5), cwd=tmp_path)
    assert (done.code, done.err) == (130, "interrupted\n")
    assert listing(tmp_path) == before


def test_features_that_are_not_finite_are_a_failed_run(tmp_path, monkeypatch):
    (tmp_path / "nan_model.py").write_text(
        "import torch\nclass Model(torch.nn.Module):\n    def forward(self, x):\n        return x.mean((2, 3)) * float('nan')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = listing(tmp_path)
    done = linear(shared_world(5), "--model", "nan_model:Model", "--input_size", "32", cwd=tmp_path)
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("error: the backbone's features of ")
    assert done.err.count("\n") == 2  # before it, what is imported
    assert not set(but_which_are_usable(listing(tmp_path))) - set(before)


def test_debug_shows_the_traceback_before_the_line(tmp_path, monkeypatch):
    monkeypatch.setenv("FGMAE_BENCH_DEBUG", "1")
    done = linear("nowhere", cwd=tmp_path)
    assert done.code == 2
    assert done.err.startswith("Traceback")
    assert done.err.splitlines()[-1].startswith("error: EuroSAT-SAR: no data at nowhere")
