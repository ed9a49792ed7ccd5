"""The same `linear` run gives the same numbers: again, from its config, in a grid, in a process of its own."""

import json
import shutil
import tomllib

import pytest
from commands import FOLDERS, TINY_VIT, call, codes, linear, listing, metrics, only_record, records, spawn
from linear_runs import Run

pytest_plugins = ("linear_runs",)


# --- the same run again


def test_a_second_call_computes_nothing_and_says_so(plain):
    before = {path: path.stat().st_mtime_ns for path in plain.folder.rglob("*")}
    again = linear(plain.data, cwd=plain.folder, backbone=TINY_VIT)
    assert again.code == 0
    assert f"{plain.record['run_id']} is recorded already: nothing to do (results/records/" in again.err
    assert again.out == plain.said.out
    assert {path: path.stat().st_mtime_ns for path in plain.folder.rglob("*")} == before


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(plain, tmp_path):
    again = Run(tmp_path, backbone=TINY_VIT)
    assert again.record["run_id"] == plain.record["run_id"]
    assert metrics(again.record) == metrics(plain.record)
    assert again.record["predictions"]["sha256"] == plain.record["predictions"]["sha256"]
    other = Run(tmp_path / "results", "--seed", 43, backbone=TINY_VIT)
    assert other.record["run_id"] != plain.record["run_id"]
    assert metrics(other.record) != metrics(plain.record)


def test_paths_workers_and_spelling_tell_no_runs_apart(plain, tmp_path):
    flags = [
        flag.replace("_", "-") if flag.startswith("--") else flag
        for flag in ("--dataset", "eurosat", *TINY_VIT, *FOLDERS)
    ]
    assert "--batch-size" in flags
    flags[flags.index("--weights")] = "--finetune"
    done = call(
        "linear",
        *flags,
        "--data-path",
        plain.data,
        "--num-workers",
        0,
        "--results-dir",
        "elsewhere",
        "--device",
        "cpu",
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    record = only_record(tmp_path / "elsewhere")
    assert record["run_id"] == plain.record["run_id"]
    assert metrics(record) == metrics(plain.record)


def test_batch_and_accumulation_count_by_their_product(plain, tmp_path):
    record = Run(tmp_path, "--batch_size", 8, "--accum_iter", 2, backbone=TINY_VIT).record
    assert record["run_id"] == plain.record["run_id"]
    assert record["metrics"]["test"] == plain.record["metrics"]["test"]


@pytest.mark.parametrize("which", ["plain", "selected"])
def test_the_config_it_leaves_runs_it_again(which, request, tmp_path):
    run = request.getfixturevalue(which)
    shutil.copy(run.folder / "out" / "config.toml", tmp_path / "mine.toml")
    done = call("linear", "--config", "mine.toml", cwd=tmp_path)
    assert done.code == 0, done.err
    again = only_record(tmp_path / "results")
    assert again["run_id"] == run.record["run_id"]
    assert metrics(again) == metrics(run.record)
    assert again["config"] == run.record["config"]
    assert (tmp_path / "out" / "config.toml").read_bytes() == (run.folder / "out" / "config.toml").read_bytes()


def test_the_command_line_stands_above_the_config_file(plain, tmp_path):
    shutil.copy(plain.folder / "out" / "config.toml", tmp_path / "mine.toml")
    assert call("linear", "--config", "mine.toml", "--epochs", 1, "--lr", 0.3, cwd=tmp_path).code == 0
    record = only_record(tmp_path / "results")
    assert (record["config"]["recipe"]["epochs"], record["config"]["recipe"]["lr"]) == (1, 0.3)
    assert record["config"]["recipe"]["batch_size"] == 16


def test_a_run_that_the_command_line_changes_leaves_the_folder_of_the_config_alone(plain, tmp_path):
    shutil.copytree(plain.folder, tmp_path, dirs_exist_ok=True)
    before = listing(tmp_path / "out")
    changed = call("linear", "--config", "out/config.toml", "--lr", 0.3, cwd=tmp_path)
    assert changed.code == 0, changed.err
    assert listing(tmp_path / "out") == before
    other = next(record for record in records(tmp_path / "results") if record["run_id"] != plain.record["run_id"])
    assert json.loads((tmp_path / "runs" / "eurosat" / other["run_id"] / "record.json").read_text()) == other
    said_where = call("linear", "--config", "out/config.toml", "--lr", 0.4, "--output_dir", "mine", cwd=tmp_path)
    assert (said_where.code, (tmp_path / "mine" / "record.json").exists()) == (0, True)
    assert listing(tmp_path / "out") == before
    again = call("linear", "--config", "out/config.toml", "--lr", 0.1, "--device", "cpu", cwd=tmp_path)
    assert f"{plain.record['run_id']} is recorded already" in again.err


def test_every_resolved_value_stands_in_the_record_and_the_config(plain):
    config = plain.record["config"]
    assert (config["recipe"]["lr"], config["recipe"]["blr"], config["recipe"]["weight_decay"]) == (0.1, 1.6, 0.001)
    assert config["data"]["split"] == "reference"
    assert config["recipe"]["features"] == "cached"
    assert config["recipe"]["amp"] in ("off", "bf16")
    written = tomllib.loads((plain.folder / "out" / "config.toml").read_text())
    assert written.pop("resolved") is True
    assert {
        part: {key: value for key, value in config[part].items() if value is not None} for part in written
    } == written


@pytest.mark.slow
def test_a_process_of_its_own_gives_the_numbers_of_this_one(plain, tmp_path):
    done = spawn("linear", "--dataset", "eurosat", "--data_path", plain.data, *TINY_VIT, *FOLDERS, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    record = only_record(tmp_path / "results")
    assert record["run_id"] == plain.record["run_id"]
    assert record["metrics"]["test"] == pytest.approx(plain.record["metrics"]["test"], abs=1e-6)
    assert record["environment"]["command"].startswith("python -m fgmae_bench.linear --dataset eurosat --data_path ")


# --- a grid


def test_a_grid_is_its_single_runs(plain, tmp_path):
    grid = Run(tmp_path, "--lr", 0.05, 0.1, "--weight_decay", 0, 0.001, backbone=TINY_VIT)
    made = {record["run_id"]: record for record in records(tmp_path / "results")}
    points = {
        (record["config"]["recipe"]["lr"], record["config"]["recipe"]["weight_decay"]) for record in made.values()
    }
    assert points == {(0.05, 0), (0.05, 0.001), (0.1, 0), (0.1, 0.001)}
    assert len(grid.said.out.splitlines()) == 4
    assert (
        {path.name for path in (tmp_path / "out").iterdir()}
        == {path.name for path in (tmp_path / "log").iterdir()}
        == set(made)
    )
    for id, record in made.items():
        assert json.loads((tmp_path / "out" / id / "record.json").read_text()) == record
        assert "shared_pass" in codes(record)
    assert_close(made[plain.record["run_id"]], plain.record)
    single = Run(tmp_path / "cache", "--lr", 0.05, "--weight_decay", 0, backbone=TINY_VIT).record
    assert_close(made[single["run_id"]], single)


def assert_close(one, other):
    for name in ("final", "test"):
        assert one["metrics"][name] == pytest.approx(other["metrics"][name], abs=1e-6)
    assert [entry["train_loss"] for entry in one["history"]] == pytest.approx(
        [entry["train_loss"] for entry in other["history"]], abs=1e-6
    )


def test_the_rest_of_a_grid_goes_beside_what_is_there(tmp_path):
    """One run of a grid is recorded already: the missing one gets its sub-folder all the same."""
    Run(tmp_path, "--lr", 0.1)
    kept = (tmp_path / "out" / "record.json").read_bytes()
    grid = Run(tmp_path, "--lr", 0.1, 0.2)
    assert "is recorded already" in grid.said.err
    (new,) = [record["run_id"] for record in records(tmp_path / "results") if record["config"]["recipe"]["lr"] == 0.2]
    assert (tmp_path / "out" / "record.json").read_bytes() == kept
    assert (tmp_path / "out" / new / "record.json").exists()
    assert (tmp_path / "log" / new).is_dir()


def test_a_run_of_a_grid_repeats_from_its_own_config_into_its_own_folder(tmp_path):
    Run(tmp_path, "--lr", 0.1, 0.2)
    first, _ = sorted((tmp_path / "out").iterdir())
    kept = listing(tmp_path / "out")
    shutil.rmtree(tmp_path / "results")
    assert call("linear", "--config", f"out/{first.name}/config.toml", cwd=tmp_path).code == 0
    assert only_record(tmp_path / "results")["run_id"] == first.name
    assert set(listing(tmp_path / "out")) == set(kept)
