"""Which side of blocks makes samples independent: the standard error against the side, on places that are made up."""

import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import FOLDERS, STATISTICS, call, only_record, shared_world

BLOCKS = runpy.run_path(str(Path(__file__).resolve().parents[1] / "experiments/statistics/blocks.py"))
Point, curve, plateau, simulated = (BLOCKS[name] for name in ("Point", "curve", "plateau", "simulated"))


def points(*errors, effective=100.0):
    return [Point(side=2.0**i, blocks=100, effective=effective, error=error) for i, error in enumerate(errors)]


def test_the_error_rises_to_that_of_the_patches_and_is_level_from_there_on():
    held, places = simulated(20, chips=2000, extent_km=300)
    found = curve(held, places, "oa", (1, 5, 20, 40))
    errors = [point.error for point in found]
    assert errors == sorted(errors)
    # chips one by one have the binomial error; of patches of n chips that are correlated by r it is sqrt(1 + (n - 1) r)
    hits = held.scores[:, 0].mean()
    assert errors[0] == pytest.approx(math.sqrt(hits * (1 - hits) / 2000), rel=0.05)
    number = 2000 / (300 / 20) ** 2
    assert errors[-1] == pytest.approx(errors[0] * math.sqrt(1 + (number - 1) * 3 / 13), rel=0.25)
    assert plateau(found) == 20
    assert [round(point.effective) <= point.blocks for point in found] == [True] * 4


def test_the_grid_is_that_of_equal_degrees_of_latitude_and_km_on_the_ground():
    held, places = simulated(20, chips=400, extent_km=40)
    few = curve(held, places, "oa", (20.0,))[0]
    assert 4 <= few.blocks <= 9  # 40 km in blocks of 20, the grid moved


@pytest.mark.parametrize(
    ("errors", "side"),
    [
        ((1.0, 1.0, 1.0), 1),
        ((1.0, 1.5, 1.5, 1.52), 2),
        ((1.0, 1.5, 2.0), None),  # still rises at the end
        ((1.0, 1.5, 1.5, math.nan), 2),
        ((1.0,), None),
    ],
)
def test_the_plateau_is_the_first_side_that_no_larger_one_exceeds(errors, side):
    assert plateau(points(*errors)) == side


def test_sides_of_few_effective_blocks_do_not_count():
    assert plateau([*points(1.0, 1.5), *points(9.0, effective=9.0)]) is None
    assert plateau([*points(1.0, 1.0), *points(9.0, effective=9.0)]) == 1


def test_a_runs_blocks_are_printed_and_what_is_missing_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    world = str(shared_world(12))
    call("linear", "--dataset", "eurosat", "--data_path", world, *STATISTICS, *FOLDERS, cwd=tmp_path)
    run = only_record(tmp_path / "results")["run_id"]
    flags = ["--dataset", "eurosat", "--data_path", world, "--cache_dir", "cache"]
    monkeypatch.setattr(sys, "argv", ["blocks.py", run, *flags])
    assert BLOCKS["main"]() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["side", "km", "blocks", "effective", "SE", "of", "oa"]
    assert [line.split()[0] for line in lines[1:8]] == ["1", "2", "5", "10", "20", "50", "100"]
    assert np.all(np.diff([int(line.split()[1]) for line in lines[1:8]]) <= 0)
    monkeypatch.setattr(sys, "argv", ["blocks.py"])
    with pytest.raises(BLOCKS["BenchError"], match="no run"):
        BLOCKS["main"]()
