"""ablate traps: mistakes repaired one at a time, kills, and mistakes that stay inside."""

import ast
import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from ablate_world import CARD, SHORT, TINY, write_tiles
from commands import REPOSITORY, call, records, said, stop_once_there_is

from fgmae_bench.ablate.defects import FrozenOutput, random_position
from fgmae_bench.ablate.flags import read_run
from fgmae_bench.ablate.series import REPAIRS, repair_order
from fgmae_bench.ablate.traps import planned, possible, with_labels
from fgmae_bench.config.run import Model
from fgmae_bench.errors import BenchError
from fgmae_bench.models.build import build_backbone


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    return write_tiles(tmp_path_factory)


@pytest.fixture(scope="module")
def repaired(tiles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("traps")
    result = call("ablate", "traps", "--dataset", "dfc2020", "--data_path", tiles, *TINY, *SHORT, cwd=folder)
    assert result.code == 0, result.err
    return folder, result


def test_each_repair_is_a_recorded_run_and_the_last_makes_no_mistake(repaired):
    folder, _ = repaired
    with open(folder / "results/tables/ablate/traps-dfc2020.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["repairs"] for row in rows] == ["", *REPAIRS]
    by_id = {record["run_id"]: record for record in records(folder / "results")}
    steps = [by_id[row["run_id"]] for row in rows]
    defects = [record["config"]["facts"].get("defects", []) for record in steps]
    assert defects[0] == ["double_mapped_eval", "extra_output", "frozen_output", "random_position"]
    assert [len(names) for names in defects] == [4, 3, 2, 1, 0, 0, 0, 0]
    assert [record["model"]["contract"]["normalizer"] for record in steps] == ["clip25"] * 5 + ["fgmae"] * 3
    assert [record["config"]["recipe"]["augment"] for record in steps] == [False] * 6 + [True] * 2
    assert [record["config"]["data"]["train_labels"] for record in steps] == ["igbp"] * 7 + ["dfc"]
    gains = [float(row["gain"]) for row in rows[1:]]
    assert sum(gains) == pytest.approx(float(rows[-1]["miou"]) - float(rows[0]["miou"]))
    assert float(rows[0]["perfect_miou"]) < 0.1
    assert float(rows[-1]["perfect_miou"]) == 1.0
    assert (folder / "results/figures/ablate/traps-dfc2020.png").stat().st_size > 1000


@pytest.mark.slow
def test_repairs_with_one_label_source_have_a_loss_that_means_nothing_and_no_divergence(tiles, tmp_path):
    result = call(
        "ablate",
        "traps",
        "--dataset",
        "dfc2020",
        "--data_path",
        tiles,
        *TINY,
        *SHORT,
        "--train_labels",
        "dfc",
        cwd=tmp_path,
    )
    assert result.code == 0, result.err
    found = records(tmp_path / "results")
    assert {record["status"] for record in found} == {"done"}
    extra = [record for record in found if "extra_output" in record["config"]["facts"].get("defects", [])]
    assert extra
    assert all(record["metrics"]["test"]["loss"] is None for record in extra)


@pytest.mark.slow
def test_repairs_that_are_stopped_go_on_to_the_same_records_and_table(repaired, tiles, tmp_path):
    whole, _ = repaired
    command = ("traps", "--dataset", "dfc2020", "--data_path", tiles, *TINY, *SHORT, "--checkpoint_seconds", "0")
    stop_once_there_is("results/records/*/*/*.json", tmp_path, lambda: call("ablate", *command, cwd=tmp_path))
    assert 0 < len(records(tmp_path / "results")) < 8
    result = call("ablate", *command, cwd=tmp_path)
    assert result.code == 0, result.err
    wanted = {record["run_id"]: record["metrics"] for record in records(whole / "results")}
    assert {record["run_id"]: record["metrics"] for record in records(tmp_path / "results")} == wanted
    tables = [folder / "results/tables/ablate/traps-dfc2020.csv" for folder in (whole, tmp_path)]
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_the_dead_output_is_trained_and_counts_as_wrong(repaired):
    folder, _ = repaired
    first = next(r for r in records(folder / "results") if "extra_output" in r["config"]["facts"].get("defects", []))
    last = next(r for r in records(folder / "results") if not r["config"]["facts"].get("defects"))
    assert np.array(first["metrics"]["confusion"]).shape == (10, 11)
    assert np.array(last["metrics"]["confusion"]).shape == (10, 10)


def test_labels_of_training_are_mapped_twice_where_they_are_dfc(tiles):
    _, run = read_run(
        {"dataset": "dfc2020", "data_path": str(tiles), "model": "test_vit", "weights": "random", "train_labels": "dfc"}
    )
    run = with_labels(CARD, run)
    assert "coarse_labels" not in possible(run)
    made = planned(CARD, run, set(possible(run))).defects
    assert made.names[:2] == ("double_mapped_train", "double_mapped_eval")


def test_the_frozen_output_is_random_and_stays_as_drawn():
    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, maps, size):
            return maps[0] * self.weight

    wrapped, again = (FrozenOutput(Head(), 3, seed) for seed in (1, 1))
    assert torch.equal(wrapped.output.weight, again.output.weight)
    assert not torch.equal(wrapped.output.weight, FrozenOutput(Head(), 3, 2).output.weight)
    assert [name for name, p in wrapped.named_parameters() if p.requires_grad] == ["head.weight"]
    assert wrapped([torch.zeros(1, 3, 8, 8)], (8, 8)).shape == (1, 3, 8, 8)


def test_position_embeddings_are_drawn_anew_and_frozen():
    backbone = build_backbone(Model(model="test_vit", weights="random", input_size=32), 0, Path("unused"))
    before = backbone.module.vit.pos_embed.detach().clone()
    random_position(backbone, 0)
    after = backbone.module.vit.pos_embed
    assert not after.requires_grad
    assert not torch.equal(before, after)
    assert 0.01 < float(after.std()) < 0.03
    network = build_backbone(Model(model="resnet18", weights="random", input_size=64), 0, Path("unused"))
    with pytest.raises(BenchError, match="no position embeddings"):
        random_position(network, 0)


def test_an_order_of_repairs_names_each_mistake_once():
    every = list(REPAIRS)
    assert repair_order(None, every) == every
    assert repair_order(every[::-1], every) == every[::-1]
    with pytest.raises(BenchError, match="clip25"):
        repair_order(every[:2], every)
    with pytest.raises(BenchError, match="did you mean 'clip25'"):
        repair_order(["clip_25"], every)


def test_labels_are_mapped_twice_nowhere_else():
    """The mistake can be reached from the ablation alone: no flag of `segment` names it, no other module imports it."""
    importers = set()
    for path in (REPOSITORY / "fgmae_bench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "fgmae_bench.ablate.defects":
                importers.add(path.parent.name)
    assert importers == {"ablate"}


def test_segment_refuses_the_mistake_by_any_name(tiles, tmp_path):
    for flag in ("--train_scheme", "--eval_scheme", "--train_labels"):
        line = said(
            call(
                "segment",
                "--dataset",
                "dfc2020",
                "--data_path",
                tiles,
                *TINY,
                *SHORT,
                flag,
                "double_mapped",
                cwd=tmp_path,
            )
        )
        assert "unknown label" in line
    assert "unknown flag" in said(call("segment", "--dataset", "dfc2020", "--double_mapped", cwd=tmp_path))
