"""Fine-tuning killed or stopped at any moment goes on to the same bits."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from same_run import essence

from fgmae_bench.records import problem_of

EPOCHS = 6


def command(world, place, *more):
    flags = {
        "--dataset": "eurosat",
        "--data_path": world,
        "--model": "test_vit",
        "--input_size": 32,
        "--weights": "random",
        "--recipe": "corrected",
        "--split": "random_60_20_20",
        "--epochs": EPOCHS,
        "--warmup_epochs": 1,
        "--batch_size": 8,
        "--accum_iter": 2,
        "--mixup": 0.8,
        "--head": "bn_linear",
        "--amp": "off",
        "--checkpoint_seconds": 0,
        "--device": "cpu",
        "--results_dir": place / "results",
        "--output_dir": place / "run",
        "--cache_dir": place / "cache",
    }
    return [
        sys.executable,
        "-m",
        "fgmae_bench.finetune",
        *(str(part) for pair in flags.items() for part in pair),
        *more,
    ]


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


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    place = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(world, place), check=True, capture_output=True, timeout=300)
    return outcome(place)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_twice_and_resumed_it_ends_bit_identical(number, world, undisturbed, tmp_path):
    dice, stops = random.Random(number), 0
    for _ in range(12):
        process = subprocess.Popen(
            command(world, tmp_path, "--resume", "auto"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        if stops < 2:
            last = tmp_path / "run" / "checkpoint-last.pth"
            before = last.stat().st_mtime_ns if last.exists() else 0
            deadline = time.monotonic() + 120
            while process.poll() is None and not (last.exists() and last.stat().st_mtime_ns != before):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(dice.uniform(0, 0.2))
            stops += process.poll() is None
            process.send_signal(number)
        _, said = process.communicate(timeout=300)
        whole_files_only(tmp_path)
        if process.returncode == 0:
            break
        if number != signal.SIGKILL:
            assert process.returncode == 130, said.decode()
            assert b"the same command goes on from there" in said or b"interrupted" in said
            assert b"Traceback" not in said
    assert process.returncode == 0, said.decode()
    assert stops == 2
    same(outcome(tmp_path), undisturbed)


def test_two_processes_stopped_by_the_launcher_go_on(world, tmp_path):
    """SIGTERM to torchrun reaches its workers; resumed, two processes give what they would have given."""

    def launch(place, *more):
        arguments = command(world, place, *more)
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            "-m",
            *arguments[2:],
        ]
        return subprocess.Popen(launcher, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert launch(whole).wait(timeout=300) == 0
    process = launch(torn)
    deadline = time.monotonic() + 120
    while not (torn / "run" / "checkpoint-last.pth").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert launch(torn, "--resume", "auto").wait(timeout=300) == 0
    same(outcome(torn), outcome(whole))
