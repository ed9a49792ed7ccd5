"""A probe that is stopped goes on from its checkpoint and ends with the record of an undisturbed run; killed outright:
test_finetune_restart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from same_run import essence, probe_flags


def command(world: Path, place: Path, *extra: str) -> list[str]:
    return [*probe_flags(world, place, features="stream", epochs=1, checkpoint_seconds=0), *extra]


def test_heads_of_a_grid_that_stopped_at_different_epochs_catch_up(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fgmae_bench.config.cards import load_card
    from fgmae_bench.config.compose import compose
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


@pytest.fixture(scope="module")
def ended(world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of a run that has ended, to resume it."""
    from fgmae_bench.config.cards import load_card
    from fgmae_bench.config.compose import compose
    from fgmae_bench.config.flags import parse_run
    from fgmae_bench.runs.grid import run_grid

    card, folder = load_card("eurosat"), tmp_path_factory.mktemp("ended")
    argv = command(world, folder)
    given, _, _ = parse_run("linear", "", argv)
    run_grid("linear", compose("linear", given, card), card)
    return [*argv, "--resume", str(folder / "run" / "checkpoint-last.pth")]


@pytest.mark.parametrize(
    "change", [["--lr", "0.2"], ["--model", "vit_tiny_patch16_224", "--input_size", "64"], ["--batch_size", "8"]]
)
def test_resuming_another_run_is_refused(ended: list[str], change: list[str]) -> None:
    from fgmae_bench.config.cards import load_card
    from fgmae_bench.config.compose import compose
    from fgmae_bench.config.flags import parse_run
    from fgmae_bench.errors import BenchError
    from fgmae_bench.runs.grid import run_grid

    card = load_card("eurosat")
    other, _, _ = parse_run("linear", "", [*ended, *change])
    with pytest.raises(BenchError, match=r"belongs to .*model, data, batch or recipe differ"):
        run_grid("linear", compose("linear", other, card), card)
