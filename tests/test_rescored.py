"""Waterfalls from a published number to ours: cells, shares over orders, and what cannot be said."""

from __future__ import annotations

import itertools
import math
import sys

import pytest
from commands import REPOSITORY
from make_records import entry, make_record, resealed, store_all

from fgmae_bench.errors import BenchError
from fgmae_bench.report import __main__ as report
from fgmae_bench.report.rescored import attributed, cells, load

SHIPPED = REPOSITORY / "experiments/waterfalls/eurosat_fgmae.toml"
AA = {(False, False): 0.60, (False, True): 0.66, (True, False): 0.55, (True, True): 0.70}  # (batch, split) ours


def runs(skip=()):
    """A record of each batch and split; per-batch values are .1 lower, the best epoch on test .02 higher."""
    made = []
    for (batch, split), aa in AA.items():
        if (batch, split) in skip:
            continue
        each = make_record(
            split="spatial" if split else "reference",
            batch_size=64,
            seed=2 * batch + split,
            world_size=1 if batch else 4,
            test={"aa": aa},
            legacy={"aa": aa - 0.1, "aa_max": aa - 0.05},
        )
        history = [entry(1, {"aa": 0.4}), {**entry(2, {"aa": 0.1}), "val": {"aa": aa + 0.02}}]
        made.append(resealed(each, "history", history))
    return made


def test_cells_are_read_from_records():
    found = cells(load(SHIPPED), runs())
    assert len(found) == 16
    assert found[False, False, False, False].value == pytest.approx(0.55)  # legacy, best on test
    assert found[False, True, False, False].value == pytest.approx(0.50)
    assert found[True, False, False, False].value == pytest.approx(0.62)
    assert found[True, True, True, True].value == pytest.approx(0.70)
    assert len({record["run_id"] for cell in found.values() for record in cell.records}) == 4


def shapley(value, count):
    """By the formula over coalitions, which knows no orders."""
    out = []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        total = 0.0
        for size in range(count):
            for held in itertools.combinations(others, size):
                weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
                with_i = tuple(j in held or j == i for j in range(count))
                total += weight * (value[with_i] - value[tuple(j in held for j in range(count))])
        out.append(total)
    return out


def test_shares_are_shapleys_and_add_up():
    wanted = load(SHIPPED)
    held = cells(wanted, runs())
    shares, start = attributed(wanted, held)
    assert [share.mean for share in shares] == pytest.approx(shapley({c: cell.value for c, cell in held.items()}, 4))
    assert start + sum(share.mean for share in shares) == pytest.approx(held[(True,) * 4].value)
    batch = shares[2]
    assert (batch.low, batch.high) == pytest.approx((-0.05, 0.04))  # the order decides even the sign


def test_a_run_that_selects_on_val_leaves_orders_in_which_it_can_be_read():
    wanted = load(SHIPPED)
    made = [
        resealed(
            resealed(each, "dataset", "n_val", 100), "metrics", "legacy", {"aa": each["metrics"]["test"]["aa"] - 0.1}
        )
        if each["dataset"]["split"] == "spatial"
        else each
        for each in runs()
    ]
    held = cells(wanted, made)
    assert held[True, False, False, True].value is None
    shares, start = attributed(wanted, held)
    assert start + sum(share.mean for share in shares) == pytest.approx(0.70)


def test_missing_runs_are_named_by_their_commands():
    wanted = load(SHIPPED)
    with pytest.raises(BenchError) as found:
        attributed(wanted, cells(wanted, runs(skip=[(False, False)])))
    assert "torchrun --nproc_per_node=4 -m fgmae_bench.linear --dataset eurosat" in found.value.todo
    assert "--batch_size 64 --split reference" in found.value.todo


def test_the_command_prints_every_step_and_draws(tmp_path, monkeypatch, capsys):
    store_all(runs(), tmp_path)
    flags = ["waterfall", SHIPPED, "--results_dir", tmp_path, "--out", tmp_path]
    monkeypatch.setattr(sys, "argv", ["report", *map(str, flags)])
    assert report.main() == 0
    printed = capsys.readouterr().out
    assert "| published by paper | 0.799 | – |" in printed
    assert "| not attributed: data, code, chance | -0.249 | – |" in printed
    assert "| ours | 0.700 | – |" in printed
    assert printed.count("vit_small_patch16-published-") == 16
    assert (tmp_path / "figures/waterfall-eurosat_fgmae.svg").is_file()
    monkeypatch.setattr(sys, "argv", ["report", *map(str, [*flags, "--synthetic"])])
    with pytest.raises(BenchError, match="16 of 16 cells are not known"):
        report.main()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('read = "metric"', 'read = "metrics"', "read is 'metrics'"),
        ('read = "metric"', 'read = "metric"\nours = { epochs = 5 }', "is read from the record, or flags"),
        ('metric = "aa"', 'metric = "a"', "unknown metric 'a'"),
        ('module = "linear"', 'module = "liner"', "unknown module 'liner'"),
        ("batch_size = 64", "batch_sice = 64", "unknown flag 'batch_sice'"),
        ('metric = "aa"', 'metric = "kappa"', "the published row has no kappa"),
    ],
    ids=["read", "both", "metric", "module", "flag", "number"],
)
def test_a_file_that_says_nothing_is_refused(tmp_path, monkeypatch, old, new, message):
    path = tmp_path / "w.toml"
    path.write_text(SHIPPED.read_text().replace(old, new, 1))
    monkeypatch.setattr(sys, "argv", ["report", "waterfall", str(path), "--results_dir", str(tmp_path)])
    with pytest.raises(BenchError, match=message):
        report.main()
