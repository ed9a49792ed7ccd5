"""A run killed at any moment goes on from its checkpoint and ends with the record of an undisturbed run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from same_run import essence

from fgmae_bench.records import problem_of

SLOW_EPOCHS = 25


def command(world: Path, place: Path, *extra: str) -> list[str]:
    flags = {
        "--dataset": "eurosat",
        "--data_path": world,
        "--model": "vit_tiny_patch16_224",
        "--input_size": 32,
        "--weights": "random",
        "--features": "stream",
        "--epochs": SLOW_EPOCHS,
        "--batch_size": 16,
        "--amp": "off",
        "--checkpoint_seconds": 0,
        "--results_dir": place / "results",
        "--output_dir": place / "run",
        "--cache_dir": place / "cache",
        "--device": "cpu",
    }
    return [sys.executable, "-m", "fgmae_bench.linear", *(str(part) for pair in flags.items() for part in pair), *extra]


def only_record(place: Path) -> dict:
    (path,) = (place / "results").glob("records/*/*/*.json")
    return json.loads(path.read_text())


def check_no_half_files(place: Path) -> None:
    for path in place.rglob("*.json"):
        json.loads(path.read_text())
    for path in place.rglob("*.jsonl"):
        for line in path.read_text().splitlines():
            json.loads(line)
    for path in place.rglob("checkpoint-*.pth"):
        torch.load(path, weights_only=True)
    for path in (place / "results").glob("records/*/*/*.json"):
        assert problem_of(json.loads(path.read_text())) is None


def test_a_run_killed_three_times_ends_with_the_undisturbed_record(world: Path, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run(command(world, undisturbed), check=True, capture_output=True)
    dice, kills = random.Random(7), 0
    for _ in range(30):
        process = subprocess.Popen(
            command(world, killed, "--resume", "auto"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        if kills < 3:
            checkpoint = killed / "run" / "checkpoint-last.pth"
            before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
            while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns != before):
                time.sleep(0.01)  # wait for its first epoch, then let chance decide
            time.sleep(dice.uniform(0, 0.25))
            kills += process.poll() is None
            process.kill()
        process.communicate()
        check_no_half_files(killed)
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert kills >= 2, "the run was over before it could be killed: raise SLOW_EPOCHS"
    assert essence(only_record(killed)) == essence(only_record(undisturbed))


def test_heads_of_a_grid_that_stopped_at_different_epochs_catch_up(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fgmae_bench.config.cards import load_card
    from fgmae_bench.config.run import compose
    from fgmae_bench.probe import checkpoint
    from fgmae_bench.runs.folder import RunFolder
    from fgmae_bench.runs.grid import run_grid
    from fgmae_bench.runs.tensors import LAST

    card = load_card("eurosat")

    def run(place: Path) -> list[dict]:
        given = {
            "dataset": "eurosat",
            "data_path": str(world),
            "model": "backscatter_stats",
            "weights": "random",
            "features": "cached",
            "split": "random_60_20_20",
            "lr": [0.1, 0.5, 2.0],
            "epochs": 6,
            "batch_size": 16,
            "checkpoint_seconds": 0.0,
            "resume": "auto",
            "results_dir": str(place / "results"),
            "output_dir": str(place / "runs"),
            "cache_dir": str(tmp_path / "cache"),
            "device": "cpu",
        }
        return run_grid("linear", compose("linear", given, card), card)

    expected = [essence(record) for record in run(tmp_path / "whole")]
    saves = 0
    real = RunFolder.save

    def dying(self: RunFolder, name: str, content: dict[str, Any], **how: bool) -> None:
        nonlocal saves
        saves += name == LAST
        if saves == 8:  # in the third epoch, after the first head was saved
            raise KeyboardInterrupt
        real(self, name, content, **how)

    monkeypatch.setattr(RunFolder, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "torn")
    monkeypatch.setattr(RunFolder, "save", real)
    epochs = {checkpoint.load_state(path).epochs for path in (tmp_path / "torn").rglob("checkpoint-last.pth")}
    assert epochs == {2, 3}
    assert [essence(record) for record in run(tmp_path / "torn")] == expected


@pytest.mark.parametrize(
    "change", [["--lr", "0.2"], ["--model", "vit_tiny_patch16_224", "--input_size", "64"], ["--batch_size", "8"]]
)
def test_resuming_another_run_is_refused(
    world: Path, tmp_path: Path, change: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from fgmae_bench.config.cards import load_card
    from fgmae_bench.config.flags import parse_run
    from fgmae_bench.config.run import compose
    from fgmae_bench.errors import BenchError
    from fgmae_bench.runs.grid import run_grid

    card = load_card("eurosat")
    argv = command(world, tmp_path)[3:]
    argv[argv.index("--epochs") + 1] = "1"
    first, _, _ = parse_run("linear", "", argv)
    run_grid("linear", compose("linear", first, card), card)
    other, _, _ = parse_run("linear", "", [*argv, *change, "--resume", str(tmp_path / "run" / "checkpoint-last.pth")])
    with pytest.raises(BenchError, match=r"belongs to .*model, data, batch or recipe differ"):
        run_grid("linear", compose("linear", other, card), card)
