"""The result does not depend on the number of processes, also when nothing divides."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import preloaded
import pytest
import torch
from preloaded import CompletedProcess
from safetensors import safe_open
from same_run import essence, probe_flags

from fgmae_bench.worlds.eurosat import write_eurosat

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 images a class: 104 to train, 26 to test; neither batches nor processes divide them all."""
    root = tmp_path_factory.mktemp("processes") / "eurosat"
    write_eurosat(root, per_class=13)
    return root


def launch(world: Path, place: Path, processes: int, *extra: str) -> list[CompletedProcess[str]]:
    flags = probe_flags(world, place, epochs=3, batch_size=12 // processes, lr=0.1)
    return preloaded.run_ranks(processes, ["-m", "fgmae_bench.linear", *flags, *extra])


def result(place: Path) -> tuple[dict, np.ndarray, list[str], dict]:
    (path,) = (place / "results").glob("records/*/*/*.json")
    (predictions,) = (place / "results").glob("predictions/*.safetensors")
    with safe_open(predictions, "numpy") as file:
        logits, ids = file.get_tensor("logits"), json.loads(file.metadata()["ids"])
    return (
        json.loads(path.read_text()),
        logits,
        ids,
        torch.load(place / "run" / "checkpoint-last.pth", weights_only=True)["head"],
    )


@pytest.mark.parametrize(("mode", "sizes"), [("stream", (1, 3)), ("cached", (1, 2, 3))])
def test_the_number_of_processes_changes_neither_head_nor_scores(
    world: Path, tmp_path: Path, mode: str, sizes: tuple[int, ...]
) -> None:
    results = []
    for processes in sizes:
        done = launch(world, tmp_path / str(processes), processes, "--features", mode)
        assert [rank.returncode for rank in done] == [0] * processes, done
        results.append(result(tmp_path / str(processes)))
    for processes, (record, *_) in zip(sizes, results, strict=True):
        typed = record["environment"]["command"]
        assert typed.startswith(
            f"torchrun --nproc_per_node={processes} -m fgmae_bench.linear --dataset eurosat --data_path "
        )
    one, logits, ids, head = results[0]
    assert len(set(ids)) == len(ids) == one["dataset"]["n_test"]
    assert one["dataset"]["n_test"] % 2 or one["dataset"]["n_test"] % 3, "the split divides: the case is not tested"
    for other, other_logits, other_ids, other_head in results[1:]:
        assert other_ids == ids
        assert other["run_id"] == one["run_id"]
        np.testing.assert_allclose(other_logits, logits, atol=1e-6, rtol=0)
        for name in head:
            torch.testing.assert_close(other_head[name], head[name], atol=1e-6, rtol=0)
        same, expected = essence(other), essence(one)
        for record in (
            same,
            expected,
        ):  # legacy batches are per process, and the files differ in their last bits at most
            record["metrics"].pop("legacy")
            record["config"]["recipe"].pop("batch_size")
            record.pop("predictions")
        assert same["metrics"]["test"] == pytest.approx(expected["metrics"]["test"], abs=1e-6)
        assert same["metrics"]["confusion"] == expected["metrics"]["confusion"]
        assert [e["epoch"] for e in same["history"]] == [e["epoch"] for e in expected["history"]]


def test_a_broken_file_on_any_rank_is_told_once_by_rank_0(world: Path, tmp_path: Path) -> None:
    broken = tmp_path / "world"
    shutil.copytree(world, broken)
    victims = sorted(broken.glob("River/*.tif"))
    for victim in victims[:2]:
        victim.write_bytes(victim.read_bytes()[:1000])
    done = launch(broken, tmp_path / "out", 2, "--features", "cached")
    lines = [line for rank in done for line in rank.stderr.splitlines() if line.startswith("error: ")]
    assert [rank.returncode for rank in done] == [2, 2]
    assert len(lines) == 1, done
    assert "River_" in lines[0]
    assert not list((tmp_path / "out").rglob("*.json"))


@pytest.mark.parametrize("probe", ["lbfgs", "knn"])
def test_a_probe_that_is_fitted_at_once_is_one_run_on_any_number_of_processes(
    world: Path, tmp_path: Path, probe: str
) -> None:
    found = []
    for processes in (1, 2):
        flags = probe_flags(world, tmp_path / str(processes), probe=probe)
        done = preloaded.run_ranks(processes, ["-m", "fgmae_bench.linear", *flags])
        assert [rank.returncode for rank in done] == [0] * processes, done
        (path,) = (tmp_path / str(processes) / "results").glob("records/*/*/*.json")
        found.append(json.loads(path.read_text()))
    assert found[0]["run_id"] == found[1]["run_id"]
    assert found[0]["metrics"]["test"]["oa"] == pytest.approx(found[1]["metrics"]["test"]["oa"], abs=1 / 26)
