"""Fine-tuning killed or stopped at any moment goes on to the same bits."""

import json
import random
import signal
import subprocess
import sys
import time

import preloaded
import pytest
import torch
from preloaded import HANG, wait_until
from same_run import essence, finetune_flags

from fgmae_bench.records import problem_of

pytestmark = pytest.mark.slow

EPOCHS = 6


def command(world, place, *more):
    return ["-m", "fgmae_bench.finetune", *finetune_flags(world, place, epochs=EPOCHS), *more]


def outcome(place):
    """The record's essence and the weights of the last and the best checkpoint."""
    (path,) = (place / "results").glob("records/*/*/*.json")
    record = json.loads(path.read_text())
    assert problem_of(record) is None
    models = [
        torch.load(place / "run" / name, weights_only=True)["model"]
        for name in ("checkpoint-last.pth", "checkpoint-best.pth")
    ]
    return essence(record), models


def same(one, other):
    assert one[0] == other[0]
    for a, b in zip(one[1], other[1], strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def whole_files_only(place):
    for path in place.rglob("checkpoint-*.pth"):
        torch.load(path, weights_only=True)
    for path in place.rglob("*.json"):
        json.loads(path.read_text())
    for path in place.rglob("*.jsonl"):
        [json.loads(line) for line in path.read_text().splitlines()]


# The command with a bridle: from the save of number N on it waits for a file, so that no signal comes too late.
BRIDLED = """
import runpy, sys, time
from pathlib import Path
from fgmae_bench.runs.folder import RunFolder
most, go = int(sys.argv.pop(1)), Path(sys.argv.pop(1))
plain, saves = RunFolder.save, []
def save(*given, **how):
    plain(*given, **how)
    saves.append(1)
    while len(saves) >= most and not go.exists():
        time.sleep(0.01)
RunFolder.save = save
runpy.run_module("fgmae_bench.finetune", run_name="__main__", alter_sys=True)
"""


def test_killed_terminated_interrupted_and_resumed_it_ends_bit_identical(world, tmp_path):
    """The kill test of run folders: at a random moment between two saves by each signal, on one run."""
    whole, torn, dice = tmp_path / "whole", tmp_path / "torn", random.Random(7)
    assert preloaded.run(command(world, whole)).returncode == 0
    last = torn / "run" / "checkpoint-last.pth"
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        before, go = last.stat().st_mtime_ns if last.exists() else 0, tmp_path / f"go-{number}"
        arguments = command(world, torn, "--resume", "auto")[2:]
        process = preloaded.Process(["-c", BRIDLED, 4, go, *arguments])
        wait_until(lambda before=before: last.exists() and last.stat().st_mtime_ns != before, process)
        time.sleep(dice.uniform(0, 0.3))
        assert process.poll() is None
        process.send_signal(number)
        go.touch()
        _, said = process.communicate(HANG)
        whole_files_only(torn)
        assert not list((torn / "results").rglob("*.json"))
        assert process.returncode == (-number if number == signal.SIGKILL else 130), said
        if number != signal.SIGKILL:
            assert "the same command goes on from there" in said or "interrupted" in said
            assert "Traceback" not in said
    done = preloaded.run(command(world, torn, "--resume", "auto"))
    assert done.returncode == 0, done.stderr
    same(outcome(torn), outcome(whole))


def test_two_processes_stopped_by_the_launcher_go_on(world, tmp_path):
    """SIGTERM to torchrun reaches its workers; resumed, two processes give what they would have given."""
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert [rank.returncode for rank in preloaded.run_ranks(2, command(world, whole))] == [0, 0]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    bridled = [sys.executable, "-c", BRIDLED, "4", str(tmp_path / "go"), *command(world, torn)[2:]]
    process = subprocess.Popen([*launcher, *bridled], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until((torn / "run" / "checkpoint-last.pth").exists, process)
    process.send_signal(signal.SIGTERM)
    (tmp_path / "go").touch()
    process.communicate(timeout=HANG)
    assert process.returncode != 0
    assert not list((torn / "results").rglob("*.json"))
    assert [rank.returncode for rank in preloaded.run_ranks(2, command(world, torn, "--resume", "auto"))] == [0, 0]
    same(outcome(torn), outcome(whole))
