"""Running a suite on this machine: done once, failures isolated, hangs killed, signals obeyed, several suites side by
side.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from commands import REPOSITORY, listing, records, said
from preloaded import HANG, wait_until
from suite_world import experiment, kill, suite

from fgmae_bench.config.experiments import load_experiment
from fgmae_bench.errors import BenchError
from fgmae_bench.suite import child, local, slurm
from fgmae_bench.suite.expand import expand
from fgmae_bench.suite.ledger import Ledgers

STATISTICS = 'model = "backscatter_stats"'
SEEDS = 'model = "backscatter_stats", seed = [1, 2, 3]'
STUB = str(REPOSITORY / "tests" / "stub_run.py")
# A suite whose runs are stubs, as a process of its own.
STUBBED = f"""
import sys
from fgmae_bench.errors import run_entry
from fgmae_bench.suite import child
from fgmae_bench.suite.__main__ import main
real = child.argv
child.argv = lambda command: [sys.executable, {STUB!r}, *real(command)[3:]]
run_entry(main)
"""


@pytest.fixture
def stubs(monkeypatch):
    """Runs become stubs; `stubs[label]` may name another command for a run."""
    special: dict[str, list[str]] = {}
    real = child.argv
    monkeypatch.setattr(
        child, "argv", lambda command: special.get(command.label) or [sys.executable, STUB, *real(command)[3:]]
    )
    return special


def stubbed(*words: object, cwd: Path):
    """The same suite in a process of its own."""
    (cwd / "driver.py").write_text(STUBBED)
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    return subprocess.Popen(
        [sys.executable, "driver.py", *map(str, words)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.slow
def test_a_real_suite_runs_once_and_says_so_the_second_time(tmp_path):
    path = experiment(tmp_path, STATISTICS + ", lr = [0.1, 0.5]")
    first = suite("run", path, cwd=tmp_path)
    assert first.code == 0, (first, *(tmp_path / "results/suite/logs").glob("*"))
    assert len(records(tmp_path / "results")) == 2
    before = listing(tmp_path)
    second = suite("run", path, cwd=tmp_path)
    assert (second.code, second.out) == (0, "nothing to do: all 2 runs are recorded\n")
    assert listing(tmp_path) == before
    receipts = [json.loads(file.read_text()) for file in (tmp_path / "results/suite/receipts").glob("*.json")]
    assert {receipt["run_id"] for receipt in receipts} == {record["run_id"] for record in records(tmp_path / "results")}
    for receipt in (tmp_path / "results/suite/receipts").glob("*.json"):
        receipt.unlink()
    assert (
        suite("run", path, cwd=tmp_path).out == "nothing to do: all 2 runs are recorded\n"
    )  # the records alone say it
    (tmp_path / "results" / "records").rename(tmp_path / "gone")
    assert "0 recorded, 2 to do" in suite("plan", path, cwd=tmp_path).out


def test_dry_run_leaves_nothing(tmp_path, stubs):
    path = experiment(tmp_path, SEEDS)
    before = listing(tmp_path)
    result = suite("run", path, "--dry_run", cwd=tmp_path)
    assert result.code == 0
    assert result.out.count("python -m fgmae_bench.linear") == 3
    assert listing(tmp_path) == before


def test_failures_are_isolated_with_their_logs_named_and_exit_code_3(tmp_path, stubs):
    path = experiment(tmp_path, *[f"{STATISTICS}, seed = {seed}" for seed in range(5)])
    stubs["run 0"] = [sys.executable, "-c", "raise SystemExit('error: it crashed; look')"]
    stubs["run 1"] = ["sh", "-c", "echo 'error: no space left while writing x; free space' >&2; exit 2"]
    stubs["run 2"] = ["sh", "-c", "kill -SEGV $$"]
    stubs["run 3"] = ["true"]
    result = suite("run", path, "--max_parallel", 2, "--retry", 1, cwd=tmp_path)
    assert result.code == 3
    assert len(records(tmp_path / "results")) == 1
    failed = [line for line in result.out.splitlines() if "] failed" in line]
    for i, part in enumerate(
        ["exit code 1: it crashed; look", "exit code 2: no space left", "ended by SIGSEGV", "its record did not appear"]
    ):
        (line,) = [line for line in failed if f"run {i}  " in line]
        assert part in line
        log = tmp_path / line.split("log: ")[1]
        assert log.read_text().count("$ python -m") == (1 if i == 1 else 2)  # bad input is not tried again
    status = suite("status", path, cwd=tmp_path).out
    assert "4 failed, 1 recorded" in status
    stubs.clear()
    again = suite("run", path, cwd=tmp_path)
    assert (again.code, len(records(tmp_path / "results"))) == (0, 5)
    assert "5 recorded" in suite("status", path, cwd=tmp_path).out


@pytest.mark.slow
def test_a_hang_is_killed_with_everything_it_started(tmp_path, stubs, monkeypatch):
    path = experiment(tmp_path, f"{STATISTICS}, seed = 1", f"{STATISTICS}, seed = 2")
    # deaf to SIGTERM, with a grandchild in a session of its own, as launchers make them
    stubs["run 0"] = ["sh", "-c", "trap '' TERM; setsid sleep 4321 & echo $! > pid; wait; sleep 4321"]
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.5)
    plain = local.start

    def started_long_ago(command, *given):
        made = plain(command, *given)
        if command.label == "run 0":
            wait_until((tmp_path / "pid").exists)
            made.started -= 2 * HANG
        return made

    monkeypatch.setattr(local, "start", started_long_ago)
    result = suite("run", path, "--timeout", HANG, "--max_parallel", 2, cwd=tmp_path)
    assert result.code == 3
    assert f"no end within --timeout {HANG:g} s" in result.out
    left = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE
    assert [record["config"]["recipe"]["seed"] for record in records(tmp_path / "results")] == [2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_children_and_starting_again_continues(tmp_path, name):
    path = experiment(tmp_path, SEEDS)
    (tmp_path / "STUB_SECONDS").write_text("3600")
    process = stubbed("run", path, cwd=tmp_path)
    wait_until((tmp_path / "started.txt").exists, process)
    assert "1 running" in suite("status", path, cwd=tmp_path).out
    (run,) = psutil.Process(process.pid).children()
    process.send_signal(getattr(signal, name))
    out, _ = process.communicate(timeout=HANG)
    assert process.returncode == 130, out
    assert not run.is_running()
    (tmp_path / "STUB_SECONDS").unlink()
    process = stubbed("run", path, cwd=tmp_path)
    process.communicate(timeout=HANG)
    assert (process.returncode, len(records(tmp_path / "results"))) == (0, 3)


@pytest.mark.slow
def test_suites_side_by_side_share_the_runs_and_repeat_none(tmp_path):
    path = experiment(tmp_path, f"{STATISTICS}, seed = {list(range(9))}")
    other = experiment(tmp_path, f"{STATISTICS}, seed = {list(range(3, 12))}", name="other")
    (tmp_path / "STUB_SECONDS").write_text("0.3")
    suites = [stubbed("run", file, "--max_parallel", 2, cwd=tmp_path) for file in (path, other, path)]
    said = [process.communicate(timeout=HANG)[0] for process in suites]
    assert [process.returncode for process in suites] == [0, 0, 0], said
    assert Counter((tmp_path / "started.txt").read_text().split()) == {str(seed): 1 for seed in range(12)}
    assert len(records(tmp_path / "results")) == 12


@pytest.mark.slow
def test_suites_killed_at_random_leave_no_orphan_and_record_every_run_exactly_once(tmp_path):
    """The kill test of suites; experiments/robustness/suite_kills.py is the large one. Claims of the killed are free."""
    path = experiment(tmp_path, f"{STATISTICS}, seed = {list(range(8))}")
    (tmp_path / "STUB_SECONDS").write_text("0.4")
    dice, seen, kills = random.Random(3), dict[Path, int](), 0
    suites = [stubbed("run", path, cwd=tmp_path) for _ in range(3)]
    while any(process.poll() is None for process in suites):
        time.sleep(dice.uniform(0.2, 1.0))
        for file in (tmp_path / "results").glob("records/*/*/*.json"):
            assert seen.setdefault(file, file.stat().st_ino) == file.stat().st_ino, "a record was written twice"
        alive = [i for i, process in enumerate(suites) if process.poll() is None]
        if kills < 5 and alive:
            victim = dice.choice(alive)
            family = psutil.Process(suites[victim].pid).children()
            kill(suites[victim])
            assert not psutil.wait_procs(family, timeout=HANG)[1], "runs outlive their suite"
            suites[victim] = stubbed("run", path, cwd=tmp_path)
            kills += 1
    said = [process.communicate()[0] for process in suites]
    assert [process.returncode for process in suites] == [0] * 3, said
    assert kills >= 3
    assert sorted(record["config"]["recipe"]["seed"] for record in records(tmp_path / "results")) == list(range(8))
    assert suite("plan", path, cwd=tmp_path).out.endswith("8 recorded, 0 to do\n")


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/1").exists(), reason="needs a folder that cannot be written")
def test_a_records_folder_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    path = experiment(tmp_path, STATISTICS)
    line = said(suite("run", path, "--results_dir", "/proc/results", cwd=tmp_path))
    assert "/proc" in line


def test_a_cluster_that_refuses_the_job_is_one_line(tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in {
        "sbatch": "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1",
        "srun": "",
        "squeue": "",
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    result = suite("run", experiment(tmp_path, SEEDS), "--slurm", "--partition", "gpu", cwd=tmp_path)
    assert result.code == 2
    assert "error: the cluster refused the job" in result.err
    assert "invalid partition specified: gpu" in result.err
    assert "Traceback" not in result.err


def test_without_slurm_the_flag_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = suite("run", experiment(tmp_path, STATISTICS), "--slurm", cwd=tmp_path)
    assert (result.code, result.err.count("error: ")) == (2, 1)
    assert "srun" in result.err


def test_slurm_that_does_not_answer_is_not_asked_to_run_jobs_twice(tmp_path, monkeypatch):
    """squeue is asked once however many jobs are noted, and no answer is no proof that they are gone."""
    monkeypatch.chdir(tmp_path)
    commands = expand([load_experiment(experiment(tmp_path, f"{STATISTICS}, seed = {list(range(5))}"))])
    ledgers, asked = Ledgers(commands), []
    for ledger in ledgers:
        ledger.prepare()
    for number, command in enumerate(commands):
        ledgers.of(command).note_job(command, f"7_{number}")
    monkeypatch.setattr(slurm, "queued", lambda: asked.append(1))
    monkeypatch.setattr(slurm, "submit", lambda *_: pytest.fail("jobs that may be queued were submitted again"))
    with pytest.raises(
        BenchError, match="squeue gives no answer, and 5 jobs of an earlier suite may be in the queue; try again"
    ):
        slurm.run_on_slurm(commands, ledgers, slurm.Cluster(), lambda *_: None)
    assert len(asked) == 1
