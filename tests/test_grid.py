"""The driver of a grid, on an engine that only writes records: what is read, what is computed, and how failures end."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from make_records import make_record

from fgmae_bench.config.names import ENGINES
from fgmae_bench.config.recipes import RECIPES
from fgmae_bench.errors import BenchError, Diverged
from fgmae_bench.records import seal, store
from fgmae_bench.runs.grid import Share, require_same_run, resume_path, run_grid, score_checkpoint

computed = []


def run_of(results, seed, status="done"):
    execution = SimpleNamespace(device="cpu", results_dir=str(results), resume=None)
    return SimpleNamespace(seed=seed, status=status, execution=execution)


def record_of(run):
    record = make_record(seed=run.seed, status=run.status)
    record.pop("sha256")
    if run.status == "diverged":
        record["notes"] = [{"code": "diverged", "text": f"the loss became nan with seed {run.seed}"}]
    return seal(record)


def shares(runs, card, notes, world, device, module, together=1):
    """Shares of `together` runs each."""
    for i in range(0, len(runs), together):
        records = {(record := record_of(run))["run_id"]: (run, record) for run in runs[i : i + together]}

        def compute(ids, records=records):
            computed.append(ids)
            for id in ids:
                store(records[id][1], Path(records[id][0].execution.results_dir))
            return {id: records[id][1] for id in ids}

        yield Share(
            runs={id: run for id, (run, _) in records.items()},
            card=card,
            protocol="linear_probe",
            compute=compute,
            score=lambda records=records: {"run_id": next(iter(records))},
        )


def all_at_once(*given):
    return shares(*given, together=100)


@pytest.fixture
def card(monkeypatch):
    computed.clear()
    monkeypatch.setitem(ENGINES, "one", "test_grid:shares")
    monkeypatch.setitem(ENGINES, "all", "test_grid:all_at_once")
    return SimpleNamespace(name=make_record()["dataset"]["name"])


@pytest.mark.parametrize("engine", ["one", "all"])
def test_what_is_recorded_is_read_and_the_rest_computed_in_order(engine, card, tmp_path, caplog):
    runs = [run_of(tmp_path, seed) for seed in (1, 2, 3)]
    ids = [record_of(run)["run_id"] for run in runs]
    store(record_of(runs[1]), tmp_path)
    with caplog.at_level("INFO", logger="fgmae_bench"):
        records = run_grid(engine, runs, card)
    assert [record["run_id"] for record in records] == ids
    assert computed == ([[ids[0]], [ids[2]]] if engine == "one" else [[ids[0], ids[2]]])
    assert [line for line in caplog.messages if "recorded already" in line] == [
        f"{ids[1]} is recorded already: nothing to do ({tmp_path}/records/{card.name}/linear_probe/{ids[1]}.json)"
    ]
    computed.clear()
    assert [record["sha256"] for record in run_grid(engine, runs, card)] == [record["sha256"] for record in records]
    assert computed == []


@pytest.mark.parametrize("engine", ["one", "all"])
def test_a_new_run_that_diverges_ends_as_failed_once_all_are_recorded(engine, card, tmp_path, caplog):
    runs = [run_of(tmp_path, 1, "diverged"), run_of(tmp_path, 2)]
    ids = [record_of(run)["run_id"] for run in runs]
    with pytest.raises(Diverged, match=f"^{ids[0]}: the loss became nan with seed 1; give a smaller --lr$") as failed:
        run_grid(engine, runs, card)
    assert [record["run_id"] for record in failed.value.records] == ids
    assert sum("the other runs go on" in line for line in caplog.messages) == (engine == "one")
    with caplog.at_level("INFO", logger="fgmae_bench"):
        again = run_grid(engine, runs, card)
    assert [record["status"] for record in again] == ["diverged", "done"]
    assert f"{ids[0]} is recorded already as diverged" in caplog.text


def test_one_checkpoint_is_scored_at_a_time(card, tmp_path):
    runs = [run_of(tmp_path, seed) for seed in (1, 2)]
    with pytest.raises(BenchError, match="--eval scores one checkpoint; give one --lr and one --weight_decay"):
        score_checkpoint("one", runs, card)
    assert score_checkpoint("one", runs[:1], card) == {"run_id": record_of(runs[0])["run_id"]}


def test_an_engine_that_is_not_there_is_refused(card, tmp_path):
    with pytest.raises(BenchError, match="unknown entry 'linaer'; did you mean 'linear'"):
        run_grid("linaer", [run_of(tmp_path, 1)], card)
    assert set(RECIPES) <= set(ENGINES)


@pytest.mark.parametrize(
    ("named", "expected"), [(None, "usual"), ("auto", "usual"), ("there/last.pth", "there/last.pth")]
)
def test_the_checkpoint_that_resume_means(named, expected, tmp_path):
    run = run_of(tmp_path, 1)
    run.execution.resume = named
    assert resume_path(run, Path("usual")) == Path(expected)


def test_a_checkpoint_of_another_run_is_refused():
    require_same_run("a-published-0123456789", "a-published-0123456789", Path("last.pth"))
    with pytest.raises(BenchError, match=r"^last\.pth belongs to None, this is a: model, data, batch or recipe differ"):
        require_same_run(None, "a", Path("last.pth"))
